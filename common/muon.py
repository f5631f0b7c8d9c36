"""Muon, an optimizer for the weight matrices between hidden layers."""

from collections import defaultdict
from collections.abc import Iterable

import torch
from torch import Tensor, nn


class Muon(torch.optim.Optimizer):
    """Jordan et al. 2024, "Muon: An optimizer for hidden layers in neural networks".

    A step goes along the matrix's momentum (Nesterov's), all of whose singular values are first made nearly equal.
    It has the size of AdamW's steps (Liu et al. 2025, "Muon is Scalable for LLM Training"), so that `lr` means
    about the same.

    torch.optim.Muon computes the same, but always in bfloat16, which takes a CPU without bfloat16 arithmetic about
    forty times as long as float32, and one by one. Here matrices of one shape are computed together, in `dtype`.
    """

    def __init__(
        self,
        matrices: Iterable[nn.Parameter],
        lr: float,
        momentum: float = 0.95,
        weight_decay: float = 0.01,
        dtype: torch.dtype = torch.float32,
    ):
        super().__init__(matrices, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})
        self.dtype = dtype

    @torch.no_grad()
    def step(self) -> None:
        for group in self.param_groups:
            by_shape = defaultdict(list)
            for matrix in group["params"]:
                by_shape[tuple(sorted(matrix.shape))].append(matrix)
            for (_, long), matrices in by_shape.items():
                gradients = torch.stack([wide(matrix.grad) for matrix in matrices])
                average = self.state[matrices[0]].setdefault("momentum", torch.zeros_like(gradients))
                average.lerp_(gradients, 1 - group["momentum"])
                directions = orthogonalize(gradients.lerp_(average, group["momentum"]).to(self.dtype))
                size = group["lr"] * 0.2 * long**0.5
                for matrix, direction in zip(matrices, directions, strict=True):
                    matrix.mul_(1 - group["lr"] * group["weight_decay"])
                    wide(matrix).add_(direction, alpha=-size)


def wide(matrix: Tensor) -> Tensor:
    """The matrix (M, N), or its transpose where that has fewer rows."""
    return matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T


def orthogonalize(matrices: Tensor, steps: int = 5) -> Tensor:
    """(B, M, N), M <= N -> matrices of the same singular vectors, whose singular values are near 1 (0.7 to 1.2).

    Newton and Schulz' iteration, with the polynomial of Jordan et al., which lifts small singular values the most.
    """
    result = matrices / torch.linalg.vector_norm(matrices, dim=(1, 2), keepdim=True).clamp(min=1e-7)
    for _ in range(steps):
        gram = result @ result.mT
        gram = torch.baddbmm(gram, gram, gram, beta=-4.7750, alpha=2.0315)
        result = torch.baddbmm(result, gram, result, beta=3.4445)
    return result
