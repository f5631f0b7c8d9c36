"""The optimizer: Muon against the singular value decomposition and PyTorch's own, its state, the learning rate."""

import copy

import pytest
import torch
from torch import nn

from common.training.optimizer import (
    MOMENTUM,
    STEP,
    Optimizer,
    batch_size,
    learning_rate,
    one_cycle,
    orthogonalizers,
)

# Wide, tall, two of one shape, square, and convolutions, one of them shaped like others when a matrix.
SHAPES = ((8, 24), (24, 8), (8, 24), (16, 16), (8, 3, 4, 4), (8, 6, 2, 2), (192, 8, 3, 3))


def make_matrices():
    generator = torch.Generator().manual_seed(0)
    tensors = [torch.randn(shape, generator=generator) for shape in SHAPES]
    return [nn.Parameter(to_channels_last(tensor)) for tensor in tensors]


def muon(weights):
    """An optimizer that trains all `weights` by Muon."""
    return Optimizer(nn.ParameterList(weights), weights, lr=0.1, muon_decay=0.3)


def to_channels_last(tensor):
    return tensor.to(memory_format=torch.channels_last) if tensor.ndim == 4 else tensor


def set_gradients(matrices, seed):
    generator = torch.Generator().manual_seed(seed)
    for matrix in matrices:
        matrix.grad = to_channels_last(torch.randn(matrix.shape, generator=generator))


def test_orthogonalized_matrices_keep_their_singular_vectors_but_not_their_values():
    matrices = torch.randn(3, 20, 50, generator=torch.Generator().manual_seed(0))
    left, values, right = torch.linalg.svd(matrices, full_matrices=False)
    assert (values.amax(dim=1) / values.amin(dim=1) > 3).all()
    found = left.mT @ orthogonalizers(matrices @ matrices.mT) @ matrices @ right.mT
    diagonal = found.diagonal(dim1=1, dim2=2)
    assert diagonal.min() > 0.6 and diagonal.max() < 1.3
    assert (found - torch.diag_embed(diagonal)).abs().max() < 1e-4


def test_steps_agree_with_those_of_pytorchs_muon():
    """PyTorch's computes in bfloat16, so three digits agree."""
    ours = make_matrices()
    theirs = [nn.Parameter(matrix.detach().clone().flatten(1)) for matrix in ours]
    start = copy.deepcopy(theirs)
    optimizer = muon(ours)
    lr = 0.1 * STEP / 0.2  # PyTorch's steps are those of AdamW
    reference = torch.optim.Muon(theirs, lr=lr, momentum=MOMENTUM, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    for seed in range(3):
        set_gradients(ours, seed)
        for matrix, same in zip(ours, theirs, strict=True):
            same.grad = matrix.grad.flatten(1).clone()
        optimizer.step(), reference.step()
    for before, matrix, expected in zip(start, ours, theirs, strict=True):
        assert (matrix.flatten(1) - expected).norm() < 0.03 * (expected - before).norm()


def test_more_than_128_outputs_are_taken_64_at_a_time():
    generator = torch.Generator().manual_seed(0)
    whole = nn.Parameter(torch.randn(192, 300, generator=generator))
    parts = [nn.Parameter(part.clone()) for part in whole.detach().chunk(3)]
    optimizers = [muon([whole]), muon(parts)]
    whole.grad = torch.randn(192, 300, generator=generator)
    for part, gradient in zip(parts, whole.grad.chunk(3), strict=True):
        part.grad = gradient
    for optimizer in optimizers:
        optimizer.step()
    assert torch.equal(whole, torch.cat(parts))


class Mixed(nn.Module):
    """A convolution and a linear layer, in either memory layout."""

    def __init__(self, layout):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Conv2d(4, 8, 3), nn.Conv2d(8, 8, 3)
        self.to(memory_format=layout)


def steps(model, optimizer, seeds):
    for seed in seeds:
        generator = torch.Generator().manual_seed(seed)
        for weight in model.parameters():
            weight.grad = torch.empty_like(weight).copy_(torch.randn(weight.shape, generator=generator))
        optimizer.step()


@pytest.mark.parametrize("after", [torch.channels_last, torch.contiguous_format])
@pytest.mark.parametrize("before", [torch.channels_last, torch.contiguous_format])
def test_a_saved_optimizer_continues_the_same_in_either_memory_layout(before, after):
    """Devices differ in their layouts, and a run may be resumed on another one."""
    straight, resumed = Mixed(before), Mixed(after)
    optimizers = [Optimizer(model, [model.second.weight], lr=0.1, muon_decay=0.3) for model in (straight, resumed)]
    steps(straight, optimizers[0], range(3))
    resumed.load_state_dict(straight.state_dict())
    optimizers[1].load_state_dict(copy.deepcopy(optimizers[0].state_dict()))
    for model, optimizer in zip((straight, resumed), optimizers, strict=True):
        steps(model, optimizer, [3])
    for weight, same in zip(straight.parameters(), resumed.parameters(), strict=True):
        torch.testing.assert_close(weight, same, atol=1e-5 if before != after else 0, rtol=0)


def test_muon_trains_the_named_weights_and_adamw_all_others_at_the_rate_of_the_groups():
    model = Mixed(torch.contiguous_format)
    optimizer = Optimizer(model, [model.second.weight], lr=1.0, muon_decay=0.3)
    adamw, muon = optimizer.param_groups
    assert [id(weight) for weight in muon["params"]] == [id(model.second.weight)]
    others = [model.first.weight, model.first.bias, model.second.bias]
    assert [id(weight) for weight in adamw["params"]] == [id(weight) for weight in others]
    torch.optim.lr_scheduler.LambdaLR(optimizer, lambda _: 0.1)  # PyTorch's schedulers take it, and set both rates
    before = [weight.detach().clone() for weight in (model.first.weight, model.second.weight)]
    for weight in model.parameters():
        weight.grad = torch.zeros_like(weight)
    optimizer.step()
    torch.testing.assert_close(model.first.weight.detach(), before[0] * (1 - 0.1 * 0.01))
    torch.testing.assert_close(model.second.weight.detach(), before[1] * (1 - 0.1 * 0.3))


def test_the_learning_rate_rises_and_falls_linearly():
    rates = [one_cycle(step / 1000) for step in range(1001)]
    assert rates[0] == 0 and max(rates) == rates[300] == 1 and rates[-1] == pytest.approx(0)
    assert [rates[step] for step in (150, 475, 650)] == pytest.approx([0.5, 0.75, 0.5])


def test_short_runs_take_smaller_batches_and_long_ones_the_largest():
    assert batch_size(60_000, 34, most=512) == 512
    sizes = [batch_size(60_000, epochs, most=512) for epochs in range(1, 40)]
    assert sizes == sorted(sizes) and set(sizes) == {128, 256, 512} and batch_size(100, 1, most=512) == 64
    assert batch_size(10**9, 100, most=64) == 64


def test_the_learning_rate_falls_with_the_square_root_of_the_steps():
    short, long, longer = (learning_rate(51_200, epochs, 512, long=2e-3) for epochs in (10, 40, 160))
    assert long == 2e-3 and short == pytest.approx(4e-3) and longer == pytest.approx(1e-3)
    assert learning_rate(51_201, 40, 512, long=2e-3) < long  # the last images take a step, too
    assert learning_rate(1000, 1, 64, long=2e-3) == 0.01
