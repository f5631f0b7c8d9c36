"""The training loop, its schedule, its evaluation and its guards."""

from argparse import Namespace

import pytest
import torch
from torch import nn

from common.training import checkpoint
from common.training import run as training
from common.errors import UserError


class Mean(nn.Module):
    """The smallest model: one number, fitted to the mean grey level."""

    def __init__(self):
        super().__init__()
        self.level = nn.Parameter(torch.zeros(()))


def squared_error(model, images):
    error = (images - model.level).square().flatten(1).mean(dim=1)
    return {"loss": error, "twice": 2 * error}


def make_run(tmp_path, **changes):
    arguments = {
        "epochs": 2,
        "batch_size": 4,
        "lr": 0.1,
        "seed": 0,
        "resume": False,
        "compile": False,
        "run_dir": tmp_path,
        **changes,
    }
    return training.Run("test", Namespace(**arguments), torch.device("cpu"), "fp32")


IMAGES = torch.randint(0, 256, (10, 1, 4, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_the_learning_rate_warms_up_and_ends_at_zero():
    rates = [0.5 * training.learning_rate(step / 1000) for step in range(1001)]
    assert rates[0] == 0 and max(rates) == rates[200] == 0.5 and rates[-1] == pytest.approx(0)
    assert rates[100] == pytest.approx(0.25) and rates[600] == pytest.approx(0.25)


def test_fit_finds_the_mean_and_keeps_its_history(tmp_path):
    model = Mean()
    history = training.fit(model, squared_error, IMAGES, make_run(tmp_path, epochs=60))
    assert model.level.item() == pytest.approx(IMAGES.float().mean().item() / 255, abs=0.02)
    assert [line["epoch"] for line in history] == list(range(1, 61))
    assert all(line["twice"] == pytest.approx(2 * line["loss"]) for line in history)


def test_the_short_last_batch_counts_by_its_size(tmp_path):
    """With a learning rate of nearly zero, the epoch's mean is the mean over images, not over batches."""
    model = Mean()
    history = training.fit(model, squared_error, IMAGES, make_run(tmp_path, lr=1e-12, epochs=1))
    expected = squared_error(model, IMAGES.float() / 255)["loss"].mean().item()
    assert history[0]["loss"] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("batch", [1, 3, 10, 500])
def test_evaluation_does_not_depend_on_the_batch_size(monkeypatch, batch):
    monkeypatch.setattr(training, "EVALUATION_BATCH", batch)
    scores = training.evaluate(Mean(), squared_error, IMAGES, torch.device("cpu"))
    assert scores["loss"] == pytest.approx((IMAGES.double() / 255).square().mean().item(), rel=1e-6)


def test_compute_keeps_the_order_and_the_rows(monkeypatch):
    monkeypatch.setattr(training, "EVALUATION_BATCH", 3)
    result = training.compute(lambda batch: batch.flatten(1)[:, :2], IMAGES, torch.device("cpu"))
    torch.testing.assert_close(result, IMAGES.flatten(1)[:, :2] / 255)


@pytest.mark.parametrize("broken", ["loss", "gradient"])
def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_last_good_epoch(tmp_path, broken):
    calls = 0

    def loss(model, images):
        nonlocal calls
        calls += 1
        terms = squared_error(model, images)
        if calls >= 6:  # epoch 2, step 3: the last
            if broken == "gradient":
                terms["loss"] = terms["loss"] + (model.level - model.level.detach()).sqrt()
            else:
                terms["loss"] = terms["loss"] / 0
        return terms

    with pytest.raises(UserError, match="epoch 2, step 3.*lower --lr.*keeps epoch 1"):
        training.fit(Mean(), loss, IMAGES, make_run(tmp_path))
    state = checkpoint.load(tmp_path / "checkpoint.pt")
    assert state["epoch"] == 1 and state["model"]["level"].isfinite()


def interrupted_at(call):
    calls = 0

    def loss(model, images):
        nonlocal calls
        calls += 1
        if calls == call:
            raise KeyboardInterrupt
        return {"loss": squared_error(model, images)["loss"] * torch.rand(len(images))}

    return loss


def test_an_interrupted_run_resumes_to_the_same_bits(tmp_path):
    straight, broken = Mean(), Mean()
    expected = training.fit(straight, interrupted_at(0), IMAGES, make_run(tmp_path / "a", epochs=4))
    with pytest.raises(KeyboardInterrupt, match=r"epoch 2 is in .*checkpoint\.pt"):
        training.fit(broken, interrupted_at(8), IMAGES, make_run(tmp_path / "b", epochs=4))
    resumed = Mean()
    history = training.fit(resumed, interrupted_at(0), IMAGES, make_run(tmp_path / "b", epochs=4, resume=True))
    assert torch.equal(straight.level, resumed.level)
    assert [line["loss"] for line in history] == [line["loss"] for line in expected]
    assert len((tmp_path / "b" / "metrics.jsonl").read_text().splitlines()) == 4


def test_a_finished_run_is_not_trained_again(tmp_path):
    training.fit(Mean(), squared_error, IMAGES, make_run(tmp_path))
    again = training.fit(Mean(), interrupted_at(1), IMAGES, make_run(tmp_path, resume=True))
    assert len(again) == 2


def test_other_arguments_are_refused_by_name(tmp_path):
    training.fit(Mean(), squared_error, IMAGES, make_run(tmp_path))
    for change, name in (({"lr": 0.2}, "--lr"), ({"batch_size": 5}, "--batch-size"), ({"epochs": 1}, "--epochs 1")):
        with pytest.raises(UserError, match=name):
            training.fit(Mean(), squared_error, IMAGES, make_run(tmp_path, resume=True, **change))


def test_precision_and_device():
    cpu = torch.device("cpu")
    assert training.choose_device("cpu") == cpu
    assert training.choose_precision("fp32", cpu) == "fp32"
    assert training.choose_precision("bf16", cpu) == "bf16"
    absent = "mps" if not torch.backends.mps.is_available() else "cuda"
    with pytest.raises(UserError, match=f"--device {absent}"):
        training.choose_device(absent)


def test_where_nothing_can_be_compiled_the_run_says_so_and_goes_on(tmp_path, monkeypatch, capsys):
    def broken(*_):
        raise RuntimeError("no compiler\nat all")

    monkeypatch.setattr(torch, "compile", lambda function: broken)
    plain = training.fit(Mean(), squared_error, IMAGES, make_run(tmp_path / "plain"))
    without = training.fit(Mean(), squared_error, IMAGES, make_run(tmp_path / "compiled", compile=True))
    assert "torch.compile doesn't work here (no compiler), going on without" in capsys.readouterr().err
    assert [line["loss"] for line in without] == [line["loss"] for line in plain]


def test_a_compiled_step_trains_the_same_model(tmp_path):
    models = [Mean(), Mean()]
    for number, model in enumerate(models):
        training.fit(model, squared_error, IMAGES, make_run(tmp_path / str(number), compile=bool(number)))
    torch.testing.assert_close(models[1].level, models[0].level)
    assert list(checkpoint.load(tmp_path / "1/checkpoint.pt")["model"]) == ["level"]
