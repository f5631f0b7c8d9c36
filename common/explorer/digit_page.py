"""A page to explore a two-dimensional latent space in a browser: one HTML file that needs no server and no network."""

from pathlib import Path

import torch
from torch import nn

from common.data.batches import to_float
from common.explorer import layers
from common.explorer.page import NoPage, pack, written
from common.figures import maps
from common.figures.digit_figures import DigitFigures

COUNT = 3000  # test images on the map
CODE_BOUND = 0.01  # on the distance of the page's code from the encoder's, as a share of the map's width
CHECKS = 2000  # random points and test images where the errors are checked; elsewhere they may be a little larger
BOX = 20  # rows and columns with ink, at most, in a digit of MNIST: its makers fitted them into a box
PRIOR_RANGE = 4.0  # with a prior, at least -4..4 is shown: of 10,000 samples, one lies outside


def write(path: Path, figures: DigitFigures, model: nn.Module, *, own_layers: dict[type, str], other="") -> None:
    """Write the page to `path`, atomically; it takes about 2 MB.

    `figures` holds the test images and their codes (N, 2), of which the first `COUNT` are shown. `model.encoder` maps
    grey levels (B, 1, 28, 28) to codes (B, 2) or, with a prior, to mean and log-variance of a Gaussian over them
    (B, 4); `model.decoder` maps codes to logits (B, 784). For `own_layers`, see `layers.network`. `other` is the file
    name of a VAE's page for an autoencoder, and the reverse: if it lies beside this one, a link takes drawings there.
    `written` and `layers.write` say when there is no page. Raises UserError if `path` can't be written.
    """
    digits, latent, prior = figures.digits, figures.latent, figures.prior
    with written(path, "digit_page.html") as content:
        if latent.shape[1] != 2:
            raise NoPage(f"it needs a latent space of 2 dimensions, not {latent.shape[1]}")
        low, high = latent.amin(dim=0), latent.amax(dim=0)
        if prior:
            low, high = low.clamp(max=-PRIOR_RANGE), high.clamp(min=PRIOR_RANGE)
        side = 1.08 * (high - low).max().item() or 1.0  # of a square around all codes
        low = (low + high - side) / 2
        images = to_float(digits.images[:CHECKS])
        places = low + side * torch.rand(CHECKS, 2, generator=torch.Generator().manual_seed(0))
        bound = CODE_BOUND * side
        present = digits.labels.unique().tolist()
        colours = [bytes(colour) for colour in (255 * maps.colours(len(digits.classes))).round().astype("uint8")]
        centres = torch.stack([latent[digits.labels == label].median(dim=0).values for label in present])
        classes = [
            {"label": label, "name": digits.classes[label], "colour": f"#{colours[label].hex()}", "place": place}
            for label, place in zip(present, maps.spread_apart(centres.numpy(), 0.04 * side).tolist(), strict=True)
        ]
        content |= layers.write(model, images, places, levels=torch.sigmoid, bound=bound, own_layers=own_layers)
        content |= {
            "title": figures.title,
            "prior": prior,
            "mnist": digits.name == "MNIST",
            "other": other if other and path.with_name(other).exists() else None,
            "boxed": all((images > 0).any(dim=axis).sum(dim=-1).max() <= BOX for axis in (2, 3)),
            "area": {"left": low[0].item(), "bottom": low[1].item(), "side": side},
            "classes": classes,
            "points": pack(((latent[:COUNT] - low) / side * 65535).round()),
            "labels": pack(digits.labels[:COUNT]),
            "originals": pack((digits.images[:COUNT] / 17).round()),  # 16 levels of grey
        }
