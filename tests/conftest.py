"""What several tests share: small data, and the scripts run as a user runs them."""

import gzip
import signal
import struct
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from common.data import digits as data

ROOT = Path(__file__).parents[1]

# A shell that starts the tests in the background lets them, and the scripts that they start, ignore Ctrl-C.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def digits():
    """The real MNIST, train and test, from the project's own data folder."""
    return data.load_digits("MNIST", ROOT / "data")


def run_script(script: str, *arguments: object, cwd: Path, **options) -> subprocess.CompletedProcess:
    """`python SCRIPT.py ARGUMENTS` in `cwd`, with the project's data; its output as text."""
    command = [sys.executable, str(ROOT / f"{script}.py"), "--data-dir", str(ROOT / "data"), *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, text=True, capture_output=True, timeout=300, **options)


def write_idx(path: Path, values: torch.Tensor, packed: bool = True) -> None:
    """Write a uint8 tensor as an IDX file, gzipped or not."""
    header = struct.pack(f">HBB{values.ndim}I", 0, 8, values.ndim, *values.shape)
    content = header + values.numpy().tobytes()
    path.write_bytes(gzip.compress(content) if packed else content)
