"""Runs and their epochs: the batches a training loop gets, the records it keeps, and its guards."""

import shutil
import sysconfig
from argparse import Namespace
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch
from conftest import IMAGES, Mean, make_run, squared_error, train

import common.training.run
from common import training
from common.errors import UserError
from common.training import checkpoint, memory_format, on_device, parallel


def test_a_loop_finds_the_mean_and_keeps_its_history(tmp_path):
    model = Mean()
    history = train(model, squared_error, make_run(tmp_path, epochs=60))
    assert model.level.item() == pytest.approx(IMAGES.float().mean().item() / 255, abs=0.02)
    assert [line["epoch"] for line in history] == list(range(1, 61))
    assert all(line["twice"] == pytest.approx(2 * line["loss"]) for line in history)


@pytest.mark.parametrize("batch_size", [3, 4, 10])
def test_an_epochs_mean_is_over_images_and_not_over_batches(tmp_path, batch_size):
    """The learning rate is nearly zero, so that the model stays the same."""
    model = Mean()
    history = train(model, squared_error, make_run(tmp_path, lr=1e-12, epochs=1), batch_size)
    expected = squared_error(model, IMAGES.float() / 255)["loss"].mean().item()
    assert history[0]["loss"] == pytest.approx(expected, rel=1e-5)


def test_every_epoch_visits_every_image_once_in_another_order(tmp_path):
    seen = []

    def loss(model, images):
        seen.append(images.flatten(1).sum(dim=1))
        return squared_error(model, images)

    train(Mean(), loss, make_run(tmp_path, epochs=2))
    whole = [torch.cat(seen[first : first + 3]) for first in (0, 3)]
    assert torch.equal(*(epoch.sort().values for epoch in whole)) and not torch.equal(*whole)


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

    with pytest.raises(UserError, match="epoch 2, step 3.*lower --lr.*holds epoch 1"):
        train(Mean(), loss, make_run(tmp_path))
    state = checkpoint.load(tmp_path / "checkpoint.pt")
    assert state["epoch"] == 1 and state["model"]["level"].isfinite()


def noisy_and_interrupted_at(call):
    calls = 0

    def loss(model, images):
        nonlocal calls
        calls += 1
        if calls == call:
            raise KeyboardInterrupt
        return {"loss": squared_error(model, images)["loss"] * torch.rand(len(images))}

    return loss


def test_an_interrupted_run_resumes_to_identical_weights(tmp_path):
    straight, broken = Mean(), Mean()
    expected = train(straight, noisy_and_interrupted_at(0), make_run(tmp_path / "a", epochs=4))
    run = make_run(tmp_path / "b", epochs=4)
    with pytest.raises(KeyboardInterrupt):
        train(broken, noisy_and_interrupted_at(8), run)
    again = make_run(tmp_path / "b", epochs=4, resume=True)  # which may be interrupted before its first epoch
    assert "checkpoint.pt holds epoch 2, and --resume continues from it" in run.progress == again.progress
    resumed = Mean()
    history = train(resumed, noisy_and_interrupted_at(0), again)
    assert torch.equal(straight.level, resumed.level)
    assert [line["loss"] for line in history] == [line["loss"] for line in expected]
    assert len((tmp_path / "b" / "metrics.jsonl").read_text().splitlines()) == 4


def test_a_finished_run_is_not_trained_again(tmp_path):
    train(Mean(), squared_error, make_run(tmp_path))
    again = train(Mean(), noisy_and_interrupted_at(1), make_run(tmp_path, resume=True))
    assert len(again) == 2


def test_a_new_models_checkpoint_does_not_lie_beside_another_ones_scores(tmp_path):
    train(Mean(), squared_error, run := make_run(tmp_path))
    run.write_results("digits", {"mse": 0.1})
    train(Mean(), squared_error, make_run(tmp_path, resume=True))
    assert (tmp_path / "results.json").exists(), "no epoch was left"
    train(Mean(), squared_error, make_run(tmp_path))
    assert not (tmp_path / "results.json").exists()


def test_scores_that_are_not_finite_are_refused_in_one_line(tmp_path):
    train(Mean(), squared_error, run := make_run(tmp_path))
    with pytest.raises(UserError, match=r"not finite.*lower --lr.*'kl': inf"):
        run.write_results("digits", {"mse": 0.1, "kl": float("inf")})
    assert not (tmp_path / "results.json").exists()


def test_a_resumed_run_with_more_epochs_continues_at_its_place_in_the_longer_cycle(tmp_path):
    train(Mean(), squared_error, make_run(tmp_path))
    history = train(Mean(), squared_error, make_run(tmp_path, resume=True, epochs=8))
    # Six of eight epochs are left; the learning rate of epoch 3 is near its peak, not at the end of a cycle.
    assert len(history) == 8 and history[2]["lr"] > 0.09 > 0.012 > history[1]["lr"]


def test_every_seed_epoch_step_and_process_draws_its_own_noise(tmp_path, monkeypatch):
    drawn = []

    def loss(model, images):
        drawn.append(torch.rand(1).item())
        return squared_error(model, images)

    train(Mean(), loss, make_run(tmp_path / "a"))
    train(Mean(), loss, make_run(tmp_path / "b", seed=1))
    monkeypatch.setattr(parallel, "rank", lambda: 1)
    train(Mean(), loss, make_run(tmp_path / "c"))
    assert len(drawn) == len(set(drawn)) == 18


def test_the_arguments_that_shape_a_result_are_those_that_a_resumed_run_must_repeat(tmp_path):
    free = {"faces": "x", "device": "cpu", "data_dir": "d", "images_dir": "i"}
    bound = {"beta": 2.0, "limit": 5, "dataset": "d", "size": 32, "ae": True, "noise": 0.5, "latent_dim": 3}
    assert set(make_run(tmp_path, **free, **bound).arguments) == {"batch_size", "lr", "seed", *bound}


def test_a_checkpoint_of_another_version_of_the_model_is_refused(tmp_path):
    train(Mean(), squared_error, make_run(tmp_path))
    path = tmp_path / "checkpoint.pt"
    checkpoint.save(path, checkpoint.load(path) | {"model": {"other": torch.ones(3)}})
    with pytest.raises(UserError, match="doesn't fit this version"):
        train(Mean(), squared_error, make_run(tmp_path, resume=True))


def test_other_arguments_and_other_data_are_refused_by_name(tmp_path):
    train(Mean(), squared_error, make_run(tmp_path))
    for change, name in (({"lr": 0.2}, "--lr"), ({"batch_size": 5}, "--batch-size"), ({"epochs": 1}, "--epochs 1")):
        with pytest.raises(UserError, match=name):
            train(Mean(), squared_error, make_run(tmp_path, resume=True, **change))
    run = make_run(tmp_path, resume=True)
    run.data = "other images"
    with pytest.raises(UserError, match="not on other images"):
        train(Mean(), squared_error, run)


def test_a_resumed_run_keeps_the_precision_of_its_checkpoint(tmp_path, capsys):
    train(Mean(), squared_error, make_run(tmp_path, precision="bf16", epochs=1))
    resumed = make_run(tmp_path, precision="auto", resume=True)
    train(Mean(), squared_error, resumed)
    assert resumed.precision == "bf16" and "that of the checkpoint" in capsys.readouterr().out


@pytest.mark.parametrize(("precision", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_a_step_computes_in_the_runs_precision(tmp_path, precision, dtype):
    seen = set()

    def loss(model, images):
        seen.add((images.flatten(1) @ images.flatten(1).T).dtype)
        return squared_error(model, images)

    train(Mean(), loss, make_run(tmp_path, precision=precision))
    assert seen == {dtype}


def test_an_epochs_batches_are_augmented(tmp_path):
    run, model = make_run(tmp_path, epochs=1), Mean()
    for epoch in run.epochs(model, training.Optimizer(model, 0.1), IMAGES, 4, augment=torch.zeros_like):
        assert not any(batch.any() for batch in epoch)


def test_pytorch_without_its_distributed_package_is_enough(monkeypatch):
    for name in ("is_initialized", "is_torchelastic_launched", "get_rank", "get_world_size"):
        monkeypatch.delattr(parallel.dist, name)
    monkeypatch.setattr(parallel.dist, "is_available", lambda: False)
    assert (parallel.rank(), parallel.world()) == (0, 1)
    assert parallel.local_device(torch.device("cpu")) == torch.device("cpu")
    with parallel.joined(torch.device("cpu")):
        parallel.part()


def test_each_process_of_a_machine_has_its_own_accelerator(monkeypatch):
    chosen = Mock()
    monkeypatch.setattr(parallel, "launched", lambda: True)
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 2)
    monkeypatch.setattr(torch.accelerator, "set_device_index", chosen)
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert parallel.local_device(torch.device("cuda")) == torch.device("cuda", 1)
    chosen.assert_called_once_with(1)
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(UserError, match="exceeds the 2 cuda devices"):
        parallel.local_device(torch.device("cuda"))


def test_a_data_set_that_does_not_fit_stays_on_the_host(monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (IMAGES.nbytes, 0))
    assert on_device(IMAGES, torch.device("cuda")) is IMAGES
    monkeypatch.setattr(torch.mps, "recommended_max_memory", lambda: 3 * IMAGES.nbytes)
    monkeypatch.setattr(torch.mps, "driver_allocated_memory", lambda: 2 * IMAGES.nbytes)
    assert on_device(IMAGES, torch.device("mps")) is IMAGES


@pytest.mark.parametrize(
    ("name", "layout"),
    [("cpu", torch.channels_last), ("cuda", torch.channels_last), ("mps", torch.contiguous_format)],
)
def test_models_and_images_are_channels_last_except_on_mps(monkeypatch, name, layout):
    """The CPU stands in for absent devices: `to` brings the images there."""
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (1e9, 0))
    monkeypatch.setattr(torch.mps, "recommended_max_memory", lambda: 1e9)
    monkeypatch.setattr(torch.mps, "driver_allocated_memory", lambda: 0)
    to = torch.Tensor.to
    monkeypatch.setattr(torch.Tensor, "to", lambda images, device, **options: to(images, "cpu", **options))
    images = on_device(torch.zeros(2, 4, 4, 3).permute(0, 3, 1, 2), torch.device(name))
    assert images.is_contiguous(memory_format=layout)
    assert memory_format(torch.device(name)) == layout


def test_fp32_on_cuda_is_not_tf32(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)  # and restore it after the test
    monkeypatch.setattr(common.training.run, "choose_device", lambda name: torch.device("cuda"))
    folders = {"run_dir": tmp_path / "run", "images_dir": tmp_path / "images"}
    with training.start("test", Namespace(**folders, device="cuda", precision="fp32", seed=0, resume=False)):
        assert not torch.backends.cudnn.allow_tf32


COMPILER = shutil.which("g++") or shutil.which("clang++")
HEADERS = Path(sysconfig.get_path("include"), "Python.h").exists()


@pytest.mark.skipif(not (COMPILER and HEADERS), reason="needs a C++ compiler and Python's headers")
def test_a_compiled_step_trains_the_same_model_and_compiles_nothing_after_the_first_epoch(tmp_path, capsys):
    """Its batches are of 4 and 3 images: by default, a second size would make `torch.compile` start again."""
    models, graphs = [Mean(), Mean()], []
    train(models[0], squared_error, make_run(tmp_path / "plain", epochs=3))
    torch._dynamo.utils.counters.clear()
    run = make_run(tmp_path / "compiled", epochs=3, compile=True)
    with torch._inductor.config.patch(compile_threads=1):  # a pool of compilers takes longer to start than these steps
        counted = torch._dynamo.utils.counters["stats"]
        train(models[1], squared_error, run, after=lambda: graphs.append(counted["unique_graphs"]))
    assert "fails here" not in capsys.readouterr().err
    assert graphs[0] == graphs[-1] == 2
    assert models[1].level.item() == pytest.approx(models[0].level.item(), rel=1e-4)
    assert list(checkpoint.load(tmp_path / "compiled/checkpoint.pt")["model"]) == ["level"]


@pytest.mark.parametrize(
    ("error", "reason"), [(RuntimeError("no compiler\nat all"), "no compiler"), (OSError(), "OSError")]
)
def test_if_nothing_can_be_compiled_the_run_says_so_and_continues(tmp_path, monkeypatch, capsys, error, reason):
    def broken(*_):
        raise error

    monkeypatch.setattr(torch, "compile", lambda module, dynamic: broken)
    plain = train(Mean(), squared_error, make_run(tmp_path / "plain"))
    without = train(Mean(), squared_error, make_run(tmp_path / "compiled", compile=True))
    assert f"torch.compile fails here ({reason}); training continues without it" in capsys.readouterr().err
    assert [line["loss"] for line in without] == [line["loss"] for line in plain]
