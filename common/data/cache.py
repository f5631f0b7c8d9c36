"""A cache of prepared pictures: a folder that appears whole or not at all."""

import contextlib
import math
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from filelock import FileLock
from torch import Tensor

from common.errors import UserError

FORMAT = 3  # to be increased when the same pictures would give another cache
Cached = tuple[Tensor, dict[str, np.ndarray]]


def load(folder: Path, stamp: str, size: int, prepare: Callable[[BinaryIO], dict]) -> Cached:
    """The pictures in `folder`, (N, size, size, 3) uint8 mapped from its file, and the arrays kept beside them.

    If they are missing, damaged or of another `stamp`, prepare(file) writes the pixels and returns the arrays;
    "names" has N entries. Of several concurrent runs, one prepares and the others wait. Raises UserError if the folder
    cannot be written.
    """
    stamp, new = f"{FORMAT} {stamp}", folder.with_name(f"{folder.name}.tmp")
    with contextlib.suppress(Exception):  # a damaged file fails in many ways, and is always made again
        return _opened(folder, stamp, size)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{folder}.lock"):
            with contextlib.suppress(Exception):  # another run may have made it meanwhile
                return _opened(folder, stamp, size)
            for old in (new, folder):  # leftovers of a killed run, and an outdated cache
                shutil.rmtree(old, ignore_errors=True)
            new.mkdir()
            try:
                with open(new / "pixels.uint8", "wb") as file:
                    arrays = prepare(file)
                    file.flush()
                    os.fsync(file.fileno())
                np.savez(new / "arrays.npz", stamp=stamp, **arrays)
                new.rename(folder)
            finally:
                shutil.rmtree(new, ignore_errors=True)
            return _opened(folder, stamp, size)
    except OSError as error:
        raise UserError(
            f"the prepared faces cannot be written to {folder.parent} ({error.strerror or error}): make room for "
            f"{3 * size * size:,} bytes per picture there, or give another --data-dir"
        ) from error


def _opened(folder: Path, stamp: str, size: int) -> Cached:
    """The contents of the cache. Raises any exception if it is missing, damaged or made from something else."""
    arrays = dict(np.load(folder / "arrays.npz", allow_pickle=False))
    pixels, shape = folder / "pixels.uint8", (len(arrays["names"]), size, size, 3)
    if arrays["stamp"].item() != stamp or pixels.stat().st_size != math.prod(shape):
        raise ValueError(f"{folder} was made from other pictures, or is incomplete")
    # A private mapping: a caller's accidental changes never reach the file.
    return torch.from_file(str(pixels), shared=False, size=math.prod(shape), dtype=torch.uint8).view(shape), arrays
