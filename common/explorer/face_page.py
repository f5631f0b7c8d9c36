"""A page to move through a face model's latent space in a browser: one HTML file without a server or a network."""

import base64
import copy
import io
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor, nn

from common.data.batches import to_float
from common.data.celeba import Faces
from common.explorer import layers
from common.explorer.page import listed, written
from common.figures.face_figures import DIRECTIONS, FaceFigures
from common.latent import fit_gaussian

CODE_BOUND = 0.02  # on the distance of the page's code from the encoder's, as a share of the codes' spread
CHECKS = 200  # test faces, and random codes, where the errors are checked; elsewhere they may be a little larger
SHOWN = 24  # test faces to start from
COMPONENTS = 8  # principal components with a slider
# Where the eyes of an aligned face are, as shares of the picture's sides.
EYES = {"CelebA": ((0.365, 0.514), (0.628, 0.514)), "drawn faces": ((0.4, 0.47), (0.6, 0.47))}


def write(path: Path, figures: FaceFigures, faces: Faces, model: nn.Module, *, own_layers: dict[type, str]) -> None:
    """Write the page to `path`, atomically; with the script's defaults, it takes about 3.5 MB.

    `faces` are the training faces, one per row of `figures.train_latent`. `model.encoder` maps pictures (B, 3, S, S) to
    codes, its first D outputs; `model.decoder` maps codes (B, D) to pictures. For `own_layers`, see `layers.network`.
    `written` and `layers.write` say when there is no page. Raises UserError if `path` can't be written.
    """
    with written(path, "face_page.html") as content:
        latent, pictures = figures.latent[:CHECKS], to_float(figures.originals[:CHECKS])
        mean, factor = fit_gaussian(figures.train_latent)
        noise = torch.randn(CHECKS, len(mean), generator=torch.Generator().manual_seed(0))
        codes = torch.cat([latent, mean + noise @ factor.T])
        variances = factor.square().sum(dim=0).flip(0)
        bound, clamp = CODE_BOUND * variances.sum().sqrt(), nn.Hardtanh(0, 1)
        model = copy.deepcopy(model)
        last = [*model.encoder.modules()][-1]
        if type(last) is nn.Linear and last.bias is not None:  # the page needs no log-variances
            last.weight, last.bias = (nn.Parameter(part[: len(mean)]) for part in (last.weight, last.bias))
        content |= layers.write(model, pictures, codes, levels=clamp, bound=bound, own_layers=own_layers)
        row, png = torch.cat([*figures.originals[:SHOWN]], dim=2).permute(1, 2, 0), io.BytesIO()
        Image.fromarray(row.numpy()).save(png, "png")
        png = f"data:image/png;base64,{base64.b64encode(png.getvalue()).decode()}"
        content |= {"title": figures.title, "source": faces.name, "size": pictures.shape[-1]}
        content |= {"faces": {"pictures": png, "codes": listed(latent[:SHOWN])}, "eyes": EYES.get(faces.name, ())}
        content |= {"attributes": _attributes(figures.train_latent, faces), "mean": listed(mean)}
        content["components"] = listed(factor.flip(1).T)  # the strongest first, a standard deviation long
        content["shares"] = listed(variances[:COMPONENTS] / variances.sum().clamp(min=1e-30))


def _attributes(latent: Tensor, faces: Faces) -> list[dict]:
    """The attributes of `faces`, the figure's first, with the difference of the mean codes with and without each."""
    chosen, names = [], () if faces.attributes is None else faces.attribute_names
    for name in sorted(names, key=lambda name: (*DIRECTIONS, name).index(name)):
        has = faces.attributes[:, names.index(name)]
        if min(has.sum(), (~has).sum()) > latent.shape[1]:  # the means of fewer differ by chance
            direction = listed(latent[has].mean(dim=0) - latent[~has].mean(dim=0))
            chosen.append({"name": name.replace("_", " ").lower(), "first": name in DIRECTIONS, "direction": direction})
    return chosen
