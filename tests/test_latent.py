"""The mathematics of the latent space against independent computations."""

import math

import pytest
import torch
from torch.distributions import Normal
from torch.distributions import kl_divergence as reference_kl

from common import latent


def test_kl_equals_torch_distributions():
    mean, log_variance = torch.randn(64, 7, dtype=torch.double) * 3, torch.randn(64, 7, dtype=torch.double) * 4
    reference = reference_kl(Normal(mean, (log_variance / 2).exp()), Normal(0.0, 1.0))
    torch.testing.assert_close(latent.kl_divergence(mean, log_variance), reference)
    assert latent.kl_divergence(torch.zeros(1, 3), torch.zeros(1, 3)).sum() == 0


def test_reparameterized_samples_have_the_mean_and_variance_and_pass_gradients():
    mean = torch.tensor([[-3.0, 0.5]]).expand(200_000, 2).clone().requires_grad_()
    log_variance = torch.tensor([[math.log(4), math.log(0.01)]]).expand(200_000, 2).clone().requires_grad_()
    sample = latent.reparameterize(mean, log_variance, torch.Generator().manual_seed(1))
    torch.testing.assert_close(sample.mean(0), torch.tensor([-3.0, 0.5]), atol=0.02, rtol=0)
    torch.testing.assert_close(sample.var(0), torch.tensor([4.0, 0.01]), atol=0, rtol=0.02)
    sample.sum().backward()
    assert (mean.grad == 1).all()
    # d sample / d log_variance = noise * std / 2 = (sample - mean) / 2
    torch.testing.assert_close(log_variance.grad, (sample - mean).detach() / 2)


def test_interpolation_is_the_straight_line_between_its_ends():
    start, end = torch.tensor([1.0, -2.0]), torch.tensor([3.0, 4.0])
    line = latent.interpolate(start, end, 5)
    assert line.shape == (5, 2)
    assert torch.equal(line[0], start) and torch.equal(line[-1], end)
    torch.testing.assert_close(line[1], torch.tensor([1.5, -0.5]))
    torch.testing.assert_close(line.diff(dim=0), torch.tensor([[0.5, 1.5]]).expand(4, 2))


def test_knn_accuracy_equals_a_brute_force_vote():
    generator = torch.Generator().manual_seed(0)
    train, test = torch.randn(300, 3, generator=generator), torch.randn(601, 3, generator=generator)
    train_labels = torch.randint(0, 4, (300,), generator=generator)
    test_labels = torch.randint(0, 4, (601,), generator=generator)
    correct = 0
    for point, label in zip(test, test_labels, strict=True):
        votes = train_labels[(train - point).square().sum(1).argsort()[:5]].tolist()
        winner = min(set(votes), key=lambda vote: (-votes.count(vote), vote))
        correct += winner == label
    assert latent.knn_accuracy(train, train_labels, test, test_labels) == pytest.approx(correct / 601)


def test_knn_accuracy_of_points_far_from_the_origin():
    """Distances of nearby points far out must not cancel."""
    train = torch.tensor([[10_000.0, 0.0], [10_000.01, 0.0]]).repeat_interleave(5, dim=0)
    labels = torch.tensor([0, 1]).repeat_interleave(5)
    assert latent.knn_accuracy(train, labels, torch.tensor([[10_000.008, 0.0]]), torch.tensor([1])) == 1


def test_active_units_are_those_that_vary():
    means = torch.randn(1000, 4) * torch.tensor([1.0, 0.2, 0.05, 0.0]) + 5
    assert latent.active_units(means) == 2


def test_plane_is_the_space_itself_in_two_dimensions():
    points = torch.randn(50, 2)
    plane = latent.Plane.of(points)
    assert torch.equal(plane.project(points), points) and torch.equal(plane.lift(points), points)


def test_plane_of_more_dimensions_shows_the_greatest_variance():
    points = torch.randn(4000, 5) * torch.tensor([0.1, 3.0, 0.2, 0.1, 7.0]) + 2
    plane = latent.Plane.of(points)
    coordinates = plane.project(points)
    assert coordinates.std(0).tolist() == pytest.approx([7, 3], rel=0.1)
    assert coordinates.mean(0).abs().max() < 1e-3
    torch.testing.assert_close(plane.project(plane.lift(coordinates)), coordinates, atol=1e-4, rtol=1e-4)
    assert "principal component 1" in plane.axis_names[0]


def test_one_dimension_lies_on_a_line():
    plane = latent.Plane.of(torch.randn(10, 1))
    assert (plane.project(torch.randn(10, 1))[:, 1] == 0).all()
    assert plane.lift(torch.randn(10, 2)).shape == (10, 1)


def test_medoids_are_members_of_their_class_near_its_centre():
    points = torch.tensor([[0.0, 0], [1, 0], [0, 1], [9, 9], [5, 5], [5.1, 5], [8, 0]])
    labels = torch.tensor([0, 0, 0, 0, 1, 1, 1])
    found = latent.medoids(points, labels, 2)
    assert labels[found].tolist() == [0, 1]
    assert found[1] == 5


class LinearGaussian:
    """A model whose log p(x) is known: z ~ N(0, 1), x | z ~ N(z, 1), so x ~ N(0, 2) and z | x ~ N(x/2, 1/2)."""

    @staticmethod
    def log_probability(x, z):
        return Normal(z, 1.0).log_prob(x).sum(1)

    @staticmethod
    def exact(x):
        return Normal(0.0, math.sqrt(2)).log_prob(x).sum(1)


def test_log_likelihood_is_exact_with_the_true_posterior():
    x = torch.randn(32, 1)
    bound = latent.log_likelihood(
        x,
        lambda x: (x / 2, torch.full_like(x, math.log(0.5))),
        LinearGaussian.log_probability,
        samples=3,
        generator=torch.Generator().manual_seed(0),
    )
    torch.testing.assert_close(bound, LinearGaussian.exact(x))


def test_log_likelihood_rises_from_the_elbo_to_the_truth():
    x = torch.randn(4000, 1)
    bounds = [
        latent.log_likelihood(
            x,
            lambda x: (x / 3, torch.zeros_like(x)),
            LinearGaussian.log_probability,
            samples,
            torch.Generator().manual_seed(0),
        ).mean()
        for samples in (1, 5, 200)
    ]
    exact = LinearGaussian.exact(x).mean()
    elbo = exact - reference_kl(Normal(x / 3, 1.0), Normal(x / 2, math.sqrt(0.5))).mean()
    assert bounds[0] == pytest.approx(elbo.item(), abs=0.03)
    assert bounds[0] < bounds[1] < bounds[2] < exact + 0.01
    assert bounds[2] == pytest.approx(exact.item(), abs=0.01)
