"""A network's layers, written into a page that computes them with layers.js.

A new kind of layer takes one entry in `KINDS` and one function in layers.js, named after its class.
"""

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn

from common.explorer.page import NoPage, listed, pack

ENCODER_BITS, DECODER_BITS = 10, 8  # per weight; with 8 in the encoder, digits move by up to 1% of the map
MULTIPLICATIONS = 60_000_000  # per picture; a browser does about a billion per second
BOUND = 0.015  # on the mean absolute error of the page's picture at a code, in levels of [0, 1]


@torch.no_grad()
def write(
    model: nn.Module, pictures: Tensor, codes: Tensor, *, levels: Callable, bound: float, own_layers: dict[type, str]
) -> dict[str, list[dict]]:
    """The layers of `model.encoder` and `model.decoder`, under these names, for a page.

    The encoder maps `pictures` (B, ...) to their codes (B, D), its first D outputs; the decoder maps `codes` (B, D) to
    outputs, of which `levels` makes levels in [0, 1]. For `own_layers`, see `network`. Raises NoPage as it does, and if
    the page computes a code further than `bound` from the encoder's, or a picture that is off by more than `BOUND`.
    """
    model = copy.deepcopy(model).cpu()
    exact_codes, exact = model.encoder(pictures), levels(model.decoder(codes))
    encoder, found_codes = network(model.encoder, pictures, ENCODER_BITS, own_layers)
    decoder, found = network(model.decoder, codes, DECODER_BITS, own_layers)
    distance = (found_codes - exact_codes)[:, : codes.shape[1]].norm(dim=1).max()
    error = (levels(found) - exact).abs().flatten(1).mean(dim=1).max()
    if not (distance <= bound and error <= BOUND):  # also where a number is NaN
        raise NoPage(f"too inexact: its codes would be off by {distance:.2g}, its pictures by {error:.2g}")
    return {"encoder": encoder, "decoder": decoder}


def network(layers: nn.Module, inputs: Tensor, bits: int, own_layers: dict[type, str]) -> tuple[list[dict], Tensor]:
    """For a page, layers that follow one another, and what they compute there for `inputs` (B, ...).

    Their weights are rounded in place to `bits`, at most 16, with a unit per row. `own_layers` are classes that are
    derived from PyTorch's and compute something else: for each, the name of its function in layers.js. Raises NoPage if
    the page doesn't know a layer or takes too long.
    """
    names = {kind: kind.__name__ for kind in KINDS} | own_layers
    values, written, multiplications = inputs, [], 0
    for layer in layers.modules():
        if any(layer.children()):
            continue
        kind = next(kind for kind in type(layer).__mro__ if "forward" in vars(kind))  # the class that computes
        if kind not in names or getattr(layer, "bias", 0) is None:
            raise NoPage(f"it can't compute {layer}")
        entries = next(KINDS[base] for base in kind.__mro__ if base in KINDS)
        shape = {"channels": values.shape[1], "width": values.shape[-1]}
        written.append({"kind": names[kind]} | shape | entries(layer, bits))
        values = layer(values)
        if isinstance(layer, nn.Linear | nn.Conv2d):
            multiplications += layer.weight.numel() * values.shape[2:].numel()
        if multiplications > MULTIPLICATIONS:
            raise NoPage(f"a picture takes over {MULTIPLICATIONS / 1e6:.0f} million multiplications")
    return written, values


def _weights(layer: nn.Linear | nn.Conv2d, bits: int) -> dict:
    middle = 2 ** (bits - 1)
    unit = layer.weight.flatten(1).abs().amax(dim=1).clamp(min=1e-30) / (middle - 1)
    each = unit.view(-1, *[1] * (layer.weight.ndim - 1))
    whole = (layer.weight / each).round()
    layer.weight.copy_(whole * each)
    whole = whole.movedim(1, -1)  # the page's maps have their channels last
    return {"weight": pack(whole + middle), "middle": middle, "unit": listed(unit), "bias": listed(layer.bias)}


def _convolution(layer: nn.Conv2d, bits: int) -> dict:
    if (layer.groups, layer.dilation, layer.padding_mode) != (1, (1, 1), "zeros") or isinstance(layer.padding, str):
        raise NoPage(f"it can't compute {layer}")
    return _weights(layer, bits) | {"kernel": layer.kernel_size, "stride": layer.stride, "padding": layer.padding}


def _norm(layer: nn.LayerNorm | nn.GroupNorm, bits: int) -> dict:
    affine = {"weight": listed(layer.weight), "bias": listed(layer.bias)}
    return {"groups": getattr(layer, "num_groups", 1), "eps": layer.eps} | affine


# Each returns the entries that layers.js needs beside the shape of a layer's inputs, and rounds its weights to `bits`.
KINDS = {
    nn.Linear: _weights,
    nn.Conv2d: _convolution,
    nn.LayerNorm: _norm,
    nn.GroupNorm: _norm,
    nn.SiLU: lambda layer, bits: {},
    nn.Flatten: lambda layer, bits: {},
    nn.Unflatten: lambda layer, bits: {"channels": layer.unflattened_size[0]},
    nn.PixelShuffle: lambda layer, bits: {"factor": layer.upscale_factor},
}
