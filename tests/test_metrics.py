"""Scores of codes and pictures, compared with known values."""

import pytest
import torch

from common.metrics import active_units, knn_accuracy, median_filter, psnr


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


@pytest.mark.parametrize("dimensions", [3, 12])
def test_knn_accuracy_equals_a_brute_force_vote(dimensions):
    generator = torch.Generator().manual_seed(0)
    train, test = (torch.randn(count, dimensions, generator=generator) for count in (300, 601))
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
