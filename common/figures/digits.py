"""The figures of both digit scripts: each method draws one and saves it."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from common.data.digits import Digits
from common.data.tensors import add_noise, to_float
from common.figures import maps, sheets
from common.latent import Plane, typical, walk
from common.metrics import median_filter, psnr

PAIRS = ((0, 1), (2, 3), (4, 5), (6, 7), (8, 9))  # Every class once, so that none is picked for its looks.
STEPS = 12  # pictures between the two of a pair
GRID = 24  # pictures along each side of the manifold
NOISE_SEED = 0


@dataclass(frozen=True)
class DigitFigures(sheets.Figures):
    """A trained model's test digits, their codes, and the folder of their figures.

    digits: the test images. latent: their codes (N, D). decode: codes (B, D) -> grey levels (B, 1, 28, 28).
    prior: whether the codes have the prior N(0, I), which is then drawn into the maps. See `Figures` for the others.
    """

    digits: Digits
    latent: Tensor
    decode: Callable[[Tensor], Tensor]
    prior: bool = False

    @cached_property
    def plane(self) -> Plane:
        return Plane.of(self.latent, self.prior)

    @cached_property
    def latent_map(self) -> maps.LatentMap:
        points, labels = self.plane.project(self.latent).numpy(), self.digits.labels.numpy()
        return maps.LatentMap(points, labels, self.digits.classes, self.plane.axis_names, self.prior)

    def map(self, path: Path | None = None) -> None:
        """Every test digit as a point at its code, coloured by its class."""
        title = f"{self.title}: latent space of {len(self.latent):,} test images\n{self.subtitle}"
        sheets.save(self.latent_map.figure(title), path or self.path("map"))

    def interpolation(self, path: Path | None = None) -> None:
        """One digit turning into another along a straight line in the latent space, above the map with the lines."""
        points, originals = self.latent_map.points, to_float(self.digits.images)
        examples = typical(self.latent, self.digits.labels)
        pairs = [(examples[first], examples[second]) for first, second in PAIRS]
        rows = [walk(originals, self.latent, self.decode, first, second, STEPS) for first, second in pairs]
        lines = [(points[first], points[second]) for first, second in pairs]
        title = f"{self.title}: from one test image to another along a straight line in the latent space"
        figure = self.latent_map.interpolations(torch.stack(rows)[:, :, 0].numpy(), lines, title)
        sheets.save(figure, path or self.path("interpolation"))

    def reconstructions(self) -> None:
        """The first two test images of each class above their reconstructions."""
        shown = first_of_each_class(self.digits, 2)
        rows = torch.stack([to_float(self.digits.images[shown]), self.decode(self.latent[shown])])[:, :, 0]
        title = f"{self.title}: the first two test images of each class\n{self.subtitle}"
        figure = sheets.pictures(rows.numpy(), title, names=("original", "reconstruction"))
        sheets.save(figure, self.path("reconstructions"))

    def manifold(self) -> None:
        """Images decoded from a grid in the latent plane: over the codes' range, or at the prior's quantiles."""
        if self.prior:
            # The grid's points divide N(0, 1) into equal shares, from 1/48 to 47/48.
            horizontal = vertical = torch.special.ndtri((torch.arange(GRID) + 0.5) / GRID)
            extent, note = None, "(at the quantiles of the prior, 2% to 98%)"
        else:
            low, high = torch.quantile(self.plane.project(self.latent), torch.tensor([0.005, 0.995]), dim=0)
            if self.latent.shape[1] == 1:
                low[1], high[1] = low[0], high[0]  # A square; its second coordinate means nothing.
            horizontal, vertical = (torch.linspace(low[axis], high[axis], GRID) for axis in (0, 1))
            half = (high - low) / (GRID - 1) / 2
            sides = (low[0] - half[0], high[0] + half[0], low[1] - half[1], high[1] + half[1])
            extent, note = tuple(side.item() for side in sides), ""
        grid = torch.stack(torch.meshgrid(vertical.flip(0), horizontal, indexing="ij"), dim=-1).flip(-1)
        decoded = self.decode(self.plane.lift(grid.view(-1, 2))).view(GRID, GRID, 28, 28)
        title = f"{self.title}: images decoded from a grid of points in the latent plane"
        sheets.save(maps.manifold(decoded.numpy(), extent, title, self.plane.axis_names, note), self.path("manifold"))

    def samples(self, images: Tensor) -> None:
        """`images` (100, 1, 28, 28), decoded from random draws of the prior."""
        title = f"{self.title}: decoded from 100 random draws of the prior"
        rows = images.view(10, 10, 28, 28)
        sheets.save(sheets.pictures(rows.numpy(), title), self.path("samples"))


def first_of_each_class(digits: Digits, count: int) -> Tensor:
    """The indices of the first `count` pictures of each class, class by class."""
    return torch.cat([(digits.labels == label).nonzero()[:count, 0] for label in range(len(digits.classes))])


def draw_denoising(digits: Digits, noise: float, restore: Callable[[Tensor], Tensor], path: Path) -> dict[str, float]:
    """Draw noisy digits, the same after a median filter and after `restore`, and the clean ones.

    `restore` maps (N, 1, 28, 28) in [0, 1] to the same. Returns the mean peak signal-to-noise ratios of all
    `digits` in dB: "psnr" of the restored images, "psnr_noisy" of the noisy, "psnr_median" of the filtered ones.
    """
    clean = to_float(digits.images)
    noisy = add_noise(clean, noise, torch.Generator().manual_seed(NOISE_SEED))
    rows = {"noisy": noisy, "3x3 median\nfilter": median_filter(noisy), "auto-\nencoder": restore(noisy)}
    ratios = [psnr(images, clean) for images in rows.values()]
    shown = first_of_each_class(digits, 2)
    sheet = torch.stack([images[shown, 0] for images in (*rows.values(), clean)])
    names = [f"{name}\n{ratio:.1f} dB" for name, ratio in zip(rows, ratios, strict=True)]
    title = (
        f"Gaussian noise of standard deviation {noise:g}, clipped to [0, 1], removed from test images\n"
        f"the first two of each class; mean PSNR of all {len(clean):,}"
    )
    sheets.save(sheets.pictures(sheet.numpy(), title, names=[*names, "clean"]), path)
    return dict(zip(("psnr_noisy", "psnr_median", "psnr"), ratios, strict=True))
