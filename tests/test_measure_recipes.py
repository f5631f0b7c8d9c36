"""The recipes that ours is compared with: their networks, their losses, and the program on a few images."""

import dataclasses
import functools
import json
import math
from argparse import Namespace

import pytest
import torch
from conftest import ROOT, draw_nothing
from measure import published, recipes, recipes_report
from torch.distributions import Bernoulli, Normal, kl_divergence

from common.data import faces as celeba
from common.data.digits import Digits
from common.training import device

IMAGES = torch.rand(6, 1, 28, 28, generator=torch.Generator().manual_seed(0))
SCRIPTS = (recipes.vanilla_ae, recipes.vanilla_vae_mnist, recipes.vanilla_vae_celeba)
VAES = [published.pytorch(), published.pytorch(our_data_path=True), published.keras(), published.plain(8, latent_dim=3)]


def count(model):
    return sum(weight.numel() for weight in model.parameters())


def test_the_networks_have_the_published_numbers_of_parameters():
    assert count(published.pytorch().build()) == 652_824
    keras = published.keras().build()
    assert count(keras.decoder) == 65_089 and count(keras) == 65_089 + 69_076
    umap = published.parametric_umap().build()
    assert (count(umap.encode), count(umap.decode)) == (2_435_330, 6_806_017)
    faces = published.pytorch_vae().build()
    halves = [3, 32, 64, 128, 256, 512], [512, 256, 128, 64, 32, 32]
    layers = [9 * a * b + b + 2 * b for half in halves for a, b in zip(half, half[1:], strict=False)]
    heads, dense, last = 2 * (2048 * 128 + 128), 128 * 2048 + 2048, 9 * 32 * 3 + 3
    assert count(faces) == sum(layers) + heads + dense + last == 3_937_635


@pytest.mark.parametrize("recipe", VAES, ids=lambda recipe: recipe.name)
def test_the_loss_of_digits_is_the_negative_elbo_by_torch_distributions(recipe):
    torch.manual_seed(0)
    model = recipe.build()
    mean, log_variance = model.encode(IMAGES)
    posterior = Normal(mean, (log_variance / 2).exp())
    torch.manual_seed(1)
    latent = mean + posterior.scale * torch.randn_like(mean)
    # Grey levels aren't outcomes of a Bernoulli variable, but its log-probability accepts them.
    recon = -Bernoulli(logits=model.decode(latent), validate_args=False).log_prob(IMAGES).flatten(1).sum(dim=1)
    expected = recon + kl_divergence(posterior, Normal(0.0, 1.0)).sum(dim=1)
    torch.manual_seed(1)
    summed = recipe.name == "PyTorch's example"
    torch.testing.assert_close(recipe.loss(model, IMAGES), expected.sum() if summed else expected.mean())


def test_the_loss_of_faces_weighs_the_kl_as_published():
    recipe, images = published.pytorch_vae(), torch.rand(2, 3, 64, 64)
    model = recipe.build().eval()
    mean, log_variance = model.encode(images)
    kl = kl_divergence(Normal(mean, (log_variance / 2).exp()), Normal(0.0, 1.0)).sum(dim=1).mean()
    torch.manual_seed(1)
    pictures = model.decode(mean + (log_variance / 2).exp() * torch.randn_like(mean))
    torch.manual_seed(1)
    expected = (pictures - images).square().mean() + 0.00025 * kl
    torch.testing.assert_close(recipe.loss(model, images), expected)


def test_the_learning_rates_follow_the_published_schedules():
    weight = torch.nn.Parameter(torch.zeros(()))
    optimizer = published.pytorch_vae().optimizer([weight])
    decay = published.pytorch_vae().schedule(optimizer, 10, 2)
    rates = []
    for _ in range(20):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        decay.step()
    assert rates[:10] == [0.005] * 10 and rates[10:] == pytest.approx([0.005 * 0.95] * 10)
    assert published.pytorch().schedule is published.keras().schedule is None


def measured(recipe, epochs, score):
    images, device = (IMAGES * 255).byte(), torch.device("cpu")
    batches = functools.partial(recipes.tensor_batches, images=images, device=device)
    return recipes.measured(recipe, recipes.Task("", images, batches, score, None), epochs, device)


def test_scoring_between_the_epochs_does_not_change_training():
    weights = []
    for score in (lambda model: {}, lambda model: {"x": torch.manual_seed(3).seed() * 0 + 1}):
        kept = []

        def scored(model, score=score, kept=kept):
            kept[:] = [parameter.detach().clone() for parameter in model.parameters()]
            return score(model)

        recipe = dataclasses.replace(published.plain(8, latent_dim=2), cycle=False)
        measured(recipe, 3, scored)
        weights.append(kept)
    assert all(torch.equal(*pair) for pair in zip(*weights, strict=True))


def test_each_point_of_a_one_cycle_recipe_is_the_end_of_a_cycle():
    lengths = []

    def schedule(optimizer, steps, epochs):
        lengths.append(epochs)
        return published.one_cycle(1e-3)(optimizer, steps, epochs)

    recipe = dataclasses.replace(published.plain(8, latent_dim=2), schedule=schedule)
    curve = measured(recipe, 10, lambda model: {})["curve"]
    assert lengths == [point["epochs"] for point in curve] == [1, 3, 5, 8, 10]
    lengths.clear()
    constant = dataclasses.replace(recipe, cycle=False)
    assert len(measured(constant, 10, lambda model: {})["curve"]) == 5 and lengths == [10]


@pytest.mark.parametrize("budget", [0.5, 1.5, 4.0, 10.0, 33.0, 100.0])
def test_ours_gets_nearly_all_of_a_budget_and_never_more(budget):
    runs = {}

    def run(epochs):
        # Epochs of short runs are slower, since their batches are smaller, and start-up takes time too.
        runs.setdefault(epochs, {"seconds": 0.3 + epochs * (1 + 1 / epochs)})

    epochs = recipes.within(budget, run, runs)
    if budget < runs[1]["seconds"]:
        assert epochs is None
    else:
        assert runs[epochs]["seconds"] <= budget
        assert runs[epochs]["seconds"] >= recipes.FULL * budget or 0.3 + (epochs + 1) + 1 > budget
    made = len(runs)
    assert recipes.within(budget, run, runs) == epochs and len(runs) == made <= 8


def test_the_time_to_a_score_is_found_between_two_runs():
    loss, accuracy = recipes_report.Score("x", "", ""), recipes_report.Score("x", "", "", more=True)
    runs = [{"seconds": seconds, "x": x} for seconds, x in ((1, 100.0), (4, 90.0), (16, 80.0))]
    assert recipes_report.as_soon(loss, 95, runs) == (pytest.approx(2), False)
    assert recipes_report.as_soon(loss, 80, runs) == (pytest.approx(16), False)
    lucky = [{"seconds": 0.1, "x": 85.0}, *runs]
    assert recipes_report.as_soon(loss, 90, lucky) == (pytest.approx(4), False)
    assert recipes_report.as_soon(loss, 79, runs) == (math.inf, False)
    assert recipes_report.as_soon(loss, 101, runs) == (1, True)
    assert recipes_report.as_soon(accuracy, 79, runs) == (1, True)
    assert recipes_report.as_soon(accuracy, 95, runs[::-1]) == (pytest.approx(2), False)


def test_each_budget_shows_the_longest_of_our_runs_that_fits(capsys):
    group = recipes.GROUPS["ae"]
    ours = {str(n): {"epochs": n, "seconds": 10 * n, "mse": n / 100, "knn": 0.9} for n in (1, 2, 3)}
    curve = [{"epochs": 3, "seconds": 25, "mse": 0.02, "knn": 0.8}]
    about = {"images": 5, "machine": "2 cores", "torch": "2"}
    found = {"about": about, "recipes": {group.recipes[0].name: {"curve": curve}}, "ours": ours}
    recipes_report.print_table(group, found)
    row = next(line for line in capsys.readouterr().out.splitlines() if "| MSE |" in line)
    assert [cell.strip() for cell in row.split("|")[5:9]] == ["", "0.0100 (1)", "0.0200 (2)", "0.0300 (3)"]


@pytest.fixture
def small(monkeypatch, digits):
    """Few digits for the recipes and for the scripts, which run in this process."""
    train, test = (Digits(part.images[:600], part.labels[:600], part.classes) for part in digits)
    calls = []

    def run_script(name, flags):
        calls.append(flags)
        {module.SCRIPT: module for module in SCRIPTS}[name].main(flags)

    monkeypatch.setattr(recipes, "run_script", run_script)
    monkeypatch.setattr(recipes, "QUICK", {"digits": 300, "faces": 100})
    for module in (recipes, recipes.vanilla_ae, recipes.vanilla_vae_mnist):
        monkeypatch.setattr(module, "load_digits", lambda *_: (train, test))
    monkeypatch.setattr(device, "SECONDS", 0.0)
    draw_nothing(monkeypatch, *SCRIPTS)
    return calls


def test_the_program_measures_prints_and_draws(small, tmp_path, capsys, monkeypatch):
    # The recipes seem to take ten seconds, so that ours gets time at any speed of the machine.
    train = recipes.Recipe.train
    monkeypatch.setattr(recipes.Recipe, "train", lambda *a: ((epoch, 10.0) for epoch, _ in train(*a)))
    monkeypatch.setattr(recipes, "FULL", 0.0)
    folders = ["--runs-dir", str(tmp_path), "--images-dir", str(tmp_path), "--data-dir", str(ROOT / "data")]
    flags = ["digits20", "ae", "--quick", "--device", "cpu", *folders]
    recipes.main(flags)
    printed = capsys.readouterr().out
    groups = json.loads((tmp_path / "measure/recipes_quick.json").read_text())["groups"]
    for name, found in groups.items():
        script = recipes.GROUPS[name].script.SCRIPT
        ours = json.loads((tmp_path / f"measure/recipes_quick/{name}_1/results.json").read_text())
        assert (ours["script"], ours["train_images"]) == (script, 300)
        point = found["ours"]["1"]
        assert all(point[score.key] == ours["test"][score.key] for score in recipes.GROUPS[name].scores)
        for recipe in recipes.GROUPS[name].recipes:
            row = found["recipes"][recipe.name]
            assert row["parameters"] == count(recipe.build()) and row["curve"][-1]["epochs"] == 1
            lines = [line for line in printed.splitlines() if line.startswith(f"| {recipe.name} (1 of ")]
            assert all(line.count(" (1) |") == len(recipes.BUDGETS) and "| 10.0 |" in line for line in lines)
            assert len(lines) == len(recipes.GROUPS[name].scores)
    assert small[0][:4] == ["--latent-dim", "20", "--epochs", "1"] and small[0][-2:] == ["--limit", "300"]
    drawn = tmp_path / "recipes_quick.png"
    assert drawn.read_bytes().startswith(b"\x89PNG")

    # Existing runs are not measured again, and --draw measures nothing at all.
    drawn.unlink()
    monkeypatch.setattr(recipes, "measured", None)
    monkeypatch.setattr(recipes, "our_run", None)
    recipes.main(flags)
    again = capsys.readouterr().out
    recipes.main(["--draw", "--quick", *folders])
    assert again in printed
    assert capsys.readouterr().out == again and drawn.exists()


def test_the_recipe_of_faces_is_measured_and_scored(small, tmp_path, monkeypatch):
    monkeypatch.setattr(celeba, "DRAWN_COUNTS", (200, 20, 150))
    monkeypatch.setattr(recipes, "FULL", 0.0)
    folders = ["--runs-dir", str(tmp_path), "--images-dir", str(tmp_path), "--data-dir", str(tmp_path)]
    recipes.main(["faces", "--quick", "--faces", "drawn", "--device", "cpu", *folders])
    found = json.loads((tmp_path / "measure/recipes_quick.json").read_text())["groups"]["faces"]
    points = found["recipes"]["PyTorch-VAE's vanilla VAE"]["curve"] + list(found["ours"].values())
    assert len(points) >= 2
    for point in points:
        assert 0 < point["mse"] < 0.5 and point["kl"] > 0 and point["frechet_samples"] > 0


def test_a_recipe_is_scored_as_the_script_scores_itself(small, tmp_path):
    """The script's own network, scored by the program, has the scores in the script's results.json."""
    args = Namespace(data_dir=ROOT / "data", quick=True)
    for name in ("digits2", "ae"):
        group, folder = recipes.GROUPS[name], tmp_path / name
        flags = ["--data-dir", str(ROOT / "data"), "--device", "cpu", "--limit", "300", "--epochs", "1"]
        group.script.main([*flags, "--run-dir", str(folder), "--images-dir", str(folder)])
        network = vars(group.script).get("Autoencoder") or group.script.VariationalAutoencoder
        model = network(2)
        model.load_state_dict(recipes.checkpoint.load(folder / "checkpoint.pt")["model"])
        task = recipes.digits_task(group, args, torch.device("cpu"))
        scores, wanted = task.score(model), json.loads((folder / "results.json").read_text())["test"]
        assert scores == pytest.approx({key: wanted[key] for key in scores}, rel=1e-6)
