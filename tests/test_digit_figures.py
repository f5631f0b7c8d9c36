"""What is drawn of a model of digits, with a decoder whose pictures show the code that they come from."""

import warnings

import numpy as np
import pytest
import torch
from conftest import recorded

from common.data.digits import Digits
from common.figures import maps, sheets
from common.figures.digit_figures import DigitFigures, examples


def decode(codes):
    """The left half shows the first dimension, the right half the last."""
    return codes[:, [0, -1]].sigmoid().repeat_interleave(14, dim=1)[:, None, None].expand(-1, 1, 28, 28)


def figures(folder, count=400, classes=10, dimensions=2, **fields):
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(count) % classes
    latent = torch.randn(count, dimensions, generator=generator) / 3
    latent[:, 0] += labels - 4
    images = torch.randint(0, 256, (count, 1, 28, 28), dtype=torch.uint8, generator=generator)
    names = tuple(f"名{label}" for label in range(classes)) if classes != 10 else tuple("0123456789")
    fields = {"decode": decode} | fields
    return DigitFigures("t", folder, "s", Digits(images, labels, names, "own"), latent, **fields)


def drawn(figures, name, **needed):
    with recorded(sheets, "save") as saved:
        getattr(figures, name)(**needed)
    return saved["save"][0]


def grid(axes, rows, columns, gap=sheets.GAP):
    """The codes (rows, columns, 2) that the pictures in `axes` show."""
    picture = 1 - np.asarray(axes.images[0].get_array())[14 :: 28 + gap, :, 0]
    left, right = (picture[:, place :: 28 + gap][:, :columns] for place in (7, 21))
    assert left.shape == (rows, columns)
    return torch.from_numpy(np.stack([left, right], axis=-1)).logit()


def test_the_map_shows_every_code_in_the_colour_of_its_class_with_the_deviations_of_some(tmp_path):
    deviation = torch.rand(400, 2) + 0.1
    shown = figures(tmp_path, prior=True, deviation=deviation)
    figure = drawn(shown, "map")
    (axes,) = figure.axes
    np.testing.assert_allclose(axes.collections[0].get_offsets(), shown.latent)
    colours = axes.collections[0].get_facecolors()[:, :3]
    np.testing.assert_allclose(colours, maps.colours(10)[shown.digits.labels])
    first, second, *ellipses = axes.patches
    assert (first.radius, second.radius, len(ellipses)) == (1, 2, 200) and "means of q(z|x)" in figure.get_suptitle()
    for place, ellipse in zip(examples(shown.digits, 200), ellipses, strict=True):
        np.testing.assert_allclose(ellipse.center, shown.latent[place])
        np.testing.assert_allclose((ellipse.width, ellipse.height), 2 * deviation[place])
    for label, text in enumerate(axes.texts[2:]):  # after the circles' names
        assert text.get_text() == str(label) and np.abs(text.get_position() - np.array([label - 4, 0])).max() < 0.7


def test_walks_are_decoded_along_the_lettered_lines_of_the_map(tmp_path):
    shown = figures(tmp_path)
    plane, sheet = drawn(shown, "interpolation").axes
    codes, lines = grid(sheet, 14, 5), [line.get_xydata() for line in plane.lines[::2]]
    for walk, (start, end) in enumerate(torch.from_numpy(np.stack(lines)).float()):
        assert ((shown.latent == start).all(dim=1) & (shown.digits.labels == 2 * walk)).any()
        steps = torch.linspace(0, 1, 12)[:, None]
        torch.testing.assert_close(codes[1:-1, walk], start + steps * (end - start), atol=1e-4, rtol=1e-3)
    assert [text.get_text() for text in sheet.texts[:5]] == [text.get_text() for text in plane.texts[:5]] == [*"ABCDE"]
    for name in plane.texts[5:]:  # no name hides an end
        assert np.linalg.norm(np.concatenate(lines) - name.get_position(), axis=1).min() > 0.02 * np.ptp(lines)


@pytest.mark.parametrize("prior", [False, True])
def test_the_manifold_is_decoded_at_the_places_that_its_axes_name(tmp_path, prior):
    shown = figures(tmp_path, prior=prior)
    (axes,) = drawn(shown, "manifold").axes
    codes, (left, right, bottom, top) = grid(axes, 20, 20, gap=0).numpy(), axes.images[0].get_extent()
    steps = (np.arange(20) + 0.5) / 20
    np.testing.assert_allclose(codes[3, :, 0], left + (right - left) * steps, atol=1e-3)
    np.testing.assert_allclose(codes[:, 3, 1], top + (bottom - top) * steps, atol=1e-3)
    assert (left, right, bottom, top) == (-2, 2, -2, 2) if prior else left < -3 and right > 4


def test_samples_are_the_same_whatever_was_drawn_before(tmp_path):
    expected = torch.randn(100, 2, generator=torch.Generator().manual_seed(0))
    codes = grid(drawn(figures(tmp_path), "samples").axes[0], 10, 10).flatten(0, 1)
    torch.testing.assert_close(codes, expected, atol=1e-4, rtol=1e-3)


def test_denoising_compares_the_noisy_the_filtered_and_the_restored_with_the_clean(tmp_path):
    shown = figures(tmp_path)
    ratios = shown.denoising(noise=0.1, restore=lambda noisy: torch.full_like(noisy, 0.5))
    assert ratios["psnr"] == pytest.approx(10.8, abs=0.2)  # of a uniform variable's variance, 1/12
    assert ratios["psnr_noisy"] == pytest.approx(20.4, abs=0.3) and ratios["psnr_median"] < 15
    assert (tmp_path / "s_denoising.png").exists()


@pytest.mark.parametrize(("classes", "dimensions"), [(1, 2), (3, 1), (30, 5), (60, 2)])
def test_any_number_of_classes_and_dimensions_is_drawn_without_a_warning(tmp_path, classes, dimensions):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        shown = figures(tmp_path, count=120, classes=classes, dimensions=dimensions)
        for draw in (shown.map, shown.interpolation, shown.reconstructions, shown.manifold, shown.samples):
            draw()
    assert len(list(tmp_path.glob("s_*.png"))) == 5
    chosen = examples(shown.digits, 10)
    assert len(chosen) == 10 and (shown.digits.labels[chosen].diff() >= 0).all()


def test_up_to_fifty_classes_have_colours_of_their_own():
    for count, different in ((10, 10), (11, 11), (50, 50), (51, 1)):
        assert len(np.unique(maps.colours(count), axis=0)) == different and len(maps.colours(count)) == count
    assert (np.ptp(maps.colours(10)[[3, 8]], axis=1) > 0.5).all()  # no greys: the digits look alike
