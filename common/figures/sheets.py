"""Every picture of the project. A function takes arrays and returns a matplotlib Figure; it knows no model.

Pictures of digits are grey levels in [0, 1], 0 drawn as paper white; faces are RGB in [0, 1], drawn as they are.
Grey levels are never rescaled to the picture at hand.
"""

import io
from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle
from matplotlib.patheffects import withStroke

from common.files import write_atomically

# Ten colours that colour-blind people can tell apart: Petroff 2021, "Accessible Color Sequences for Data
# Visualization", https://arxiv.org/abs/2107.02270.
PALETTE = tuple(mpl.color_sequences["petroff10"])
DPI = 150


def save(figure: Figure, path: Path) -> None:
    """Write `figure` as a PNG, whole or not at all. Raises UserError where it can't be written."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI, facecolor="white")
    write_atomically(path, buffer.getvalue())
    print(f"wrote {path}", flush=True)


def _new(width: float, height: float, title: str) -> Figure:
    figure = Figure(figsize=(width, height), layout="constrained")
    figure.suptitle(title, fontsize=11, parse_math=False)
    return figure


def tile(pictures: np.ndarray, gap: int = 2) -> np.ndarray:
    """Pictures (rows, columns, H, W, C) or (rows, columns, H, W) beside one another, white between them."""
    if pictures.ndim == 4:
        pictures = 1 - pictures[..., None]  # ink on paper
    rows, columns, height, width, channels = pictures.shape
    sheet = np.ones((rows * (height + gap) - gap, columns * (width + gap) - gap, channels), pictures.dtype)
    for row in range(rows):
        for column in range(columns):
            top, left = row * (height + gap), column * (width + gap)
            sheet[top : top + height, left : left + width] = pictures[row, column]
    return np.repeat(sheet, 3, axis=2) if channels == 1 else sheet


def _show(axes: Axes, sheet: np.ndarray) -> None:
    axes.imshow(np.clip(sheet, 0, 1), interpolation="nearest")
    axes.set_axis_off()


def pictures(rows: np.ndarray, title: str, columns: Sequence[str] = (), names: Sequence[str] = ()) -> Figure:
    """A sheet of pictures (R, C, H, W[, 3]), with names above its columns and before its rows."""
    count_rows, count_columns = rows.shape[:2]
    cell = 0.55 if rows.ndim == 4 else 0.8
    figure = _new(max(8.5, cell * count_columns + (1.2 if names else 0.3)), cell * count_rows + 0.8, title)
    axes = figure.subplots()
    _show_named(axes, rows, columns, names)
    return figure


def _show_named(axes: Axes, rows: np.ndarray, columns: Sequence[str], names: Sequence[str], gap: int = 2) -> None:
    _show(axes, tile(rows, gap))
    height, width = rows.shape[2:4]
    for column, name in enumerate(columns):
        axes.text(column * (width + gap) + width / 2, -gap, name, ha="center", va="bottom", fontsize=7)
    for row, name in enumerate(names):
        axes.text(-2 * gap, row * (height + gap) + height / 2, name, ha="right", va="center", fontsize=8)


def latent_map(
    points: np.ndarray,
    labels: np.ndarray,
    classes: Sequence[str],
    title: str,
    axis_names: tuple[str, str] = ("latent dimension 1", "latent dimension 2"),
    prior: bool = False,
) -> Figure:
    """Points (N, 2) coloured by their labels (N,), each class named at its centre.

    `prior` adds the circles of one and two standard deviations of N(0, I).
    """
    figure = _new(8, 8, title)
    draw_latent_map(figure.subplots(), points, labels, classes, axis_names, prior)
    return figure


def draw_latent_map(
    axes: Axes,
    points: np.ndarray,
    labels: np.ndarray,
    classes: Sequence[str],
    axis_names: tuple[str, str] = ("latent dimension 1", "latent dimension 2"),
    prior: bool = False,
    lines: Sequence[tuple[np.ndarray, np.ndarray]] = (),
) -> None:
    """The same as `latent_map`, on given axes, with `lines` between pairs of points."""
    colours = np.array([mpl.colors.to_rgb(colour) for colour in PALETTE])
    faint = 0.25 if lines else 0.7
    axes.scatter(*points.T, c=colours[labels % len(PALETTE)], s=5, alpha=faint, linewidths=0)
    outline = [withStroke(linewidth=3, foreground="white")]
    if prior:
        for radius in (1, 2):
            axes.add_patch(Circle((0, 0), radius, fill=False, color="black", linestyle="--", linewidth=1))
            axes.text(0, radius, f"{radius}σ", ha="center", va="bottom", fontsize=9, path_effects=outline)
    for number, (start, end) in enumerate(lines):
        axes.plot(*np.stack([start, end]).T, "-o", color="black", markersize=4, linewidth=1.2)
        axes.text(*(start + end) / 2, f"{number + 1}", fontsize=10, ha="center", va="center", path_effects=outline)
    present = np.unique(labels)
    centres = np.stack([np.median(points[labels == label], axis=0) for label in present])
    for label, centre in zip(present, spread_apart(centres, 0.04 * np.ptp(points, axis=0).max()), strict=True):
        axes.text(
            *centre,
            classes[label],
            fontsize=15,
            fontweight="bold",
            color=colours[label % len(PALETTE)] * 0.7,
            ha="center",
            va="center",
            path_effects=outline,
        )
    axes.set_aspect("equal", adjustable="datalim")
    axes.set_xlabel(axis_names[0])
    axes.set_ylabel(axis_names[1])


def spread_apart(places: np.ndarray, distance: float) -> np.ndarray:
    """Move places (N, 2) until any two are at least about `distance` apart, so that names there can be read."""
    places = places.astype(float)
    for _ in range(50):
        for first in range(len(places)):
            for second in range(first):
                gap = places[first] - places[second]
                length = np.hypot(*gap)
                if length < distance:
                    step = (gap / length if length else np.array([0, 1])) * (distance - length) / 2
                    places[first] += step
                    places[second] -= step
    return places


def walk_columns(steps: int) -> list[str]:
    """The names above a row of pictures from one original to another, with `steps` between the reconstructions."""
    names = ["original", "recon-\nstruction", *[""] * steps, "recon-\nstruction", "original"]
    names[2 + steps // 2] = "decoded along the straight line"
    return names


def interpolations(
    rows: np.ndarray,
    points: np.ndarray,
    labels: np.ndarray,
    classes: Sequence[str],
    lines: Sequence[tuple[np.ndarray, np.ndarray]],
    title: str,
    axis_names: tuple[str, str] = ("latent dimension 1", "latent dimension 2"),
    prior: bool = False,
) -> Figure:
    """Rows of pictures (R, C, 28, 28), numbered, above the lines in the latent map that they walk along.

    A row holds an original, its reconstruction, the pictures between, the other reconstruction, its original.
    """
    count, columns = rows.shape[:2]
    sheet, square = 0.5 * count + 0.4, 6.5
    figure = _new(9, sheet + square + 0.6, title)
    top, bottom = figure.subplots(2, 1, height_ratios=(sheet, square))
    _show_named(top, rows, walk_columns(columns - 4), [str(number + 1) for number in range(count)])
    draw_latent_map(bottom, points, labels, classes, axis_names, prior, lines)
    return figure


def manifold(
    grid: np.ndarray,
    extent: tuple[float, float, float, float] | None,
    title: str,
    axis_names: tuple[str, str],
    note: str,
) -> Figure:
    """Pictures (R, C, 28, 28) decoded on a grid of the latent plane; `extent` scales the axes, if it is regular."""
    figure = _new(8, 8.2, title)
    axes = figure.subplots()
    axes.imshow(np.clip(tile(grid, gap=0), 0, 1), extent=extent, interpolation="nearest")
    if extent is None:
        axes.set_xticks([])
        axes.set_yticks([])
    axes.set_xlabel(f"{axis_names[0]} {note}")
    axes.set_ylabel(f"{axis_names[1]} {note}")
    return figure


def curves(history: Sequence[dict], names: dict[str, str], title: str) -> Figure:
    """One panel for each of the `names` (key in the history -> axis label), over the epochs."""
    figure = _new(4 * len(names), 3.4, title)
    epochs = [line["epoch"] for line in history]
    for axes, (name, label) in zip(np.atleast_1d(figure.subplots(1, len(names))), names.items(), strict=True):
        for key, style in ((name, "-o"), (f"valid_{name}", "--s")):
            if key in history[0]:
                values = [line[key] for line in history]
                axes.plot(epochs, values, style, markersize=3, label="valid" if style[1] == "-" else "train")
        axes.set_xlabel("epoch")
        axes.set_ylabel(label)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(alpha=0.3)
        if f"valid_{name}" in history[0]:
            axes.legend()
    return figure
