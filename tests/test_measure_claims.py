"""The program behind the README's claims, on a few images, and its use of finished runs."""

import json
import statistics

import pytest
import torch
from conftest import draw_nothing
from measure import claims

from common.data import faces as celeba
from common.data.digits import Digits
from common.training import checkpoint, device

QUICK = ["--epochs", "1", "--limit", "600", "--device", "cpu"]


@pytest.fixture
def small(monkeypatch, few_digits):
    """Few digits, dimensions, labels, seeds and epochs of the classifier; only this program's own figures."""
    train, test = few_digits
    test = Digits(test.images[:600], test.labels[:600], test.classes)
    monkeypatch.setattr(claims, "DIMENSIONS", (2, 3))
    monkeypatch.setattr(claims, "FIGURE_DIMENSIONS", 3)
    monkeypatch.setattr(claims, "LABELS", (100, 300))
    monkeypatch.setattr(claims, "SEEDS", 2)
    original = claims.trained_classifier
    monkeypatch.setattr(
        claims,
        "trained_classifier",
        lambda images, targets, epochs, *rest, **more: original(images, targets, 1, *rest, **more),
    )
    monkeypatch.setattr(device, "SECONDS", 0.0)
    draw_nothing(monkeypatch, claims.vanilla_ae, claims.vanilla_vae_mnist, claims.vanilla_vae_celeba)
    for module in (claims, claims.vanilla_ae, claims.vanilla_vae_mnist):
        monkeypatch.setattr(module, "load_digits", lambda *_: (train, test))


def test_the_claims_of_digits_are_measured_printed_and_drawn(small, tmp_path, capsys, few_digits):
    train, _ = few_digits
    folders = ["--runs-dir", str(tmp_path / "runs"), "--images-dir", str(tmp_path / "images")]
    claims.main(["digits", *QUICK, *folders])
    printed = capsys.readouterr().out
    results = json.loads((tmp_path / "runs/claims/digits.json").read_text())
    # PCA's error is about the discarded variance of the training pixels.
    pixels = train.images.flatten(1).float() / 255
    spectrum = torch.linalg.eigvalsh(torch.cov(pixels.T))
    for dimensions in (2, 3):
        expected = spectrum[:-dimensions].sum().item() / 784
        assert results[f"PCA, {dimensions}"]["mse"] == pytest.approx(expected, rel=0.1)
    assert results["classifier_accuracy"] > 0.5
    denoising = results["denoising"]
    assert denoising["psnr_noisy"] == pytest.approx(9.4, abs=0.2) and 0 < denoising["psnr"] < 30
    floor, itself = (results["realism"][name]["real"][0] for name in ("train images", "test images"))
    assert itself[0] == pytest.approx(0, abs=1e-6) and floor[0] > 0
    for name in ("AE, 2", "VAE, 3"):
        ways = results["realism"][name]
        assert [len(ways[way]) for way in ("reconstructions", "midpoints", "N(0, I)", "fitted Gaussian")] == [
            1,
            2,
            2,
            2,
        ]
        assert all(distance > floor[0] and 0 <= sure <= 1 for draws in ways.values() for distance, sure in draws)
    assert f"{statistics.mean(value for value, _ in results['realism']['AE, 2']['midpoints']):.1f} ±" in printed
    for name in ("claims_samples.png", "claims_interpolation.png", "vanilla_ae_denoising.png"):
        assert (tmp_path / "images" / name).read_bytes().startswith(b"\x89PNG")


def test_a_finished_run_of_the_script_is_used_if_it_is_the_one_needed(small, tmp_path, monkeypatch):
    args = claims.parse_args(["digits", *QUICK, "--runs-dir", str(tmp_path), "--images-dir", str(tmp_path)])
    folders = ["--run-dir", str(tmp_path / "vanilla_ae"), "--images-dir", str(tmp_path)]
    claims.vanilla_ae.main(["--latent-dim", "7", *QUICK, *folders])
    monkeypatch.setattr(claims.vanilla_ae, "main", lambda argv: (_ for _ in ()).throw(LookupError("trains")))
    state, path = claims.finished_run(claims.vanilla_ae, ["--latent-dim", "7"], args)
    assert path == tmp_path / "vanilla_ae/checkpoint.pt" and state["arguments"]["latent_dim"] == 7
    for other in (["--latent-dim", "6"], ["--latent-dim", "7", "--noise", "0.5"], ["--latent-dim", "7", "--seed", "1"]):
        with pytest.raises(LookupError):
            claims.finished_run(claims.vanilla_ae, other, args)
    args.epochs = 2
    with pytest.raises(LookupError):
        claims.finished_run(claims.vanilla_ae, ["--latent-dim", "7"], args)


def test_the_claims_of_faces_are_measured_printed_and_drawn(small, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(celeba, "DRAWN_COUNTS", (200, 20, 150))
    folders = [
        "--runs-dir",
        str(tmp_path / "runs"),
        "--images-dir",
        str(tmp_path / "images"),
        "--data-dir",
        str(tmp_path),
    ]
    claims.main(["faces", "--faces", "drawn", "--epochs", "1", "--limit", "100", "--device", "cpu", *folders])
    printed = capsys.readouterr().out
    assert "| AE |" in printed and "| VAE |" in printed and "drawn" in printed
    for name in ("5.png", "claims_face_samples.png"):
        assert (tmp_path / "images" / name).read_bytes().startswith(b"\x89PNG")
    plain = checkpoint.load(tmp_path / "runs/claims/vanilla_vae_celeba_ae_epochs_1_limit_100/checkpoint.pt")
    assert plain["arguments"]["ae"] and plain["history"][0]["kl"] == 0
    usual = checkpoint.load(tmp_path / "runs/claims/vanilla_vae_celeba_epochs_1_limit_100/checkpoint.pt")
    epoch = usual["history"][0]
    assert epoch["kl"] > 1 and epoch["loss"] == pytest.approx(epoch["recon"] + 8 * epoch["kl"], rel=1e-4)


def test_midpoints_and_samples_are_drawn_as_they_are_named():
    generator = torch.Generator().manual_seed(0)
    train = torch.randn(4000, 2, generator=generator) * torch.tensor([3.0, 1.0]) + torch.tensor([5.0, 0.0])
    codes = train[:1000]
    ways = claims.ways_of_drawing(train, codes)
    assert torch.equal(ways["reconstructions"][0], codes)
    assert ways["N(0, I)"][0].std(dim=0).tolist() == pytest.approx([1, 1], abs=0.1)
    assert ways["fitted Gaussian"][0].std(dim=0).tolist() == pytest.approx([3, 1], rel=0.1)
    assert ways["fitted Gaussian"][0].mean(dim=0).tolist() == pytest.approx([5, 0], abs=0.4)
    # Each midpoint is half a code and half another: twice the midpoint less the code is a code again.
    partners = 2 * ways["midpoints"][0] - codes
    assert sorted(partners[:, 0].tolist()) == pytest.approx(sorted(codes[:, 0].tolist()), abs=1e-4)
    assert not torch.equal(ways["midpoints"][0], ways["midpoints"][1])
