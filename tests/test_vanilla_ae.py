"""The autoencoder's script: its loss, its training, its figures."""

import json

import numpy as np
import pytest
import torch
from conftest import draw_nothing, recorded
from matplotlib.colors import to_rgb

import vanilla_ae
from common.data.tensors import to_float
from common.figures import maps, sheets
from common.training import checkpoint

QUICK = ["--limit", "3000", "--epochs", "3", "--batch-size", "64", "--precision", "fp32", "--device", "cpu"]


@pytest.fixture(scope="module", autouse=True)
def reads_few_digits(few_digits):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vanilla_ae, "load_digits", lambda *_: few_digits)
        yield


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A short run of the whole script: its folder, and the arguments of the figures that it drew."""
    folder = tmp_path_factory.mktemp("ae")
    folders = ["--run-dir", str(folder / "run"), "--images-dir", str(folder / "images")]
    with (
        recorded(maps.LatentMap, "interpolations", "figure") as drawn,
        recorded(maps, "manifold") as grid,
        recorded(sheets, "pictures") as sheet,
    ):
        vanilla_ae.main([*QUICK, *folders])
    return folder, drawn | grid | sheet


@pytest.fixture(scope="module")
def model(trained):
    state = checkpoint.load(trained[0] / "run/checkpoint.pt")
    model = vanilla_ae.Autoencoder(state["arguments"]["latent_dim"])
    model.load_state_dict(state["model"])
    return model.eval()


def test_the_loss_is_the_squared_error_summed_over_pixels():
    model = vanilla_ae.Autoencoder(3).double()
    model.encode = lambda images: images
    model.decode = lambda latent: torch.full_like(latent, 0.8)
    images = torch.rand(5, 1, 28, 28, dtype=torch.double)
    terms = vanilla_ae.loss(model, images)
    expected = torch.stack([sum((0.8 - pixel) ** 2 for pixel in image.flatten()) for image in images])
    torch.testing.assert_close(terms["loss"], expected)
    torch.testing.assert_close(terms["mse"], expected / 784)


def test_the_loss_of_a_batch_is_the_size_weighted_loss_of_its_parts():
    model, images = vanilla_ae.Autoencoder(2), torch.rand(7, 1, 28, 28)
    whole = vanilla_ae.loss(model, images)["loss"].mean()
    parts = [vanilla_ae.loss(model, part)["loss"].mean() * len(part) / 7 for part in images.split([2, 5])]
    torch.testing.assert_close(whole, sum(parts))


def test_the_encoder_sees_fresh_noise_every_time_and_the_target_stays_clean():
    seen = []
    model = vanilla_ae.Autoencoder(3)
    model.encode = lambda images: seen.append(images) or images
    model.decode = lambda latent: torch.full_like(latent, 0.5)
    images = torch.rand(200, 1, 28, 28)
    errors = [vanilla_ae.loss(model, images, noise=0.3)["mse"] for _ in range(2)]
    for error in errors:
        torch.testing.assert_close(error, (0.5 - images).square().mean(dim=(1, 2, 3)))
    assert not torch.equal(seen[0], seen[1])
    inner = (images > 0.45) & (images < 0.55)
    assert (seen[0] - images)[inner].std().item() == pytest.approx(0.274, abs=0.01)  # of 0.3, clipped


def test_a_denoising_run_reports_and_draws_its_results(tmp_path):
    folders = ["--run-dir", str(tmp_path / "run"), "--images-dir", str(tmp_path / "images")]
    with recorded(vanilla_ae, "add_noise") as calls:
        vanilla_ae.main([*QUICK, "--noise", "0.5", "--latent-dim", "16", *folders])
    assert calls["add_noise"][1] == 0.5
    test = json.loads((tmp_path / "run/results.json").read_text())["test"]
    assert test["psnr_noisy"] == pytest.approx(9.4, abs=0.1)
    assert test["psnr_median"] == pytest.approx(14.2, abs=0.3)
    assert test["psnr"] > 12.5  # the mean image has about 11.7
    assert (tmp_path / "images/vanilla_ae_denoising.png").read_bytes().startswith(b"\x89PNG")


def test_codes_and_images_are_fp32_even_if_the_layers_compute_in_bf16():
    model, images = vanilla_ae.Autoencoder(2), torch.rand(3, 1, 28, 28)
    with torch.autocast("cpu", torch.bfloat16):
        latent = model.encode(images)
        assert latent.dtype == model.decode(latent).dtype == torch.float32


@pytest.mark.parametrize("latent_dim", [1, 2, 40])
def test_decoding_gives_grey_levels_of_an_image_whatever_the_dimensions_of_the_code(latent_dim):
    model = vanilla_ae.Autoencoder(latent_dim)
    latent = model.encode(torch.rand(3, 1, 28, 28))
    images = model.decode(10 * latent)
    assert latent.shape == (3, latent_dim) and images.shape == (3, 1, 28, 28)
    assert images.min() >= 0 and images.max() <= 1


def test_training_lowers_the_error(trained):
    lines = [json.loads(line) for line in (trained[0] / "run/metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [1, 2, 3]
    results = json.loads((trained[0] / "run/results.json").read_text())
    # The best constant picture, the training images' mean, has a test error of 0.067.
    assert results["test"]["mse"] < 0.06 < lines[0]["mse"]
    assert results["test"]["knn"] > 0.25


def test_the_results_hold_the_run_and_the_error_of_its_model_on_the_test_split(trained, model, few_digits):
    results = json.loads((trained[0] / "run/results.json").read_text())
    assert set(results) == {
        "script", "dataset", "train_images", "epochs", "seed", "device", "precision", "torch",
        "seconds", "images_per_second", "test",
    }  # fmt: skip
    assert (results["script"], results["dataset"], results["train_images"]) == ("vanilla_ae", "MNIST", 3000)
    with torch.no_grad():
        images = to_float(few_digits[1].images)
        error = (model.decode(model.encode(images)) - images).square().mean().item()
    assert results["test"]["mse"] == pytest.approx(error, rel=1e-4)


def test_a_run_leaves_every_figure_and_the_page(trained):
    names = {path.name for path in (trained[0] / "images").iterdir()}
    own = {f"vanilla_ae_{name}" for name in ("reconstructions.png", "manifold.png", "curves.png", "explorer.html")}
    assert names == {"1.png", "2.png"} | own
    for path in (trained[0] / "images").glob("*.png"):
        assert path.read_bytes().startswith(b"\x89PNG") and path.stat().st_size > 10_000


def test_the_map_shows_every_test_digit_at_its_code(trained, model, few_digits):
    drawn = trained[1]["figure"][0]
    with torch.no_grad():
        latent = model.encode(to_float(few_digits[1].images))
    torch.testing.assert_close(torch.from_numpy(drawn.points), latent, atol=1e-4, rtol=1e-4)
    assert (drawn.labels == few_digits[1].labels.numpy()).all()
    (axes,) = drawn.figure("").axes
    dots = axes.collections[0]
    np.testing.assert_allclose(dots.get_offsets(), drawn.points, rtol=1e-6)
    colours = np.array([to_rgb(colour) for colour in maps.PALETTE])
    np.testing.assert_allclose(dots.get_facecolors()[:, :3], colours[drawn.labels])
    for name, text in zip(few_digits[1].classes, axes.texts, strict=True):
        assert text.get_text() == name
        own = drawn.points[drawn.labels == few_digits[1].classes.index(name)]
        assert np.linalg.norm(text.get_position() - np.median(own, axis=0)) < 0.1 * np.ptp(drawn.points, axis=0).max()


def test_interpolations_walk_the_straight_line_between_the_two_codes(trained, model, few_digits):
    drawn, rows, lines = trained[1]["interpolations"][:3]
    images = to_float(few_digits[1].images)[:, 0]
    assert rows.shape == (5, 16, 28, 28)
    for row, (start, end) in zip(torch.from_numpy(rows), lines, strict=True):
        first, last = ((images == original).all(dim=(1, 2)).nonzero()[0, 0] for original in (row[0], row[-1]))
        assert drawn.labels[first] != drawn.labels[last]
        with torch.no_grad():
            codes = model.encode(images[[first, last], None])
            torch.testing.assert_close(codes, torch.from_numpy(np.stack([start, end])), atol=1e-4, rtol=1e-4)
            steps = torch.linspace(0, 1, 14)[:, None]
            expected = model.decode(codes[0] + steps * (codes[1] - codes[0]))[:, 0]
        torch.testing.assert_close(row[1:-1], expected, atol=1e-4, rtol=1e-3)


def test_reconstructions_are_below_their_originals(trained, model, few_digits):
    originals, reconstructions = torch.from_numpy(trained[1]["pictures"][0][:2])
    images = to_float(few_digits[1].images)
    for original, reconstruction in zip(originals, reconstructions, strict=True):
        (place,) = (images[:, 0] == original).all(dim=(1, 2)).nonzero()[0]
        with torch.no_grad():
            expected = model.decode(model.encode(images[place, None]))[0, 0]
        torch.testing.assert_close(reconstruction, expected, atol=1e-4, rtol=1e-3)


def test_the_manifold_is_decoded_at_the_place_where_it_is_drawn(trained, model):
    grid, (left, right, bottom, top) = trained[1]["manifold"][:2]
    count = grid.shape[0]
    width, height = (right - left) / count, (top - bottom) / count
    for row, column in ((0, 0), (0, count - 1), (5, 11)):
        place = torch.tensor([[left + (column + 0.5) * width, top - (row + 0.5) * height]])
        with torch.no_grad():
            expected = model.decode(place)[0, 0]
        torch.testing.assert_close(torch.from_numpy(grid[row, column]), expected, atol=1e-3, rtol=1e-3)
    (image,) = maps.manifold(*trained[1]["manifold"]).axes[0].images
    assert image.origin == "upper" and image.get_extent() == [left, right, bottom, top]
    np.testing.assert_allclose(image.get_array(), np.clip(sheets.tile(grid, gap=0), 0, 1))


def test_a_longer_run_resumes_with_its_own_batch_size(tmp_path, capsys, monkeypatch):
    draw_nothing(monkeypatch, vanilla_ae)
    flags = ["--limit", "1600", "--precision", "fp32", "--device", "cpu"]
    flags += ["--run-dir", str(tmp_path / "run"), "--images-dir", str(tmp_path)]
    vanilla_ae.main([*flags, "--epochs", "1"])
    assert "batch size 64, peak" in capsys.readouterr().out
    vanilla_ae.main([*flags, "--epochs", "20", "--resume"])
    output = capsys.readouterr().out
    assert "batch size 128, peak" in output and "epoch 1/" not in output


def test_resuming_a_finished_run_draws_its_figures_again(trained, capsys):
    folder = trained[0]
    before = (folder / "images/1.png").read_bytes()
    results = (folder / "run/results.json").read_text()
    (folder / "images/1.png").unlink()
    vanilla_ae.main([*QUICK, "--run-dir", str(folder / "run"), "--images-dir", str(folder / "images"), "--resume"])
    assert (folder / "images/1.png").read_bytes() == before
    assert (folder / "run/results.json").read_text() == results
    assert "epoch 1/" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("latent_dim", "name"), [("1", "latent dimension 1"), ("5", "principal component 1 of 5 latent dimensions")]
)
def test_other_dimensions_are_shown_on_a_plane(tmp_path, capsys, latent_dim, name):
    arguments = ["--limit", "600", "--epochs", "1", "--latent-dim", latent_dim, "--precision", "fp32"]
    folders = ["--run-dir", str(tmp_path / "run"), "--images-dir", str(tmp_path / "images")]
    with recorded(maps.LatentMap, "figure") as drawn, recorded(maps, "manifold") as grid:
        vanilla_ae.main([*arguments, "--device", "cpu", *folders])
    points, names = drawn["figure"][0].points, drawn["figure"][0].axis_names
    assert names[0].startswith(name) and points.shape == (2000, 2)
    left, right, bottom, top = grid["manifold"][1]
    assert latent_dim != "1" or right - left == pytest.approx(top - bottom)
    assert "no explorer page" in capsys.readouterr().out


def test_fourier_features_are_sines_and_cosines_along_their_directions():
    features = vanilla_ae.FourierFeatures(3)
    latent = torch.randn(4, 3)
    phase = torch.einsum("bd,fd->bf", latent, features.directions)
    torch.testing.assert_close(features(latent), torch.cat([torch.sin(phase), torch.cos(phase)], dim=1))
    with torch.autocast("cpu", torch.bfloat16):
        far = features(30 * latent)
    torch.testing.assert_close(far, features(30 * latent))  # bf16 would be too coarse for such phases
    for dimensions in (2, 50):
        phases = torch.randn(999, dimensions) @ vanilla_ae.FourierFeatures(dimensions).directions.T
        assert phases.shape[1] == vanilla_ae.FREQUENCIES and phases.std().item() == pytest.approx(2**0.5, rel=0.3)
