"""Muon against the singular value decomposition and against PyTorch's own."""

import copy

import torch
from torch import nn

from common.training.optimizer import Muon, orthogonalize

# Wide, tall, two of one shape, square, convolutions, one of them of the shape of others as a matrix.
SHAPES = ((8, 24), (24, 8), (8, 24), (16, 16), (8, 3, 4, 4), (8, 6, 2, 2), (192, 8, 3, 3))


def make_matrices():
    generator = torch.Generator().manual_seed(0)
    tensors = [torch.randn(shape, generator=generator) for shape in SHAPES]
    return [nn.Parameter(to_channels_last(tensor)) for tensor in tensors]


def to_channels_last(tensor):
    return tensor.to(memory_format=torch.channels_last) if tensor.ndim == 4 else tensor


def set_gradients(matrices, seed):
    generator = torch.Generator().manual_seed(seed)
    for matrix in matrices:
        matrix.grad = to_channels_last(torch.randn(matrix.shape, generator=generator))


def test_orthogonalized_matrices_keep_their_singular_vectors_and_lose_their_values():
    matrices = torch.randn(3, 20, 50, generator=torch.Generator().manual_seed(0))
    left, values, right = torch.linalg.svd(matrices, full_matrices=False)
    assert (values.amax(dim=1) / values.amin(dim=1) > 3).all()
    found = left.mT @ orthogonalize(matrices) @ right.mT
    diagonal = found.diagonal(dim1=1, dim2=2)
    assert diagonal.min() > 0.6 and diagonal.max() < 1.3
    assert (found - torch.diag_embed(diagonal)).abs().max() < 1e-4


def test_steps_are_those_of_pytorchs_muon():
    """Which computes in bfloat16: three digits."""
    ours = make_matrices()
    theirs = [nn.Parameter(matrix.detach().clone().flatten(1)) for matrix in ours]
    start = copy.deepcopy(theirs)
    optimizer = Muon(ours, lr=0.1)
    reference = torch.optim.Muon(theirs, lr=0.1, weight_decay=0.01, adjust_lr_fn="match_rms_adamw")
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
    optimizers = [Muon([whole], lr=0.1), Muon(parts, lr=0.1)]
    whole.grad = torch.randn(192, 300, generator=generator)
    for part, gradient in zip(parts, whole.grad.chunk(3), strict=True):
        part.grad = gradient
    for optimizer in optimizers:
        optimizer.step()
    assert torch.equal(whole, torch.cat(parts))


def test_a_saved_optimizer_goes_on_to_the_same_bits():
    matrices = make_matrices()
    optimizer = Muon(matrices, lr=0.1)
    set_gradients(matrices, 1)
    optimizer.step()
    others = copy.deepcopy(matrices)
    resumed = Muon(others, lr=0.1)
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for each, parameters in ((optimizer, matrices), (resumed, others)):
        set_gradients(parameters, 2)
        each.step()
    assert all(torch.equal(matrix, other) for matrix, other in zip(matrices, others, strict=True))
