"""Two and three real processes on the CPU, started by torchrun, compared with one."""

import json
import os
import shutil
import signal
import subprocess
import sys

import pytest
from conftest import ROOT, draw_nothing

import vanilla_ae
from common.training import checkpoint


def torchrun(processes, *command, restarts=0):
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    launch += [f"--max-restarts={restarts}", *command]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(list(map(str, launch)), env=os.environ | {"PYTHONPATH": str(ROOT)}, **pipes)


def flags(data_dir, folder, *arguments):
    run = ("--limit", "432", "--latent-dim", "3", "--batch-size", "48", "--precision", "fp32", "--device", "cpu")
    folders = ("--data-dir", data_dir, "--run-dir", folder / "run", "--images-dir", folder / "images")
    return [str(argument) for argument in (*run, *folders, *arguments)]


def named_by_their_ranks(script, folder):
    """A program that runs the script without drawing, and first writes its process's number to folder/RANK."""
    program = folder / "named.py"
    program.write_text(
        f"import os, pathlib, {script} as script\n"
        "script.report = lambda *_: None\n"
        f"pathlib.Path({str(folder)!r}, os.environ['RANK']).write_text(str(os.getpid()))\n"
        "script.cli.run(script.main)"
    )
    return program


def read_until(job, text):
    """The lines that the job prints until one that begins with `text`."""
    lines = []
    for line in job.stdout:
        lines.append(line)
        if line.startswith(text):
            return lines
    raise AssertionError(job.stderr.read())


@pytest.fixture(scope="module")
def three_processes(tmp_path_factory, small_data):
    """Two epochs of the autoencoder in three processes: its folder and its output."""
    folder = tmp_path_factory.mktemp("three")
    job = torchrun(3, ROOT / "vanilla_ae.py", *flags(small_data, folder, "--epochs", "2"))
    output, errors = job.communicate(timeout=300)
    assert job.returncode == 0, errors
    return folder, output


def test_a_script_in_three_processes_has_the_same_curve_as_in_one_and_draws_once(three_processes, small_data, tmp_path):
    folder, output = three_processes
    assert output.count("epoch 2/2") == 1 and output.count("wrote") == 5
    results = json.loads((folder / "run/results.json").read_text())
    assert results["train_images"] == 432 and results["epochs"] == 2
    with pytest.MonkeyPatch.context() as patch:
        draw_nothing(patch, vanilla_ae)
        vanilla_ae.main(flags(small_data, tmp_path, "--epochs", "2"))
    curves = [checkpoint.load(each / "run/checkpoint.pt")["history"] for each in (folder, tmp_path)]
    losses = [[line["loss"] for line in history] for history in curves]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4) and losses[0][1] < 0.9 * losses[0][0]


def test_two_processes_resume_what_three_began_and_continue_when_they_are_restarted(
    three_processes, small_data, tmp_path, capsys
):
    folder = shutil.copytree(three_processes[0], tmp_path / "two")
    arguments = flags(small_data, folder, "--epochs", "20", "--resume")
    job = torchrun(2, named_by_their_ranks("vanilla_ae", tmp_path), *arguments, restarts=1)
    read_until(job, "epoch 3/20")
    os.kill(int((tmp_path / "1").read_text()), signal.SIGKILL)
    output, errors = job.communicate(timeout=300)
    assert job.returncode == 0, errors
    assert "epoch 3/20" not in output and "epoch 20/20" in output
    with pytest.MonkeyPatch.context() as patch:
        draw_nothing(patch, vanilla_ae)
        vanilla_ae.main(flags(small_data, folder, "--epochs", "21", "--resume"))
    output = capsys.readouterr().out
    assert "epoch 21/21" in output and "epoch 20/" not in output


def test_two_processes_share_the_faces_one_validates_and_one_that_dies_ends_the_job(tmp_path, small_data):
    folders = ("--data-dir", tmp_path, "--run-dir", tmp_path / "run", "--images-dir", tmp_path / "images")
    run = ("--faces", small_data / "faces_here", "--size", "32", "--limit", "150", "--batch-size", "20")
    run += ("--epochs", "100", "--precision", "fp32", "--device", "cpu")
    job = torchrun(2, named_by_their_ranks("vanilla_vae_celeba", tmp_path), *run, *folders)
    lines = read_until(job, "epoch 4/")
    os.kill(int((tmp_path / "1").read_text()), signal.SIGKILL)
    errors = job.communicate(timeout=300)[1]  # by themselves, processes wait for one another for two hours
    assert job.returncode != 0 and ("SIGKILL" in errors or "-9" in errors)
    epochs = [line.split("/")[0] for line in lines if line.startswith("epoch")]
    assert epochs == ["epoch 1", "epoch 2", "epoch 3", "epoch 4"]
    assert len([path for path in tmp_path.glob("prepared/*") if path.is_dir()]) == 1
    state = checkpoint.load(tmp_path / "run/checkpoint.pt")
    assert state["epoch"] >= 4 and not list((tmp_path / "run").glob("*.tmp"))
    assert state["history"][3]["valid_mse"] > 0 and state["history"][3]["mse"] < state["history"][0]["mse"]
