"""Sheets of pictures, and curves, as PNGs. Grey levels in [0, 1], 0 as paper white, or RGB, are never rescaled."""

import io
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import matplotlib.style
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from common.files import write_atomically

DPI = 150
WIDTH = 8.6  # inches: 1,290 pixels, which a README shows at two thirds of their size
GAP = 2  # pixels between the pictures of a sheet


def save(figure: Figure, path: Path) -> None:
    """Write `figure` as a PNG, whole or not at all. Raises UserError if it can't be written."""
    buffer = io.BytesIO()
    with warnings.catch_warnings(action="ignore"):  # matplotlib's, about axes that a figure has no room for
        figure.savefig(buffer, format="png", dpi=DPI, facecolor="white")
    write_atomically(path, buffer.getvalue())
    print(f"wrote {path}", flush=True)


def drawable(text: str, instead: str = "own pictures") -> str:
    """`text` with `instead` for characters of scripts that matplotlib's font lacks or sets wrongly, as CJK."""
    return re.sub("[\u0590-\u1cff\u2c00-\U0010ffff]+", instead, text)


def tile(pictures: np.ndarray, gap: int = GAP) -> np.ndarray:
    """Pictures (R, C, H, W), grey levels, or (R, C, H, W, 3) side by side, white between them."""
    if pictures.ndim == 4:
        pictures = np.repeat(1 - pictures[..., None], 3, axis=4)  # ink on paper
    rows, columns, height, width, _ = pictures.shape
    framed = np.pad(pictures, ((0, 0), (0, 0), (0, gap), (0, gap), (0, 0)), constant_values=1)
    sheet = framed.swapaxes(1, 2).reshape(rows * (height + gap), columns * (width + gap), 3)
    return np.clip(sheet[: len(sheet) - gap, : sheet.shape[1] - gap], 0, 1)


def show(axes: Axes, rows: np.ndarray, columns: Sequence[str] = (), names: Sequence[str] = ()) -> None:
    """Show pictures (R, C, H, W[, 3]) in `axes`, with names above the columns and before the rows."""
    axes.imshow(tile(rows), interpolation="nearest")
    axes.set_axis_off()
    height, width = rows.shape[2:4]
    for column, name in enumerate(columns):
        axes.text(column * (width + GAP) + width / 2, -GAP, name, ha="center", va="bottom")
    for row, name in enumerate(names):
        axes.text(-2 * GAP, row * (height + GAP) + height / 2, name, ha="right", va="center")


def walk_names(steps: int) -> list[str]:
    """The names along pictures from one original to another, with `steps` between the reconstructions."""
    return ["original", "recon-\nstruction", *[""] * steps, "recon-\nstruction", "original"]


@dataclass(frozen=True)
class Figures:
    """Figures of the model that `title` names: each method saves one at `path`, or else as folder/SCRIPT_FIGURE.png."""

    title: str
    folder: Path
    script: str

    def path(self, name: str) -> Path:
        return self.folder / f"{self.script}_{name}.png"

    @contextmanager
    def drawing(self, name: str, path: Path | None, what: str, size: tuple[float, float], **layout) -> Iterator:
        """The axes of a figure that is then saved; `size` in inches, `layout` as `Figure.subplots` has it."""
        with matplotlib.style.context("default"):  # matplotlib's own settings, whatever the user's are
            figure = Figure(figsize=size, layout="constrained")
            figure.suptitle(drawable(f"{self.title}: {what}"), parse_math=False)
            yield figure.subplots(**layout)
            save(figure, path or self.path(name))

    def sheet(self, name: str, path: Path | None, what: str, rows: Tensor, columns=(), names=()) -> None:
        """Save a sheet of pictures (R, C, channels, H, W), with the names of its columns and rows."""
        cell = (WIDTH - (1.2 if names else 0.1)) / rows.shape[1]
        size = WIDTH, cell * len(rows) + (0.8 if any(columns) else 0.4)
        with self.drawing(name, path, what, size) as axes:
            show(axes, rows.movedim(2, -1).squeeze(-1).numpy(), columns, names)

    def samples(self, path: Path | None = None) -> None:
        """Pictures decoded from random draws of N(0, I), ten in a row, in `SAMPLED` rows."""
        noise = torch.randn(10 * self.SAMPLED, self.latent.shape[1], generator=torch.Generator().manual_seed(0))
        rows = self.decode(noise).unflatten(0, (self.SAMPLED, 10))
        self.sheet("samples", path, "decoded from random draws of N(0, I)", rows)

    def curves(self, *, history: Sequence[dict], names: dict[str, str], path: Path | None = None) -> None:
        """Terms of the loss over the epochs, each in a panel; `names` maps a key in the history to an axis label."""
        size = min(WIDTH, 5 * len(names)), 3.6
        with self.drawing("curves", path, "training", size, ncols=len(names), squeeze=False) as panels:
            for axes, (name, label) in zip(panels[0], names.items(), strict=True):
                for split, key in (("train", name), ("valid", f"valid_{name}")):
                    if values := {line["epoch"]: line[key] for line in history if key in line}:
                        axes.plot([*values], [*values.values()], "-o", markersize=3, label=split)
                low, high = axes.dataLim.intervaly
                if low > 0:
                    axes.set_yscale("log")  # The first epoch would otherwise flatten all the others.
                    ticks = np.geomspace(low, high, 5)  # Powers of ten may all lie outside.
                    axes.set_yticks(ticks, [f"{tick:.3g}" for tick in ticks])
                    axes.minorticks_off()
                axes.set(xlabel="epoch", ylabel=label)
                axes.xaxis.get_major_locator().set_params(integer=True)
                axes.grid(alpha=0.3)
                axes.legend()
