"""Walks through the latent space, planes to draw it on, and the Gaussian fitted to it."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from common.metrics import nearest_points


def interpolate(start: Tensor, end: Tensor, steps: int) -> Tensor:
    """`steps` points on the straight line from `start` to `end`, both included: (D,) -> (steps, D)."""
    weight = torch.linspace(0, 1, steps)[:, None]
    return start * (1 - weight) + end * weight


def walk(
    originals: Tensor, latent: Tensor, decode: Callable[[Tensor], Tensor], first: int, second: int, steps: int
) -> Tensor:
    """A row of pictures (steps + 4, C, S, S) from image `first` to `second` along the line between their codes.

    The original, its reconstruction, `steps` images decoded in between, the other reconstruction, its original.
    `latent` (N, D) are the codes of `originals` (N, C, S, S); `decode` maps codes to pictures.
    """
    between = decode(interpolate(latent[first], latent[second], steps + 2))
    return torch.cat([originals[first, None], between, originals[second, None]])


@dataclass(frozen=True)
class Plane:
    """A plane in the latent space, to draw on: the space itself if it has two dimensions, otherwise the plane
    through the codes' mean, or the prior's, along their two principal components.

    `origin` (D,), `basis` (D, 2) with orthonormal columns (with one dimension, the second column is zero).
    """

    origin: Tensor
    basis: Tensor
    axis_names: tuple[str, str]

    @staticmethod
    def of(latent: Tensor, prior: bool = False) -> "Plane":
        """The plane for the codes `latent` (N, D); with `prior`, through the origin, where N(0, I) is centred."""
        dimensions = latent.shape[1]
        if dimensions <= 2:
            names = ("latent dimension 1", "latent dimension 2" if dimensions == 2 else "")
            return Plane(torch.zeros(dimensions), torch.eye(dimensions, 2), names)
        mean = latent.mean(dim=0)
        _, spread, directions = torch.linalg.svd(latent - mean, full_matrices=False)
        share = spread.square() / spread.square().sum()
        names = tuple(
            f"principal component {axis + 1} of {dimensions} latent dimensions ({share[axis]:.0%} of the variance)"
            for axis in range(2)
        )
        return Plane(torch.zeros(dimensions) if prior else mean, directions[:2].T, names)

    def project(self, latent: Tensor) -> Tensor:
        """(..., D) -> coordinates in the plane (..., 2)."""
        return (latent - self.origin) @ self.basis

    def lift(self, coordinates: Tensor) -> Tensor:
        """Coordinates in the plane (..., 2) -> the latent points there (..., D)."""
        return self.origin + coordinates @ self.basis.T


def typical(latent: Tensor, labels: Tensor) -> Tensor:
    """For each class, the index of the point in `latent` (N, D) with the most of its class among the nearest 200.

    The median of a class in several clusters may lie between them, among points of other classes.
    """
    own = (labels[nearest_points(latent, latent, min(200, len(latent)))] == labels[:, None]).sum(dim=1)
    return torch.stack([torch.where(labels == label, own, 0).argmax() for label in labels.unique()])


def fit_gaussian(latent: Tensor) -> tuple[Tensor, Tensor]:
    """The Gaussian fitted to codes (N, D): its mean (D,) and a factor L (D, D) of its covariance L L^T.

    mean + L noise samples it; for a VAE these samples may beat the prior's (Ghosh et al. 2020, section 4).
    """
    mean = latent.mean(dim=0)
    # If codes don't vary in some direction, the eigenvectors still exist but a Cholesky factor doesn't.
    variances, directions = torch.linalg.eigh((latent - mean).T @ (latent - mean) / max(len(latent) - 1, 1))
    return mean, directions * variances.clamp(min=0).sqrt()
