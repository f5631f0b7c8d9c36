"""Scores of codes and pictures that only the measuring programs need."""

import numpy as np
import torch
from scipy.linalg import eigh, eigvalsh
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import NearestNeighbors
from torch import Tensor, nn
from torch.nn import functional as F


def frechet_distance(first: Tensor, second: Tensor) -> float:
    """The squared Fréchet distance between the Gaussians fitted to features (N, F) and (M, F).

    |m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2)) (Dowson & Landau 1982), which is the FID if the features are
    the Inception network's (Heusel et al. 2017), and a number of its own scale with any other network's.
    """
    first, second = first.double().numpy(), second.double().numpy()
    offset = np.square(first.mean(axis=0) - second.mean(axis=0)).sum()
    covariances = np.cov(first.T), np.cov(second.T)
    variances, directions = eigh(covariances[0])
    root = (directions * np.sqrt(variances.clip(min=0))) @ directions.T
    # S1 S2 and root S2 root have the same eigenvalues, and the second is symmetric.
    cross = np.sqrt(eigvalsh(root @ covariances[1] @ root).clip(min=0)).sum()
    return float(offset + np.trace(covariances[0]) + np.trace(covariances[1]) - 2 * cross)


def neighbour_radii(points: Tensor, neighbours: int = 3) -> Tensor:
    """The distance (N,) of each of the features (N, F) to its third neighbour."""
    return torch.from_numpy(NearestNeighbors(n_neighbors=neighbours).fit(points.numpy()).kneighbors()[0][:, -1])


def precision_recall(real: Tensor, generated: Tensor, radii: Tensor) -> tuple[float, float]:
    """Which share of the generated features (M, F) lies among the real ones (N, F), and the reverse.

    A point lies among others if it is no farther from one of them than that one's third neighbour is (Kynkäänniemi et
    al. 2019, "Improved Precision and Recall Metric for Assessing Generative Models"). Precision falls if pictures are
    unlike real ones, recall if they are too much alike. radii: the real ones' `neighbour_radii`.
    """
    precise, recalled = [], torch.zeros(len(real), dtype=torch.bool)
    for points, limits in zip(generated.split(500), neighbour_radii(generated).split(500), strict=True):
        distances = torch.cdist(points, real)
        precise.append((distances <= radii).any(dim=1))
        recalled |= (distances <= limits[:, None]).any(dim=0)
    return torch.cat(precise).double().mean().item(), recalled.double().mean().item()


def linear_accuracy(train: Tensor, train_labels: Tensor, test: Tensor, test_labels: Tensor) -> float:
    """The test accuracy of logistic regression on features (N, D), (M, D).

    The features are centred and divided by a single number, so that unused dimensions stay small.
    """
    mean = train.mean(dim=0)
    scale = (train - mean).square().mean().sqrt()
    train, test = (((part - mean) / scale).double().numpy() for part in (train, test))
    fitted = LogisticRegression(max_iter=1000, tol=1e-3).fit(train, train_labels.numpy())
    return fitted.score(test, test_labels.numpy())


@torch.inference_mode()
def log_likelihood(model: nn.Module, images: Tensor, samples: int) -> tuple[Tensor, Tensor, Tensor]:
    """log p(x) of black-and-white `images` (N, 1, 28, 28), 0 or 1, under a VAE, by importance sampling; in nats, (N,).

    The importance-weighted bound of Burda et al. 2016 with so many samples of q(z|x), which `model.encode` gives by
    mean and log-variance; `model.decode` gives logits. Also returns the ELBO, averaged over the same samples, and the
    effective sample size (Kong 1992), from 1 to `samples`: if it is small, the bound is loose.
    """
    generator, found = torch.Generator(images.device).manual_seed(0), []
    for image in images.split(1):
        mean, log_variance = model.encode(image)
        noise = torch.randn(samples, mean.shape[1], generator=generator, device=mean.device)
        latent = mean + noise * torch.exp(0.5 * log_variance)
        log_prior_to_posterior = 0.5 * (noise.square() - latent.square() + log_variance).sum(dim=1)
        # The cross-entropy of outcomes that are 0 or 1.
        recon = F.softplus((1 - 2 * image) * model.decode(latent)).flatten(1).sum(dim=1)
        log_weights = (log_prior_to_posterior - recon).double()
        total = log_weights.logsumexp(dim=0)
        sizes = torch.exp(2 * total - (2 * log_weights).logsumexp(dim=0))
        found.append(torch.stack([total - np.log(samples), log_weights.mean(), sizes]))
    return torch.stack(found).cpu().unbind(dim=1)
