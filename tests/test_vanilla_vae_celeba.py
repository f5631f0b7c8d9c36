"""The face script: its model at every size, its calibrated loss, its training, its figures."""

import json
import math

import pytest
import torch
from conftest import ROOT
from torch.distributions import Normal

import vanilla_vae_celeba as script
from common.data import faces as celeba
from common.training import checkpoint
from common.figures import faces as face_figures
from common.figures import sheets as figures
from common.training import run as training
from common.data.tensors import random_flip, select, to_float


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A short run on drawn faces; its folder, and what it drew its pictures from."""
    folder = tmp_path_factory.mktemp("faces")
    drawn = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(celeba, "DRAWN_COUNTS", (600, 60, 80))
        original = figures.pictures

        def record(*arguments, **named):
            drawn.append((*arguments, named))
            return original(*arguments, **named)

        patch.setattr(face_figures.figures, "pictures", record)
        folders = ["--run-dir", str(folder / "run"), "--images-dir", str(folder / "images"), "--data-dir", str(folder)]
        small = ["--size", "32", "--epochs", "6", "--batch-size", "16", "--latent-dim", "24", "--beta", "1"]
        script.main(["--faces", "drawn", *small, *folders])
        faces = celeba.load_faces("drawn", folder, 32)
    return folder, drawn, faces


@pytest.fixture(scope="module")
def model(trained):
    state = checkpoint.load(trained[0] / "run/checkpoint.pt")
    model = script.VariationalAutoencoder(state["arguments"]["latent_dim"], state["arguments"]["size"])
    model.load_state_dict(state["model"])
    return model.eval()


@pytest.mark.parametrize("size", script.SIZES)
@pytest.mark.parametrize("count", [1, 3])
def test_shapes_follow_the_size(size, count):
    model = script.VariationalAutoencoder(10, size)
    mean, log_variance = model.encode(torch.rand(count, 3, size, size))
    assert mean.shape == log_variance.shape == (count, 10)
    assert model.decode(mean).shape == (count, 3, size, size)


def test_elbo_by_hand(monkeypatch):
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


def test_the_training_variance_is_the_one_of_greatest_likelihood():
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
    """With the variance given; a batch's own variance ties its images together."""
    model, images = script.VariationalAutoencoder(4, 32).eval(), torch.rand(7, 3, 32, 32)
    whole = script.loss(model, images, plain=True)["loss"].mean()
    parts = [script.loss(model, part, plain=True)["loss"].mean() * len(part) / 7 for part in images.split([2, 5])]
    torch.testing.assert_close(whole, sum(parts))


def test_plain_autoencoder_has_no_noise_and_no_kl():
    model, images = script.VariationalAutoencoder(4, 32).eval(), torch.rand(2, 3, 32, 32)
    first, second = (script.loss(model, images, beta=5, plain=True) for _ in range(2))
    assert torch.equal(first["loss"], second["loss"]) and (first["kl"] == 0).all()
    noisy = [script.loss(model, images)["loss"] for _ in range(2)]
    assert not torch.equal(*noisy)


def test_flips_mirror_about_half_of_a_batch():
    images = torch.rand(400, 3, 4, 6)
    flipped = random_flip(images)
    mirrored = (flipped == images.flip(3)).flatten(1).all(1)
    kept = (flipped == images).flatten(1).all(1)
    assert (mirrored ^ kept).all() and 140 < mirrored.sum() < 260


def test_select_keeps_the_order_and_copies_only_where_it_must():
    images = torch.arange(10)[:, None]
    run = select(images, torch.tensor([0, 0, 1, 1, 1, 0, 0, 0, 0, 0]).bool())
    assert (
        run.flatten().tolist() == [2, 3, 4] and run.untyped_storage().data_ptr() == images.untyped_storage().data_ptr()
    )
    assert select(images, images.flatten() % 3 == 0).flatten().tolist() == [0, 3, 6, 9]
    assert len(select(images, torch.zeros(10).bool())) == 0


def test_training_lowers_the_error(trained):
    lines = [json.loads(line) for line in (trained[0] / "run/metrics.jsonl").read_text().splitlines()]
    _, _, faces = trained
    train = to_float(select(faces.images, faces.split == celeba.TRAIN))
    test = to_float(select(faces.images, faces.split == celeba.TEST))
    constant = (test - train.mean(dim=0)).square().mean().item()
    results = json.loads((trained[0] / "run/results.json").read_text())["test"]
    assert results["mse"] < 0.8 * constant
    assert lines[-1]["valid_neg_elbo"] < lines[0]["valid_neg_elbo"]


def test_results(trained, model):
    results = json.loads((trained[0] / "run/results.json").read_text())
    scores = results["test"]
    assert results["dataset"] == "drawn faces" and results["train_images"] == 600
    assert set(scores) == {"neg_elbo", "bits_per_dim", "mse", "kl", "active_units", "sigma"}
    assert scores["bits_per_dim"] == pytest.approx(scores["neg_elbo"] / (3 * 32 * 32) / math.log(2) + 8)
    lines = [json.loads(line) for line in (trained[0] / "run/metrics.jsonl").read_text().splitlines()]
    assert scores["sigma"] == pytest.approx(math.sqrt(lines[-1]["mse"]), rel=1e-5)
    test = select(trained[2].images, trained[2].split == celeba.TEST)
    with torch.no_grad():
        error = (model.decode(model.encode(to_float(test))[0]) - to_float(test)).square().mean().item()
    assert scores["mse"] == pytest.approx(error, rel=1e-4)
    terms = training.evaluate(model, script.loss, test, torch.device("cpu"))
    assert scores["neg_elbo"] == pytest.approx(terms["neg_elbo"], rel=1e-5)


def test_figures_show_the_faces_and_say_that_they_are_drawn(trained, model):
    names = {path.name for path in (trained[0] / "images").iterdir()}
    own = {f"vanilla_vae_celeba_{name}.png" for name in ("reconstructions", "samples", "attributes", "curves")}
    assert names == {"4.png"} | own
    rows, title = trained[1][0][:2]
    assert "drawn faces (no CelebA here)" in title
    test = to_float(select(trained[2].images, trained[2].split == celeba.TEST))
    rows = torch.from_numpy(rows).movedim(-1, 2)
    assert torch.equal(rows[0, 0], test[0]) and torch.equal(rows[0, -1], test[1])
    with torch.no_grad():
        first, last = model.encode(test[:2])[0]
        middle = model.decode((first + (last - first) * 4 / 9)[None])[0]
    torch.testing.assert_close(rows[0, 5], middle, atol=1e-4, rtol=1e-3)


def test_a_resumed_run_on_other_faces_is_refused(trained, tmp_path):
    photos = tmp_path / "photos"
    photos.mkdir()
    from PIL import Image

    for number in range(30):
        Image.new("RGB", (40, 50), (number * 8, 90, 200)).save(photos / f"{number}.png")
    folders = ["--run-dir", str(trained[0] / "run"), "--images-dir", str(tmp_path), "--data-dir", str(tmp_path)]
    small = ["--size", "32", "--epochs", "6", "--batch-size", "16", "--latent-dim", "24", "--beta", "1"]
    with pytest.raises(script.cli.UserError, match="--faces drawn faces, 740 pictures, not photos, 30 pictures"):
        script.main(["--faces", str(photos), "--resume", *small, *folders])


def real_faces():
    for folder in (ROOT / "data/celeba", ROOT.parent / "shared/celeba"):
        if folder.exists():
            return folder
    return None


@pytest.mark.skipif(real_faces() is None, reason="real CelebA is neither in data/celeba nor in ../shared/celeba")
def test_real_faces(tmp_path):
    folders = ["--run-dir", str(tmp_path / "run"), "--images-dir", str(tmp_path), "--data-dir", str(tmp_path)]
    small = ["--size", "32", "--limit", "512", "--batch-size", "16", "--epochs", "1"]
    script.main(["--faces", str(real_faces()), *small, *folders])
    results = json.loads((tmp_path / "run/results.json").read_text())
    assert results["dataset"] == "CelebA" and results["test"]["mse"] < 0.08
