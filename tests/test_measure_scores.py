import math

import pytest
import torch
from scores import frechet_distance, log_likelihood, neighbour_radii, precision_recall
from torch import nn


def test_the_frechet_distance_of_gaussians_by_hand():
    """Commuting covariances: |m1 - m2|^2 + sum (s1 - s2)^2; the same in a rotated space."""
    generator = torch.Generator().manual_seed(3)
    noise = torch.randn(400, 3, generator=generator).double()
    noise -= noise.mean(dim=0)
    noise = noise @ torch.linalg.inv(torch.linalg.cholesky(torch.cov(noise.T))).T  # covariance exactly I
    first = noise * torch.tensor([1.0, 2.0, 3.0]) + 1
    second = noise * torch.tensor([2.0, 2.0, 0.0]) - 1
    turn = torch.linalg.qr(torch.randn(3, 3, generator=generator).double())[0]
    for one, other in ((first, second), (second, first), (first @ turn, second @ turn)):
        assert frechet_distance(one, other) == pytest.approx(12 + 1 + 0 + 9, rel=1e-6)
    assert frechet_distance(first, first) == pytest.approx(0, abs=1e-6)


def test_the_frechet_distance_where_covariances_do_not_commute():
    """Against the square root of the product itself, whose eigenvalues are real."""
    generator = torch.Generator().manual_seed(4)
    first, second = (torch.randn(50, 4, generator=generator) @ torch.randn(4, 4, generator=generator) for _ in range(2))
    covariances = torch.cov(first.double().T), torch.cov(second.double().T)
    expected = (first.mean(dim=0) - second.mean(dim=0)).square().sum() + (covariances[0] + covariances[1]).trace()
    expected -= 2 * torch.linalg.eigvals(covariances[0] @ covariances[1]).sqrt().real.sum()
    assert frechet_distance(first, second) == pytest.approx(expected.item(), rel=1e-5)


def test_precision_and_recall_of_points_on_a_line():
    """With neighbours a step apart, the third is two steps away, that of an end point three."""
    real = torch.arange(20.0)[:, None]
    radii = neighbour_radii(real)
    assert radii.tolist() == [3, *[2] * 18, 3]
    assert precision_recall(real, real, radii) == (1, 1) and precision_recall(real, real + 100, radii) == (0, 0)
    # Sharp but few: 0.5 to 9.5 lie among the real points, and reach from -2.5 to 12.5.
    assert precision_recall(real, torch.arange(10)[:, None] + 0.5, radii) == (1, 13 / 20)
    # Many but blurred: every second point lies far away.
    wide = torch.cat([real, 1000 + real])
    assert precision_recall(real, wide, radii) == (1 / 2, 1)
    # A single picture, again and again.
    assert precision_recall(real, torch.full((20, 1), 3.25), radii) == (1, 0)


class Toy(nn.Module):
    """One latent dimension, four pixels, and a given q(z|x), whatever x is."""

    def __init__(self, slope, mean, deviation):
        super().__init__()
        self.slope, self.mean, self.log_variance = slope, mean, 2 * math.log(deviation)

    def encode(self, images):
        return torch.full((len(images), 1), self.mean), torch.full((len(images), 1), self.log_variance)

    def decode(self, latent):
        return (self.slope * latent * torch.tensor([1.0, -1.0, 2.0, 0.5]) + 0.3).view(-1, 1, 2, 2)


def test_log_p_by_importance_sampling_agrees_with_an_integral_over_the_codes():
    image = torch.tensor([1.0, 0.0, 1.0, 0.0]).view(1, 1, 2, 2)
    model = Toy(slope=1.5, mean=0.4, deviation=0.9)
    z = torch.linspace(-8, 8, 4001, dtype=torch.float64)
    probabilities = torch.distributions.Bernoulli(logits=model.decode(z.float()[:, None]))
    likelihood = probabilities.log_prob(image).flatten(1).sum(dim=1).double()
    prior = torch.distributions.Normal(0.0, 1.0).log_prob(z)
    q = torch.distributions.Normal(0.4, 0.9).log_prob(z)
    exact = torch.trapezoid((likelihood + prior).exp(), z).log()
    bound = torch.trapezoid(q.exp() * (likelihood + prior - q), z)
    log_p, elbo, size = log_likelihood(model, image, samples=200_000)
    assert log_p.item() == pytest.approx(exact.item(), abs=0.005)
    assert elbo.item() == pytest.approx(bound.item(), abs=0.01) and elbo < log_p - 0.02
    assert 100_000 < size < 200_000


def test_where_q_is_the_exact_posterior_all_samples_count_and_the_bound_is_tight():
    images = (torch.rand(3, 1, 2, 2, generator=torch.Generator().manual_seed(0)) > 0.5).float()
    log_p, elbo, sizes = log_likelihood(Toy(slope=0.0, mean=0.0, deviation=1.0), images, samples=50)
    expected = torch.distributions.Bernoulli(logits=torch.tensor(0.3)).log_prob(images).flatten(1).sum(dim=1).double()
    torch.testing.assert_close(log_p, expected, atol=1e-6, rtol=0)
    torch.testing.assert_close(elbo, expected, atol=1e-6, rtol=0)
    torch.testing.assert_close(sizes, torch.full((3,), 50.0).double())
