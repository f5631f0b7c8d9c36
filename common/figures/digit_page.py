"""A page to explore a two-dimensional latent space in a browser: one HTML file that needs no server and no network.

The page holds the encoder and the decoder, their weights rounded, and computes them itself: it places on the map
whatever a reader draws.
"""

import copy
from pathlib import Path

import matplotlib as mpl
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from common.data.digits import Digits
from common.data.tensors import to_float
from common.figures import layers, maps
from common.figures.page import UNKNOWN, pack, pack_nibbles, render, save

TEMPLATE = "digit_page.html"
LIMIT = 3_000_000  # bytes of the page
CODE_BOUND = 0.01  # on the distance of the page's code from the encoder's, as a share of the map's width
BOUND = 0.015  # on the mean absolute error of the page's image at a point, in grey levels of [0, 1]
CHECKS = 2000  # random points and test images where the bounds are checked; elsewhere errors may be a little larger
ENCODER_BITS = 12  # per weight; with 8, a digit between two classes would move by up to 5% of the map
DECODER_BITS = 8
ORIGINALS = ((28, 16), (28, 12), (28, 8), (28, 4), (14, 16), (14, 4))  # pixels per side, grey levels; the first to fit
BOX = 20  # pixels per side of the box that MNIST's makers fitted a digit into
MARGIN = 0.04  # around the codes, as a share of their range
PRIOR_RANGE = 4.0  # with a prior, at least -4..4 is shown: of 10,000 samples, one lies outside


def write(
    path: Path, digits: Digits, latent: Tensor, encoder: nn.Module, decoder: nn.Module, title: str, prior: bool
) -> None:
    """Write the page to `path`, atomically, at most `LIMIT` bytes.

    `latent` (N, 2) are the codes of `digits`; `encoder` maps grey levels (B, 1, 28, 28) to codes (B, 2), or to the
    mean and the log-variance of a Gaussian over them (B, 4) with `prior`; `decoder` maps codes to logits (B, 784).
    `prior` also adds N(0, I): its circles of one and two standard deviations, and samples.

    At the points and test images that are checked, the page's image is within a mean absolute error of 0.015 grey
    levels of the decoder's in fp32, and its codes are within 1% of the area's side. If the rounded weights are too
    coarse for that or too large for the limit, or the page doesn't know a kind of layer, no page is written, and the
    console says why. Raises UserError if `path` can't be written.
    """
    save(path, _page(digits, latent, encoder, decoder, title, prior))


@torch.no_grad()
def _page(
    digits: Digits, latent: Tensor, encoder: nn.Module, decoder: nn.Module, title: str, prior: bool
) -> bytes | str:
    """The page, or the reason why there is none."""
    if latent.shape[1] != 2:
        return f"it needs a latent space of 2 dimensions, not {latent.shape[1]}"
    low, side = _area(latent, prior)
    generator = torch.Generator().manual_seed(0)
    chosen = digits.images[torch.randperm(len(digits.images), generator=generator)[:CHECKS]]
    places = low + side * torch.rand(CHECKS, 2, generator=generator)
    encoding = layers.write(encoder, to_float(chosen), ENCODER_BITS)
    decoding = layers.write(decoder, places, DECODER_BITS)
    if encoding is None or decoding is None:
        return UNKNOWN
    codes, exact = (network(to_float(chosen))[:, :2] for network in (encoding.rounded, copy.deepcopy(encoder).cpu()))
    shown, expected = (network(places).sigmoid() for network in (decoding.rounded, copy.deepcopy(decoder).cpu()))
    distance, error = (codes - exact).norm(dim=1).max(), (shown - expected).abs().mean(dim=1).max()
    if not (distance <= CODE_BOUND * side and error <= BOUND):  # also where a number is NaN
        return f"its images would be off by more than {BOUND}, or its codes by more than {CODE_BOUND:.0%} of the map"
    present = digits.labels.unique().tolist()
    centres = np.stack([latent[digits.labels == label].median(dim=0).values.numpy() for label in present])
    places = maps.spread_apart(centres, 0.04 * side)
    colours = [mpl.colors.to_hex(colour) for colour in maps.PALETTE]
    content = {
        "title": title,
        "prior": prior,
        "boxed": _boxed(chosen),
        "area": {"left": low[0].item(), "bottom": low[1].item(), "side": side},
        "classes": [
            {"label": label, "name": digits.classes[label], "colour": colours[label % len(colours)], "place": place}
            for label, place in zip(present, places.tolist(), strict=True)
        ],
        "points": pack(((latent - low) / side * 65535).round(), "<u2"),
        "labels": pack(digits.labels, "u1"),
        "encoder": encoding.written,
        "decoder": decoding.written,
    }
    room = LIMIT - len(render(TEMPLATE, content | {"originals": {"size": 28, "levels": 16, "images": ""}}))
    originals = _originals(digits.images, room)
    if originals is None:
        return f"it would take more than {LIMIT / 1e6:.0f} MB"
    return render(TEMPLATE, content | {"originals": originals})


def _area(latent: Tensor, prior: bool) -> tuple[Tensor, float]:
    """The lower left corner (2,) and the side of a square around all codes."""
    low, high = latent.amin(dim=0), latent.amax(dim=0)
    if prior:
        low, high = low.clamp(max=-PRIOR_RANGE), high.clamp(min=PRIOR_RANGE)
    side = (1 + 2 * MARGIN) * (high - low).max().item() or 1.0
    return (low + high - side) / 2, side


def _boxed(images: Tensor) -> bool:
    """Whether all images (N, 1, 28, 28) fit, like MNIST's, into a box of `BOX` pixels per side."""
    places = torch.arange(images.shape[-1])
    return all(
        ((ink * places).amax(dim=1) - ink.int().argmax(dim=1)).max() < BOX
        for ink in (images.amax(dim=2)[:, 0] > 0, images.amax(dim=3)[:, 0] > 0)
    )


def _originals(images: Tensor, room: int) -> dict | None:
    """Images (N, 1, 28, 28) uint8 with the most pixels and grey levels that fit into `room` bytes, or None."""
    few = images[:: len(images) // 500 + 1]  # a sample shows it without packing all of them
    for size, levels in ORIGINALS:
        if len(_pack_images(few, size, levels)) * len(images) / len(few) > 1.05 * room:
            continue
        packed = _pack_images(images, size, levels)
        if len(packed) <= room:
            return {"size": size, "levels": levels, "images": packed}
    return None


def _pack_images(images: Tensor, size: int, levels: int) -> str:
    if size < images.shape[-1]:
        images = F.adaptive_avg_pool2d(images.float(), size).round().byte()
    return pack_nibbles((np.arange(256) * (levels - 1) / 255).round().astype(np.uint8)[images.numpy()])
