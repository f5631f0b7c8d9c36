"""A page to explore a two-dimensional latent space in a browser: one HTML file that needs no server and no network.

The page holds the decoder's layers, their weights rounded to 8 bits, and computes them itself.
"""

import base64
import copy
import gzip
import json
import sys
from pathlib import Path

import matplotlib as mpl
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from common.data.digits import Digits
from common.figures import maps
from common.files import write_atomically

TEMPLATE = Path(__file__).with_suffix(".html")
LIMIT = 2_000_000  # bytes of the page
BOUND = 0.015  # on the mean absolute error of the page's image at a point, in grey levels of [0, 1]
CHECKS = 5000  # random points where the bound is checked; between them the error may be a little larger
ORIGINALS = ((28, 16), (28, 8), (28, 4), (14, 16), (14, 4))  # pixels a side, grey levels; the first that fits
MARGIN = 0.04  # around the codes, as a share of their range
PRIOR_RANGE = 4.0  # with a prior, at least -4..4 is shown: of 10,000 samples, one lies outside


def write(
    path: Path, digits: Digits, latent: Tensor, encoder: nn.Module, decoder: nn.Module, title: str, prior: bool
) -> None:
    """Write the page to `path`, atomically, at most `LIMIT` bytes.

    `latent` (N, 2) are the codes of `digits`; `decoder` maps codes (B, 2) to logits (B, 784), by linear layers,
    SiLU, and layers with `directions` (F, 2), which are sines and cosines of the codes along them.
    `prior` adds what belongs to N(0, I): its circles of one and two standard deviations, and samples.

    What the page shows at a point of its area is within a mean absolute error of 0.02 grey levels of what the
    decoder gives in fp32. Where 8 bits a weight are too few for that or too many for the limit, or a layer
    is of another kind, no page is written, with a warning on stderr. Raises UserError where `path` can't be written.
    """
    if latent.shape[1] != 2:
        path.unlink(missing_ok=True)  # it would show another model
        print(f"no explorer page: it needs a latent space of 2 dimensions, not {latent.shape[1]}")
        return
    if isinstance(decoder[-1], nn.Sigmoid):
        decoder = decoder[:-1]
    page = _page(digits, latent, decoder, title, prior)
    if page is None:
        path.unlink(missing_ok=True)  # it would show another model
        print(
            f"warning: no {path}: the decoder's layers don't fit into {LIMIT / 1e6:.0f} MB with an error below {BOUND}",
            file=sys.stderr,
        )
    else:
        write_atomically(path, page)
        print(f"wrote {path}", flush=True)


@torch.no_grad()
def _page(digits: Digits, latent: Tensor, decoder: nn.Module, title: str, prior: bool) -> bytes | None:
    """The page, or None where none keeps both the bound and the limit."""
    low, side = _area(latent, prior)
    if (found := _layers(decoder)) is None:
        return None
    layers, rounded = found
    places = low + side * torch.rand(CHECKS, 2, generator=torch.Generator().manual_seed(0))
    shown, expected = (network(places).sigmoid() for network in (rounded, copy.deepcopy(decoder).cpu()))
    if not (shown - expected).abs().mean(dim=1).max() <= BOUND:
        return None
    present = digits.labels.unique().tolist()
    centres = np.stack([latent[digits.labels == label].median(dim=0).values.numpy() for label in present])
    places = maps.spread_apart(centres, 0.04 * side)
    content = {
        "title": title,
        "prior": prior,
        "area": {"left": low[0].item(), "bottom": low[1].item(), "side": side},
        "classes": [
            {
                "label": label,
                "name": digits.classes[label],
                "colour": mpl.colors.to_hex(maps.PALETTE[label % len(maps.PALETTE)]),
                "place": place.tolist(),
            }
            for label, place in zip(present, places, strict=True)
        ],
        "points": _pack(((latent - low) / side * 65535).round(), "<u2"),
        "labels": _pack(digits.labels, "u1"),
        "decoder": layers,
    }
    for size, levels in ORIGINALS:
        page = _render(content | {"originals": _originals(digits.images, size, levels)})
        if len(page) <= LIMIT:
            return page
    return None


def _area(latent: Tensor, prior: bool) -> tuple[Tensor, float]:
    """The lower left corner (2,) and the side of a square around all codes."""
    low, high = latent.amin(dim=0), latent.amax(dim=0)
    if prior:
        low, high = low.clamp(max=-PRIOR_RANGE), high.clamp(min=PRIOR_RANGE)
    side = (1 + 2 * MARGIN) * (high - low).max().item() or 1.0
    return (low + high - side) / 2, side


def _layers(decoder: nn.Module) -> tuple[list[dict], nn.Module] | None:
    """The layers of `decoder` in their order, for the page, and the network that the page computes.

    None where there is a layer that the page doesn't know.
    """

    def listed(values: Tensor) -> list:
        return [float(f"{value:.6g}") for value in values.flatten().tolist()]

    rounded = copy.deepcopy(decoder).cpu()
    layers = []
    for layer in rounded.modules():
        if isinstance(layer, nn.Linear):
            unit = layer.weight.abs().amax(dim=1, keepdim=True).clamp(min=1e-30) / 127
            whole = (layer.weight / unit).round()
            layer.weight.copy_(whole * unit)
            weights = {"weight": _pack(whole, "i1"), "unit": listed(unit), "bias": listed(layer.bias)}
            layers.append({"kind": "linear", **weights})
        elif isinstance(layer, nn.SiLU):
            layers.append({"kind": "silu"})
        elif hasattr(layer, "directions"):
            layers.append({"kind": "waves", "directions": layer.directions.tolist()})
        elif not any(layer.children()):
            return None
    return layers, rounded


def _originals(images: Tensor, size: int, levels: int) -> dict:
    """Images (N, 1, 28, 28) uint8 at `size` pixels a side in that many grey levels."""
    small = F.adaptive_avg_pool2d(images.float() / 255, size)
    return {"size": size, "levels": levels, "images": _pack((small * (levels - 1)).round(), "u1")}


def _pack(values: Tensor, kind: str) -> str:
    """Whole numbers as numpy's `kind`, compressed, in base64."""
    return base64.b64encode(gzip.compress(values.numpy().astype(kind).tobytes(), mtime=0)).decode()


def _render(content: dict) -> bytes:
    # No title or class name can end the script element that holds the JSON.
    text = json.dumps(content).replace("<", "\\u003c")
    return TEMPLATE.read_text(encoding="utf-8").replace("{{content}}", text).encode()
