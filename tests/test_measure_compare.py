"""The recipes that ours is compared with, and the program on a few images."""

import json

import compare
import pytest
import torch
from test_measure_claims import quick  # noqa: F401

from common import training


def test_the_networks_have_the_published_numbers_of_parameters():
    networks = compare.perceptron(400, latent_dim=20), compare.keras_network(), compare.pytorch_vae_network()
    counts = [sum(weight.numel() for weight in network.parameters()) for network in networks]
    assert counts == [652_824, 65_089 + 69_076, 3_937_635]


def test_the_loss_of_pytorch_vae_weighs_the_kl_as_published():
    images, model = torch.rand(2, 3, 64, 1).expand(2, 3, 64, 64), compare.pytorch_vae_network().eval()  # own mirrors
    mean, log_variance = model.encode(images)
    posterior, prior = (torch.distributions.Normal(*both) for both in ((mean, (log_variance / 2).exp()), (0.0, 1.0)))
    kl = torch.distributions.kl_divergence(posterior, prior).sum(dim=1).mean()
    torch.manual_seed(1)
    torch.rand(2, 1, 1, 1)  # which faces are mirrored
    pictures = model.decode(mean + posterior.scale * torch.randn_like(mean))
    torch.manual_seed(1)
    expected = (pictures - images).square().mean() + 0.00025 * kl
    torch.testing.assert_close(compare.pytorch_vae_loss(model, images)["loss"].mean(), expected)


@pytest.mark.parametrize("task", ["vae2", "faces"])
def test_every_ablation_changes_the_model_and_is_kept(quick, task, tmp_path, capsys, monkeypatch):  # noqa: F811
    compare.main(["ablations", *quick, "--tasks", task])
    printed = capsys.readouterr().out
    lines = [json.loads(line) for line in (tmp_path / "results/quick/compare.jsonl").read_text().splitlines()]
    scores = {line["row"]: line["neg_elbo"] for line in lines}
    assert len(lines) == len(scores) == {"vae2": 13, "faces": 12}[task]
    assert [row for row, value in scores.items() if value == scores["the defaults"]] == ["the defaults"]
    monkeypatch.setattr(training, "start", None)  # nothing is trained again
    compare.main(["ablations", *quick, "--tasks", task])
    again = capsys.readouterr().out
    assert again.count("|") > 50 and printed.endswith(again)


def test_recipes_are_drawn_beside_ours(quick, tmp_path, capsys):  # noqa: F811
    compare.main(["recipes", *quick, "--tasks", "vae2", "vae20"])
    printed = capsys.readouterr().out
    for row in ("Keras' example", "PyTorch's example", "ours, fp32, --epochs 4"):
        assert f"| {row} | 1 |" in printed
    assert (tmp_path / "compare_recipes.png").read_bytes().startswith(b"\x89PNG")


def test_faces_are_compared_where_some_are_given(quick, monkeypatch):  # noqa: F811
    tasks = []
    monkeypatch.setattr(compare, "measured", lambda name, args: tasks.append(name))
    compare.main(["ablations", *quick])
    compare.main(["ablations", *(flag for flag in quick if flag not in ("--faces", "drawn"))])
    assert tasks == ["vae2", "vae20", "faces", "vae2", "vae20"]
