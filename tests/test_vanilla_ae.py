"""The autoencoder's script: its loss, its training, what it leaves behind."""

import itertools
import json

import numpy as np
import pytest
import torch
from conftest import draw_nothing
from PIL import Image, ImageSequence
from torch.nn import functional as F

import vanilla_ae as script
from common.data.batches import to_float
from common.metrics import knn_accuracy

QUICK = ["--limit", "3000", "--epochs", "3", "--batch-size", "64", "--precision", "fp32", "--device", "cpu"]


@pytest.fixture(scope="module", autouse=True)
def reads_few_digits(few_digits):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(script, "load_digits", lambda *_: few_digits)
        yield


def folders(folder):
    return ["--run-dir", str(folder / "run"), "--images-dir", str(folder / "images")]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The folder of a short run of the whole script."""
    folder = tmp_path_factory.mktemp("ae")
    script.main([*QUICK, "--animate", *folders(folder)])
    return folder


def test_the_loss_is_the_cross_entropy_summed_over_pixels():
    model = script.Autoencoder(3).double()
    model.encode = lambda images: images
    model.decode = lambda latent: torch.full_like(latent, 0.8).logit()
    images = torch.rand(5, 1, 28, 28, dtype=torch.double)
    expected = F.binary_cross_entropy(torch.full_like(images, 0.8), images, reduction="none").sum(dim=(1, 2, 3))
    torch.testing.assert_close(script.loss(model, images)["loss"], expected)


def test_the_encoder_sees_fresh_noise_every_time_and_the_target_stays_clean():
    seen = []
    model = script.Autoencoder(3)
    model.encode = lambda images: seen.append(images) or images
    model.decode = torch.zeros_like
    images = torch.rand(200, 1, 28, 28)
    losses = [script.loss(model, images, noise=0.3)["loss"] for _ in range(2)]
    for loss in losses:  # the cross-entropy of a grey level and one half is log 2, whatever the level
        torch.testing.assert_close(loss, torch.full((200,), 784 * torch.tensor(2.0).log().item()))
    assert not torch.equal(seen[0], seen[1])
    inner = (images > 0.45) & (images < 0.55)
    assert (seen[0] - images)[inner].std().item() == pytest.approx(0.274, abs=0.01)  # of 0.3, clipped


def test_training_lowers_the_loss_and_the_results_are_those_of_the_model_on_the_test_split(trained, few_digits):
    lines = [json.loads(line) for line in (trained / "run/metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [1, 2, 3] and lines[2]["loss"] < lines[0]["loss"]
    results = json.loads((trained / "run/results.json").read_text())
    assert set(results) == {
        "script", "dataset", "train_images", "epochs", "seed", "device", "precision", "torch",
        "seconds", "images_per_second", "test",
    }  # fmt: skip
    assert (results["script"], results["dataset"], results["train_images"]) == ("vanilla_ae", "MNIST", 3000)
    model = script.load(trained / "run/checkpoint.pt")
    train, test = few_digits
    with torch.no_grad():
        latent = model.encode(to_float(test.images))
        error = (model.decode(latent).sigmoid() - to_float(test.images)).square().mean().item()
        neighbours = knn_accuracy(model.encode(to_float(train.images[:3000])), train.labels[:3000], latent, test.labels)
    # The best constant picture, the training images' mean, has a test error of 0.067.
    assert results["test"] == {"mse": pytest.approx(error, rel=1e-4), "knn": pytest.approx(neighbours, abs=2e-3)}
    assert error < 0.06 and neighbours > 0.25
    codes = np.load(trained / "run/latent.npz")
    np.testing.assert_allclose(codes["latent"], latent, atol=1e-4, rtol=1e-4)
    assert (codes["labels"] == test.labels.numpy()).all()


def test_a_run_leaves_every_figure_and_the_page_and_resuming_it_draws_them_again(trained, capsys):
    names = {path.name for path in (trained / "images").iterdir()}
    own = {f"vanilla_ae_{name}" for name in ("reconstructions.png", "manifold.png", "curves.png", "explorer.html")}
    assert names == {"1.png", "2.png", "vanilla_ae_training.gif"} | own
    before, results = (trained / "images/1.png").read_bytes(), (trained / "run/results.json").read_text()
    assert before.startswith(b"\x89PNG")
    (trained / "images/1.png").unlink()
    script.main([*QUICK, *folders(trained), "--resume"])
    assert (trained / "images/1.png").read_bytes() == before
    assert (trained / "run/results.json").read_text() == results
    assert "epoch 1/" not in capsys.readouterr().out


def test_the_animation_shows_every_epoch_and_parts_of_the_first(trained):
    with Image.open(trained / "images/vanilla_ae_training.gif") as movie:
        frames = [np.asarray(frame.convert("RGB")) for frame in ImageSequence.Iterator(movie)]
    assert len(frames) == 47 // 12 + 3  # of 47 steps in each of three epochs
    assert all((one != other).any() for one, other in itertools.pairwise(frames))
    assert all(0.02 < (frame < 255).any(axis=2).mean() < 0.6 for frame in frames)


def test_a_denoising_run_reports_and_draws_its_results(tmp_path):
    script.main([*QUICK, "--noise", "0.5", "--latent-dim", "16", *folders(tmp_path)])
    test = json.loads((tmp_path / "run/results.json").read_text())["test"]
    assert test["psnr_noisy"] == pytest.approx(9.4, abs=0.1)
    assert test["psnr"] > 12.5  # the mean image has about 11.7
    assert (tmp_path / "images/vanilla_ae_denoising.png").read_bytes().startswith(b"\x89PNG")


def test_the_batch_size_and_the_rate_fit_the_length_of_the_run(tmp_path, monkeypatch):
    rates, sizes = [], []
    optimizer, batches = script.training.Optimizer, script.training.Epoch.batches

    def record(model, muon, lr, **others):
        rates.append(lr)
        return optimizer(model, muon, lr, **others)

    def one_batch(epoch, images, batch_size):
        sizes.append(batch_size)
        yield next(batches(epoch, images, batch_size))

    monkeypatch.setattr(script.training, "Optimizer", record)
    monkeypatch.setattr(script.training.Epoch, "batches", one_batch)
    monkeypatch.setattr(script, "LEARNING_RATE", 2e-3)
    draw_nothing(monkeypatch, script)
    for epochs in ("1", "20"):
        script.main(["--epochs", epochs, "--precision", "fp32", *folders(tmp_path), "--resume"])
    assert rates == [0.01, pytest.approx(2e-3 * (4000 / (20 * 32)) ** 0.5)]  # 32 steps of at most 128 images
    assert sizes == [64] + 19 * [128]


def test_one_dimension_and_many_are_drawn_on_a_plane_and_have_no_page(tmp_path, capsys):
    for latent_dim in ("1", "5"):
        flags = ["--limit", "600", "--epochs", "1", "--latent-dim", latent_dim, "--precision", "fp32"]
        script.main([*flags, *folders(tmp_path / latent_dim)])
        assert (tmp_path / latent_dim / "images/1.png").exists()
        assert not list((tmp_path / latent_dim / "images").glob("*.html"))
        assert "no explorer page" in capsys.readouterr().out
