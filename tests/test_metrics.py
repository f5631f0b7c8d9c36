"""Scores of codes and pictures, compared with known values."""

import math

import pytest
import torch
from torch.distributions import Normal
from torch.distributions import kl_divergence as reference_kl

from common.metrics import active_units, knn_accuracy, log_likelihood, median_filter, psnr


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
