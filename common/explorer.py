"""A page to explore a two-dimensional latent space in a browser: one HTML file that needs no server and no network.

The page doesn't hold the decoder but its images on a regular grid, as the principal components of their logits;
between the grid's points the page interpolates linearly.
"""

import base64
import gzip
import json
import sys
from collections.abc import Callable
from pathlib import Path

import matplotlib as mpl
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from common import figures
from common.checkpoint import write_atomically
from common.data import Digits

TEMPLATE = Path(__file__).with_suffix(".html")
LIMIT = 2_000_000  # bytes of the page
BOUND = 0.015  # on the mean absolute error of the page's image at a point, in grey levels of [0, 1]
CHECKS = 5000  # random points where the bound is checked; between them the error may be a little larger
GRIDS = ((64, 128), (96, 128), (128, 128), (128, 192))  # points a side, components: the first that keeps the bound
EDGE = 0.01  # grey levels are squeezed into EDGE..1 - EDGE, so that black and white have a logit
ORIGINALS = ((28, 16), (28, 8), (28, 4), (14, 16), (14, 4))  # pixels a side, grey levels; the first that fits
MARGIN = 0.04  # around the codes, as a share of their range
PRIOR_RANGE = 4.0  # with a prior, at least -4..4 is shown: of 10,000 samples, one lies outside


def write(
    path: Path, digits: Digits, latent: Tensor, decode: Callable[[Tensor], Tensor], title: str, prior: bool
) -> None:
    """Write the page to `path`, atomically, at most `LIMIT` bytes.

    `latent` (N, 2) are the codes of `digits`; `decode` gives grey levels (B, 1, 28, 28) of codes (B, 2), on the
    CPU. `prior` adds what belongs to N(0, I): its circles of one and two standard deviations, and samples.

    What the page shows at a point of its area is within a mean absolute error of 0.02 grey levels of what `decode`
    gives. Where the decoder is too rough for that, no page is written, with a warning on stderr. Raises UserError
    where `path` can't be written.
    """
    page = _page(digits, latent, decode, title, prior)
    if page is None:
        path.unlink(missing_ok=True)  # it would show another model
        print(
            f"warning: no {path}: the decoder changes too quickly from place to place for {LIMIT / 1e6:.0f} MB",
            file=sys.stderr,
        )
    else:
        write_atomically(path, page)
        print(f"wrote {path}", flush=True)


def _page(digits: Digits, latent: Tensor, decode: Callable[[Tensor], Tensor], title: str, prior: bool) -> bytes | None:
    """The page, or None where none keeps both the bound and the limit."""
    low, side = _area(latent, prior)
    decoder = _compress(decode, low, side)
    if decoder is None:
        return None
    present = digits.labels.unique().tolist()
    centres = np.stack([latent[digits.labels == label].median(dim=0).values.numpy() for label in present])
    places = figures.spread_apart(centres, 0.04 * side)
    content = {
        "title": title,
        "prior": prior,
        "area": {"left": low[0].item(), "bottom": low[1].item(), "side": side},
        "classes": [
            {
                "label": label,
                "name": digits.classes[label],
                "colour": mpl.colors.to_hex(figures.PALETTE[label % len(figures.PALETTE)]),
                "place": place.tolist(),
            }
            for label, place in zip(present, places, strict=True)
        ],
        "points": _pack(((latent - low) / side * 65535).round(), "<u2"),
        "labels": _pack(digits.labels, "u1"),
        "decoder": decoder,
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


def _compress(decode: Callable[[Tensor], Tensor], low: Tensor, side: float) -> dict | None:
    """The decoder's images of the area, for the page; None where no grid is fine enough."""
    places = torch.rand(CHECKS, 2, generator=torch.Generator().manual_seed(0))
    expected = decode(low + side * places).flatten(1)
    for size, count in GRIDS:
        ticks = torch.linspace(0, 1, size)
        grid = torch.cartesian_prod(ticks, ticks).flip(1)  # rows from the bottom up
        logits = torch.logit(EDGE + (1 - 2 * EDGE) * decode(low + side * grid).flatten(1))
        mean, mean_unit = _to_int8(logits.mean(dim=0))
        centred = logits - mean * mean_unit
        components = torch.linalg.eigh(centred.T @ centred).eigenvectors[:, -count:]
        maps, map_unit = _to_int8((centred @ components).T.view(count, size, size))
        basis, basis_unit = _to_int8(components.T)

        weights = F.grid_sample(maps[None], (2 * places - 1).view(1, 1, -1, 2), align_corners=True)[0, :, 0].T
        shown = weights @ basis * (map_unit * basis_unit) + mean * mean_unit
        shown = ((shown.sigmoid() - EDGE) / (1 - 2 * EDGE)).clamp(0, 1)
        if (shown - expected).abs().mean(dim=1).max() <= BOUND:
            return {
                "size": size,
                "edge": EDGE,
                "mean": _pack(mean, "i1"),
                "meanUnit": mean_unit,
                "basis": _pack(basis, "i1"),
                "maps": _pack(maps, "i1"),
                "unit": map_unit * basis_unit,
            }
    return None


def _to_int8(values: Tensor) -> tuple[Tensor, float]:
    """`values` rounded to whole multiples, -127..127, of the returned unit."""
    unit = values.abs().max().item() / 127 or 1.0
    return (values / unit).round(), unit


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
