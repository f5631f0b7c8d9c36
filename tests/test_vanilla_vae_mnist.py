"""The variational autoencoder's script: its ELBO, its training, its figures."""

import json
import math

import pytest
import torch
from browser import content
from conftest import draw_nothing, recorded
from torch.distributions import Normal
from torch.distributions import kl_divergence as reference_kl

import vanilla_vae_celeba
import vanilla_vae_mnist as script
from common import training
from common.data.tensors import binarized, to_float
from common.figures import maps
from common.figures.digits import DigitFigures
from common.metrics import active_units
from common.training import checkpoint

QUICK = ["--limit", "3000", "--epochs", "3", "--batch-size", "64", "--precision", "fp32", "--device", "cpu"]


@pytest.fixture(scope="module", autouse=True)
def reads_few_digits(few_digits):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(script, "load_digits", lambda *_: few_digits)
        yield


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A short run of the whole script: its folder, and the arguments of the figures that it drew."""
    folder = tmp_path_factory.mktemp("vae")
    folders = ["--run-dir", str(folder / "run"), "--images-dir", str(folder / "images")]
    with (
        recorded(maps.LatentMap, "interpolations", "figure") as drawn,
        recorded(maps, "manifold") as grid,
        recorded(DigitFigures, "samples") as draws,
        recorded(script, "start_at_mean") as start,
    ):
        script.main([*QUICK, *folders])
    return folder, drawn | grid | draws | start


@pytest.fixture(scope="module")
def model(trained):
    state = checkpoint.load(trained[0] / "run/checkpoint.pt")
    model = script.VariationalAutoencoder(state["arguments"]["latent_dim"])
    model.load_state_dict(state["model"])
    return model.eval()


class Fixed(script.VariationalAutoencoder):
    """Posterior and logits as given, whatever the image."""

    def __init__(self, mean, log_variance, logits):
        super().__init__(len(mean))
        self.posterior, self.logits = (mean, log_variance), logits

    def encode(self, images):
        return tuple(part.expand(len(images), -1) for part in self.posterior)

    def decode(self, latent):
        return self.logits.expand(len(latent), 1, 28, 28)


def test_the_decoder_starts_at_the_mean_image():
    model = script.VariationalAutoencoder(2)
    torch.nn.init.zeros_(model.decoder[-1].weight)
    images = torch.randint(0, 256, (50, 1, 28, 28), dtype=torch.uint8)
    images[:, :, 0], images[:, :, 1] = 0, 255  # the log-odds of their means would be infinite
    script.start_at_mean(model, images)
    expected = to_float(images).mean(dim=0).clamp(0.001, 0.999)
    torch.testing.assert_close(model.decode(torch.randn(3, 2)).sigmoid(), expected.expand(3, 1, 28, 28))


@pytest.mark.parametrize("module", [script, vanilla_vae_celeba])
def test_the_kl_equals_that_of_torch_distributions(module):
    mean, log_variance = torch.randn(64, 7, dtype=torch.double) * 3, torch.randn(64, 7, dtype=torch.double) * 4
    reference = reference_kl(Normal(mean, (log_variance / 2).exp()), Normal(0.0, 1.0))
    torch.testing.assert_close(module.kl_divergence(mean, log_variance), reference.sum(dim=1))
    assert module.kl_divergence(torch.zeros(1, 3), torch.zeros(1, 3)) == 0


@pytest.mark.parametrize("module", [script, vanilla_vae_celeba])
def test_samples_have_the_mean_and_variance_and_pass_gradients(module):
    torch.manual_seed(1)
    mean = torch.tensor([[-3.0, 0.5]]).expand(200_000, 2).clone().requires_grad_()
    log_variance = torch.tensor([[math.log(4), math.log(0.01)]]).expand(200_000, 2).clone().requires_grad_()
    sample = module.reparameterize(mean, log_variance)
    torch.testing.assert_close(sample.mean(0), torch.tensor([-3.0, 0.5]), atol=0.02, rtol=0)
    torch.testing.assert_close(sample.var(0), torch.tensor([4.0, 0.01]), atol=0, rtol=0.02)
    sample.sum().backward()
    assert (mean.grad == 1).all()
    # d sample / d log_variance = noise * std / 2 = (sample - mean) / 2
    torch.testing.assert_close(log_variance.grad, (sample - mean).detach() / 2)


def test_the_elbo_equals_its_sum_over_pixels_and_dimensions_by_hand():
    mean, log_variance = torch.tensor([0.5, -1.0]).double(), torch.tensor([-1.0, 0.3]).double()
    logits = torch.randn(1, 1, 28, 28).double() * 5
    images = torch.rand(3, 1, 28, 28).double()
    recon = [
        -sum(
            x * math.log(1 / (1 + math.exp(-z))) + (1 - x) * math.log(1 - 1 / (1 + math.exp(-z)))
            for x, z in zip(image.flatten().tolist(), logits.flatten().tolist(), strict=True)
        )
        for image in images
    ]
    kl = sum(0.5 * (m * m + math.exp(v) - 1 - v) for m, v in zip(mean.tolist(), log_variance.tolist(), strict=True))
    terms = script.loss(Fixed(mean, log_variance, logits), images, beta=3.0)
    torch.testing.assert_close(terms["recon"], torch.tensor(recon).double())
    assert terms["kl"].tolist() == pytest.approx([kl] * 3)
    torch.testing.assert_close(terms["neg_elbo"], torch.tensor(recon).double() + kl)
    torch.testing.assert_close(terms["loss"], torch.tensor(recon).double() + 3 * kl)


@pytest.mark.parametrize("logit", [-150.0, 150.0])
def test_saturated_logits_keep_finite_and_useful_gradients(logit):
    logits = torch.full((1, 1, 28, 28), logit, requires_grad=True)
    images = torch.full((2, 1, 28, 28), 0.5)
    model = Fixed(torch.zeros(2), torch.zeros(2), logits)
    loss = script.loss(model, images)["loss"].mean()
    loss.backward()
    assert loss.isfinite()
    # d/dlogit of the cross-entropy is sigmoid(logit) - image: one half here, not a vanished gradient.
    torch.testing.assert_close(logits.grad, torch.full_like(logits, math.copysign(0.5, logit)))


def test_the_loss_of_a_batch_is_the_size_weighted_loss_of_its_parts(monkeypatch):
    monkeypatch.setattr(script, "reparameterize", lambda mean, log_variance: mean)
    model, images = script.VariationalAutoencoder(2), torch.rand(7, 1, 28, 28)
    whole = script.loss(model, images)["loss"].mean()
    parts = [script.loss(model, part)["loss"].mean() * len(part) / 7 for part in images.split([2, 5])]
    torch.testing.assert_close(whole, sum(parts))


def test_codes_and_logits_are_fp32_even_if_the_layers_compute_in_bf16():
    model, images = script.VariationalAutoencoder(2), torch.rand(3, 1, 28, 28)
    with torch.autocast("cpu", torch.bfloat16):
        mean, log_variance = model.encode(images)
        assert mean.dtype == log_variance.dtype == model.decode(mean).dtype == torch.float32


def test_training_lowers_the_negative_elbo(trained):
    lines = [json.loads(line) for line in (trained[0] / "run/metrics.jsonl").read_text().splitlines()]
    results = json.loads((trained[0] / "run/results.json").read_text())["test"]
    # Independent pixels at their mean grey levels, which a collapsed model reaches, cost 206 nats.
    assert results["neg_elbo_grey"] < 175 < lines[0]["neg_elbo"]
    assert results["neg_elbo_grey"] == pytest.approx(results["recon_grey"] + results["kl"])


def test_the_results_hold_every_score_and_the_error_of_the_model_on_the_test_split(trained, model, few_digits):
    results = json.loads((trained[0] / "run/results.json").read_text())
    assert set(results["test"]) == {
        "neg_elbo_grey", "neg_elbo_binary", "recon_grey", "kl", "active_units", "mse", "knn",
    }  # fmt: skip
    with torch.no_grad():
        images = to_float(few_digits[1].images)
        assert results["test"]["active_units"] == active_units(model.encode(images)[0])
        error = (model.decode(model.encode(images)[0]).sigmoid() - images).square().mean().item()
    assert results["test"]["mse"] == pytest.approx(error, rel=1e-4)
    binary = binarized(few_digits[1].images, training.EVALUATION_SEED)
    terms = training.evaluate(model, script.loss, binary, torch.device("cpu"))
    assert results["test"]["neg_elbo_binary"] == pytest.approx(terms["neg_elbo"], rel=1e-4)
    with torch.no_grad():  # this evaluation, the script's last, leaves the generator as it did there
        expected = model.decode(torch.randn(100, 2)).sigmoid()
    torch.testing.assert_close(trained[1]["samples"][1], expected, atol=1e-4, rtol=1e-3)


def test_all_figures_are_written_and_show_the_means(trained, model, few_digits):
    names = {path.name for path in (trained[0] / "images").iterdir()}
    own = {"reconstructions.png", "manifold.png", "curves.png", "samples.png", "interpolation.png", "explorer.html"}
    assert names == {"3.png", *(f"vanilla_vae_mnist_{name}" for name in own)}
    drawn = trained[1]["figure"][0]
    with torch.no_grad():
        mean, _ = model.encode(to_float(few_digits[1].images))
    torch.testing.assert_close(torch.from_numpy(drawn.points), mean, atol=1e-4, rtol=1e-4)
    assert (drawn.labels == few_digits[1].labels.numpy()).all()
    assert [circle.radius for circle in drawn.figure("").axes[0].patches] == [1, 2]
    assert content(trained[0] / "images/vanilla_vae_mnist_explorer.html")["prior"] is True
    assert "start_at_mean" in trained[1]


def test_more_dimensions_are_shown_on_a_plane_through_the_priors_centre(few_digits, tmp_path):
    latent = torch.randn(len(few_digits[1].images), 5) + 1
    figures = DigitFigures("", "", tmp_path, "", few_digits[1], latent, lambda codes: codes, prior=True)
    assert (figures.plane.origin == 0).all()


def test_interpolations_begin_and_end_at_the_decoded_ends(trained, model):
    _, rows, lines = trained[1]["interpolations"][:3]
    for row, ends in zip(torch.from_numpy(rows), lines, strict=True):
        for picture, place in zip((row[1], row[-2]), ends, strict=True):
            with torch.no_grad():
                expected = model.decode(torch.from_numpy(place)[None]).sigmoid()[0, 0]
            torch.testing.assert_close(picture, expected, atol=1e-4, rtol=1e-3)


def test_the_manifold_lies_at_the_quantiles_of_the_prior(trained, model):
    grid = torch.from_numpy(trained[1]["manifold"][0])
    normal = torch.distributions.Normal(0.0, 1.0)
    low, high = normal.icdf(torch.tensor(0.5 / 24)), normal.icdf(torch.tensor(23.5 / 24))
    for row, column, place in ((0, 0, (low, high)), (0, 23, (high, high)), (23, 0, (low, low))):
        with torch.no_grad():
            expected = model.decode(torch.tensor([place])).sigmoid()[0, 0]
        torch.testing.assert_close(grid[row, column], expected, atol=1e-4, rtol=1e-3)


def test_a_collapsed_posterior_is_reported(tmp_path, capsys, monkeypatch):
    draw_nothing(monkeypatch, script)
    folders = ["--run-dir", str(tmp_path / "run"), "--images-dir", str(tmp_path / "images")]
    quick = ["--limit", "2000", "--epochs", "1", "--batch-size", "32", "--beta", "1000", "--latent-dim", "3"]
    script.main([*quick, "--precision", "fp32", "--device", "cpu", *folders])
    assert "the posterior has collapsed" in capsys.readouterr().err
    script.main([*QUICK, "--epochs", "1", *folders])
    assert "collapsed" not in capsys.readouterr().err
