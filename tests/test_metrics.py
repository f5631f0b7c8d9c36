"""Principal components, linear classifiers, Fréchet distances, noise: against what is known of them."""

import math

import pytest
import torch
from torch.distributions import Normal
from torch.distributions import kl_divergence as reference_kl

from common.metrics import (
    PrincipalComponents,
    active_units,
    frechet_distance,
    knn_accuracy,
    linear_accuracy,
    log_likelihood,
    median_filter,
    psnr,
)


def test_principal_components_leave_the_smallest_singular_values():
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(200, 12, generator=generator) @ torch.randn(12, 12, generator=generator)
    values = torch.linalg.svdvals(inputs - inputs.mean(dim=0))
    for dimensions in (1, 5, 12):
        components = PrincipalComponents.fit(inputs, dimensions)
        latent = components.encode(inputs)
        assert latent.shape == (200, dimensions)
        error = (components.decode(latent) - inputs).square().sum().item()
        assert error == pytest.approx(values[dimensions:].square().sum().item(), rel=1e-3, abs=1e-2)


def test_principal_components_of_other_data_use_the_mean_they_were_fitted_with():
    components = PrincipalComponents.fit(torch.tensor([[1.0, 5.0], [3.0, 5.0]]), 1)
    torch.testing.assert_close(
        components.decode(components.encode(torch.tensor([[10.0, 7.0]]))), torch.tensor([[10.0, 5.0]])
    )


def test_a_linear_classifier_separates_what_is_linear_and_guesses_elsewhere():
    generator = torch.Generator().manual_seed(1)
    points = torch.randn(2000, 5, generator=generator)
    linear = (points[:, 0] + 2 * points[:, 1] > 0.3).long()
    folded = (points[:, 0] * points[:, 1] > 0).long()
    assert linear_accuracy(points[:1000], linear[:1000], points[1000:], linear[1000:]) > 0.98
    assert linear_accuracy(points[:1000], folded[:1000], points[1000:], folded[1000:]) < 0.6


def test_a_linear_classifier_does_not_depend_on_the_features_scale_and_offset():
    generator = torch.Generator().manual_seed(2)
    points, labels = torch.randn(300, 4, generator=generator), torch.randint(0, 3, (300,), generator=generator)
    points += torch.nn.functional.one_hot(labels, 4)
    plain = linear_accuracy(points[:200], labels[:200], points[200:], labels[200:])
    moved = linear_accuracy(50 + 7 * points[:200], labels[:200], 50 + 7 * points[200:], labels[200:])
    assert plain == moved > 0.4


def test_the_penalty_is_half_the_squared_weights_over_the_number_of_images():
    """Two points at -1 and 1: the weights w, -w minimise log(1 + exp(-2w)) + w^2 / 2; a flip needs w < 0."""
    train, labels = torch.tensor([[-1.0], [1.0]]), torch.tensor([0, 1])
    seen = {}
    original = torch.optim.LBFGS.step

    def step(self, closure):
        value = original(self, closure)
        seen["weight"] = self.param_groups[0]["params"][0].detach().clone()
        return value

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.optim.LBFGS, "step", step)
        linear_accuracy(train, labels, train, labels)
    w = seen["weight"][0, 1].item()
    assert 2 / (1 + math.exp(2 * w)) == pytest.approx(w, rel=1e-3)


def test_the_frechet_distance_of_known_gaussians():
    """Commuting covariances: |m1 - m2|^2 + sum (s1 - s2)^2; the same in a rotated space."""
    generator = torch.Generator().manual_seed(3)
    noise = torch.randn(400, 3, generator=generator).double()
    noise -= noise.mean(dim=0)
    noise = noise @ torch.linalg.inv(torch.linalg.cholesky(torch.cov(noise.T))).T  # covariance exactly I
    first = noise * torch.tensor([1.0, 2.0, 3.0]) + 1
    second = noise * torch.tensor([2.0, 2.0, 0.5]) - 1
    expected = 12 + 1 + 0 + 2.5**2
    assert frechet_distance(first, second) == pytest.approx(expected, rel=1e-9)
    turn = torch.linalg.qr(torch.randn(3, 3, generator=generator).double())[0]
    assert frechet_distance(first @ turn, second @ turn) == pytest.approx(expected, rel=1e-9)
    assert frechet_distance(second, first) == pytest.approx(expected, rel=1e-9)
    assert frechet_distance(first, first) == pytest.approx(0, abs=1e-6)


def test_the_frechet_distance_where_covariances_do_not_commute():
    """Against the square root of the product itself, whose eigenvalues are real."""
    generator = torch.Generator().manual_seed(4)
    first, second = (torch.randn(50, 4, generator=generator) @ torch.randn(4, 4, generator=generator) for _ in range(2))
    product = torch.cov(first.double().T) @ torch.cov(second.double().T)
    cross = torch.linalg.eigvals(product).sqrt().real.sum()
    offset = (first.double().mean(dim=0) - second.double().mean(dim=0)).square().sum()
    expected = offset + torch.cov(first.double().T).trace() + torch.cov(second.double().T).trace() - 2 * cross
    assert frechet_distance(first, second) == pytest.approx(expected.item(), rel=1e-6)


def test_a_feature_that_never_varies_does_no_harm():
    features = torch.randn(30, 3, generator=torch.Generator().manual_seed(5)) * torch.tensor([1.0, 0.0, 1.0])
    assert frechet_distance(features, features + torch.tensor([0.0, 2.0, 0.0])) == pytest.approx(4, rel=1e-5)


def test_the_median_filter_removes_specks_and_keeps_edges_and_slopes():
    images = torch.zeros(1, 1, 5, 5)
    images[0, 0, 2, 2] = 1  # a single speck goes
    assert median_filter(images).sum() == 0
    images[0, 0, :, 3:] = 1  # an edge stays
    torch.testing.assert_close(median_filter(images)[0, 0, :, 3:], torch.ones(5, 2))
    ramp = torch.arange(25.0).view(1, 1, 5, 5)
    torch.testing.assert_close(median_filter(ramp)[0, 0, 1:-1, 1:-1], ramp[0, 0, 1:-1, 1:-1])


def test_psnr_is_the_mean_over_the_images_of_their_decibels():
    clean = torch.zeros(2, 1, 2, 2)
    images = clean.clone()
    images[0] += 0.1  # an error of 0.01: 20 dB
    images[1] += 0.01  # 40 dB
    assert psnr(images, clean) == pytest.approx(30, rel=1e-4)
    assert psnr(clean, clean) == pytest.approx(120)


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
    assert knn_accuracy(train, train_labels, test, test_labels) == pytest.approx(correct / 601)


def test_knn_accuracy_of_points_far_from_the_origin():
    """Distances of nearby points far out must not cancel."""
    train = torch.tensor([[10_000.0, 0.0], [10_000.01, 0.0]]).repeat_interleave(5, dim=0)
    labels = torch.tensor([0, 1]).repeat_interleave(5)
    assert knn_accuracy(train, labels, torch.tensor([[10_000.008, 0.0]]), torch.tensor([1])) == 1


def test_active_units_are_those_that_vary():
    means = torch.randn(1000, 4) * torch.tensor([1.0, 0.2, 0.05, 0.0]) + 5
    assert active_units(means) == 2


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
    bound = log_likelihood(
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
        log_likelihood(
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
