"""Shared by several tests: small data, and ways to run the scripts as a user does."""

import contextlib
import gzip
import os
import signal
import struct
import zipfile
from argparse import Namespace
from pathlib import Path

# With models as small as those of the tests, several threads mostly wait for one another, especially on a shared
# machine. So say all libraries, also of the processes that tests start, whose results are then bit-identical.
os.environ["OMP_NUM_THREADS"] = "1"

import pytest
import torch
from browser import offline_chromium
from hypothesis import HealthCheck, settings
from PIL import Image
from torch import nn

from common import cli, training
from common.data.digits import load_digits
from common.data.drawn_faces import draw_faces

ROOT = Path(__file__).parents[1]

# A shell that starts the tests in the background makes them, and the scripts that they start, ignore Ctrl-C.
signal.signal(signal.SIGINT, signal.default_int_handler)

# The same examples in every run, however slow the machine.
slow = [HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
settings.register_profile("tests", derandomize=True, deadline=None, suppress_health_check=slow)
settings.load_profile("tests")


LONGEST = ("test_training_processes.py", "test_faults.py", "test_digit_page.py", "test_face_page.py")


def pytest_collection_modifyitems(items):
    """Begin with the files that take longest, so that no worker is left with one of them when the other has ended."""
    items.sort(key=lambda item: item.path.name not in LONGEST)


@pytest.fixture(scope="session")
def digits():
    """The real MNIST, train and test, from the project's own data folder."""
    return load_digits("MNIST", ROOT / "data")


@pytest.fixture(scope="session")
def few_digits(digits):
    """The first 4,000 train and 2,000 test images of MNIST: enough for a run of a few seconds to learn from."""
    return digits[0].first(4000), digits[1].first(2000)


@pytest.fixture(scope="session")
def small_data(tmp_path_factory):
    """A data folder for all three scripts, for runs of a second: an MNIST of noise, and faces_here, a folder."""
    folder = tmp_path_factory.mktemp("data")
    raw = folder / "MNIST/raw"
    raw.mkdir(parents=True)
    generator = torch.Generator().manual_seed(0)
    for part, count in (("train", 1600), ("t10k", 300)):
        labels = torch.arange(count).remainder(10).byte()
        images = torch.randint(0, 256, (count, 28, 28), generator=generator).byte() // (1 + labels[:, None, None])
        write_idx(raw / f"{part}-images-idx3-ubyte", images)
        write_idx(raw / f"{part}-labels-idx1-ubyte", labels)
    (folder / "faces_here").mkdir()
    for number, face in enumerate(draw_faces(300, 32)[0]):
        Image.fromarray(face).save(folder / "faces_here" / f"{number}.png")
    return folder


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


def write_idx(path: Path, values: torch.Tensor) -> None:
    """Write a uint8 tensor as an IDX file, gzipped if `path` ends in .gz."""
    header = struct.pack(f">HBB{values.ndim}I", 0, 8, values.ndim, *values.shape)
    content = header + values.numpy().tobytes()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


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
    flags = {"resume": False, "run_dir": folder, "data_dir": folder}
    return training.Run("test", Namespace(**arguments | flags | changes), torch.device("cpu"))


def train(model, loss, run, batch_size=4, after=lambda: None, data="some images"):
    """The loop of the scripts on `IMAGES`, with a call `after` each epoch; returns the run's history."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=run.args.lr)
    for epoch in run.epochs(model, optimizer, data=data):
        for batch in epoch.batches(IMAGES, batch_size):
            for group in optimizer.param_groups:
                group["lr"] = run.args.lr * training.one_cycle(epoch.progress)
            with run.autocast():
                terms = loss(model, batch)
            optimizer.zero_grad()
            terms["loss"].mean().backward()
            optimizer.step()
            epoch.record(terms)
        after()
    return run.history


@contextlib.contextmanager
def recorded(module, *names):
    """The arguments of the first call to each of these functions of `module`, which still run."""
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
    """Stands in for a script's figures when a test is about its numbers."""

    def __getattr__(self, name):
        return lambda *_, **__: {}


def draw_nothing(patch, *scripts):
    """Keep these scripts from drawing figures and writing pages until `patch`, a MonkeyPatch, is undone."""
    for script in scripts:
        faces = hasattr(script, "face_page")
        figures, page = ("FaceFigures", "face_page") if faces else ("DigitFigures", "digit_page")
        patch.setattr(script, figures, lambda *_, **__: NoFigures())
        patch.setattr(getattr(script, page), "write", lambda *_, **__: None)


def ends_in_one_line(capsys, main):
    """Call `main` as a script does; it must exit with one line on the console. Returns its exit code and the line."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as ending:
        cli.run(lambda _: main())
    output = capsys.readouterr()
    assert "Traceback" not in output.err
    assert len(output.err.strip().splitlines()) == 1
    return ending.value.code, output.err


class Payload:
    """The content of a hostile pickle: unpickling it creates the file `path`."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


CELEBA_FILES = ("img_align_celeba.zip", "list_attr_celeba.txt", "list_eval_partition.txt")
NO_CELEBA = f"no {', '.join(CELEBA_FILES)} in data/celeba or where CELEBA says"


def real_faces():
    """The folder of CelebA's files: the one that the environment variable CELEBA names, or data/celeba; or None."""
    folder = Path(os.environ.get("CELEBA", ROOT / "data/celeba"))
    return folder if all((folder / name).is_file() for name in CELEBA_FILES) else None


@pytest.fixture(scope="session")
def few_real_faces(tmp_path_factory):
    """A folder like CelebA's with some 700 of its pictures; without CelebA, tests that need them are skipped."""
    if (real := real_faces()) is None:
        pytest.skip(NO_CELEBA)
    folder = tmp_path_factory.mktemp("celeba")
    with (
        zipfile.ZipFile(real / "img_align_celeba.zip") as pictures,
        zipfile.ZipFile(folder / "img_align_celeba.zip", "w") as few,
    ):
        names = sorted(name for name in pictures.namelist() if name.endswith(".jpg"))
        for name in names[:: max(1, len(names) // 700)]:
            few.writestr(name, pictures.read(name))
    for table in CELEBA_FILES[1:]:
        (folder / table).symlink_to((real / table).resolve())
    return folder
