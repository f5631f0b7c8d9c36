"""The program behind the README's claims, on a few images."""

import json

import claims
import laboratory
import pytest
import torch
from conftest import ROOT

from common import training
from common.data import celeba


@pytest.fixture
def quick(monkeypatch, tmp_path):
    """Flags for a quick run in `tmp_path`, on fewer images still."""
    monkeypatch.setattr(laboratory, "QUICK", 100)
    monkeypatch.setattr(celeba, "DRAWN_COUNTS", (100, 100, 100))
    monkeypatch.setitem(claims.vanilla_vae_celeba.CHANNELS, 64, (16, 16, 16))
    folders = ["--results", str(tmp_path / "results"), "--images-dir", str(tmp_path), "--data-dir", str(ROOT / "data")]
    return ["--quick", "--faces", "drawn", "--precision", "fp32", "--device", "cpu", *folders]


def test_the_claims_of_digits(quick, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(claims, "SIZES", (2, 3))
    monkeypatch.setattr(claims, "SHOWN", (2, 3))
    claims.main(["digits", *quick])
    printed = capsys.readouterr().out
    results = json.loads((tmp_path / "results/quick/claims_digits.json").read_text())["found"]
    assert f"| PCA, 3 | {results['PCA, 3']['mse'][0]:.4f} |" in printed
    assert results["PCA, 2"]["mse"] > results["PCA, 3"]["mse"] > [0]
    assert results["training images"]["reconstructions: frechet"] > [0]
    assert "midpoints on the sphere: frechet" in results["VAE, 2"].keys() - results["AE, 2"].keys()
    assert results["linear (ridge regression)"]["psnr"] > results["noisy"]["psnr"] == [pytest.approx(9.4, abs=0.2)]
    likelihood = results["2 dimensions"]
    assert likelihood["nll"] < likelihood["neg_elbo"] and [1] < likelihood["size"] < [100]
    for name in ("sizes", "betas", "kl_per_dimension"):
        assert (tmp_path / f"claims_{name}.png").read_bytes().startswith(b"\x89PNG")

    monkeypatch.setattr(training, "start", None)  # no model is trained again
    claims.main(["digits", *quick])
    assert capsys.readouterr().out.splitlines() == [line for line in printed.splitlines() if "training" not in line[:8]]


def test_the_claims_of_faces_compare_both_models_before_and_after_the_scaling(quick, tmp_path):
    pixels = torch.jit.trace(torch.nn.Sequential(torch.nn.AvgPool2d(16), torch.nn.Flatten()), torch.rand(2, 3, 64, 64))
    pixels.save(tmp_path / "features.pt")
    claims.main(["faces", *quick, "--features", str(tmp_path / "features.pt")])
    found = json.loads((tmp_path / "results/quick/claims_faces.json").read_text())["found"]
    assert found["PCA"]["mse"] < found["VAE"]["mse"]
    assert found["VAE"]["scaled"] < found["VAE"]["neg_elbo"]
    assert (tmp_path / "claims_face_samples.png").read_bytes().startswith(b"\x89PNG")


def test_codes_are_drawn_as_they_are_named():
    train = torch.randn(8000, 8, generator=torch.Generator().manual_seed(5)) * torch.tensor([3.0] + 7 * [1.0])
    train[:, 1] += train[:, 0]
    codes, cpu = train[:4000], torch.device("cpu")
    vae = claims.Model(lambda codes: (codes, torch.zeros_like(codes)), torch.sigmoid, cpu, prior=True)
    ways = claims.codes_to_decode(vae, train, codes, seed=0)
    assert torch.equal(ways["reconstructions"], codes)
    assert ways["N(0, I)"].std(dim=0).tolist() == pytest.approx(8 * [1], abs=0.05)
    # The variances of q(z|x), 1 here, add to those of the means, 9, 10 and 1.
    for way, correlated in (("N(0, I), scaled", 0), ("fitted Gaussian", 9)):
        covariance = torch.cov(ways[way].T)
        assert covariance.diagonal().tolist() == pytest.approx([10, 11] + 6 * [2], rel=0.1)
        assert covariance[0, 1].item() == pytest.approx(correlated, abs=0.8)
    # Twice a midpoint less its code is a code again; those on the sphere keep the direction and the mean length.
    partners = 2 * ways["midpoints"] - codes
    assert sorted(partners[:, 0].tolist()) == pytest.approx(sorted(codes[:, 0].tolist()), abs=1e-4)
    sphere = ways["midpoints on the sphere"]
    torch.testing.assert_close(sphere.norm(dim=1), (codes.norm(dim=1) + partners.norm(dim=1)) / 2)
    torch.testing.assert_close(torch.cosine_similarity(sphere, ways["midpoints"]), torch.ones(4000))


def test_tables_give_means_and_spreads_between_models(capsys):
    results = laboratory.Results("3 seeds")
    for value in (1.0, 2.0, 6.0):
        results.add("one", {"score": value, "same": 0.5})
    results.table(
        "Title", ["one", "other"], {"score": ("Score", ".2f"), "same": ("Same", ".0%"), "none": ("None", "g")}
    )
    lines = capsys.readouterr().out.strip().splitlines()
    assert lines[0] == "**Title; 3 seeds**"
    assert lines[-2:] == ["| one | 3.00 ± 2.65 | 50% |  |", "| other |  |  |  |"]
