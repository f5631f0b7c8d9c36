"""Walks through the latent space, planes to draw it on, and the Gaussian fitted to it."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from common.metrics import nearest_points


def walk(originals: Tensor, latent: Tensor, decode: Callable[[Tensor], Tensor], steps: int) -> Tensor:
    """`originals` (2, C, S, S) and, between them, the line from code to code (2, D) decoded: (steps + 4, C, S, S)."""
    between = decode(torch.lerp(*latent, torch.linspace(0, 1, steps + 2)[:, None]))
    return torch.cat([originals[:1], between, originals[1:]])


@dataclass(frozen=True)
class Plane:
    """A plane to draw on: `origin` (D,), and `basis` (D, 2) of orthonormal columns, or a zero one if D is 1."""

    origin: Tensor
    basis: Tensor
    axis_names: tuple[str, str]

    @staticmethod
    def of(latent: Tensor, prior: bool = False) -> "Plane":
        """The space itself if the codes `latent` (N, D) have two dimensions, or else their two principal components.

        It goes through their mean, or with `prior` through the origin, where N(0, I) is centred.
        """
        size, mean = latent.shape[1], latent.mean(dim=0)
        if size <= 2:
            return Plane(torch.zeros(size), torch.eye(size, 2), ("latent dimension 1", "latent dimension 2"))
        _, spread, directions = torch.linalg.svd(latent - mean, full_matrices=False)
        shares = spread.square() / spread.square().sum()
        name = "principal component {} of {} ({:.0%} of the variance)"
        names = tuple(name.format(axis + 1, size, shares[axis]) for axis in (0, 1))
        return Plane(torch.zeros(size) if prior else mean, directions[:2].T, names)

    def project(self, latent: Tensor) -> Tensor:
        """(..., D) -> coordinates in the plane (..., 2)."""
        return (latent - self.origin) @ self.basis

    def lift(self, coordinates: Tensor) -> Tensor:
        """Coordinates in the plane (..., 2) -> the latent points there (..., D)."""
        return self.origin + coordinates @ self.basis.T


def typical(latent: Tensor, labels: Tensor) -> Tensor:
    """For each class, the index of a point of `latent` (N, D) deep inside it: a median may lie between its clusters."""
    nearest = nearest_points(latent, latent, 1 + len(latent) // 50)
    chosen = []
    for label in labels.unique():
        # The share of the class among the nearest. At its edge, too, many points have a share of 1.
        share = (labels[nearest] == label).float().mean(dim=1)
        distance = (latent - latent[labels == label].median(dim=0).values).norm(dim=1)
        depth = share[nearest].mean(dim=1) - 0.3 * distance / (distance.max() + 1e-9)  # of many, one in the middle
        chosen.append(torch.where(labels == label, depth, -1).argmax())
    return torch.stack(chosen)


def fit_gaussian(latent: Tensor) -> tuple[Tensor, Tensor]:
    """Mean (D,) and L (D, D) to sample mean + L noise from a Gaussian fitted to codes (N, D) (Ghosh et al. 2020)."""
    mean = latent.mean(dim=0)
    # If codes don't vary in some direction, the eigenvectors still exist but a Cholesky factor doesn't.
    variances, directions = torch.linalg.eigh((latent - mean).T @ (latent - mean) / max(len(latent) - 1, 1))
    return mean, directions * variances.clamp(min=0).sqrt()
