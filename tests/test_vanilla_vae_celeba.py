"""The face script: its model at every size, its calibrated loss, its training, its figures."""

import json
import math

import numpy as np
import pytest
import torch
from conftest import draw_nothing, recorded
from PIL import Image
from torch.distributions import Normal

import vanilla_vae_celeba as script
from common import training
from common.data import faces as celeba
from common.data.tensors import select, to_float
from common.figures import sheets
from common.figures.faces import FaceFigures
from common.training import checkpoint

SMALL = ["--size", "32", "--epochs", "5", "--batch-size", "16", "--latent-dim", "24", "--beta", "1"]
SMALL += ["--precision", "fp32", "--device", "cpu", "--limit", "480", "--lr", "3e-3"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A short run on drawn faces, not all of them: its folder, the arguments of its first sheet, and the faces."""
    folder = tmp_path_factory.mktemp("faces")
    folders = ["--run-dir", str(folder / "run"), "--images-dir", str(folder / "images"), "--data-dir", str(folder)]
    with (
        pytest.MonkeyPatch.context() as patch,
        recorded(sheets, "pictures") as drawn,
        recorded(FaceFigures, "attributes") as moved,
        recorded(script, "random_flip") as flipped,
    ):
        patch.setattr(celeba, "DRAWN_COUNTS", (500, 60, 80))
        script.main(["--faces", "drawn", *SMALL, *folders])
        faces = celeba.load_faces("drawn", folder, 32)
    assert flipped, "training faces are mirrored"
    return folder, drawn["pictures"] + moved["attributes"], faces


@pytest.fixture(scope="module")
def model(trained):
    state = checkpoint.load(trained[0] / "run/checkpoint.pt")
    model = script.VariationalAutoencoder(state["arguments"]["latent_dim"], state["arguments"]["size"])
    model.load_state_dict(state["model"])
    return model.eval()


@pytest.mark.parametrize("size", script.CHANNELS)
@pytest.mark.parametrize("count", [1, 3])
def test_pictures_of_every_size_go_through_a_code_and_back(size, count):
    model = script.VariationalAutoencoder(10, size)
    mean, log_variance = model.encode(torch.rand(count, 3, size, size))
    assert mean.shape == log_variance.shape == (count, 10)
    decoded = model.decode(mean)
    assert decoded.shape == (count, 3, size, size)
    assert decoded.mean().item() == pytest.approx(0.5, abs=0.1)  # grey before training


def test_the_elbo_equals_that_of_torch_distributions(monkeypatch):
    model = script.VariationalAutoencoder(4, 32).double().eval()
    model.variance.fill_(0.02)
    images = torch.rand(3, 3, 32, 32).double()
    mean, log_variance = torch.randn(3, 4).double(), torch.randn(3, 4).double()
    reconstruction = torch.rand(3, 3, 32, 32).double()
    monkeypatch.setattr(model, "encode", lambda images: (mean, log_variance))
    monkeypatch.setattr(model, "decode", lambda latent: reconstruction)
    terms = script.loss(model, images, beta=7)
    recon = -Normal(reconstruction, math.sqrt(0.02)).log_prob(images).flatten(1).sum(1)
    reference = torch.distributions.kl_divergence(Normal(mean, (log_variance / 2).exp()), Normal(0.0, 1.0)).sum(1)
    torch.testing.assert_close(terms["recon"], recon)
    torch.testing.assert_close(terms["kl"], reference)
    torch.testing.assert_close(terms["neg_elbo"], recon + reference)
    torch.testing.assert_close(terms["loss"], recon + 7 * reference)
    torch.testing.assert_close(terms["mse"], (reconstruction - images).square().mean(dim=(1, 2, 3)))


def test_the_training_variance_maximizes_the_likelihood():
    model, images = script.VariationalAutoencoder(4, 32).train(), torch.rand(6, 3, 32, 32)
    torch.manual_seed(0)
    calibrated = script.loss(model, images)
    optimum = calibrated["mse"].mean()
    for factor in (0.9, 1.0, 1.1):
        model.eval().variance.fill_(optimum * factor)
        torch.manual_seed(0)
        fixed = script.loss(model, images)["recon"].mean()
        if factor == 1:
            torch.testing.assert_close(fixed, calibrated["recon"].mean())
        else:
            assert fixed > calibrated["recon"].mean()


def test_the_loss_of_a_batch_is_the_size_weighted_loss_of_its_parts():
    """With a fixed variance; a batch's own variance ties its images together."""
    model, images = script.VariationalAutoencoder(4, 32).eval(), torch.rand(7, 3, 32, 32)
    whole = script.loss(model, images, ae=True)["loss"].mean()
    parts = [script.loss(model, part, ae=True)["loss"].mean() * len(part) / 7 for part in images.split([2, 5])]
    torch.testing.assert_close(whole, sum(parts))


def test_codes_and_pictures_are_fp32_even_if_the_layers_compute_in_bf16():
    model, images = script.VariationalAutoencoder(4, 32), torch.rand(2, 3, 32, 32)
    with torch.autocast("cpu", torch.bfloat16):
        mean, log_variance = model.encode(images)
        assert mean.dtype == log_variance.dtype == model.decode(mean).dtype == torch.float32


def test_plain_autoencoder_has_no_noise_and_no_kl():
    model, images = script.VariationalAutoencoder(4, 32).eval(), torch.rand(2, 3, 32, 32)
    first, second = (script.loss(model, images, beta=5, ae=True) for _ in range(2))
    assert torch.equal(first["loss"], second["loss"]) and (first["kl"] == 0).all()
    noisy = [script.loss(model, images)["loss"] for _ in range(2)]
    assert not torch.equal(*noisy)


def test_training_lowers_the_error(trained):
    lines = [json.loads(line) for line in (trained[0] / "run/metrics.jsonl").read_text().splitlines()]
    _, _, faces = trained
    train = to_float(select(faces.images, faces.split == celeba.TRAIN))
    test = to_float(select(faces.images, faces.split == celeba.TEST))
    constant = (test - train.mean(dim=0)).square().mean().item()
    results = json.loads((trained[0] / "run/results.json").read_text())["test"]
    assert results["mse"] < 0.8 * constant
    assert lines[-1]["valid_neg_elbo"] < lines[0]["valid_neg_elbo"]
    assert lines[-1]["loss"] == pytest.approx(lines[-1]["recon"] + lines[-1]["kl"])  # beta is 1
    assert lines[-1]["lr"] == pytest.approx(3e-3 * 0.5 / 150 / 0.7)  # in the last of 5 x 30 steps


def test_the_results_hold_the_scores_of_the_model_on_the_test_split(trained, model):
    results = json.loads((trained[0] / "run/results.json").read_text())
    scores = results["test"]
    assert results["dataset"] == "drawn faces" and results["train_images"] == 480
    assert set(scores) == {"neg_elbo", "bits_per_dim", "mse", "kl", "active_units", "sigma"}
    assert scores["bits_per_dim"] == pytest.approx(scores["neg_elbo"] / (3 * 32 * 32) / math.log(2) + math.log2(255))
    lines = [json.loads(line) for line in (trained[0] / "run/metrics.jsonl").read_text().splitlines()]
    assert scores["sigma"] == pytest.approx(math.sqrt(lines[-1]["mse"]), rel=1e-5)
    test = select(trained[2].images, trained[2].split == celeba.TEST)
    with torch.no_grad():
        error = (model.decode(model.encode(to_float(test))[0]) - to_float(test)).square().mean().item()
    assert scores["mse"] == pytest.approx(error, rel=1e-4)
    terms = training.evaluate(model, script.loss, test, torch.device("cpu"))
    assert scores["neg_elbo"] == pytest.approx(terms["neg_elbo"], rel=1e-5)
    assert scores["kl"] == pytest.approx(terms["kl"], rel=1e-5)
    valid = select(trained[2].images, trained[2].split == celeba.VALID)
    terms = training.evaluate(model, script.loss, valid, torch.device("cpu"))
    for name in ("neg_elbo", "recon", "kl", "mse"):
        assert lines[-1][f"valid_{name}"] == pytest.approx(terms[name], rel=1e-5)


def test_figures_show_the_faces_and_say_that_they_are_drawn(trained, model):
    names = {path.name for path in (trained[0] / "images").iterdir()}
    own = {f"vanilla_vae_celeba_{name}.png" for name in ("reconstructions", "samples", "attributes", "curves")}
    assert names == {"4.png", "vanilla_vae_celeba_explorer.html"} | own
    rows, title = trained[1][:2]
    assert "drawn faces (not CelebA)" in title
    test = to_float(select(trained[2].images, trained[2].split == celeba.TEST))
    rows = torch.from_numpy(rows).movedim(-1, 2)
    assert torch.equal(rows[0, 0], test[0]) and torch.equal(rows[0, -1], test[1])
    with torch.no_grad():
        first, last = model.encode(test[:2])[0]
        middle = model.decode((first + (last - first) * 4 / 9)[None])[0]
    torch.testing.assert_close(rows[0, 5], middle, atol=1e-4, rtol=1e-3)
    figures, labels = trained[1][-3:-1]
    train = trained[2].split == celeba.TRAIN
    with torch.no_grad():
        codes = model.encode(to_float(select(trained[2].images, train)[:480]))[0]
    torch.testing.assert_close(figures.train_latent, codes, atol=1e-4, rtol=1e-3)
    assert torch.equal(labels, trained[2].attributes[train][:480])


def test_sheets_show_the_reconstructions_and_the_two_samplers_that_they_name(tmp_path):
    generator = torch.Generator().manual_seed(0)
    latent, train = (torch.randn(count, 3, generator=generator) for count in (20, 500))
    train = train @ torch.randn(3, 3, generator=generator) + 5
    faces = torch.randint(0, 256, (20, 3, 8, 8), dtype=torch.uint8, generator=generator)

    def decode(codes):
        return codes[:, :, None, None].expand(-1, 3, 8, 8)

    figures = FaceFigures("", "", tmp_path, "s", faces, latent, train, decode)
    with recorded(sheets, "pictures") as drawn:
        figures.samples()
    codes = torch.from_numpy(drawn["pictures"][0])[:, :, 0, 0].flatten(0, 1)
    noise = torch.randn(36, 3, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(codes[:36], noise)
    factor = torch.linalg.lstsq(noise, codes[36:] - train.mean(dim=0)).solution.T
    torch.testing.assert_close(factor @ factor.T, train.T.cov(), atol=1e-3, rtol=1e-3)
    with recorded(sheets, "pictures") as drawn:
        figures.reconstructions()
    rows = torch.from_numpy(drawn["pictures"][0]).movedim(-1, 2)
    assert torch.equal(rows[0], to_float(faces[:16])) and torch.equal(rows[1], decode(latent[:16]))


def test_attributes_move_faces_along_their_own_direction(tmp_path):
    latent = torch.randn(60, 4, generator=torch.Generator().manual_seed(0))
    blank = torch.zeros(60, 3, 8, 8, dtype=torch.uint8)

    def decode(codes):
        return codes[:, :3, None, None].expand(-1, 3, 8, 8)

    figures = FaceFigures("", "", tmp_path, "s", blank, latent, latent, decode)
    with recorded(sheets, "pictures") as drawn:
        figures.attributes(latent[:, :2] > 0, ("Smiling", "Young"))
    rows, names = drawn["pictures"][0], drawn["pictures"][3]
    assert list(names) == ["Smiling", "Young"]
    for attribute in (0, 1):
        assert (np.diff(rows[attribute, 1:, 0, 0, attribute]) > 0).all()
    assert (tmp_path / "s_attributes.png").exists()
    figures.attributes(None, ())
    assert not (tmp_path / "s_attributes.png").exists()


def test_a_resumed_run_on_other_faces_is_refused(trained, tmp_path):
    photos = tmp_path / "photos"
    photos.mkdir()
    for number in range(30):
        Image.new("RGB", (40, 50), (number * 8, 90, 200)).save(photos / f"{number}.png")
    folders = ["--run-dir", str(trained[0] / "run"), "--images-dir", str(tmp_path), "--data-dir", str(tmp_path)]
    with pytest.raises(script.cli.UserError, match="on drawn faces, 640 pictures, not on photos, 30 pictures"):
        script.main(["--faces", str(photos), "--resume", *SMALL, *folders])


def test_real_faces_are_reconstructed(few_real_faces, tmp_path, monkeypatch):
    draw_nothing(monkeypatch, script)
    folders = ["--run-dir", str(tmp_path / "run"), "--images-dir", str(tmp_path), "--data-dir", str(tmp_path)]
    script.main(["--faces", str(few_real_faces), *SMALL, "--limit", "512", "--epochs", "1", *folders])
    results = json.loads((tmp_path / "run/results.json").read_text())
    assert results["dataset"] == "CelebA" and results["test"]["mse"] < 0.06


def test_calibration_gives_the_decoder_the_variance_of_an_epochs_error():
    model = script.VariationalAutoencoder(4, 32).eval()
    script.calibrate(model, 0.03)
    reconstruction, images = torch.zeros(1, 3, 32, 32), torch.full((1, 3, 32, 32), 0.2)
    model.encode = lambda images: (torch.zeros(1, 4), torch.zeros(1, 4))
    model.decode = lambda latent: reconstruction
    expected = -Normal(reconstruction, math.sqrt(0.03)).log_prob(images).sum()
    torch.testing.assert_close(script.loss(model, images)["recon"][0], expected)


def spread(mean, log_variance):
    """The mean and the variance of q(z|x) averaged over images, and its mean KL divergence."""
    return (
        mean.mean(0),
        mean.var(0, correction=0) + log_variance.exp().mean(0),
        script.kl_divergence(mean, log_variance).mean(),
    )


def test_standardizing_changes_codes_to_lower_the_kl_but_no_picture():
    torch.manual_seed(0)
    model, images = script.VariationalAutoencoder(4, 32).eval(), torch.rand(50, 3, 32, 32)
    with torch.no_grad():
        model.encoder[-1].weight.mul_(20)
        model.encoder[-1].bias.add_(1)
        before = model.encode(images)
        pictures = model.decode(before[0])
        script.standardize(model, *before)
        after = model.encode(images)
        torch.testing.assert_close(model.decode(after[0]), pictures, atol=1e-5, rtol=1e-4)
    means, variances, kl = spread(*after)
    torch.testing.assert_close(means, torch.zeros(4), atol=1e-5, rtol=0)
    torch.testing.assert_close(variances, torch.ones(4))
    assert kl < spread(*before)[2] - 0.1
    for shift, scale in ((0.1, 1.0), (-0.1, 1.0), (0.0, 1.1), (0.0, 0.9)):
        assert spread(after[0] * scale + shift, after[1] + 2 * math.log(scale))[2] > kl


def test_a_run_ends_with_standardized_codes(trained, model):
    train = to_float(select(trained[2].images, trained[2].split == celeba.TRAIN)[:480])
    with torch.no_grad():
        means, variances, _ = spread(*model.encode(train))
    torch.testing.assert_close(means, torch.zeros(24), atol=1e-3, rtol=0)
    torch.testing.assert_close(variances, torch.ones(24), atol=1e-3, rtol=0)
