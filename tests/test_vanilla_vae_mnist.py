"""The variational autoencoder's script: its ELBO, its training, what it leaves behind."""

import json
import math

import pytest
import torch
from browser import content
from conftest import draw_nothing
from torch.distributions import Normal
from torch.distributions import kl_divergence as reference_kl

import vanilla_ae
import vanilla_vae_celeba
import vanilla_vae_mnist as script
from common import training
from common.data.batches import binarized, to_float
from common.metrics import active_units

QUICK = ["--limit", "3000", "--epochs", "3", "--batch-size", "64", "--precision", "fp32", "--device", "cpu"]


@pytest.fixture(scope="module", autouse=True)
def reads_few_digits(few_digits):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(script, "load_digits", lambda *_: few_digits)
        yield


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The folder of a short run of the whole script."""
    folder = tmp_path_factory.mktemp("vae")
    script.main([*QUICK, "--run-dir", str(folder / "run"), "--images-dir", str(folder / "images")])
    return folder


class Fixed(script.VariationalAutoencoder):
    """Posterior and logits as given, whatever the image."""

    def __init__(self, mean, log_variance, logits):
        super().__init__(len(mean))
        self.posterior, self.logits = (mean, log_variance), logits

    def encode(self, images):
        return tuple(part.expand(len(images), -1) for part in self.posterior)

    def decode(self, latent):
        return self.logits.expand(len(latent), 1, 28, 28)


@pytest.mark.parametrize("module", [script, vanilla_ae])
def test_the_decoder_starts_at_the_mean_image(module, few_digits, tmp_path, monkeypatch):
    flags = ["--epochs", "1", "--lr", "1e-9", "--precision", "fp32", "--run-dir", str(tmp_path)]
    monkeypatch.setattr(module, "load_digits", lambda *_: few_digits)
    draw_nothing(monkeypatch, module)
    module.main([*flags, "--images-dir", str(tmp_path)])
    bias = module.load(tmp_path / "checkpoint.pt").decoder[-1].bias
    expected = to_float(few_digits[0].images).mean(dim=0).flatten().clamp(0.001, 0.999)
    torch.testing.assert_close(bias.sigmoid(), expected, atol=1e-4, rtol=1e-3)


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


def test_the_loss_of_a_batch_is_the_size_weighted_loss_of_its_parts(monkeypatch):
    monkeypatch.setattr(script, "reparameterize", lambda mean, log_variance: mean)
    model, images = script.VariationalAutoencoder(2), torch.rand(7, 1, 28, 28)
    whole = script.loss(model, images)["loss"].mean()
    parts = [script.loss(model, part)["loss"].mean() * len(part) / 7 for part in images.split([2, 5])]
    torch.testing.assert_close(whole, sum(parts))


MODELS = [vanilla_ae.Autoencoder(2), script.VariationalAutoencoder(2), vanilla_vae_celeba.VariationalAutoencoder(2, 32)]


@pytest.mark.parametrize(("model", "shape"), [*zip(MODELS, [(1, 28, 28), (1, 28, 28), (3, 32, 32)], strict=True)])
def test_codes_and_pictures_are_fp32_even_if_the_layers_compute_in_bf16(model, shape):
    with torch.autocast("cpu", torch.bfloat16):
        codes = model.encode(torch.rand(2, *shape))
        codes = codes if isinstance(codes, tuple) else (codes,)
        assert {part.dtype for part in (*codes, model.decode(codes[0]))} == {torch.float32}


def test_training_lowers_the_negative_elbo_and_the_results_are_those_of_the_model_on_the_test_split(
    trained, few_digits
):
    lines = [json.loads(line) for line in (trained / "run/metrics.jsonl").read_text().splitlines()]
    results = json.loads((trained / "run/results.json").read_text())["test"]
    # Independent pixels at their mean grey levels, which a collapsed model reaches, cost 206 nats.
    assert results["neg_elbo_grey"] < 175 < lines[0]["neg_elbo"]
    model, images = script.load(trained / "run/checkpoint.pt"), few_digits[1].images
    grey = training.evaluate(model, script.loss, images)
    binary = training.evaluate(model, script.loss, binarized(images, training.EVALUATION_SEED))
    with torch.no_grad():
        mean = model.encode(to_float(images))[0]
        error = (model.decode(mean).sigmoid() - to_float(images)).square().mean().item()
    expected = {"neg_elbo_grey": grey["neg_elbo"], "recon_grey": grey["recon"], "kl": grey["kl"], "mse": error}
    expected |= {"neg_elbo_binary": binary["neg_elbo"], "active_units": active_units(mean)}
    assert results.pop("knn") > 0.3
    assert results == {name: pytest.approx(value, rel=1e-4) for name, value in expected.items()}


def test_all_figures_and_the_page_are_written(trained):
    names = {path.name for path in (trained / "images").iterdir()}
    own = {"reconstructions.png", "manifold.png", "curves.png", "samples.png", "interpolation.png", "explorer.html"}
    assert names == {"3.png", *(f"vanilla_vae_mnist_{name}" for name in own)}
    assert content(trained / "images/vanilla_vae_mnist_explorer.html")["prior"] is True


def test_a_collapsed_posterior_is_reported(tmp_path, capsys, monkeypatch):
    draw_nothing(monkeypatch, script)
    folders = ["--run-dir", str(tmp_path / "run"), "--images-dir", str(tmp_path / "images")]
    quick = ["--limit", "2000", "--epochs", "1", "--batch-size", "32", "--beta", "1000", "--latent-dim", "3"]
    script.main([*quick, "--precision", "fp32", "--device", "cpu", *folders])
    assert "the posterior has collapsed" in capsys.readouterr().err
    script.main([*QUICK, "--epochs", "1", *folders])
    assert "collapsed" not in capsys.readouterr().err
