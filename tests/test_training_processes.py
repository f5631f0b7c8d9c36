"""Two and three real processes on the CPU, started by torchrun, compared with one."""

import json
import os
import signal
import subprocess
import sys

import pytest
from conftest import ROOT, draw_nothing

import vanilla_ae
import vanilla_vae_celeba
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


def test_a_script_in_three_processes_has_the_same_curve_as_in_one_and_draws_once(tmp_path, small_data):
    three, one = tmp_path / "three", tmp_path / "one"
    job = torchrun(3, ROOT / "vanilla_ae.py", *flags(small_data, three, "--epochs", "2"))
    output, errors = job.communicate(timeout=300)
    assert job.returncode == 0, errors
    assert output.count("epoch 2/2") == 1 and output.count("wrote") == 5
    results = json.loads((three / "run/results.json").read_text())
    assert results["train_images"] == 432 and results["epochs"] == 2
    with pytest.MonkeyPatch.context() as patch:
        draw_nothing(patch, vanilla_ae)
        vanilla_ae.main(flags(small_data, one, "--epochs", "2"))
    curves = [checkpoint.load(each / "run/checkpoint.pt")["history"] for each in (three, one)]
    losses = [[line["loss"] for line in history] for history in curves]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4) and losses[0][1] < 0.9 * losses[0][0]


def test_two_processes_share_the_faces_restart_when_one_dies_and_end_when_one_dies_again(tmp_path, small_data, capsys):
    folders = ("--data-dir", tmp_path, "--run-dir", tmp_path / "run", "--images-dir", tmp_path / "images")
    run = ("--faces", small_data / "faces_here", "--size", "32", "--limit", "150", "--batch-size", "20")
    run = [str(each) for each in (*run, "--precision", "fp32", "--device", "cpu", "--resume", *folders, "--epochs")]
    job = torchrun(2, named_by_their_ranks("vanilla_vae_celeba", tmp_path), *run, "100", restarts=1)
    lines = read_until(job, "epoch 2/")
    os.kill(int((tmp_path / "1").read_text()), signal.SIGKILL)
    lines += read_until(job, "computing on cpu") + read_until(job, "epoch ")
    os.kill(int((tmp_path / "1").read_text()), signal.SIGKILL)
    output, errors = job.communicate(timeout=300)  # by themselves, processes wait for one another for two hours
    assert job.returncode != 0 and ("SIGKILL" in errors or "-9" in errors)
    lines += [line for line in output.splitlines() if line.startswith("epoch")]
    epochs = [int(line[6 : line.index("/")]) for line in lines if line.startswith("epoch")]
    assert epochs[:2] == [1, 2] and epochs == sorted(set(epochs)) and len(epochs) >= 3
    assert len([path for path in tmp_path.glob("prepared/*") if path.is_dir()]) == 1
    state = checkpoint.load(tmp_path / "run/checkpoint.pt")
    last = len(state["history"])
    assert last >= epochs[-1] and state["history"][2]["valid_mse"] > 0
    assert state["history"][-1]["mse"] < state["history"][0]["mse"]
    with pytest.MonkeyPatch.context() as patch:
        draw_nothing(patch, vanilla_vae_celeba)
        vanilla_vae_celeba.main([*run, str(last + 1)])
    output = capsys.readouterr().out
    assert f"epoch {last + 1}/" in output and f"epoch {last}/" not in output
    assert not list((tmp_path / "run").glob("*.tmp"))
