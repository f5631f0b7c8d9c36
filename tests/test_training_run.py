"""Runs and their epochs: the batches a training loop gets, the records it keeps, and its guards."""

import time
from argparse import Namespace
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from conftest import IMAGES, Mean, make_run, squared_error, train

from common import training
from common.errors import UserError
from common.training import checkpoint, device, memory_format, on_device, processes


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

    with pytest.raises(UserError, match="epoch 2, by step 3.*lower --lr.*holds epoch 1"):
        train(Mean(), loss, make_run(tmp_path))
    state = checkpoint.load(tmp_path / "checkpoint.pt")
    assert len(state["history"]) == 1 and state["model"]["level"].isfinite()


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
    run.write_results("digits", {"mse": 0.1}, torch.zeros(3, 2), torch.arange(3))
    assert np.load(tmp_path / "latent.npz")["labels"].tolist() == [0, 1, 2]
    train(Mean(), squared_error, make_run(tmp_path, resume=True))
    assert (tmp_path / "results.json").exists(), "no epoch was left"
    train(Mean(), squared_error, make_run(tmp_path))
    assert not (tmp_path / "results.json").exists()


def test_scores_that_are_not_finite_are_refused_in_one_line(tmp_path):
    train(Mean(), squared_error, run := make_run(tmp_path))
    with pytest.raises(UserError, match=r"not finite.*lower --lr.*'kl': inf"):
        run.write_results("digits", {"mse": 0.1, "kl": float("inf")}, torch.zeros(3, 2))
    assert not (tmp_path / "results.json").exists()


def test_a_resumed_run_with_more_epochs_continues_at_its_place_in_the_longer_cycle(tmp_path):
    train(Mean(), squared_error, make_run(tmp_path))
    run, model, seen = make_run(tmp_path, resume=True, epochs=8), Mean(), []
    for epoch in run.epochs(model, torch.optim.AdamW(model.parameters()), data="some images"):
        seen += [epoch.progress for _ in epoch.batches(IMAGES, batch_size=4)]
    steps = torch.arange(6, 24)
    torch.testing.assert_close(torch.tensor(seen), (steps + 0.5) / 24)


def test_a_loop_that_is_left_early_keeps_what_it_has_done(tmp_path):
    """`break` in the loop over batches ends an epoch, `break` in the loop over epochs ends the run."""
    run, model = make_run(tmp_path, epochs=5), Mean()
    optimizer = torch.optim.AdamW(model.parameters())
    for epoch in run.epochs(model, optimizer):
        for step, batch in enumerate(epoch.batches(IMAGES, batch_size=4)):
            if step == 1:
                break
            epoch.record(squared_error(model, batch))
        if epoch.number == 2:
            break
    run.write_results("digits", {"mse": 0.1}, torch.zeros(3, 2))
    assert [line["epoch"] for line in run.history] == [1, 2, 3] and all("loss" in line for line in run.history)
    assert checkpoint.load(tmp_path / "checkpoint.pt")["history"][-1]["epoch"] == 3


def test_every_seed_epoch_step_and_process_draws_its_own_noise(tmp_path, monkeypatch):
    drawn = []

    def loss(model, images):
        drawn.append(torch.rand(1).item())
        return squared_error(model, images)

    train(Mean(), loss, make_run(tmp_path / "a"))
    train(Mean(), loss, make_run(tmp_path / "b", seed=1))
    monkeypatch.setattr(processes, "rank", lambda: 1)
    train(Mean(), loss, make_run(tmp_path / "c"))
    assert len(drawn) == len(set(drawn)) == 18


def test_a_checkpoint_of_another_version_of_the_model_is_refused(tmp_path):
    train(Mean(), squared_error, make_run(tmp_path))
    path = tmp_path / "checkpoint.pt"
    checkpoint.save(path, checkpoint.load(path) | {"model": {"other": torch.ones(3)}})
    with pytest.raises(UserError, match="doesn't fit this version"):
        train(Mean(), squared_error, make_run(tmp_path, resume=True))


def test_other_arguments_and_other_data_are_refused_by_name(tmp_path):
    train(Mean(), squared_error, make_run(tmp_path))
    for change, name in (
        ({"lr": 0.2}, "with lr 0.1, not 0.2"),
        ({"batch_size": 5}, "batch_size"),
        ({"epochs": 1}, "has 2 epochs"),
    ):
        with pytest.raises(UserError, match=name):
            train(Mean(), squared_error, make_run(tmp_path, resume=True, **change))
    with pytest.raises(UserError, match="not other images"):
        train(Mean(), squared_error, make_run(tmp_path, resume=True), data="other images")


@pytest.mark.parametrize("where", ["cpu", "cuda"])
def test_a_resumed_run_keeps_precision_and_threads_on_the_same_kind_of_device(tmp_path, monkeypatch, capsys, where):
    train(Mean(), squared_error, make_run(tmp_path, precision="bf16", epochs=1))
    path = tmp_path / "checkpoint.pt"
    state = checkpoint.load(path)
    assert (state["device"], state["precision"], state["threads"]) == ("cpu", "bf16", 1)
    checkpoint.save(path, state | {"device": where})
    monkeypatch.setattr(device, "thread_counts", lambda: [4, 2, 1])
    monkeypatch.setattr(device, "choose_arithmetic", choose := Mock(return_value=("bf16", 1, "by trial")))
    make_run(tmp_path, precision="auto", resume=True)
    kept = where == "cpu"
    assert choose.call_args.args[1:3] == (("bf16", [1]) if kept else ("auto", [4, 2, 1]))
    assert capsys.readouterr().out.endswith("as in the checkpoint\n" if kept else "by trial\n")


def test_leaving_a_run_finishes_its_epoch_in_every_process_and_gives_the_threads_back(tmp_path, monkeypatch):
    before = torch.get_num_threads()
    monkeypatch.setattr(device, "choose_arithmetic", lambda *_: ("fp32", before + 1, ""))
    for name, answer in {"world": 2, "rank": 1}.items():
        monkeypatch.setattr(processes, name, lambda answer=answer: answer)
    for name in ("total", "first"):
        monkeypatch.setattr(processes, name, lambda value: value)
    monkeypatch.setattr(processes, "gathered", lambda value: [value])
    folders = {"run_dir": tmp_path / "run", "images_dir": tmp_path / "images"}
    flags = {"device": "cpu", "precision": "fp32", "seed": 0, "resume": False, "batch_size": None, "epochs": 9}
    with training.start("test", Namespace(**folders, **flags)) as run:
        for epoch in run.epochs(model := Mean(), torch.optim.AdamW(model.parameters())):
            for batch in epoch.batches(IMAGES, batch_size=4):
                epoch.record(squared_error(model, batch))
            break
        assert not run.history and torch.get_num_threads() == before + 1
    assert len(run.history) == 1 and torch.get_num_threads() == before


def test_an_epoch_that_another_program_slows_down_is_said_once(tmp_path, monkeypatch, capsys):
    now, model = 0.0, Mean()
    monkeypatch.setattr(time, "perf_counter", lambda: now)
    run = make_run(tmp_path, epochs=4)
    for epoch in run.epochs(model, torch.optim.AdamW(model.parameters())):
        for _ in epoch.batches(IMAGES, batch_size=4):
            now += 1 if epoch.number == 0 else 5
    assert capsys.readouterr().err.count("took 5 times as long as the first: stop the program") == 1
    run = make_run(tmp_path, epochs=6, resume=True)  # on another device, perhaps
    for epoch in run.epochs(model, torch.optim.AdamW(model.parameters())):
        now += sum(90 for _ in epoch.batches(IMAGES, batch_size=4))
    assert not capsys.readouterr().err


@pytest.mark.parametrize(("precision", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_a_step_computes_in_the_runs_precision(tmp_path, precision, dtype):
    seen = set()

    def loss(model, images):
        seen.add((images.flatten(1) @ images.flatten(1).T).dtype)
        return squared_error(model, images)

    train(Mean(), loss, make_run(tmp_path, precision=precision))
    assert seen == {dtype}


def test_each_process_of_a_machine_has_its_own_accelerator(monkeypatch):
    chosen = Mock()
    monkeypatch.setattr(processes, "launched", lambda: True)
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 2)
    monkeypatch.setattr(torch.accelerator, "set_device_index", chosen)
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert processes.local_device(torch.device("cuda")) == torch.device("cuda", 1)
    chosen.assert_called_once_with(1)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "3")  # all must end, since one that waits for the others doesn't stop
    with pytest.raises(UserError, match="3 exceeds the GPUs here, 2"):
        processes.local_device(torch.device("cuda"))


def test_more_processes_than_images_in_a_batch_are_refused(tmp_path, monkeypatch):
    run = make_run(tmp_path)
    monkeypatch.setattr(processes, "world", lambda: 3)  # but 4 batches of 10 images have 2 in the smallest
    monkeypatch.setattr(processes, "gathered", lambda value: [value])
    with pytest.raises(UserError, match="10 images in batches of 3 are too few for 3 processes"):
        train(Mean(), squared_error, run, batch_size=3)


def test_a_data_set_that_does_not_fit_stays_on_the_host(monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (IMAGES.nbytes, 0))
    assert on_device(IMAGES, torch.device("cuda")) is IMAGES


@pytest.mark.parametrize(
    ("name", "layout"),
    [("cpu", torch.channels_last), ("cuda", torch.channels_last), ("mps", torch.contiguous_format)],
)
def test_models_and_images_are_channels_last_except_on_mps(monkeypatch, name, layout):
    """The CPU stands in for absent devices: `to` brings the images there."""
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (1e9, 0))
    to = torch.Tensor.to
    monkeypatch.setattr(torch.Tensor, "to", lambda images, device, **options: to(images, "cpu", **options))
    images = on_device(torch.zeros(2, 4, 4, 3).permute(0, 3, 1, 2), torch.device(name))
    assert images.is_contiguous(memory_format=layout)
    assert memory_format(torch.device(name)) == layout


def test_fp32_on_cuda_is_not_tf32(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)  # and restore it after the test
    monkeypatch.setattr(device, "choose_device", lambda name: torch.device("cuda"))
    folders = {"run_dir": tmp_path / "run", "images_dir": tmp_path / "images"}
    flags = {"device": "cuda", "precision": "fp32", "seed": 0, "resume": False, "batch_size": None}
    with training.start("test", Namespace(**folders, **flags)):
        assert not torch.backends.cudnn.allow_tf32


def test_processes_that_see_different_epochs_are_an_error(tmp_path, monkeypatch):
    """As if one machine didn't see the run's folder."""
    run = make_run(tmp_path)
    monkeypatch.setattr(processes, "gathered", lambda value: [value, (1, value[1])])
    with pytest.raises(UserError, match=f"the processes see different epochs or data: put {tmp_path} "):
        train(Mean(), squared_error, run)
    assert not run.checkpoint.exists()
