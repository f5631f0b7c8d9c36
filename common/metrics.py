"""Scores of codes and pictures."""

import math

import torch
from torch import Tensor


def knn_accuracy(train: Tensor, train_labels: Tensor, test: Tensor, test_labels: Tensor, k: int = 5) -> float:
    """The share of `test` (M, D) with the label of most of the k nearest in `train` (N, D); of a tie, the smallest."""
    nearest = nearest_points(train, test, min(k, len(train)))
    return (train_labels[nearest].mode(dim=1).values == test_labels).double().mean().item()


def nearest_points(train: Tensor, test: Tensor, k: int) -> Tensor:
    """The indices (M, k) of the `train` points (N, D) nearest each of the `test` points (M, D)."""
    if train.shape[1] <= 8:  # In so few dimensions, a tree finds neighbours faster than matrix products do.
        from scipy.spatial import KDTree  # here, since only the digit scripts need it

        return torch.from_numpy(KDTree(train.numpy()).query(test.numpy(), range(1, k + 1), workers=-1)[1])
    return torch.cat([torch.cdist(points, train).topk(k, largest=False).indices for points in test.split(500)])


def active_units(means: Tensor) -> int:
    """How many latent dimensions carry information: variance of `means` (N, D) above 0.01 (Burda et al. 2016)."""
    return int((means.var(dim=0, correction=0) > 0.01).sum())


def bits_per_dim(neg_elbo: float, values: int) -> float:
    """A density's -ELBO, in nats per image of so many grey levels, in bits per level: levels lie 1/255 apart."""
    return neg_elbo / (values * math.log(2)) + math.log2(255)


def psnr(images: Tensor, clean: Tensor) -> float:
    """The mean peak signal-to-noise ratio of `images` (B, C, H, W) in [0, 1] in dB; 120 dB stand for equality."""
    error = (images - clean).square().flatten(1).mean(dim=1).clamp(min=1e-12)
    return (-10 * error.log10()).mean().item()
