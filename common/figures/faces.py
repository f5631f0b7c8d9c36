"""The figures of the face script: each method draws one and saves it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from common.data.tensors import to_float
from common.figures import sheets
from common.latent import fit_gaussian, walk

PAIRS = 6
STEPS = 8  # pictures between the two of a pair
SHOWN = 16
SAMPLES = (3, 12)  # rows and columns of each sampler
SAMPLES_SEED = 0
DIRECTIONS = ("Smiling", "Eyeglasses", "Blond_Hair", "Male", "Young")
STRENGTHS = (-1.5, -1.0, -0.5, 0.0, 0.5, 1.0, 1.5)


@dataclass(frozen=True)
class FaceFigures(sheets.Figures):
    """A trained model's test faces, their codes, and the folder of their figures.

    originals: the test faces (N, 3, S, S) uint8. latent: their codes (N, D). train_latent: those of the training
    faces (M, D). decode: codes (B, D) -> pixels (B, 3, S, S). See `Figures` for the others.
    """

    originals: Tensor
    latent: Tensor
    train_latent: Tensor
    decode: Callable[[Tensor], Tensor]

    def interpolation(self, path: Path | None = None) -> None:
        """The first test faces in pairs, one turning into the other along a straight line in the latent space."""
        pictures, rows = to_float(self.originals[: 2 * PAIRS]), []
        for first in range(0, max(1, min(2 * PAIRS, len(self.latent) - 1)), 2):
            rows.append(walk(pictures, self.latent, self.decode, first, (first + 1) % len(self.latent), STEPS))
        title = f"{self.title}: the first test faces in pairs, and the faces between them\n{self.subtitle}"
        figure = sheets.pictures(_channels_last(torch.stack(rows)), title, sheets.walk_columns(STEPS))
        sheets.save(figure, path or self.path("interpolation"))

    def reconstructions(self) -> None:
        """The first test faces above their reconstructions."""
        shown = min(SHOWN, len(self.latent))
        rows = torch.stack([to_float(self.originals[:shown]), self.decode(self.latent[:shown])])
        title = f"{self.title}: the first {shown} test faces\n{self.subtitle}"
        figure = sheets.pictures(_channels_last(rows), title, names=("original", "reconstruction"))
        sheets.save(figure, self.path("reconstructions"))

    def samples(self) -> None:
        """Random faces: draws of the prior, and of a Gaussian fitted to the training codes."""
        mean, factor = fit_gaussian(self.train_latent)
        generator = torch.Generator().manual_seed(SAMPLES_SEED)
        noise = torch.randn(SAMPLES[0] * SAMPLES[1], len(mean), generator=generator)
        draws = torch.cat([self.decode(noise), self.decode(mean + noise @ factor.T)])
        blank = [""] * (SAMPLES[0] - 1)
        names = ["N(0, I)", *blank, "Gaussian\nfitted to the\ntraining codes", *blank]
        title = f"{self.title}: faces decoded from the same random draws by two samplers"
        figure = sheets.pictures(_channels_last(draws.unflatten(0, (2 * SAMPLES[0], SAMPLES[1]))), title, names=names)
        sheets.save(figure, self.path("samples"))

    def attributes(self, labels: Tensor | None, names: Sequence[str]) -> None:
        """Test faces moved along the difference of class means, for some attributes that the data has labels for.

        `labels` (M, A) bool are those of the training faces, `names` the A attributes. Without any of them, an
        earlier run's figure is removed, since it would show another model.
        """
        pictures, rows, shown = to_float(self.originals[: len(DIRECTIONS)]), [], []
        for name in DIRECTIONS if labels is not None else ():
            if name not in names or not 0 < (has := labels[:, names.index(name)]).sum() < len(has):
                continue
            direction = self.train_latent[has].mean(dim=0) - self.train_latent[~has].mean(dim=0)
            face = len(shown) % len(self.latent)
            moved = self.decode(self.latent[face] + torch.tensor(STRENGTHS)[:, None] * direction)
            rows.append(torch.cat([pictures[face, None], moved]))
            shown.append(name)
        if not shown:
            self.path("attributes").unlink(missing_ok=True)
            return
        columns = ["original", *(f"{strength:+g}" if strength else "recon-\nstruction" for strength in STRENGTHS)]
        title = f"{self.title}: test faces moved along the difference of class means in the latent space"
        sheets.save(sheets.pictures(_channels_last(torch.stack(rows)), title, columns, shown), self.path("attributes"))


def _channels_last(images: Tensor) -> np.ndarray:
    """(R, C, 3, S, S) -> (R, C, S, S, 3), the layout of sheets."""
    return images.movedim(2, -1).numpy()
