"""Scores that only the measuring programs need: PCA, linear classifiers on codes, Fréchet distances."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F


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

    |m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2)) (Dowson & Landau 1982), which is the FID if the features are
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
