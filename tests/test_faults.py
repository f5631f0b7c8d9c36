"""The real programs, killed, out of disk space, or given damaged files: no finished work is lost."""

import contextlib
import functools
import io
import json
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch
from conftest import ROOT, Payload, draw_nothing, ends_in_one_line

import vanilla_ae
import vanilla_vae_celeba
import vanilla_vae_mnist
from common.training import checkpoint

EPOCHS = 16
SCRIPTS = {script.SCRIPT: script for script in (vanilla_ae, vanilla_vae_mnist, vanilla_vae_celeba)}


def flags(script, data_dir, folder, *arguments):
    # Three dimensions have no explorer page, which would take longer than the rest of so short a run. A trial would
    # choose the precision by the machine's speed at that moment.
    own = ("--limit", "384", "--batch-size", "64", "--latent-dim", "3")
    if script == "vanilla_vae_celeba":
        own = ("--faces", data_dir / "faces_here", "--size", "32", "--limit", "64", "--batch-size", "16")
    own += ("--precision", "fp32", "--device", "cpu")
    folders = ("--data-dir", data_dir, "--run-dir", folder / "run", "--images-dir", folder / "images")
    return [str(argument) for argument in (*folders, *own, *arguments)]


def start(script, *arguments):
    """The script in a process of its own, as a user starts it."""
    command = [sys.executable, "-u", ROOT / f"{script}.py", *flags(script, *arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def read_until(process, text):
    for line in process.stdout:
        if line.startswith(text):
            return
    raise AssertionError(process.stderr.read())


def train_here(script, *arguments):
    """The script in this process, without figures."""
    with pytest.MonkeyPatch.context() as patch:
        draw_nothing(patch, SCRIPTS[script])
        SCRIPTS[script].main(flags(script, *arguments))


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, small_data):
    """A function from a script's name to the folder of its uninterrupted run."""

    @functools.cache
    def folder(script):
        path = tmp_path_factory.mktemp("undisturbed")
        train_here(script, small_data, path, "--epochs", EPOCHS)
        return path

    return folder


@pytest.fixture
def finished(undisturbed, tmp_path):
    """A copy of the folder of a finished VAE, to continue from."""
    return shutil.copytree(undisturbed("vanilla_vae_mnist"), tmp_path / "finished")


ENDS = [("vanilla_vae_mnist", "SIGINT"), ("vanilla_vae_celeba", "SIGKILL")]


@pytest.mark.parametrize(("script", "end"), ENDS)
def test_a_run_ended_at_a_random_moment_resumes_to_identical_weights(
    capsys, tmp_path, small_data, undisturbed, script, end
):
    first = start(script, small_data, tmp_path, "--epochs", EPOCHS)
    read_until(first, "epoch 1/")
    code, line = ends_in_one_line(capsys, lambda: train_here(script, small_data, tmp_path, "--epochs", EPOCHS))
    assert code == 2 and "another run is using" in line  # and the first continues
    read_until(first, f"epoch {random.randint(2, 4)}/")
    lines = (tmp_path / "run/metrics.jsonl").read_text().splitlines()
    time.sleep(random.uniform(0, 2 * json.loads(lines[-1])["seconds"]))
    first.send_signal(getattr(signal, end))
    _, errors = first.communicate(timeout=120)
    reached = len(checkpoint.load(tmp_path / "run/checkpoint.pt")["history"])
    assert reached < EPOCHS, "it ended too late to test anything"
    if end == "SIGINT":
        assert first.returncode == 130 and len(errors.splitlines()) == 1 and errors.startswith("stopped: ")
        # The signal may come after an epoch's checkpoint was written, before the epoch is counted.
        assert f"holds epoch {reached}, and" in errors or f"holds epoch {reached - 1}, and" in errors
    train_here(script, small_data, tmp_path, "--epochs", EPOCHS, "--resume")
    output = capsys.readouterr().out
    assert f"epoch {reached + 1}/" in output and f"epoch {reached}/" not in output
    expected, resumed = (checkpoint.load(path / "run/checkpoint.pt") for path in (undisturbed(script), tmp_path))
    assert expected["model"].keys() == resumed["model"].keys()
    for name, value in expected["model"].items():
        assert torch.equal(value, resumed["model"][name]), name
    timing = {"seconds", "images_per_second"}
    for before, after in zip(expected["history"], resumed["history"], strict=True):
        assert {key: before[key] for key in before.keys() - timing} == {
            key: after[key] for key in after.keys() - timing
        }
    for index, state in expected["optimizer"]["state"].items():
        for name, value in state.items():
            assert torch.equal(value, resumed["optimizer"]["state"][index][name])
    assert not [path for path in (tmp_path / "run").iterdir() if path.suffix == ".tmp"]


@contextlib.contextmanager
def full_disk(bytes_left):
    """A limit on the size of files simulates a full disk: the write fails half way."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (bytes_left, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_keeps_the_last_good_checkpoint(capsys, small_data, finished):
    before = (finished / "run/checkpoint.pt").read_bytes()
    with full_disk(bytes_left=1_000_000):
        code, line = ends_in_one_line(
            capsys, lambda: train_here("vanilla_vae_mnist", small_data, finished, "--epochs", EPOCHS + 1, "--resume")
        )
    assert code == 2 and "cannot write" in line and "checkpoint.pt" in line and "MB" in line
    assert (finished / "run/checkpoint.pt").read_bytes() == before
    assert not list((finished / "run").glob("*.tmp"))


def test_hostile_and_damaged_checkpoints_end_in_one_line(capsys, tmp_path, small_data, undisturbed):
    good = (undisturbed("vanilla_vae_mnist") / "run/checkpoint.pt").read_bytes()
    marker = tmp_path / "payload-ran"
    hostile = io.BytesIO()
    torch.save({"model": Payload(marker)}, hostile)
    (tmp_path / "run").mkdir()
    for content in (hostile.getvalue(), good[: len(good) // 2], b""):
        (tmp_path / "run/checkpoint.pt").write_bytes(content)
        code, line = ends_in_one_line(
            capsys, lambda: train_here("vanilla_vae_mnist", small_data, tmp_path, "--epochs", EPOCHS, "--resume")
        )
        assert code == 2 and "checkpoint.pt is damaged or not a checkpoint" in line
        assert (tmp_path / "run/checkpoint.pt").read_bytes() == content
    assert not marker.exists()


def test_a_diverging_loss_stops_with_epoch_and_step(capsys, tmp_path, small_data):
    code, line = ends_in_one_line(
        capsys, lambda: train_here("vanilla_ae", small_data, tmp_path, "--epochs", "2", "--lr", "999")
    )
    assert code == 2 and re.search(r"no longer finite at epoch \d, by step \d+", line) and "lower --lr" in line
    kept = tmp_path / "run/checkpoint.pt"
    assert kept.exists() == ("holds epoch" in line)
    assert not kept.exists() or all(value.isfinite().all() for value in checkpoint.load(kept)["model"].values())


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_single_training_image_works_in_bf16_too(tmp_path, small_data, script):
    SCRIPTS[script].main(flags(script, small_data, tmp_path, "--epochs", "1", "--limit", "1", "--precision", "bf16"))
    assert checkpoint.load(tmp_path / "run/checkpoint.pt")["history"][-1]["epoch"] == 1


def test_the_same_seed_gives_bit_identical_weights_and_another_seed_does_not(tmp_path, small_data):
    for name, seed in (("a", "3"), ("b", "3"), ("c", "4")):
        train_here("vanilla_ae", small_data, tmp_path / name, "--epochs", "1", "--seed", seed)
    one, same, other = (checkpoint.load(tmp_path / name / "run/checkpoint.pt")["model"] for name in "abc")
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not all(torch.equal(one[name], other[name]) for name in one)
    for name, seed in (("d", "3"), ("e", "4")):
        train_here("vanilla_ae", small_data, tmp_path / name, "--epochs", "1", "--seed", seed, "--lr", "1e-9")
    one, other = (checkpoint.load(tmp_path / name / "run/checkpoint.pt")["model"]["encoder.1.weight"] for name in "de")
    assert not torch.allclose(one, other, atol=1e-4), "the initial weights have a seed, too"
