"""Scores of codes and of pictures."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

TREE_DIMENSIONS = 8  # Up to here a tree finds neighbours sooner than a matrix product.


def knn_accuracy(train: Tensor, train_labels: Tensor, test: Tensor, test_labels: Tensor, k: int = 5) -> float:
    """The share of `test` points (M, D) whose label is the majority of their k nearest `train` points (N, D).

    Euclidean distance; a tie goes to the smallest label.
    """
    nearest = nearest_points(train, test, min(k, len(train)))
    return (train_labels[nearest].mode(dim=1).values == test_labels).double().mean().item()


def nearest_points(train: Tensor, test: Tensor, k: int) -> Tensor:
    """The indices (M, k) of the `train` points (N, D) nearest each of the `test` points (M, D)."""
    if train.shape[1] <= TREE_DIMENSIONS:
        from scipy.spatial import KDTree  # here, since only the digit scripts need it

        return torch.from_numpy(KDTree(train.numpy()).query(test.numpy(), range(1, k + 1), workers=-1)[1])
    found = [torch.cdist(points, train).topk(k, largest=False).indices for points in test.split(500)]
    return torch.cat(found)


def active_units(means: Tensor) -> int:
    """How many latent dimensions carry information: variance of the posterior means (N, D) above 0.01.

    Burda et al. 2016, section 5.2.
    """
    return int((means.var(dim=0, correction=0) > 0.01).sum())


def log_likelihood(
    images: Tensor,
    encode: Callable[[Tensor], tuple[Tensor, Tensor]],
    log_probability: Callable[[Tensor, Tensor], Tensor],
    samples: int,
    generator: torch.Generator,
) -> Tensor:
    """The importance-weighted bound on log p(x) in nats, (B, ...) -> (B,) (Burda et al. 2016, equation 8).

    `encode(images)` gives the mean and log-variance of q(z|x), (B, D) each; `log_probability(images, latent)`
    gives log p(x|z), (B,). With one sample this is the ELBO; it rises to log p(x) with more.
    """
    mean, log_variance = encode(images)
    weights = []
    for _ in range(samples):
        noise = torch.randn(mean.shape, generator=generator, device=mean.device, dtype=mean.dtype)
        latent = mean + noise * torch.exp(0.5 * log_variance)
        log_prior_over_posterior = 0.5 * (noise.square() + log_variance - latent.square()).sum(dim=1)
        weights.append(log_probability(images, latent) + log_prior_over_posterior)
    return torch.stack(weights).logsumexp(dim=0) - math.log(samples)


@dataclass(frozen=True)
class PrincipalComponents:
    """The linear autoencoder of least squared error: `mean` (P,), `directions` (P, D) with orthonormal columns."""

    mean: Tensor
    directions: Tensor

    @staticmethod
    def fit(inputs: Tensor, dimensions: int) -> "PrincipalComponents":
        """The `dimensions` directions in which `inputs` (N, P) vary most."""
        mean = inputs.mean(dim=0)
        directions = torch.linalg.eigh((inputs - mean).T @ (inputs - mean)).eigenvectors
        return PrincipalComponents(mean, directions.flip(1)[:, :dimensions])  # largest variance first

    def encode(self, inputs: Tensor) -> Tensor:
        """(N, P) -> (N, D)."""
        return (inputs - self.mean) @ self.directions

    def decode(self, latent: Tensor) -> Tensor:
        """(N, D) -> (N, P)."""
        return self.mean + latent @ self.directions.T


def linear_accuracy(train: Tensor, train_labels: Tensor, test: Tensor, test_labels: Tensor) -> float:
    """The test accuracy of multinomial logistic regression on features `train` (N, D), `test` (M, D).

    Features are centred and divided by one number, their root mean square. Half the squared weights over N are
    added to the loss, as much as scikit-learn does by default, so that a hundred labels don't overfit.
    """
    mean = train.mean(dim=0)
    scale = (train - mean).square().mean().sqrt()
    train, test = (train - mean) / scale, (test - mean) / scale
    weight = torch.zeros(train.shape[1], int(train_labels.max()) + 1, requires_grad=True)
    bias = torch.zeros(weight.shape[1], requires_grad=True)
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=200, line_search_fn="strong_wolfe")

    def objective() -> Tensor:
        optimizer.zero_grad()
        penalty = weight.square().sum() / (2 * len(train))
        value = F.cross_entropy(train @ weight + bias, train_labels) + penalty
        value.backward()
        return value

    optimizer.step(objective)
    return ((test @ weight + bias).argmax(dim=1) == test_labels).double().mean().item()


def frechet_distance(first: Tensor, second: Tensor) -> float:
    """The squared Fréchet distance between the Gaussians fitted to features (N, F) and (M, F).

    |m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2)) (Dowson & Landau 1982), which is the FID where the features are
    the Inception network's (Heusel et al. 2017), and a number of its own scale with any other network's.
    """
    first, second = first.double(), second.double()
    offset = (first.mean(dim=0) - second.mean(dim=0)).square().sum()
    covariances = torch.cov(first.T), torch.cov(second.T)
    variances, directions = torch.linalg.eigh(covariances[0])
    root = (directions * variances.clamp(min=0).sqrt()) @ directions.T
    # S1 S2 and root S2 root have the same eigenvalues, and the second is symmetric.
    cross = torch.linalg.eigvalsh(root @ covariances[1] @ root).clamp(min=0).sqrt().sum()
    return (offset + covariances[0].trace() + covariances[1].trace() - 2 * cross).item()


def median_filter(images: Tensor, width: int = 3) -> Tensor:
    """Each pixel of `images` (B, C, H, W) becomes the median of the `width` x `width` around it, edges mirrored."""
    around = F.pad(images, [width // 2] * 4, mode="reflect").unfold(2, width, 1).unfold(3, width, 1)
    return around.flatten(4).median(dim=4).values


def psnr(images: Tensor, clean: Tensor) -> float:
    """The peak signal-to-noise ratio of `images` (B, C, H, W) in [0, 1] in dB, the mean over the images.

    At most 120 dB, which float32 can't tell from equality.
    """
    error = (images - clean).square().flatten(1).mean(dim=1).clamp(min=1e-12)
    return (-10 * error.log10()).mean().item()
