"""The program behind the README's claims, on a few images, and what it does with runs that are there."""

import json
import statistics

import pytest
import torch
from conftest import ROOT

from common import celeba, checkpoint, claims
from common.errors import UserError

QUICK = ["--epochs", "1", "--limit", "600", "--data-dir", str(ROOT / "data"), "--device", "cpu"]


@pytest.fixture
def small(monkeypatch):
    """Few dimensions, labels, seeds and epochs of the classifier."""
    monkeypatch.setattr(claims, "DIMENSIONS", (2, 3))
    monkeypatch.setattr(claims, "DRAWN", 3)
    monkeypatch.setattr(claims, "LABELS", (100, 300))
    monkeypatch.setattr(claims, "SEEDS", 2)
    original = claims.trained_classifier
    monkeypatch.setattr(
        claims,
        "trained_classifier",
        lambda images, targets, epochs, *rest, **more: original(images, targets, 1, *rest, **more),
    )
    monkeypatch.setattr(claims, "knn_accuracy", lambda train, labels, test, answers: 0.5)  # tested elsewhere, and slow


def test_the_claims_of_digits(small, tmp_path, capsys, digits):
    folders = ["--runs-dir", str(tmp_path / "runs"), "--images-dir", str(tmp_path / "images")]
    claims.main(["digits", *QUICK, *folders])
    printed = capsys.readouterr().out
    results = json.loads((tmp_path / "runs/claims/digits.json").read_text())
    # PCA's error is what the discarded variance of the training pixels leaves, about.
    pixels = digits[0].images.flatten(1).float() / 255
    spectrum = torch.linalg.eigvalsh(torch.cov(pixels.T))
    for dimensions in (2, 3):
        expected = spectrum[:-dimensions].sum().item() / 784
        assert results[f"PCA, {dimensions}"]["mse"] == pytest.approx(expected, rel=0.02)
    assert results["classifier_accuracy"] > 0.9
    denoising = results["denoising"]
    assert denoising["psnr"] > denoising["psnr_noisy"] == pytest.approx(9.4, abs=0.1)
    train, test = (results["realism"][name]["real"][0] for name in ("train images", "test images"))
    assert test[0] == pytest.approx(0, abs=1e-6) and train[0] > 0
    for name in ("AE, 2", "VAE, 3"):
        ways = results["realism"][name]
        assert [len(ways[way]) for way in ("reconstructions", "midpoints", "N(0, I)", "fitted Gaussian")] == [
            1,
            2,
            2,
            2,
        ]
        assert all(distance > train[0] and 0 <= sure <= 1 for draws in ways.values() for distance, sure in draws)
    assert f"{statistics.mean(value for value, _ in results['realism']['AE, 2']['midpoints']):.1f} ±" in printed
    for name in ("claims_samples.png", "claims_interpolation.png", "vanilla_ae_denoising.png", "1.png", "3.png"):
        assert (tmp_path / "images" / name).read_bytes().startswith(b"\x89PNG")

    # What is there is used: no script runs again.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(claims.vanilla_ae, "main", lambda argv: pytest.fail("trained again"))
        patch.setattr(claims.vanilla_vae_mnist, "main", lambda argv: pytest.fail("trained again"))
        claims.main(["digits", *QUICK, *folders])
    assert json.loads((tmp_path / "runs/claims/digits.json").read_text()) == results


def test_another_run_in_the_place_of_the_default_one_is_refused(small, tmp_path):
    claims.vanilla_ae.main(
        ["--latent-dim", "7", *QUICK, "--run-dir", str(tmp_path / "vanilla_ae"), "--images-dir", str(tmp_path)]
    )
    with pytest.raises(UserError, match="--latent-dim 7, not 2"):
        claims.main(["digits", *QUICK, "--runs-dir", str(tmp_path), "--images-dir", str(tmp_path)])


def test_the_claims_of_faces(small, tmp_path, capsys, monkeypatch):
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
    assert (tmp_path / "images/5.png").read_bytes().startswith(b"\x89PNG")
    plain = checkpoint.load(tmp_path / "runs/claims/vanilla_vae_celeba_ae/checkpoint.pt")
    assert plain["arguments"]["ae"] and plain["history"][0]["kl"] == 0


def test_midpoints_and_samples_are_drawn_as_they_are_named():
    generator = torch.Generator().manual_seed(0)
    train = torch.randn(4000, 2, generator=generator) * torch.tensor([3.0, 1.0]) + torch.tensor([5.0, 0.0])
    codes = train[:1000]
    ways = claims.ways_of_drawing(None, train, codes)
    assert torch.equal(ways["reconstructions"][0], codes)
    assert ways["N(0, I)"][0].std(dim=0).tolist() == pytest.approx([1, 1], abs=0.1)
    assert ways["fitted Gaussian"][0].std(dim=0).tolist() == pytest.approx([3, 1], rel=0.1)
    assert ways["fitted Gaussian"][0].mean(dim=0).tolist() == pytest.approx([5, 0], abs=0.4)
    # Each midpoint is half a code and half another: twice the midpoint less the code is a code again.
    partners = 2 * ways["midpoints"][0] - codes
    assert sorted(partners[:, 0].tolist()) == pytest.approx(sorted(codes[:, 0].tolist()), abs=1e-4)
    assert not torch.equal(ways["midpoints"][0], ways["midpoints"][1])
