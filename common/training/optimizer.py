"""Muon for the weights that a script names, AdamW for all others, as one optimizer; and the learning-rate cycle."""

import math
from collections import defaultdict
from collections.abc import Iterable

import torch
from torch import Tensor, nn

MOMENTUM = 0.9  # of Muon
STEP = 0.6  # of Muon, times the root of a matrix's longer side: three times the size of AdamW's steps
WARMUP = 0.3  # the share of the steps during which the learning rate rises
BATCH_GROWTH = 0.55  # batch size per root of all images seen: a short run needs steps more than exact gradients


def batch_size(images: int, epochs: int, most: int) -> int:
    """The images per step of a run of `epochs` over `images` pictures: a power of two, from 64 up to `most`."""
    return min(most, 2 ** round(math.log2(max(BATCH_GROWTH * math.sqrt(images * epochs), 64))))


def learning_rate(images: int, epochs: int, batch_size: int, long: float) -> float:
    """A run's peak learning rate: `long` / sqrt(steps / 4,000) (Schaipp et al. 2025), and at most 0.01."""
    return min(0.01, long * math.sqrt(4000 / (epochs * math.ceil(images / batch_size))))


def one_cycle(progress: float) -> float:
    """The share of the peak learning rate at `progress` in [0, 1]: a rise, then a fall to 0 (Smith & Topin 2018)."""
    return min(progress / WARMUP, (1 - progress) / (1 - WARMUP))


class Optimizer(torch.optim.AdamW):
    """Muon for the weights `muon`, with decay `lr` * `muon_decay`; AdamW (Loshchilov & Hutter 2019) for all others.

    Jordan et al. 2024, "Muon: An optimizer for hidden layers in neural networks". A step follows the matrix's Nesterov
    momentum, after making all its singular values nearly equal. Its size is in proportion to AdamW's steps (Liu et al.
    2025, "Muon is Scalable for LLM Training"). torch.optim.Muon takes no convolutions, and computes matrices one by
    one, in bfloat16, which is forty times as slow on a CPU without it.
    """

    def __init__(self, model: nn.Module, muon: Iterable[nn.Parameter], lr: float, muon_decay: float):
        muon = list(muon)
        others = [weight for weight in model.parameters() if all(weight is not each for each in muon)]
        super().__init__([{"params": others}, {"params": muon, "weight_decay": muon_decay}], lr, fused=True)

    def load_state_dict(self, state_dict: dict) -> None:
        super().load_state_dict(state_dict)
        for weight, values in self.state.items():
            for name, value in values.items():
                # AdamW's fused kernel walks raw memory: the state must lie as its weight does on this device.
                values[name] = torch.empty_like(weight).copy_(value) if value.shape == weight.shape else value

    @torch.no_grad()
    def step(self) -> None:
        group = self.param_groups.pop()  # Muon's: AdamW updates the groups that it finds
        super().step()
        self.param_groups.append(group)
        by_rows = defaultdict(list)
        for weight in group["params"]:
            if weight.grad is not None:
                if not (state := self.state[weight]):
                    state |= {"momentum": torch.zeros_like(weight), "step": weight.new_zeros(())}  # AdamW loads a step
                momentum = state["momentum"].lerp_(weight.grad, 1 - MOMENTUM)
                direction = to_matrices(weight.grad.lerp(momentum, MOMENTUM))
                by_rows[direction.shape[1]].append((weight, direction))
        for pairs in by_rows.values():
            factors = orthogonalizers(torch.cat([matrices @ matrices.mT for _, matrices in pairs]))
            counts = [len(matrices) for _, matrices in pairs]
            for (weight, matrices), factor in zip(pairs, factors.split(counts), strict=True):
                size, kept = group["lr"] * STEP * matrices.shape[2] ** 0.5, 1 - group["lr"] * group["weight_decay"]
                to_matrices(weight).mul_(kept).baddbmm_(factor, matrices, alpha=-size)


def to_matrices(weight: Tensor) -> Tensor:
    """A view of the weight of a linear layer (O, I) or a convolution (O, I, K, K) as matrices (B, M, N), M <= N.

    More than 128 rows are split into parts of 64, if that divides them: the cost grows with the square of the rows.
    """
    if weight.ndim == 4:
        if weight.is_contiguous(memory_format=torch.channels_last):
            weight = weight.permute(0, 2, 3, 1)
        weight = weight.view(len(weight), -1)
    if weight.shape[0] > weight.shape[1]:
        weight = weight.T
    return weight.unflatten(0, (-1, 64)) if len(weight) > 128 and len(weight) % 64 == 0 else weight[None]


def orthogonalizers(grams: Tensor, steps: int = 5) -> Tensor:
    """Factors F (B, M, M) for Gram matrices X X^T (B, M, M): F X has X's singular vectors, with values of 0.7 to 1.2.

    The Newton-Schulz iteration, with the polynomial of Jordan et al., which lifts small singular values the most. In
    fp32: in bf16, small eigenvalues of a Gram matrix would turn negative, and the iteration would diverge.
    """
    identity = torch.eye(grams.shape[1], device=grams.device)
    square = grams.diagonal(dim1=1, dim2=2).sum(dim=1)[:, None, None].clamp(min=1e-14)  # of X's Frobenius norm
    grams, factors = grams / square, identity / square.sqrt()
    for _ in range(steps):
        polynomial = torch.baddbmm(3.4445 * identity - 4.7750 * grams, grams, grams, alpha=2.0315)
        factors = polynomial @ factors
        grams = polynomial @ grams @ polynomial
    return factors
