"""The real programs, killed, starved and fed with damage: nothing that was finished is lost."""

import os
import pickle
import random
import re
import resource
import signal
import subprocess
import sys
import time

import pytest
import torch
from conftest import ROOT, write_idx
from PIL import Image

from common.data.drawn_faces import draw_faces
from common.training import checkpoint

SCRIPTS = ("vanilla_ae", "vanilla_vae_mnist", "vanilla_vae_celeba")


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    """A small data set for each script: as many images as a run of a second needs."""
    folder = tmp_path_factory.mktemp("data")
    raw = folder / "MNIST/raw"
    raw.mkdir(parents=True)
    generator = torch.Generator().manual_seed(0)
    for part, count in (("train", 3000), ("t10k", 300)):
        labels = torch.arange(count).remainder(10).byte()
        images = torch.randint(0, 256, (count, 28, 28), generator=generator).byte() // (1 + labels[:, None, None])
        write_idx(raw / f"{part}-images-idx3-ubyte", images, packed=False)
        write_idx(raw / f"{part}-labels-idx1-ubyte", labels, packed=False)
    (folder / "faces_here").mkdir()
    for image, name in zip(draw_faces(400, 32).images, range(400), strict=True):
        Image.fromarray(image).save(folder / "faces_here" / f"{name}.png")
    return folder


def command(script, data_dir, folder, *arguments):
    if script == "vanilla_vae_celeba":
        arguments = ("--faces", data_dir / "faces_here", "--size", "32", "--batch-size", "16", *arguments)
    else:
        # Three dimensions have no explorer page, which would take longer than the rest of so short a run.
        arguments = ("--batch-size", "64", "--latent-dim", "3", *arguments)
    # A trial would choose the precision by the speed of the moment.
    arguments = ("--precision", "fp32", *arguments)
    folders = ("--data-dir", data_dir, "--run-dir", folder / "run", "--images-dir", folder / "images")
    return [sys.executable, "-u", *map(str, (ROOT / f"{script}.py", "--device", "cpu", *folders, *arguments))]


def start(*arguments, **options):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}  # several runs at once would slow one another down
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command(*arguments), env=environment, **pipes, **options)


def finish(process, code=0):
    output, errors = process.communicate(timeout=120)
    assert process.returncode == code, errors
    assert "Traceback" not in errors
    return output, errors


def read_until(process, text):
    for line in process.stdout:
        if line.startswith(text):
            return
    raise AssertionError(process.stderr.read())


@pytest.mark.parametrize("script", SCRIPTS)
def test_killed_at_a_random_moment_it_resumes_to_identical_weights(tmp_path, data_dir, script):
    undisturbed = start(script, data_dir, tmp_path / "a", "--epochs", "4")
    killed = start(script, data_dir, tmp_path / "b", "--epochs", "4")
    read_until(killed, f"epoch {random.randint(1, 3)}/4")
    time.sleep(random.uniform(0, 0.5))
    killed.kill()
    killed.communicate()
    finish(undisturbed)
    reached = checkpoint.load(tmp_path / "b/run/checkpoint.pt")["epoch"]
    output, _ = finish(start(script, data_dir, tmp_path / "b", "--epochs", "4", "--resume"))
    assert f"epoch {reached}/4" not in output
    expected, resumed = (checkpoint.load(tmp_path / name / "run/checkpoint.pt") for name in "ab")
    assert expected["model"].keys() == resumed["model"].keys()
    for name, value in expected["model"].items():
        assert torch.equal(value, resumed["model"][name]), name
    timing = {"seconds", "images_per_second"}
    for before, after in zip(expected["history"], resumed["history"], strict=True):
        assert {key: before[key] for key in before.keys() - timing} == {
            key: after[key] for key in after.keys() - timing
        }
    for one, other in zip(expected["optimizer"], resumed["optimizer"], strict=True):
        for index, state in one["state"].items():
            for name, value in state.items():
                assert torch.equal(torch.as_tensor(value), torch.as_tensor(other["state"][index][name]))
    assert not [path for path in (tmp_path / "b/run").iterdir() if path.suffix == ".tmp"]


@pytest.fixture(scope="module")
def one_epoch(tmp_path_factory, data_dir):
    """A finished run of one epoch of the autoencoder, to continue from."""
    folder = tmp_path_factory.mktemp("one")
    finish(start("vanilla_ae", data_dir, folder, "--epochs", "1"))
    return folder


def test_a_full_disk_keeps_the_last_good_checkpoint(data_dir, one_epoch):
    """A limit on the size of files stands for the full disk: the write fails half way, as it would there."""
    before = (one_epoch / "run/checkpoint.pt").read_bytes()

    def limit():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))

    process = start("vanilla_ae", data_dir, one_epoch, "--epochs", "2", "--resume", preexec_fn=limit)
    _, errors = finish(process, code=2)
    assert "cannot write" in errors and "checkpoint.pt" in errors and "MB" in errors
    assert len(errors.splitlines()) == 1
    assert (one_epoch / "run/checkpoint.pt").read_bytes() == before
    assert not list((one_epoch / "run").glob("*.tmp"))


def test_a_second_run_in_the_same_folder_is_refused_and_the_first_continues(tmp_path, data_dir):
    first = start("vanilla_ae", data_dir, tmp_path, "--epochs", "5")
    read_until(first, "epoch 1/")
    _, errors = finish(start("vanilla_ae", data_dir, tmp_path, "--epochs", "5"), code=2)
    assert "another run is using" in errors and len(errors.splitlines()) == 1
    finish(first)


class Payload:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (self.path, "w")


def test_hostile_and_damaged_checkpoints_end_in_one_line(tmp_path, data_dir, one_epoch):
    good = (one_epoch / "run/checkpoint.pt").read_bytes()
    marker = tmp_path / "payload-ran"
    hostile = pickle.dumps({"format": 1, "model": Payload(str(marker))})
    for content in (hostile, good[: len(good) // 2], b""):
        (tmp_path / "run").mkdir(exist_ok=True)
        (tmp_path / "run/checkpoint.pt").write_bytes(content)
        _, errors = finish(start("vanilla_ae", data_dir, tmp_path, "--epochs", "1", "--resume"), code=2)
        assert "checkpoint.pt is damaged or no checkpoint" in errors and len(errors.splitlines()) == 1
        assert (tmp_path / "run/checkpoint.pt").read_bytes() == content
    assert not marker.exists()


def test_other_arguments_are_refused_by_name(data_dir, one_epoch):
    for flag, value in (("--latent-dim", "4"), ("--seed", "1")):
        _, errors = finish(start("vanilla_ae", data_dir, one_epoch, "--epochs", "1", flag, value, "--resume"), code=2)
        assert f"{flag} " in errors and len(errors.splitlines()) == 1


def test_a_diverging_loss_stops_with_epoch_and_step(tmp_path, data_dir):
    _, errors = finish(start("vanilla_ae", data_dir, tmp_path, "--epochs", "2", "--lr", "999"), code=2)
    assert re.search(r"no longer finite at epoch \d, step \d+", errors) and "lower --lr" in errors
    kept = tmp_path / "run/checkpoint.pt"
    assert kept.exists() == ("holds epoch" in errors)
    assert not kept.exists() or all(value.isfinite().all() for value in checkpoint.load(kept)["model"].values())


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_single_training_image_works(tmp_path, data_dir, script):
    finish(start(script, data_dir, tmp_path, "--epochs", "1", "--limit", "1"))


def test_the_same_seed_gives_the_same_bits_and_another_seed_does_not(tmp_path, data_dir):
    runs = [
        start("vanilla_ae", data_dir, tmp_path / name, "--epochs", "1", "--seed", seed)
        for name, seed in (("a", "3"), ("b", "3"), ("c", "4"))
    ]
    for run in runs:
        finish(run)
    one, same, other = (checkpoint.load(tmp_path / name / "run/checkpoint.pt")["model"] for name in "abc")
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not all(torch.equal(one[name], other[name]) for name in one)
