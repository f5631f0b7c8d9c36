"""The pictures that the face script draws of a trained model, from its latent codes and its decoder."""

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from common.figures import sheets as figures
from common.data.tensors import to_float
from common.latent import fit_gaussian, walk

PAIRS = 6
STEPS = 8
SHOWN = 16
SAMPLES = (3, 12)  # rows and columns of each sampler
SAMPLES_SEED = 0
DIRECTIONS = ("Smiling", "Eyeglasses", "Blond_Hair", "Male", "Young")
STRENGTHS = (-1.5, -1.0, -0.5, 0.0, 0.5, 1.0, 1.5)


def draw_face_figures(
    originals: Tensor,
    latent: Tensor,
    train_latent: Tensor,
    decode: Callable[[Tensor], Tensor],
    attributes: Tensor | None,
    attribute_names: Sequence[str],
    history: Sequence[dict],
    model: str,
    scores: str,
    paths: dict[str, Path],
) -> None:
    """Draw and save the figures named in `paths`: interpolation, reconstructions, samples, attributes and curves.

    `originals` (N, 3, S, S) uint8 are the test faces and `latent` (N, D) their codes; `train_latent` (M, D) are
    the training faces' codes and `attributes` (M, A) their labels, if they have any. `decode` gives the pixels
    (B, 3, S, S) of codes (B, D). `model` and `scores` go into the titles.
    """
    pictures = to_float(originals[: max(2 * PAIRS, SHOWN)])

    def rows(images: Tensor) -> torch.Tensor:
        """(R, C, 3, S, S) -> (R, C, S, S, 3), as figures are drawn."""
        return images.movedim(2, -1).numpy()

    lines = []
    for first in range(0, max(1, min(2 * PAIRS, len(latent) - 1)), 2):
        lines.append(walk(pictures, latent, decode, first, (first + 1) % len(latent), STEPS))
    title = f"{model}: the first test faces in pairs, and the faces between them\n{scores}"
    figures.save(figures.pictures(rows(torch.stack(lines)), title, figures.walk_columns(STEPS)), paths["interpolation"])

    shown = min(SHOWN, len(latent))
    sheet = torch.stack([pictures[:shown], decode(latent[:shown])])
    title = f"{model}: the first {shown} test faces\n{scores}"
    figures.save(figures.pictures(rows(sheet), title, names=("original", "reconstruction")), paths["reconstructions"])

    noise = torch.randn(SAMPLES[0] * SAMPLES[1], latent.shape[1], generator=torch.Generator().manual_seed(SAMPLES_SEED))
    mean, factor = fit_gaussian(train_latent)
    sheet = torch.cat([decode(noise), decode(mean + noise @ factor.T)]).unflatten(0, (2 * SAMPLES[0], SAMPLES[1]))
    names = [
        "prior\nN(0, I)",
        *[""] * (SAMPLES[0] - 1),
        "Gaussian\nfitted to the\ntraining codes",
        *[""] * (SAMPLES[0] - 1),
    ]
    title = f"{model}: faces decoded from the same random draws by two samplers"
    figures.save(figures.pictures(rows(sheet), title, names=names), paths["samples"])

    sheet, names = [], []
    for name in DIRECTIONS if attributes is not None else ():
        has = (
            attributes[:, attribute_names.index(name)] if name in attribute_names else torch.zeros(1, dtype=torch.bool)
        )
        if not 0 < has.sum() < len(has):
            continue
        direction = train_latent[has].mean(dim=0) - train_latent[~has].mean(dim=0)
        face = len(names) % len(latent)
        moved = decode(latent[face] + torch.tensor(STRENGTHS)[:, None] * direction)
        sheet.append(torch.cat([pictures[face, None], moved]))
        names.append(name)
    if names:
        columns = ["original", *(f"{strength:+g}" if strength else "recon-\nstruction" for strength in STRENGTHS)]
        title = f"{model}: test faces moved along the difference of class means in the latent space"
        figures.save(figures.pictures(rows(torch.stack(sheet)), title, columns, names), paths["attributes"])
    else:
        paths["attributes"].unlink(missing_ok=True)  # an earlier run's would show another model

    labels = {"neg_elbo": "-ELBO (nats an image)", "recon": "reconstruction (nats)", "kl": "KL (nats)", "mse": "MSE"}
    figures.save(figures.curves(history, labels, f"{model}: training"), paths["curves"])
