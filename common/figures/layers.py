"""A network's layers, written into a page that computes them with layers.js.

A new kind of layer takes one function here and one in layers.js; both go by the name of the class that computes it.
"""

import copy
from typing import NamedTuple

import torch
from torch import Tensor, nn

from common.figures.page import listed, pack, pack_nibbles


class Layers(NamedTuple):
    """written: the layers for the page, in their order. rounded: the network that the page computes.
    multiplications: how many it takes for one input."""

    written: list[dict]
    rounded: nn.Module
    multiplications: int


@torch.no_grad()
def write(network: nn.Module, example: Tensor, bits: int) -> Layers | None:
    """The layers of a sequential `network`, as it computes them for the inputs `example` (B, ...).

    Weights are rounded to 8 or 12 `bits`, with a unit per row. None if the page doesn't know a layer, or if the layers
    don't simply follow one another.
    """
    rounded = copy.deepcopy(network).cpu()
    values, written, multiplications = example, [], 0
    for layer in rounded.modules():
        if any(layer.children()):
            continue
        # A subclass that computes something else isn't what it is derived from.
        name = next(kind.__name__ for kind in type(layer).__mro__ if "forward" in vars(kind))
        if name not in KINDS or getattr(layer, "bias", 0) is None:
            return None
        if (entry := KINDS[name](layer, values, bits)) is None:
            return None
        written.append({"kind": name, **entry})
        values = layer(values)
        if isinstance(layer, nn.Linear | nn.Conv2d):
            multiplications += layer.weight.numel() * values.shape[2:].numel()
    return Layers(written, rounded, multiplications) if torch.equal(values, rounded(example)) else None


# Each returns the entries that layers.js needs for a layer with inputs (B, ...), and rounds its weights to `bits`. None
# means that the layer has an option that layers.js doesn't know.


def _weights(layer: nn.Linear | nn.Conv2d, inputs: Tensor, bits: int) -> dict:
    unit = layer.weight.flatten(1).abs().amax(dim=1).clamp(min=1e-30) / (2 ** (bits - 1) - 1)
    each = unit.view(-1, *[1] * (layer.weight.ndim - 1))
    whole = (layer.weight / each).round()
    layer.weight.copy_(whole * each)
    whole = whole.movedim(1, -1)  # the page's maps have their channels last
    high = (whole / 2 ** (bits - 8)).floor()
    written = {"weight": pack(high, "i1"), "unit": listed(unit), "bias": listed(layer.bias)}
    # The bits beyond the first 8 are stored separately, since those 8 compress better alone.
    return written if bits == 8 else written | {"fine": pack_nibbles((whole - 16 * high).numpy())}


def _convolution(layer: nn.Conv2d, inputs: Tensor, bits: int) -> dict | None:
    if (layer.groups, layer.dilation, layer.padding_mode) != (1, (1, 1), "zeros") or isinstance(layer.padding, str):
        return None
    sizes = {"width": inputs.shape[3], "kernel": layer.kernel_size, "stride": layer.stride, "padding": layer.padding}
    return sizes | _weights(layer, inputs, bits)


def _norm(layer: nn.LayerNorm | nn.GroupNorm, inputs: Tensor, bits: int) -> dict:
    groups = getattr(layer, "num_groups", 1)
    return {"groups": groups, "eps": layer.eps, "weight": listed(layer.weight), "bias": listed(layer.bias)}


KINDS = {
    "Linear": _weights,
    "Residual": _weights,  # of vanilla_vae_mnist.py
    "Conv2d": _convolution,
    "LayerNorm": _norm,
    "GroupNorm": _norm,
    "Norm": _norm,  # of vanilla_vae_celeba.py
    "SiLU": lambda layer, inputs, bits: {},
    "FourierFeatures": lambda layer, inputs, bits: {"directions": listed(layer.directions)},
    "Flatten": lambda layer, inputs, bits: {"channels": inputs.shape[1]},
    "Unflatten": lambda layer, inputs, bits: {"channels": layer(inputs).shape[1]},
    "PixelShuffle": lambda layer, inputs, bits: {
        "factor": layer.upscale_factor,
        "width": inputs.shape[3],
        "channels": inputs.shape[1],
    },
}
