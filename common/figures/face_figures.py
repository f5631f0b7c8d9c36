"""The figures of a model of faces: each method draws one and saves it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from common.data.batches import to_float
from common.figures import sheets
from common.latent import walk

SHOWN = 10  # faces in a row
PAIRS = 6
STEPS = 6  # faces between the two of a pair
DIRECTIONS = ("Smiling", "Blond_Hair", "Male", "Young")
STRENGTHS = (-1.5, -1.0, -0.5, 0.0, 0.5, 1.0, 1.5)


@dataclass(frozen=True)
class FaceFigures(sheets.Figures):
    """Of the test faces `originals` (N, 3, S, S) uint8, with the codes `latent` (N, D) and `train_latent` (M, D)."""

    originals: Tensor
    latent: Tensor
    train_latent: Tensor
    decode: Callable[[Tensor], Tensor]
    SAMPLED = 3

    def interpolation(self, path: Path | None = None) -> None:
        """The first test faces in pairs, one turning into the other along a straight line in the latent space."""
        pairs = torch.arange(2 * PAIRS).view(-1, 2) % len(self.latent)
        rows = [walk(to_float(self.originals[pair]), self.latent[pair], self.decode, STEPS) for pair in pairs]
        rows, what = torch.stack(rows), "from one test face to another along a straight line"
        self.sheet("interpolation", path, what, rows, columns=sheets.walk_names(STEPS))

    def reconstructions(self, path: Path | None = None) -> None:
        """The first test faces above their reconstructions."""
        rows = torch.stack([to_float(self.originals[:SHOWN]), self.decode(self.latent[:SHOWN])])
        self.sheet("reconstructions", path, "test faces", rows, names=("original", "reconstruction"))

    def attributes(self, *, labels: Tensor | None, names: Sequence[str], path: Path | None = None) -> None:
        """Test faces moved along the difference of class means, for some attributes that the data has labels for.

        `labels` (M, A) bool of the training faces, `names` (A). Without any, an earlier model's figure is removed.
        """
        rows = {}
        for name in DIRECTIONS if labels is not None else ():
            if name in names and 0 < (has := labels[:, names.index(name)]).sum() < len(has):
                face = len(rows) % len(self.latent)
                direction = self.train_latent[has].mean(dim=0) - self.train_latent[~has].mean(dim=0)
                moved = self.decode(self.latent[face] + torch.tensor(STRENGTHS)[:, None] * direction)
                rows[name.replace("_", " ").lower()] = torch.cat([to_float(self.originals[face, None]), moved])
        if not rows:
            return (path or self.path("attributes")).unlink(missing_ok=True)
        columns = ["original", *(f"{strength:+g}" if strength else "recon-\nstruction" for strength in STRENGTHS)]
        what, shown = "test faces with less or more of an attribute", torch.stack([*rows.values()])
        self.sheet("attributes", path, what, shown, columns=columns, names=list(rows))
