"""What several tests share: small data, and the scripts run as a user runs them."""

import contextlib
import gzip
import os
import signal
import struct
from argparse import Namespace
from pathlib import Path

import pytest
import torch
from browser import offline_chromium
from torch import nn

from common import training
from common.data.digits import load_digits

ROOT = Path(__file__).parents[1]

# A shell that starts the tests in the background lets them, and the scripts that they start, ignore Ctrl-C.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def digits():
    """The real MNIST, train and test, from the project's own data folder."""
    return load_digits("MNIST", ROOT / "data")


@pytest.fixture(scope="session")
def chromium(tmp_path_factory):
    """A headless Chromium without a network, which all tests of pages share."""
    browser = offline_chromium(tmp_path_factory.mktemp("profile"))
    yield browser
    browser.quit()


@pytest.fixture
def browser(chromium):
    """The browser, in which no page may report an error."""
    yield chromium
    assert not [entry for entry in chromium.get_log("browser") if entry["level"] == "SEVERE"]


def write_idx(path: Path, values: torch.Tensor, packed: bool = True) -> None:
    """Write a uint8 tensor as an IDX file, gzipped or not."""
    header = struct.pack(f">HBB{values.ndim}I", 0, 8, values.ndim, *values.shape)
    content = header + values.numpy().tobytes()
    path.write_bytes(gzip.compress(content) if packed else content)


IMAGES = torch.randint(0, 256, (10, 1, 4, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


class Mean(nn.Module):
    """The smallest model: one number, fitted to the mean grey level."""

    def __init__(self):
        super().__init__()
        self.level = nn.Parameter(torch.zeros(()))


def squared_error(model, images):
    error = (images - model.level).square().flatten(1).mean(dim=1)
    return {"loss": error, "twice": 2 * error}


def make_run(folder, **changes):
    """A run in `folder` with small defaults."""
    arguments = {"epochs": 2, "batch_size": 4, "lr": 0.1, "seed": 0, "precision": "fp32"}
    flags = {"resume": False, "compile": False, "run_dir": folder}
    return training.Run("test", Namespace(**arguments | flags | changes), torch.device("cpu"))


def train(model, loss, run, batch_size=4, after=lambda: None):
    """The loop of the scripts on `IMAGES`, with a call `after` each epoch; the run's history."""
    step = run.prepare(model, loss, IMAGES[:batch_size])
    optimizer = training.Optimizer(model, run.args.lr, run.precision)
    for epoch in run.epochs(model, optimizer, IMAGES, batch_size):
        for batch in epoch:
            terms = epoch.mean(step(batch))
            optimizer.zero_grad()
            terms["loss"].backward()
            optimizer.step()
        after()
    return run.history


@contextlib.contextmanager
def recorded(module, *names):
    """The arguments of the first call of each of these functions of `module`, which are called all the same."""
    calls = {}
    with pytest.MonkeyPatch.context() as patch:
        for name in names:
            original = getattr(module, name)

            def record(*arguments, name=name, original=original, **named):
                calls.setdefault(name, arguments)
                return original(*arguments, **named)

            patch.setattr(module, name, record)
        yield calls


class NoFigures:
    """In the place of a script's figures, where a test is about its numbers."""

    def __getattr__(self, name):
        return lambda *_, **__: {}


def real_faces():
    """The folder of real CelebA: data/celeba, or the one that the environment variable CELEBA names; None without."""
    folders = [ROOT / "data/celeba", *([Path(os.environ["CELEBA"])] if "CELEBA" in os.environ else [])]
    return next((folder for folder in folders if folder.is_dir()), None)
