"""The latent space: sampling it, measuring it, walking through it."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


def reparameterize(mean: Tensor, log_variance: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """A sample of N(mean, exp(log_variance)) that lets gradients through (Kingma & Welling 2014, section 2.4).

    All shapes (..., D); `generator` must be on the tensors' device.
    """
    noise = torch.randn(mean.shape, generator=generator, device=mean.device, dtype=mean.dtype)
    return mean + noise * torch.exp(0.5 * log_variance)


def kl_divergence(mean: Tensor, log_variance: Tensor) -> Tensor:
    """KL(N(mean, exp(log_variance)) || N(0, I)) in nats, (B, D) -> (B, D), one term a dimension.

    Kingma & Welling 2014, appendix B.
    """
    return 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance)


def active_units(means: Tensor) -> int:
    """How many latent dimensions carry information: variance of the posterior means (N, D) above 0.01.

    Burda et al. 2016, section 5.2.
    """
    return int((means.var(dim=0, correction=0) > 0.01).sum())


def interpolate(start: Tensor, end: Tensor, steps: int) -> Tensor:
    """`steps` points on the straight line from `start` to `end`, both included: (..., D) -> (steps, ..., D)."""
    weight = torch.linspace(0, 1, steps, dtype=start.dtype, device=start.device)
    weight = weight.view(-1, *[1] * start.ndim)
    return start * (1 - weight) + end * weight


def walk(
    originals: Tensor, latent: Tensor, decode: Callable[[Tensor], Tensor], first: int, second: int, steps: int
) -> Tensor:
    """A row of pictures (steps + 4, C, S, S) from image `first` to `second` along the line between their codes.

    The original, its reconstruction, `steps` images decoded between, the other reconstruction, its original.
    `latent` (N, D) are the codes of `originals` (N, C, S, S); `decode` gives the pictures of codes.
    """
    between = decode(interpolate(latent[first], latent[second], steps + 2))
    return torch.cat([originals[first, None], between, originals[second, None]])


def knn_accuracy(train: Tensor, train_labels: Tensor, test: Tensor, test_labels: Tensor, k: int = 5) -> float:
    """The share of `test` points (M, D) whose label is the majority of their k nearest `train` points (N, D).

    Euclidean distance; a tie goes to the smallest label.
    """
    # In few dimensions the exact distance is as fast as the expanded one, which cancels when points lie close.
    mode = "donot_use_mm_for_euclid_dist" if train.shape[1] <= 16 else "use_mm_for_euclid_dist"
    correct = 0
    for points, labels in zip(test.split(500), test_labels.split(500), strict=True):
        nearest = torch.cdist(points, train, compute_mode=mode).topk(min(k, len(train)), largest=False).indices
        correct += (train_labels[nearest].mode(dim=1).values == labels).sum().item()
    return correct / len(test)


def log_likelihood(
    images: Tensor,
    posterior: Callable[[Tensor], tuple[Tensor, Tensor]],
    log_probability: Callable[[Tensor, Tensor], Tensor],
    samples: int,
    generator: torch.Generator,
) -> Tensor:
    """The importance-weighted bound on log p(x) in nats, (B, ...) -> (B,) (Burda et al. 2016, equation 8).

    `posterior(images)` gives the mean and log-variance of q(z|x), (B, D) each; `log_probability(images,
    latent)` gives log p(x|z), (B,). With one sample this is the ELBO; it rises to log p(x) with more.
    """
    mean, log_variance = posterior(images)
    weights = []
    for _ in range(samples):
        latent = reparameterize(mean, log_variance, generator)
        noise = (latent - mean) * torch.exp(-0.5 * log_variance)
        log_prior_over_posterior = 0.5 * (noise.square() + log_variance - latent.square()).sum(dim=1)
        weights.append(log_probability(images, latent) + log_prior_over_posterior)
    return torch.stack(weights).logsumexp(dim=0) - math.log(samples)


@dataclass(frozen=True)
class Plane:
    """A plane in the latent space, to draw on: the space itself where it has two dimensions, else the plane
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


def medoids(latent: Tensor, labels: Tensor, classes: int) -> Tensor:
    """For each class, the index of the point in `latent` (N, D) nearest its class's median: a typical example."""
    found = []
    for label in range(classes):
        members = (labels == label).nonzero().flatten()
        centre = latent[members].median(dim=0).values
        found.append(members[(latent[members] - centre).norm(dim=1).argmin()])
    return torch.stack(found)


def fit_gaussian(latent: Tensor) -> tuple[Tensor, Tensor]:
    """The Gaussian fitted to codes (N, D): its mean (D,) and a factor L (D, D) of its covariance L L^T.

    mean + L noise samples it; for a VAE these samples may beat the prior's (Ghosh et al. 2020, section 4).
    """
    mean = latent.mean(dim=0)
    # The eigenvectors exist also where codes don't vary in some direction and a Cholesky factor doesn't.
    variances, directions = torch.linalg.eigh((latent - mean).T @ (latent - mean) / max(len(latent) - 1, 1))
    return mean, directions * variances.clamp(min=0).sqrt()
