"""A page to move through a face model's latent space in a browser: one HTML file without a server or a network.

The page holds the encoder and the decoder, their weights rounded, and computes them itself: a face changes while a
slider moves, and your own picture becomes a code like any other.
"""

import base64
import copy
import io
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor, nn

from common.data.faces import Faces
from common.data.tensors import to_float
from common.figures import layers
from common.figures.faces import DIRECTIONS, FaceFigures
from common.figures.page import UNKNOWN, listed, render, save
from common.latent import fit_gaussian

LIMIT = 6_000_000  # bytes of the page
MULTIPLICATIONS = 60_000_000  # per face; a browser does about a billion per second
CODE_BOUND = 0.02  # on the distance of the page's code from the encoder's, as a share of the codes' spread
BOUND = 0.015  # on the mean absolute error of the page's face at a code, in levels of [0, 1]
CHECKS = 200  # test faces, and random codes, where the bounds are checked; elsewhere errors may be a little larger
ENCODER_BITS = (8, 12)  # per weight; the first to keep the bound
DECODER_BITS = 8
SHOWN = 24  # test faces to start from
COMPONENTS = 8  # principal components with a slider
SEPARATION = 0.6  # of the training faces along an attribute's direction, see `_attributes`
# Where the eyes of an aligned face are, as shares of the picture's sides.
EYES = {"CelebA": ((0.365, 0.514), (0.628, 0.514)), "drawn faces": ((0.4, 0.47), (0.6, 0.47))}


def write(
    path: Path, figures: FaceFigures, encoder: nn.Module, decoder: nn.Module, labels: Tensor | None, faces: Faces
) -> None:
    """Write the page to `path`, atomically, at most `LIMIT` bytes.

    `encoder` maps pictures (B, 3, S, S) to codes, its first D outputs; `decoder` maps codes (B, D) to pictures.
    `labels` (M, A) bool are those of the training faces, by the names in `faces`, or None.

    Where that is checked, the page's faces are within a mean absolute error of 0.015 of the decoder's in fp32, and its
    codes within 2% of the codes' spread. If that makes the page too large, a browser would be too slow, or the page
    doesn't know a kind of layer, no page is written, and the console says why. Raises UserError if `path` can't be
    written.
    """
    save(path, _page(figures, encoder, decoder, labels, faces))


@torch.no_grad()
def _page(
    figures: FaceFigures, encoder: nn.Module, decoder: nn.Module, labels: Tensor | None, faces: Faces
) -> bytes | str:
    """The page, or the reason why there is none."""
    latent, pictures = figures.latent[:CHECKS], to_float(figures.originals[:CHECKS])
    mean, factor = fit_gaussian(figures.train_latent)
    noise = torch.randn(CHECKS, len(mean), generator=torch.Generator().manual_seed(0))
    codes = torch.cat([latent, mean + noise @ factor.T])
    decoding = layers.write(decoder, codes[:1], DECODER_BITS)
    if decoding is None:
        return UNKNOWN
    if decoding.multiplications > MULTIPLICATIONS:
        return f"a face takes {decoding.multiplications / 1e6:.0f} million multiplications, too many for a browser"

    exact, expected = copy.deepcopy(encoder).cpu()(pictures), copy.deepcopy(decoder).cpu()(codes).clamp(0, 1)
    # NaN fails both comparisons.
    for bits in ENCODER_BITS:
        encoding = layers.write(encoder, pictures[:1], bits)
        if encoding is None:
            return UNKNOWN
        error = (encoding.rounded(pictures) - exact)[:, : len(mean)].norm(dim=1).max()
        if error <= CODE_BOUND * factor.square().sum().sqrt():
            break
    else:
        return f"its codes would be off by more than {CODE_BOUND:.0%} of their spread"
    shown = decoding.rounded(codes).clamp(0, 1)
    if not (shown - expected).abs().flatten(1).mean(dim=1).max() <= BOUND:
        return f"its faces would be off by more than {BOUND}"

    variances = factor.square().sum(dim=0)
    content = {
        "title": figures.title,
        "source": faces.source,
        "size": pictures.shape[-1],
        "faces": {"pictures": _png(figures.originals[:SHOWN]), "codes": listed(latent[:SHOWN])},
        "attributes": [] if labels is None else _attributes(figures.train_latent, labels, faces.attribute_names),
        "mean": listed(mean),
        "components": listed(factor.flip(1).T),  # the strongest first, a standard deviation long
        "shares": listed((variances / variances.sum().clamp(min=1e-30)).flip(0)[:COMPONENTS]),
        "eyes": EYES.get(faces.source, ()),
        "encoder": encoding.written,
        "decoder": decoding.written,
    }
    page = render("face_page.html", content)
    return page if len(page) <= LIMIT else f"it would take {len(page) / 1e6:.1f} MB, more than {LIMIT / 1e6:.0f}"


def _attributes(latent: Tensor, labels: Tensor, names: tuple[str, ...]) -> list[dict]:
    """The attributes that the model moves well, the figure's first, and their directions: differences of class means.

    Along its direction, the means of the faces with and without it must be at least `SEPARATION` standard deviations
    apart (Cohen's d; at 0.6, two of three pairs of such faces are in order). Each group must have more faces than a
    code has dimensions: the means of fewer differ by chance.
    """
    chosen = []
    for name in sorted(names, key=lambda name: DIRECTIONS.index(name) if name in DIRECTIONS else len(DIRECTIONS)):
        has = labels[:, names.index(name)]
        if min(has.sum(), (~has).sum()) <= latent.shape[1]:
            continue
        direction = latent[has].mean(dim=0) - latent[~has].mean(dim=0)
        gap, share = direction.square().sum(), has.float().mean()  # between the means, along the direction
        within = (latent @ direction).var(correction=0) - share * (1 - share) * gap.square()
        if gap >= SEPARATION * within.clamp(min=0).sqrt():
            first = name in DIRECTIONS
            chosen.append({"name": name.replace("_", " "), "first": first, "direction": listed(direction)})
    return chosen


def _png(pictures: Tensor) -> str:
    """Pictures (N, 3, S, S) uint8 in a row, as a PNG in a data URL."""
    file = io.BytesIO()
    Image.fromarray(torch.cat(tuple(pictures), dim=2).permute(1, 2, 0).numpy()).save(file, "png")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
