"""The optimizer: Muon against the singular value decomposition and PyTorch's own, its weights, the learning rate."""

import copy

import pytest
import torch
from torch import nn

import vanilla_ae
import vanilla_vae_celeba
import vanilla_vae_mnist
from common.training import learning_rate
from common.training.optimizer import MOMENTUM, Muon, Optimizer, batch_size, hidden_weights, one_cycle, orthogonalize

# Wide, tall, two of one shape, square, and convolutions, one of them shaped like others when a matrix.
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


def test_orthogonalized_matrices_keep_their_singular_vectors_but_not_their_values():
    matrices = torch.randn(3, 20, 50, generator=torch.Generator().manual_seed(0))
    left, values, right = torch.linalg.svd(matrices, full_matrices=False)
    assert (values.amax(dim=1) / values.amin(dim=1) > 3).all()
    found = left.mT @ orthogonalize(matrices) @ right.mT
    diagonal = found.diagonal(dim1=1, dim2=2)
    assert diagonal.min() > 0.6 and diagonal.max() < 1.3
    assert (found - torch.diag_embed(diagonal)).abs().max() < 1e-4


def test_steps_agree_with_those_of_pytorchs_muon():
    """PyTorch's computes in bfloat16, so three digits agree."""
    ours = make_matrices()
    theirs = [nn.Parameter(matrix.detach().clone().flatten(1)) for matrix in ours]
    start = copy.deepcopy(theirs)
    optimizer = Muon(ours, 0.1, 0.1)
    reference = torch.optim.Muon(theirs, lr=0.1, momentum=MOMENTUM, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
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
    optimizers = [Muon([whole], 0.1, 0.1), Muon(parts, 0.1, 0.1)]
    whole.grad = torch.randn(192, 300, generator=generator)
    for part, gradient in zip(parts, whole.grad.chunk(3), strict=True):
        part.grad = gradient
    for optimizer in optimizers:
        optimizer.step()
    assert torch.equal(whole, torch.cat(parts))


def test_a_saved_optimizer_continues_bit_identically():
    matrices = make_matrices()
    optimizer = Muon(matrices, 0.1, 0.1)
    set_gradients(matrices, 1)
    optimizer.step()
    others = copy.deepcopy(matrices)
    resumed = Muon(others, 0.1, 0.1)
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for each, parameters in ((optimizer, matrices), (resumed, others)):
        set_gradients(parameters, 2)
        each.step()
    assert all(torch.equal(matrix, other) for matrix, other in zip(matrices, others, strict=True))


def test_a_convolution_trains_alike_in_both_memory_layouts():
    weight = torch.randn(8, 6, 3, 3, generator=torch.Generator().manual_seed(0))
    layouts = [nn.Parameter(weight.clone()), nn.Parameter(to_channels_last(weight.clone()))]
    for parameter in layouts:
        parameter.grad = parameter.detach().cos()
        Muon([parameter], 0.1, 0.1).step()
    torch.testing.assert_close(layouts[0].detach(), layouts[1].detach().contiguous(), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(("dimensions", "decay"), [(2, 0.01), (20, 0.1)])
def test_weights_decay_less_with_a_thin_code(dimensions, decay):
    model = vanilla_vae_mnist.VariationalAutoencoder(dimensions)
    optimizer = Optimizer(model, 0.1)
    optimizer.set_progress(0.3)  # at the peak of the learning rate
    before = [weight.detach().clone() for weight in hidden_weights(model)]
    for weight in model.parameters():
        weight.grad = torch.zeros_like(weight)
    optimizer.step()
    for weight, old in zip(hidden_weights(model), before, strict=True):
        torch.testing.assert_close(weight.detach(), old * (1 - 0.3 * decay))


@pytest.mark.parametrize(
    ("model", "names"),
    [
        (vanilla_ae.Autoencoder(2), "encoder.3 encoder.5 encoder.7 decoder.3 decoder.5 decoder.7"),
        (  # without the directions of the Fourier features
            vanilla_ae.Autoencoder(64),
            "encoder.3 encoder.5 encoder.7 encoder.10 decoder.1 decoder.3 decoder.5 decoder.7",
        ),
        (vanilla_vae_mnist.VariationalAutoencoder(2), "encoder.3 encoder.5 encoder.6 decoder.3 decoder.4 decoder.5"),
        (
            vanilla_vae_mnist.VariationalAutoencoder(20),
            "encoder.3 encoder.5 encoder.6 decoder.2 decoder.3 decoder.4 decoder.5",
        ),
        (
            vanilla_vae_celeba.VariationalAutoencoder(128, 64),
            "encoder.3 encoder.6 encoder.10 decoder.0 decoder.4 decoder.8",
        ),
    ],
)
def test_muon_trains_the_matrices_between_hidden_layers_and_none_at_the_pixels_or_at_a_thin_code(model, names):
    chosen = {id(weight) for weight in hidden_weights(model)}
    found = [name for name, weight in model.named_parameters() if id(weight) in chosen]
    assert found == [f"{name}.weight" for name in names.split()]


def test_every_parameter_has_one_optimizer():
    model = vanilla_vae_celeba.VariationalAutoencoder(16, 32)
    parts = Optimizer(model, 1e-3).parts
    seen = [id(parameter) for part in parts for group in part.param_groups for parameter in group["params"]]
    assert sorted(seen) == sorted(id(parameter) for parameter in model.parameters())


def test_the_learning_rate_rises_and_falls_linearly():
    rates = [one_cycle(step / 1000) for step in range(1001)]
    assert rates[0] == 0 and max(rates) == rates[300] == 1 and rates[-1] == pytest.approx(0)
    assert [rates[step] for step in (150, 475, 650)] == pytest.approx([0.5, 0.75, 0.5])


def test_both_parts_follow_the_cycle_from_their_own_peaks():
    optimizer = Optimizer(vanilla_vae_mnist.VariationalAutoencoder(2), 0.1)
    optimizer.set_progress(0.15)
    assert [part.param_groups[0]["lr"] for part in optimizer.parts] == pytest.approx([0.05, 0.15])
    assert optimizer.lr == pytest.approx(0.05)


def test_short_runs_take_smaller_batches_and_long_ones_the_largest():
    assert batch_size(60_000, 34, most=512) == 512
    sizes = [batch_size(60_000, epochs, most=512) for epochs in range(1, 40)]
    assert sizes == sorted(sizes) and set(sizes) == {128, 256, 512} and batch_size(100, 1, most=512) == 64
    assert batch_size(10**9, 100, most=64) == 64


def test_the_learning_rate_falls_with_the_square_root_of_the_steps():
    short, long, longer = (learning_rate(51_200, epochs, 512, long=2e-3) for epochs in (10, 40, 160))
    assert long == 2e-3 and short == pytest.approx(4e-3) and longer == pytest.approx(1e-3)
    assert learning_rate(51_201, 40, 512, long=2e-3) < long  # the last images take a step, too
    assert learning_rate(1000, 1, 64, long=2e-3) == 5e-3
