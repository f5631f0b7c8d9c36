"""The gradients of two batches of faces, of four and of three: in one process, or started by torchrun in several."""

import functools
import sys
from argparse import Namespace
from pathlib import Path

import torch

import vanilla_vae_celeba
from common import training


class Recorder:
    """Stands in for an optimizer: keeps each step's gradients and changes no weight."""

    def __init__(self, model):
        self.model, self.steps, self.lr, self.peak = model, [], 0.0, 0.0
        self.set_progress, self.state_dict = lambda progress: None, lambda: []

    def step(self):
        self.steps.append({name: weight.grad.clone() for name, weight in self.model.named_parameters()})
        self.model.zero_grad()


def gradients(folder: Path) -> tuple[float, list[dict[str, torch.Tensor]]]:
    """The mean loss, and the gradient of each weight in each step; with several processes, those of the first."""
    flags = {"resume": False, "device": "cpu", "precision": "fp32", "compile": False}
    args = Namespace(epochs=1, seed=0, lr=1.0, run_dir=folder, images_dir=folder, **flags)
    with training.start("test", args) as run:
        model = vanilla_vae_celeba.VariationalAutoencoder(8, 32)
        loss = functools.partial(vanilla_vae_celeba.loss, ae=True)
        images = torch.randint(0, 256, (7, 3, 32, 32), generator=torch.Generator().manual_seed(5)).byte()
        step, recorder = run.prepare(model, loss, images), Recorder(model)
        for epoch in run.epochs(model, recorder, images, batch_size=4):
            for batch in epoch:
                epoch.mean(step(batch))["loss"].backward()
                recorder.step()
        return run.history[0]["loss"], recorder.steps


if __name__ == "__main__":
    to = Path(sys.argv[1])
    torch.save(gradients(to), to / "gradients.pt")
