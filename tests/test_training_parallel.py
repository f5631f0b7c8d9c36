"""Two and three real processes on the CPU, as torchrun starts them, against one."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from conftest import ROOT
from PIL import Image

import vanilla_ae
import vanilla_vae_celeba
from common.data.drawn_faces import draw_faces
from common.training import checkpoint

GRADIENT = """
import sys
from argparse import Namespace
from pathlib import Path
import torch
from common import training
import vanilla_ae, vanilla_vae_celeba

class Descent:
    # One step of plain gradient descent: the weights' change is the gradient of the global batch.
    def __init__(self, model):
        self.optimizer, self.lr = torch.optim.SGD(model.parameters(), lr=1.0), 1.0
        self.state_dict, self.step = lambda: [], self.optimizer.step
        self.set_progress = lambda progress: None

script, count, folder = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])
args = Namespace(epochs=1, seed=0, lr=1.0, resume=False, device="cpu", precision="fp32", compile=False,
                 run_dir=folder, images_dir=folder)
generator = torch.Generator().manual_seed(5)
with training.start("test", args) as run:
    torch.manual_seed(0)
    if script == "ae":
        model, loss, shape = vanilla_ae.Autoencoder(2), vanilla_ae.loss, (1, 28, 28)
    else:
        model, shape = vanilla_vae_celeba.VariationalAutoencoder(8, 32), (3, 32, 32)
        loss = lambda model, images: vanilla_vae_celeba.loss(model, images, ae=True)
    images = torch.randint(0, 256, (count, *shape), dtype=torch.uint8, generator=generator)
    step = run.prepare(model, loss, images)
    descent = Descent(model)
    for epoch in run.epochs(model, descent, images, count):
        for batch in epoch:
            epoch.mean(step(batch))["loss"].backward()
            descent.step()
    print("loss", run.history[0]["loss"])
"""


def torchrun(processes, *command, restarts=0):
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    launch += [f"--max-restarts={restarts}", *command]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        list(map(str, launch)), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )


@pytest.mark.parametrize(("script", "processes", "count"), [("ae", 2, 101), ("faces", 3, 31), ("faces", 3, 3)])
def test_the_gradient_is_that_of_the_global_batch(tmp_path, script, processes, count):
    """Also where the processes don't divide it, and with a variance that belongs to the whole batch."""
    program = tmp_path / "gradient.py"
    program.write_text(GRADIENT)
    together = torchrun(processes, program, script, count, tmp_path / "together")
    alone = subprocess.Popen(
        [sys.executable, program, script, str(count), str(tmp_path / "alone")],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    )
    output, errors = together.communicate(timeout=120)
    alone.communicate(timeout=120)
    assert together.returncode == 0, errors
    assert output.count("epoch 1/1") == output.count("\nloss") == 1  # the first process alone prints
    states = [checkpoint.load(tmp_path / name / "checkpoint.pt") for name in ("together", "alone")]
    assert states[0]["history"][0]["loss"] == pytest.approx(states[1]["history"][0]["loss"], rel=1e-5)
    torch.manual_seed(0)
    model = vanilla_ae.Autoencoder(2) if script == "ae" else vanilla_vae_celeba.VariationalAutoencoder(8, 32)
    for name, start in model.named_parameters():
        gradients = [start.detach() - state["model"][name] for state in states]
        assert (gradients[0] - gradients[1]).norm() <= 1e-5 * gradients[1].norm() + 1e-6 * start.norm(), name


def ae(folder, *arguments):
    return [
        ROOT / "vanilla_ae.py", "--limit", "400", "--latent-dim", "3", "--batch-size", "48", "--precision", "fp32",
        "--device", "cpu", "--data-dir", ROOT / "data", "--run-dir", folder / "run", "--images-dir", folder / "images",
        *arguments,
    ]  # fmt: skip


def test_a_script_draws_once_and_resumes_on_other_numbers_of_processes(tmp_path):
    job = torchrun(2, *ae(tmp_path, "--epochs", "1"))
    output, errors = job.communicate(timeout=120)
    assert job.returncode == 0, errors
    assert output.count("epoch 1/1") == 1 and output.count("wrote") == 5
    results = json.loads((tmp_path / "run/results.json").read_text())
    assert results["train_images"] == 400 and results["epochs"] == 1
    job = torchrun(3, *ae(tmp_path, "--epochs", "2", "--resume"))
    output, errors = job.communicate(timeout=120)
    assert job.returncode == 0, errors
    assert "epoch 2/2" in output and "epoch 1/" not in output
    alone = [sys.executable, *map(str, ae(tmp_path, "--epochs", "3", "--resume"))]
    done = subprocess.run(alone, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "epoch 3/3" in done.stdout and "epoch 2/" not in done.stdout


def test_more_processes_than_images_in_a_batch_are_refused(tmp_path):
    job = torchrun(2, *ae(tmp_path, "--epochs", "1", "--limit", "1"))
    _, errors = job.communicate(timeout=120)
    assert job.returncode != 0
    assert "error: 1 images in batches of 48 are too few for 2 processes" in errors


def test_processes_that_see_different_epochs_are_an_error_and_start_nothing(tmp_path):
    """As where one machine doesn't see the run's folder: here each process has its own."""
    program = tmp_path / "apart.py"
    program.write_text(
        "import os, sys, vanilla_ae\n"
        "from common import cli\n"
        f"cli.run(lambda: vanilla_ae.main([*sys.argv[1:], '--run-dir', {str(tmp_path)!r} + '/' + os.environ['RANK']]))"
    )
    (tmp_path / "0").mkdir()
    state = {"script": "vanilla_ae", "arguments": {}, "data": "", "precision": "fp32", "epoch": 1}
    checkpoint.save(tmp_path / "0/checkpoint.pt", state | {"model": {}, "optimizer": [], "history": []})
    # A trial of the precision would be the second process's alone.
    job = torchrun(2, program, *ae(tmp_path, "--epochs", "2", "--precision", "auto")[1:], "--resume")
    output, errors = job.communicate(timeout=120)
    assert job.returncode != 0 and "epoch 2/" not in output
    assert f"error: the processes see checkpoints of epochs 0 to 1 in {tmp_path}/" in errors


def test_faces_are_prepared_once_and_validated(tmp_path):
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for number, face in enumerate(draw_faces(150, 32).images):
        Image.fromarray(face).save(pictures / f"{number}.png")
    folders = ("--data-dir", tmp_path, "--run-dir", tmp_path / "run", "--images-dir", tmp_path / "images")
    flags = ("--faces", pictures, "--size", "32", "--epochs", "2", "--batch-size", "20", "--device", "cpu")
    job = torchrun(2, ROOT / "vanilla_vae_celeba.py", *flags, *folders)
    output, errors = job.communicate(timeout=120)
    assert job.returncode == 0, errors
    assert output.count("epoch 2/2") == 1
    history = checkpoint.load(tmp_path / "run/checkpoint.pt")["history"]
    assert history[1]["valid_mse"] > 0 and history[1]["mse"] < history[0]["mse"]


def kill_a_process_of(job):
    for line in job.stdout:
        if line.startswith("epoch 1/"):
            break
    children = subprocess.run(["pgrep", "-P", str(job.pid)], capture_output=True, text=True).stdout.split()
    os.kill(int(children[-1]), signal.SIGKILL)


def test_a_process_that_dies_ends_the_job(tmp_path):
    job = torchrun(2, *ae(tmp_path, "--epochs", "100000"))
    kill_a_process_of(job)
    began = time.monotonic()
    _, errors = job.communicate(timeout=60)
    assert job.returncode != 0 and time.monotonic() - began < 50
    assert "SIGKILL" in errors or "-9" in errors
    assert checkpoint.load(tmp_path / "run/checkpoint.pt")["epoch"] >= 1
    assert not list((tmp_path / "run").glob("*.tmp"))


def test_a_restarted_job_continues_from_the_last_epoch(tmp_path):
    job = torchrun(2, *ae(tmp_path, "--epochs", "25", "--resume"), restarts=1)
    kill_a_process_of(job)
    output, errors = job.communicate(timeout=120)
    assert job.returncode == 0, errors
    assert "epoch 1/" not in output and "epoch 25/25" in output
