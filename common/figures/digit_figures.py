"""The figures of a model of digits: each method draws one and saves it."""

import string
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.patches import Circle, Ellipse
from scipy.ndimage import median_filter
from torch import Tensor

from common.data.batches import add_noise, to_float
from common.data.digits import Digits
from common.figures import maps, sheets
from common.latent import Plane, typical, walk
from common.metrics import psnr

SHOWN = 10  # pictures in a row
STEPS = 10  # pictures between the two of a walk
GRID = 20  # pictures along each side of the manifold
ELLIPSES = 200
SQUARE = (sheets.WIDTH, sheets.WIDTH + 0.2)  # inches, with the title


@dataclass(frozen=True)
class DigitFigures(sheets.Figures):
    """Of the test images `digits`, with the codes `latent` (N, D); `decode` turns those into (B, 1, 28, 28).

    prior: whether the codes have the prior N(0, I), which is then drawn into the maps. deviation: the standard
    deviations of q(z|x) (N, D), whose means are then the codes.
    """

    digits: Digits
    latent: Tensor
    decode: Callable[[Tensor], Tensor]
    prior: bool = False
    deviation: Tensor | None = None
    SAMPLED = 10

    @cached_property
    def plane(self) -> Plane:
        return Plane.of(self.latent, self.prior)

    @cached_property
    def points(self) -> np.ndarray:
        return self.plane.project(self.latent).numpy()

    def map(self, path: Path | None = None) -> None:
        """Every test digit as a point at its code, coloured by its class; in two dimensions, some with deviations."""
        what = f"{'codes' if self.deviation is None else 'means of q(z|x)'} of {len(self.latent):,} test images"
        some = examples(self.digits, ELLIPSES if self.deviation is not None and self.latent.shape[1] == 2 else 0)
        if len(some):
            what += f",\nand one standard deviation of {len(some)} of them"
        with self.drawing("map", path, what, SQUARE) as axes:
            self._draw(axes, alpha=0.4 if len(some) else 0.7)
            for place in some:
                edge = 0.6 * maps.colours(len(self.digits.classes))[self.digits.labels[place]]
                size = (2 * self.deviation[place]).tolist()
                axes.add_patch(Ellipse(self.points[place], *size, fill=False, edgecolor=edge))

    def _draw(self, axes: Axes, alpha: float, lines: Sequence[np.ndarray] = ()) -> None:
        """The map, with lettered lines (2, 2) between its points."""
        labels, classes = self.digits.labels, self.digits.classes
        colours = maps.colours(len(classes))
        axes.scatter(*self.points.T, c=colours[labels], s=6, alpha=alpha, linewidths=0)
        axes.set(xlabel=self.plane.axis_names[0], ylabel=self.plane.axis_names[1])
        axes.set(box_aspect=1, aspect="equal", adjustable="datalim", xmargin=0.08, ymargin=0.08)
        for radius in (1, 2) if self.prior else ():
            axes.add_patch(Circle((0, 0), radius, fill=False, linestyle="--"))
            axes.text(0, -radius, f"{radius}σ of the prior", **maps.TEXT)
        for letter, line in zip(string.ascii_uppercase, lines, strict=False):
            axes.plot(*line.T, "-o", color="black", markersize=5, linewidth=1.2)
            axes.plot(*line[0], "o", color="black", markersize=14)
            axes.text(*line[0], letter, color="white", weight="bold", ha="center", va="center_baseline")
        if len(classes) <= maps.NAMED:
            named = typical(torch.from_numpy(self.points), labels).tolist()
            gap = 0.05 * np.ptp(self.points, axis=0).max()
            places = maps.spread_apart(self.points[named], gap, np.reshape(lines, (-1, 2)))
            for label, place in zip(labels[named], places, strict=True):
                name = sheets.drawable(classes[label], f"class {label + 1}")
                axes.text(*place, name, color=colours[label] * 0.6, fontsize=15, weight="bold", **maps.TEXT)

    def interpolation(self, path: Path | None = None) -> None:
        """Digits turning into others along straight lines: the map with the lines, and the pictures beside it."""
        ends, originals = typical(self.latent, self.digits.labels)[:SHOWN], to_float(self.digits.images)
        if len(ends) == 1:
            ends = torch.arange(SHOWN) % len(self.latent)
        pairs = ends[: len(ends) // 2 * 2].view(-1, 2)
        walks = [walk(originals[pair], self.latent[pair], self.decode, STEPS)[:, 0] for pair in pairs]
        what, size = "from one test image to another along a straight line", (sheets.WIDTH, 6)
        layout = {"ncols": 2, "width_ratios": (STEPS + 4, len(walks))}
        with self.drawing("interpolation", path, what, size, **layout) as (left, right):
            self._draw(left, alpha=0.3, lines=self.points[pairs])
            letters = string.ascii_uppercase[: len(walks)]
            sheets.show(right, torch.stack(walks, dim=1).numpy(), letters, sheets.walk_names(STEPS))

    def reconstructions(self, path: Path | None = None) -> None:
        """Ten test images, of ten classes one each, above their reconstructions."""
        shown = examples(self.digits, SHOWN)
        rows = torch.stack([to_float(self.digits.images[shown]), self.decode(self.latent[shown])])
        self.sheet("reconstructions", path, "test images", rows, names=("original", "reconstruction"))

    def manifold(self, path: Path | None = None) -> None:
        """Images decoded from a grid in the latent plane: a square around the codes, or two deviations of the prior."""
        low, high = ([-2, -2], [2, 2]) if self.prior else np.quantile(self.points, (0.005, 0.995), axis=0)
        side = max(np.subtract(high, low))
        left, bottom = (np.add(low, high) - side) / 2
        steps = side * (torch.arange(GRID) + 0.5) / GRID
        places = torch.cartesian_prod(bottom + steps.flip(0), left + steps).flip(1)  # rows from top to bottom
        grid = self.decode(self.plane.lift(places)).view(GRID, GRID, 28, 28)
        with self.drawing("manifold", path, "images decoded from codes on a grid", SQUARE) as axes:
            extent = (left, left + side, bottom, bottom + side)
            axes.imshow(sheets.tile(grid.numpy(), gap=0), interpolation="nearest", extent=extent)
            axes.set(xlabel=self.plane.axis_names[0], ylabel=self.plane.axis_names[1])

    def denoising(self, *, noise: float, restore: Callable, path: Path | None = None) -> dict[str, float]:
        """Ten test images with Gaussian noise of standard deviation `noise`, filtered, restored, and as they were.

        `restore` maps (N, 1, 28, 28) in [0, 1] to the same. Returns the mean peak signal-to-noise ratios of all in dB.
        """
        clean, shown = to_float(self.digits.images), examples(self.digits, SHOWN)
        noisy = add_noise(clean, noise, torch.Generator().manual_seed(0))
        median = torch.from_numpy(median_filter(noisy.numpy(), size=(1, 1, 3, 3), mode="mirror"))
        restored, names = restore(noisy), ("noisy", "median filter", "autoencoder", "clean")
        rows = torch.stack([images[shown] for images in (noisy, median, restored, clean)])
        self.sheet("denoising", path, "noise removed from test images", rows, names=names)
        return {"psnr_noisy": psnr(noisy, clean), "psnr_median": psnr(median, clean), "psnr": psnr(restored, clean)}


def examples(digits: Digits, count: int) -> Tensor:
    """The indices of the first `count` pictures, as many of each class, class by class."""
    each = -(-count // len(digits.classes))
    return torch.cat([(digits.labels == label).nonzero()[:each, 0] for label in range(len(digits.classes))])[:count]
