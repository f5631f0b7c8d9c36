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
PIXELS, ARRAYS = "pixels.uint8", "arrays.npz"
Arrays = dict[str, np.ndarray]


def load(folder: Path, stamp: str, size: int, prepare: Callable[[BinaryIO], dict]) -> tuple[Tensor, Arrays]:
    """The pictures in `folder`, (N, size, size, 3) uint8 mapped from its file, and the arrays kept beside them.

    If they are missing, damaged or of another `stamp`, prepare(file) writes the pixels and returns the arrays;
    "names" has N entries. Of several concurrent runs, one prepares and the others wait. Raises UserError if the folder
    cannot be written.
    """
    stamp = f"{FORMAT} {stamp}"
    if (arrays := _arrays(folder, stamp, size)) is None:
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(f"{folder}.lock"):  # another run may have made it meanwhile
                arrays = _arrays(folder, stamp, size) or _made(folder, stamp, prepare)
        except OSError as error:
            raise UserError(
                f"the prepared faces cannot be written to {folder.parent} ({error.strerror or error}): make room for "
                f"{3 * size * size:,} bytes per picture there, or give another --data-dir"
            ) from error
    shape = (len(arrays["names"]), size, size, 3)
    # A private mapping: a caller's accidental changes never reach the file.
    pixels = torch.from_file(str(folder / PIXELS), shared=False, size=math.prod(shape), dtype=torch.uint8)
    return pixels.view(shape), arrays


def _arrays(folder: Path, stamp: str, size: int) -> Arrays | None:
    """The arrays of the cache, or None if it is missing, damaged or made from something else."""
    with contextlib.suppress(Exception):  # a damaged file fails in many ways, and is always made again
        arrays = dict(np.load(folder / ARRAYS, allow_pickle=False))
        if arrays["stamp"].item() == stamp and (folder / PIXELS).stat().st_size == 3 * size**2 * len(arrays["names"]):
            return arrays
    return None


def _made(folder: Path, stamp: str, prepare: Callable[[BinaryIO], dict]) -> Arrays:
    """Make the cache; its arrays."""
    new = folder.with_name(f"{folder.name}.tmp")
    for old in (new, folder):  # leftovers of a killed run, and an outdated cache
        shutil.rmtree(old, ignore_errors=True)
    new.mkdir()
    try:
        with open(new / PIXELS, "wb") as file:
            arrays = prepare(file)
            file.flush()
            os.fsync(file.fileno())
        np.savez(new / ARRAYS, stamp=stamp, **arrays)
        new.rename(folder)
    finally:
        shutil.rmtree(new, ignore_errors=True)
    return dict(np.load(folder / ARRAYS, allow_pickle=False))
