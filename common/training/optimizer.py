"""The optimizer of all three scripts: Muon for the hidden matrices, AdamW for the rest, one learning-rate cycle."""

import math
from collections import defaultdict
from collections.abc import Iterable

import torch
from torch import Tensor, nn

MUON_LR = 3  # times AdamW's; on digits, 1.5 to 5 make no difference
MOMENTUM = 0.9  # of Muon; 0.95 costs the VAE in 20 dimensions 0.8 nats after one epoch, and gains 0.2 after 38
WEIGHT_DECAY = 0.1  # of Muon; AdamW's default, 0.01, costs the VAE 0.7 nats in 20 dimensions
THIN_WEIGHT_DECAY = 0.01  # with a code of a few dimensions: there 0.1 costs the VAE 0.8 nats (medians of 3 seeds)
WARMUP = 0.3  # the share of the steps during which the learning rate rises
LEAST_SIDE = 64  # the fewest rows and columns of a matrix that Muon trains
LEAST_RANK = 8  # the fewest rows and columns of the matrix before it; one with fewer is thin
BATCH_GROWTH = 0.55  # the batch size per square root of all images seen in a run
LEAST_BATCH = 64


def batch_size(images: int, epochs: int, most: int) -> int:
    """The images per step of a run of `epochs` over so many `images`: a power of two, at most `most`.

    A short run needs steps more than it needs exact gradients, but each step takes time, however small its batch.
    """
    wanted = max(BATCH_GROWTH * math.sqrt(images * epochs), LEAST_BATCH)
    return min(most, 2 ** round(math.log2(wanted)))


def learning_rate(images: int, epochs: int, batch_size: int, long: float) -> float:
    """A run's peak learning rate: `long` / sqrt(steps / 4,000) (Schaipp et al. 2025), and at most 2.5 times `long`."""
    return long * min(2.5, math.sqrt(4000 / (epochs * math.ceil(images / batch_size))))


def one_cycle(progress: float) -> float:
    """The learning rate as a share of its peak: a linear rise, then a linear fall to 0 (Smith & Topin 2018)."""
    return min(progress / WARMUP, (1 - progress) / (1 - WARMUP))


def hidden_weights(model: nn.Module) -> list[nn.Parameter]:
    """The weights that Muon trains: those of linear layers and convolutions between hidden layers.

    Left out are the first and the last layer, which meet the pixels; narrow matrices, such as those next to a code; and
    the layer after a code of a few dimensions, whose inputs vary in few directions: with two dimensions, Muon there
    would cost the VAE on MNIST 1.7 nats. The layers must be registered in the order in which they compute.
    """
    weights = [layer.weight for layer in model.modules() if isinstance(layer, (nn.Linear, nn.Conv2d))]
    sides = [min(len(weight), weight[0].numel()) for weight in weights]
    hidden = zip(weights[1:-1], sides[1:-1], sides[:-2], strict=True)
    return [weight for weight, side, before in hidden if side >= LEAST_SIDE and before >= LEAST_RANK]


class Optimizer:
    """Muon for a model's hidden weights and AdamW (Loshchilov & Hutter 2019) for the others, as one optimizer.

    `lr` is AdamW's peak; `precision` ("fp32" or "bf16") is that of Muon's matrix products.
    """

    def __init__(self, model: nn.Module, lr: float, precision: str = "fp32"):
        hidden = hidden_weights(model)
        others = [weight for weight in model.parameters() if all(weight is not matrix for matrix in hidden)]
        self.peak = self.lr = lr
        self.parts: list[torch.optim.Optimizer] = [torch.optim.AdamW(others, lr=lr, fused=True)]
        if hidden:
            dtype = torch.bfloat16 if precision == "bf16" else torch.float32
            thin = any(min(len(weight), weight[0].numel()) < LEAST_RANK for weight in others if weight.ndim >= 2)
            self.parts.append(Muon(hidden, MUON_LR * lr, THIN_WEIGHT_DECAY if thin else WEIGHT_DECAY, dtype))

    def set_progress(self, progress: float) -> None:
        """Set the learning rates for the finished share of the run, in [0, 1]."""
        self.lr = one_cycle(progress) * self.peak
        for part in self.parts:
            part.param_groups[0]["lr"] = one_cycle(progress) * part.defaults["lr"]

    def zero_grad(self) -> None:
        for part in self.parts:
            part.zero_grad()

    def step(self) -> None:
        for part in self.parts:
            part.step()

    def state_dict(self) -> list[dict]:
        return [part.state_dict() for part in self.parts]

    def load_state_dict(self, states: list[dict]) -> None:
        for part, state in zip(self.parts, states, strict=True):
            part.load_state_dict(state)


class Muon(torch.optim.Optimizer):
    """Jordan et al. 2024, "Muon: An optimizer for hidden layers in neural networks".

    A step follows the matrix's Nesterov momentum, after making all its singular values nearly equal. Its
    size is that of AdamW's steps (Liu et al. 2025, "Muon is Scalable for LLM Training").

    torch.optim.Muon takes no convolutions, and computes each matrix separately, always in bfloat16, which is forty
    times as slow on a CPU without such arithmetic. Here those of one shape are batched, in `dtype`, large ones split.
    """

    def __init__(self, weights: Iterable[nn.Parameter], lr: float, decay: float, dtype: torch.dtype = torch.float32):
        super().__init__(weights, {"lr": lr})
        self.dtype, self.decay = dtype, decay

    @torch.no_grad()
    def step(self) -> None:
        (group,) = self.param_groups
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
            average.lerp_(gradients, 1 - MOMENTUM)
            directions = orthogonalize(gradients.lerp_(average, MOMENTUM).to(self.dtype))
            for weight, direction in zip(weights, directions.split([len(part) for part in parts]), strict=True):
                weight.mul_(1 - group["lr"] * self.decay)
                to_matrices(weight).add_(direction, alpha=-group["lr"] * 0.2 * long**0.5)


def to_matrices(weight: Tensor) -> Tensor:
    """A view of the weight of a linear layer (O, I) or a convolution (O, I, K, K) as matrices (B, M, N), M <= N.

    There is a row per output, or per input if those are fewer. More than 128 rows are split into parts of 64 if that
    divides them: the cost grows with the square of the rows, and large layers train equally well in parts.
    """
    if weight.ndim == 4:
        if weight.is_contiguous(memory_format=torch.channels_last):
            weight = weight.permute(0, 2, 3, 1)
        weight = weight.view(len(weight), -1)
    if weight.shape[0] > weight.shape[1]:
        weight = weight.T
    return weight.unflatten(0, (-1, 64)) if len(weight) > 128 and len(weight) % 64 == 0 else weight[None]


def orthogonalize(matrices: Tensor, steps: int = 5) -> Tensor:
    """(B, M, N), M <= N -> matrices with the same singular vectors and singular values near 1 (0.7 to 1.2).

    The Newton-Schulz iteration, with the polynomial of Jordan et al., which lifts small singular values the most.
    """
    result = matrices / torch.linalg.vector_norm(matrices, dim=(1, 2), keepdim=True).clamp(min=1e-7)
    for _ in range(steps):
        gram = result @ result.mT
        gram = torch.baddbmm(gram, gram, gram, beta=-4.7750, alpha=2.0315)
        result = torch.baddbmm(result, gram, result, beta=3.4445)
    return result
