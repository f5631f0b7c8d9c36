"""Scores of codes and pictures, compared with known values."""

import pytest
import torch

from common.metrics import active_units, knn_accuracy, psnr


def test_psnr_is_the_mean_over_the_images_of_their_decibels():
    clean = torch.zeros(2, 1, 2, 2)
    images = clean + torch.tensor([0.1, 0.01]).view(2, 1, 1, 1)  # errors of 20 and 40 dB
    assert psnr(images, clean) == pytest.approx(30, rel=1e-4)
    assert psnr(clean, clean) == pytest.approx(120)


@pytest.mark.parametrize(("dimensions", "origin"), [(3, 10_000.0), (12, 0.0)])  # Far out, distances must not cancel.
def test_knn_accuracy_equals_a_brute_force_vote(dimensions, origin):
    generator = torch.Generator().manual_seed(0)
    train, test = (torch.randn(count, dimensions, generator=generator) + origin for count in (300, 601))
    train_labels, test_labels = (torch.randint(0, 4, (count,), generator=generator) for count in (300, 601))
    correct = 0
    for point, label in zip(test, test_labels, strict=True):
        votes = train_labels[(train - point).square().sum(1).argsort()[:5]].tolist()
        correct += label == min(set(votes), key=lambda vote: (-votes.count(vote), vote))
    assert knn_accuracy(train, train_labels, test, test_labels) == pytest.approx(correct / 601)


def test_active_units_are_those_that_vary():
    assert active_units(torch.randn(1000, 4) * torch.tensor([1.0, 0.2, 0.05, 0.0]) + 5) == 2
