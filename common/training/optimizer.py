"""Muon, an optimizer for the weights of hidden layers."""

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
    forty times as long as float32, one by one, and not for convolutions. Here matrices of one shape are computed
    together, in `dtype`, large ones in parts. The weights of convolutions must be channels_last.
    """

    def __init__(
        self,
        weights: Iterable[nn.Parameter],
        lr: float,
        momentum: float = 0.95,
        weight_decay: float = 0.01,
        dtype: torch.dtype = torch.float32,
    ):
        super().__init__(weights, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})
        self.dtype = dtype

    @torch.no_grad()
    def step(self) -> None:
        for group in self.param_groups:
            by_shape = defaultdict(list)
            for weight in group["params"]:
                by_shape[to_matrices(weight).shape[1:]].append(weight)
            for (_, long), weights in by_shape.items():
                parts = [to_matrices(weight.grad) for weight in weights]
                gradients = torch.cat(parts)
                state = self.state[weights[0]]
                if not state:
                    state["momentum"] = torch.zeros_like(gradients)
                average = state["momentum"]
                average.lerp_(gradients, 1 - group["momentum"])
                directions = orthogonalize(gradients.lerp_(average, group["momentum"]).to(self.dtype))
                size = group["lr"] * 0.2 * long**0.5
                for weight, direction in zip(weights, directions.split([len(part) for part in parts]), strict=True):
                    weight.mul_(1 - group["lr"] * group["weight_decay"])
                    to_matrices(weight).add_(direction, alpha=-size)


def to_matrices(weight: Tensor) -> Tensor:
    """The weight of a linear layer (O, I) or a convolution (O, I, K, K) as matrices (B, M, N), M <= N, in its memory.

    A row for each output, or for each input where they are fewer. More than 128 rows are taken 64 at a time where that
    divides them: the cost grows with the square of the rows, and large layers train as well in parts.
    """
    if weight.ndim == 4:
        weight = weight.permute(0, 2, 3, 1).view(len(weight), -1)
    if weight.shape[0] > weight.shape[1]:
        weight = weight.T
    return weight.unflatten(0, (-1, 64)) if len(weight) > 128 and len(weight) % 64 == 0 else weight[None]


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
