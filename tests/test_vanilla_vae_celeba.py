"""The face script: its model at every size, its calibrated loss, its training, what it leaves behind."""

import json
import math

import pytest
import torch
from browser import content
from conftest import draw_nothing, recorded
from PIL import Image
from torch.distributions import Normal

import vanilla_vae_celeba as script
from common import training
from common.data import celeba
from common.data.batches import to_float
from common.metrics import active_units

SMALL = ["--size", "32", "--epochs", "5", "--batch-size", "16", "--latent-dim", "24", "--beta", "1"]
SMALL += ["--precision", "fp32", "--device", "cpu", "--limit", "480", "--lr", "3e-3"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A short run on drawn faces, not all of them: its folder, and the faces to train, validate and test."""
    folder = tmp_path_factory.mktemp("faces")
    folders = ["--run-dir", str(folder / "run"), "--images-dir", str(folder / "images"), "--data-dir", str(folder)]
    with pytest.MonkeyPatch.context() as patch, recorded(script, "random_flip") as flipped:
        patch.setattr(celeba, "DRAWN_COUNTS", (500, 60, 80))
        script.main(["--faces", "drawn", *SMALL, *folders])
        faces = celeba.load_faces("drawn", folder, 32)
    assert flipped, "training faces are mirrored"
    return folder, faces


@pytest.fixture(scope="module")
def model(trained):
    return script.load(trained[0] / "run/checkpoint.pt")


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


def test_plain_autoencoder_has_no_noise_and_no_kl():
    model, images = script.VariationalAutoencoder(4, 32).eval(), torch.rand(2, 3, 32, 32)
    first, second = (script.loss(model, images, beta=5, ae=True) for _ in range(2))
    assert torch.equal(first["loss"], second["loss"]) and (first["kl"] == 0).all()
    noisy = [script.loss(model, images)["loss"] for _ in range(2)]
    assert not torch.equal(*noisy)


def test_training_lowers_the_error_and_the_results_are_those_of_the_model_on_the_test_split(trained, model):
    lines = [json.loads(line) for line in (trained[0] / "run/metrics.jsonl").read_text().splitlines()]
    train, valid, test = (to_float(part.images) for part in trained[1])
    results = json.loads((trained[0] / "run/results.json").read_text())
    assert results["dataset"] == "drawn faces" and results["train_images"] == 480
    scores = results["test"]
    assert scores["mse"] < 0.8 * (test - train.mean(dim=0)).square().mean().item()
    assert lines[-1]["valid_neg_elbo"] < lines[0]["valid_neg_elbo"]
    assert lines[-1]["loss"] == pytest.approx(lines[-1]["recon"] + lines[-1]["kl"])  # beta is 1

    with torch.no_grad():
        latent = model.encode(test)[0]
        error = (model.decode(latent) - test).square().mean().item()
    terms = training.evaluate(model, script.loss, trained[1][2].images)
    bits = terms["neg_elbo"] / (3 * 32 * 32) / math.log(2) + math.log2(255)
    expected = {"neg_elbo": terms["neg_elbo"], "kl": terms["kl"], "bits_per_dim": bits, "mse": error}
    expected |= {"sigma": math.sqrt(lines[-1]["mse"]), "active_units": active_units(latent)}
    assert scores == {name: pytest.approx(value, rel=1e-4) for name, value in expected.items()}
    terms = training.evaluate(model, script.loss, trained[1][1].images)
    for name in ("neg_elbo", "recon", "kl", "mse"):
        assert lines[-1][f"valid_{name}"] == pytest.approx(terms[name], rel=1e-5)


def test_all_figures_and_the_page_are_written(trained):
    names = {path.name for path in (trained[0] / "images").iterdir()}
    own = {f"vanilla_vae_celeba_{name}.png" for name in ("reconstructions", "samples", "attributes", "curves")}
    assert names == {"4.png", "vanilla_vae_celeba_explorer.html"} | own
    assert "(not CelebA), beta 1" in content(trained[0] / "images/vanilla_vae_celeba_explorer.html")["title"]


def test_a_resumed_run_on_other_faces_is_refused(trained, tmp_path):
    photos = tmp_path / "photos"
    photos.mkdir()
    for number in range(30):
        Image.new("RGB", (40, 50), (number * 8, 90, 200)).save(photos / f"{number}.png")
    folders = ["--run-dir", str(trained[0] / "run"), "--images-dir", str(tmp_path), "--data-dir", str(tmp_path)]
    with pytest.raises(script.cli.UserError, match="with data drawn faces, 480 pictures, not photos, 24 pictures"):
        script.main(["--faces", str(photos), "--resume", *SMALL, *folders])


def test_real_faces_are_reconstructed(few_real_faces, tmp_path, monkeypatch):
    draw_nothing(monkeypatch, script)
    folders = ["--run-dir", str(tmp_path / "run"), "--images-dir", str(tmp_path), "--data-dir", str(tmp_path)]
    script.main(["--faces", str(few_real_faces), *SMALL, "--limit", "512", "--epochs", "1", *folders])
    results = json.loads((tmp_path / "run/results.json").read_text())
    assert results["dataset"] == "CelebA" and results["test"]["mse"] < 0.06


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
    with torch.no_grad():
        means, variances, _ = spread(*model.encode(to_float(trained[1][0].images[:480])))
    torch.testing.assert_close(means, torch.zeros(24), atol=1e-3, rtol=0)
    torch.testing.assert_close(variances, torch.ones(24), atol=1e-3, rtol=0)


def test_a_collapse_is_said_on_the_console(tmp_path, capsys, monkeypatch):
    draw_nothing(monkeypatch, script)
    monkeypatch.setattr(celeba, "DRAWN_COUNTS", (64, 10, 10))
    folders = ["--run-dir", str(tmp_path / "run"), "--images-dir", str(tmp_path), "--data-dir", str(tmp_path)]
    script.main(["--faces", "drawn", *SMALL, "--epochs", "1", "--beta", "100000", *folders])
    assert "the posterior has collapsed" in capsys.readouterr().err
