"""The pictures that both digit scripts draw of a trained model, from its latent codes and its decoder."""

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from common.figures import explorer
from common.figures import sheets as figures
from common.data.digits import Digits
from common.data.tensors import to_float
from common.latent import Plane, medoids, walk
from common.metrics import add_noise, median_filter, psnr

PAIRS = ((0, 1), (2, 3), (4, 5), (6, 7), (8, 9))  # every class once: none is picked for its looks
STEPS = 12
GRID = 24
SAMPLES_SEED = 0
NOISE_SEED = 0


def draw_digit_figures(
    digits: Digits,
    latent: Tensor,
    decode: Callable[[Tensor], Tensor],
    decoder: nn.Module,
    history: Sequence[dict],
    curves: dict[str, str],
    model: str,
    scores: str,
    paths: dict[str, Path],
    prior: bool,
) -> None:
    """Draw and save the figures named in `paths`: map, interpolation, reconstructions, manifold and curves,
    with `prior` the samples, and in two dimensions the explorer, a page for the browser.

    `latent` (N, D) are the codes of `digits`; `decode` gives grey levels (B, 1, 28, 28) of codes (B, D), and
    `decoder` is the network in it, for the page. `model` and `scores` go into the titles. With `prior`, N(0, I)
    is drawn into the map, and the manifold's grid lies at its quantiles instead of over the codes' range.
    """
    plane = Plane.of(latent, prior)
    points = plane.project(latent).numpy()
    labels = digits.labels.numpy()
    originals = to_float(digits.images)

    title = f"{model}: latent space of {len(latent):,} test images\n{scores}"
    figures.save(figures.latent_map(points, labels, digits.classes, title, plane.axis_names, prior), paths["map"])

    typical = medoids(latent, digits.labels, len(digits.classes))
    pairs = [(typical[first], typical[second]) for first, second in PAIRS]
    rows = [walk(originals, latent, decode, first, second, STEPS) for first, second in pairs]
    sheet = torch.stack(rows)[:, :, 0].numpy()
    lines = [(points[first], points[second]) for first, second in pairs]
    title = f"{model}: from one test image to another along a straight line in the latent space"
    figures.save(
        figures.interpolations(sheet, points, labels, digits.classes, lines, title, plane.axis_names, prior),
        paths["interpolation"],
    )

    shown = first_of_each_class(digits, 2)
    sheet = torch.stack([originals[shown], decode(latent[shown])])[:, :, 0].numpy()
    title = f"{model}: the first two test images of each class\n{scores}"
    figures.save(figures.pictures(sheet, title, names=("original", "reconstruction")), paths["reconstructions"])

    if prior:
        # The grid's points part N(0, 1) into equal shares, from the first 1/48 to the last.
        ticks = torch.special.ndtri((torch.arange(GRID) + 0.5) / GRID)
        horizontal, vertical, extent, note = ticks, ticks, None, "(at the quantiles of the prior, 2% to 98%)"
    else:
        low, high = torch.quantile(plane.project(latent), torch.tensor([0.005, 0.995]), dim=0)
        if latent.shape[1] == 1:
            low[1], high[1] = low[0], high[0]  # a square; the second coordinate means nothing
        horizontal, vertical = (torch.linspace(low[axis], high[axis], GRID) for axis in (0, 1))
        half = (high - low) / (GRID - 1) / 2
        extent = (low[0] - half[0], high[0] + half[0], low[1] - half[1], high[1] + half[1])
        extent, note = tuple(value.item() for value in extent), ""
    grid = torch.stack(torch.meshgrid(vertical.flip(0), horizontal, indexing="ij"), dim=-1).flip(-1)
    decoded = decode(plane.lift(grid.view(-1, 2))).view(GRID, GRID, 28, 28).numpy()
    title = f"{model}: the images that the decoder makes of the points of the latent plane"
    figures.save(figures.manifold(decoded, extent, title, plane.axis_names, note), paths["manifold"])

    if prior:
        generator = torch.Generator().manual_seed(SAMPLES_SEED)
        sheet = decode(torch.randn(10 * 10, latent.shape[1], generator=generator)).view(10, 10, 28, 28).numpy()
        title = f"{model}: decoded from 100 random draws of the prior"
        figures.save(figures.pictures(sheet, title), paths["samples"])

    figures.save(figures.curves(history, curves, f"{model}: training"), paths["curves"])

    if latent.shape[1] == 2:
        title = f"{model}: latent space of {len(latent):,} test images"
        explorer.write(paths["explorer"], digits, latent, decoder, title, prior)
    else:
        paths["explorer"].unlink(missing_ok=True)  # an earlier run's would show another model
        print(f"no explorer page: it needs a latent space of 2 dimensions, not {latent.shape[1]}")


def first_of_each_class(digits: Digits, count: int) -> Tensor:
    """The indices of the first `count` pictures of each class, class by class."""
    return torch.cat([(digits.labels == label).nonzero()[:count, 0] for label in range(len(digits.classes))])


def draw_denoising(digits: Digits, noise: float, restore: Callable[[Tensor], Tensor], path: Path) -> dict[str, float]:
    """Draw noisy digits, what a median filter and `restore` make of them, and the clean ones.

    `restore` maps (N, 1, 28, 28) in [0, 1] to the same. Returns the mean peak signal-to-noise ratios of all
    `digits` in dB: "psnr" of the restored images, "psnr_noisy" of the given ones, "psnr_median" of the filtered.
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
    figures.save(figures.pictures(sheet.numpy(), title, names=[*names, "clean"]), path)
    return dict(zip(("psnr_noisy", "psnr_median", "psnr"), ratios, strict=True))
