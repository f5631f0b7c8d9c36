"""Maps of a latent plane: its codes as points, lines across it, the pictures decoded from it."""

from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle
from matplotlib.patheffects import withStroke

from common.figures.sheets import new, show_named, tile, walk_columns

# Ten colours that colour-blind people can tell apart: Petroff 2021, "Accessible Color Sequences for Data
# Visualization", https://arxiv.org/abs/2107.02270.
PALETTE = tuple(mpl.color_sequences["petroff10"])


@dataclass(frozen=True)
class LatentMap:
    """Codes in a latent plane: `points` (N, 2), their `labels` (N,), and the names of the classes and the axes.

    `prior` adds the circles of one and two standard deviations of N(0, I).
    """

    points: np.ndarray
    labels: np.ndarray
    classes: Sequence[str]
    axis_names: tuple[str, str]
    prior: bool

    def draw(self, axes: Axes, lines: Sequence[tuple[np.ndarray, np.ndarray]] = ()) -> None:
        """The points, coloured by their labels, each class named at its centre, and `lines` between pairs of points."""
        points, labels, outline = self.points, self.labels, [withStroke(linewidth=3, foreground="white")]
        colours = np.array([mpl.colors.to_rgb(colour) for colour in PALETTE])
        faint = 0.25 if lines else 0.7
        axes.scatter(*points.T, c=colours[labels % len(PALETTE)], s=5, alpha=faint, linewidths=0)
        for radius in (1, 2) if self.prior else ():
            axes.add_patch(Circle((0, 0), radius, fill=False, color="black", linestyle="--", linewidth=1))
            axes.text(0, radius, f"{radius}σ", ha="center", va="bottom", fontsize=9, path_effects=outline)
        for number, (start, end) in enumerate(lines):
            axes.plot(*np.stack([start, end]).T, "-o", color="black", markersize=4, linewidth=1.2)
            axes.text(*(start + end) / 2, f"{number + 1}", fontsize=10, ha="center", va="center", path_effects=outline)
        present = np.unique(labels)
        centres = np.stack([np.median(points[labels == label], axis=0) for label in present])
        font = {"fontsize": 15, "fontweight": "bold", "ha": "center", "va": "center", "path_effects": outline}
        for label, centre in zip(present, spread_apart(centres, 0.04 * np.ptp(points, axis=0).max()), strict=True):
            axes.text(*centre, self.classes[label], color=colours[label % len(PALETTE)] * 0.7, **font)
        axes.set_aspect("equal", adjustable="datalim")
        axes.set(xlabel=self.axis_names[0], ylabel=self.axis_names[1])

    def figure(self, title: str) -> Figure:
        """The map alone."""
        figure = new(8, 8, title)
        self.draw(figure.subplots())
        return figure

    def interpolations(self, rows: np.ndarray, lines: Sequence[tuple[np.ndarray, np.ndarray]], title: str) -> Figure:
        """Rows of pictures (R, C, 28, 28), numbered, above the map with the lines that they follow.

        A row holds an original, its reconstruction, the pictures in between, the other reconstruction, its original.
        """
        count, columns = rows.shape[:2]
        sheet, square = 0.5 * count + 0.4, 6.5
        figure = new(9, sheet + square + 0.6, title)
        top, bottom = figure.subplots(2, 1, height_ratios=(sheet, square))
        show_named(top, rows, walk_columns(columns - 4), [str(number + 1) for number in range(count)])
        self.draw(bottom, lines)
        return figure


def spread_apart(places: np.ndarray, distance: float) -> np.ndarray:
    """Move places (N, 2) until any two are at least about `distance` apart, so that their names can be read."""
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


def manifold(
    grid: np.ndarray, extent: tuple[float, ...] | None, title: str, axis_names: tuple[str, str], note: str
) -> Figure:
    """Pictures (R, C, 28, 28) decoded on a grid of the latent plane; `extent` is that of a regular one."""
    figure = new(8, 8.2, title)
    axes = figure.subplots()
    axes.imshow(np.clip(tile(grid, gap=0), 0, 1), extent=extent, interpolation="nearest")
    if extent is None:
        axes.set(xticks=[], yticks=[])
    axes.set(xlabel=f"{axis_names[0]} {note}", ylabel=f"{axis_names[1]} {note}")
    return figure
