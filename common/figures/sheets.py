"""Sheets of pictures and training curves: arrays in, a matplotlib Figure out.

Pictures of digits are grey levels in [0, 1], 0 drawn as paper white; faces are RGB in [0, 1], drawn as they are.
Grey levels are never rescaled to a picture's range.
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import ScalarFormatter

from common.files import write_atomically

DPI = 150
GAP = 2  # pixels between the pictures of a sheet


def save(figure: Figure, path: Path) -> None:
    """Write `figure` as a PNG, whole or not at all. Raises UserError if it can't be written."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI, facecolor="white")
    write_atomically(path, buffer.getvalue())
    print(f"wrote {path}", flush=True)


def new(width: float, height: float, title: str) -> Figure:
    """An empty figure of that size in inches."""
    figure = Figure(figsize=(width, height), layout="constrained")
    figure.suptitle(title, fontsize=11, parse_math=False)
    return figure


def tile(pictures: np.ndarray, gap: int = GAP) -> np.ndarray:
    """Pictures (rows, columns, H, W, C) or (rows, columns, H, W) side by side, white between them."""
    if pictures.ndim == 4:
        pictures = 1 - pictures[..., None]  # ink on paper
    rows, columns, height, width, channels = pictures.shape
    framed = np.pad(pictures, ((0, 0), (0, 0), (0, gap), (0, gap), (0, 0)), constant_values=1)
    sheet = framed.swapaxes(1, 2).reshape(rows * (height + gap), columns * (width + gap), channels)
    sheet = sheet[: len(sheet) - gap, : sheet.shape[1] - gap]
    return np.repeat(sheet, 3, axis=2) if channels == 1 else sheet


def pictures(rows: np.ndarray, title: str, columns: Sequence[str] = (), names: Sequence[str] = ()) -> Figure:
    """A sheet of pictures (R, C, H, W[, 3]), with names above its columns and before its rows."""
    count_rows, count_columns = rows.shape[:2]
    cell = 0.55 if rows.ndim == 4 else 0.8
    figure = new(max(8.5, cell * count_columns + (1.2 if names else 0.3)), cell * count_rows + 0.8, title)
    axes = figure.subplots()
    show_named(axes, rows, columns, names)
    return figure


def show_named(axes: Axes, rows: np.ndarray, columns: Sequence[str], names: Sequence[str]) -> None:
    """Show pictures (R, C, H, W[, 3]) in `axes`, with names above the columns and before the rows."""
    axes.imshow(np.clip(tile(rows), 0, 1), interpolation="nearest")
    axes.set_axis_off()
    height, width = rows.shape[2:4]
    for column, name in enumerate(columns):
        axes.text(column * (width + GAP) + width / 2, -GAP, name, ha="center", va="bottom", fontsize=7)
    for row, name in enumerate(names):
        axes.text(-2 * GAP, row * (height + GAP) + height / 2, name, ha="right", va="center", fontsize=8)


def walk_columns(steps: int) -> list[str]:
    """The names above a row of pictures from one original to another, with `steps` between the reconstructions."""
    names = ["original", "recon-\nstruction", *[""] * steps, "recon-\nstruction", "original"]
    names[2 + steps // 2] = "decoded along the straight line"
    return names


def curves(history: Sequence[dict], names: dict[str, str], title: str) -> Figure:
    """One panel for each of the `names` (key in the history -> axis label), over the epochs, on logarithmic axes."""
    figure = new(4.4 * len(names), 3.6, title)
    epochs = [line["epoch"] for line in history]
    for axes, (name, label) in zip(np.atleast_1d(figure.subplots(1, len(names))), names.items(), strict=True):
        for key, style, split in ((name, "-o", "train"), (f"valid_{name}", "--s", "valid")):
            if key in history[0]:
                axes.plot(epochs, [line[key] for line in history], style, markersize=3, label=split)
        values = [line[name] for line in history]
        if min(values) > 0:
            axes.set_yscale("log")  # The first epoch would otherwise flatten all the others.
            axes.yaxis.set(major_formatter=ScalarFormatter(), minor_formatter=ScalarFormatter())
            axes.tick_params(axis="y", which="minor", labelsize=6)  # Otherwise they may overlap.
        axes.set(xlabel="epoch", ylabel=label)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(alpha=0.3, which="both")
        if f"valid_{name}" in history[0]:
            axes.legend()
    return figure


@dataclass(frozen=True)
class Figures:
    """The figures of a trained model: `title` names it, `subtitle` gives its test scores.

    A figure without its own path goes to folder/SCRIPT_FIGURE.png.
    """

    title: str
    subtitle: str
    folder: Path
    script: str

    def path(self, figure: str) -> Path:
        return self.folder / f"{self.script}_{figure}.png"

    def curves(self, history: Sequence[dict], names: dict[str, str]) -> None:
        """The terms of the loss over the epochs; `names` maps each to its axis label."""
        save(curves(history, names, f"{self.title}: training"), self.path("curves"))
