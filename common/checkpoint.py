"""Files that are whole or absent: atomic writing, checkpoints that load without running code, exact resume."""

import contextlib
import io
import json
import os
import tempfile
import warnings
from pathlib import Path

import torch
from filelock import FileLock, Timeout

from common.errors import UserError

FORMAT = 1


def write_atomically(path: Path, content: bytes) -> None:
    """Write `content` to `path` so that a reader finds the old file or the new one, never half of one.

    Raises UserError, with the room that is needed, where the disk is full or the folder can't be written;
    the file that was at `path` is then untouched.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise UserError(
            f"cannot write {path}: {error.strerror or error}; it needs {len(content) / 1e6:.1f} MB in {path.parent}"
        ) from error


def write_json(path: Path, value: object) -> None:
    """Write `value` as indented JSON, atomically. NaN and infinity have no JSON and raise ValueError."""
    write_atomically(path, (json.dumps(value, indent=2, allow_nan=False) + "\n").encode())


def check_writable(folder: Path) -> None:
    """Create `folder` and prove that a file can be written there, before any work is spent. Raises UserError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"\0" * 4096)
    except OSError as error:
        raise UserError(f"cannot write in the folder {folder}: {error.strerror or error}") from error


@contextlib.contextmanager
def run_folder(folder: Path):
    """Hold `folder` for one run: a second run on it at the same time raises UserError."""
    check_writable(folder)
    lock = FileLock(folder / ".lock")
    try:
        with lock.acquire(timeout=0):
            for leftover in folder.glob(".*.tmp"):  # of a run that was killed while it wrote
                leftover.unlink(missing_ok=True)
            yield folder
    except Timeout as error:
        raise UserError(f"another run is using {folder}: wait for it, or give this one its own --run-dir") from error


def save(path: Path, state: dict) -> None:
    """Write a checkpoint atomically. Raises UserError where it can't be written."""
    buffer = io.BytesIO()
    torch.save({"format": FORMAT, **state}, buffer)
    write_atomically(path, buffer.getvalue())


def load(path: Path) -> dict:
    """Read a checkpoint written by `save`, with its tensors on the CPU.

    Only tensors and plain values are read (`weights_only=True`), so a file from a stranger can't run code.
    Raises UserError for a file that is absent, damaged, foreign, or of a newer format.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of strange pickles, which are refused
            state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise UserError(f"there is no checkpoint {path}") from error
    except Exception as error:  # a damaged or hostile file raises whatever its bytes happen to lead to
        raise UserError(f"{path} is damaged or no checkpoint of this project: remove it and train again") from error
    kinds = {"format": int, "script": str, "arguments": dict, "epoch": int, "model": dict, "history": list}
    if not isinstance(state, dict) or not all(isinstance(state.get(name), kind) for name, kind in kinds.items()):
        raise UserError(f"{path} is no checkpoint of this project: choose another --run-dir")
    if state["format"] != FORMAT:
        raise UserError(f"{path} has format {state['format']}, this version reads {FORMAT}: update, or train again")
    return state


def check_same_run(state: dict, script: str, arguments: dict, path: Path) -> None:
    """Raise UserError, naming what differs, unless the checkpoint `state` is of `script` with `arguments`."""
    if state["script"] != script:
        raise UserError(f"{path} was written by {state['script']}.py, not {script}.py: choose another --run-dir")
    for name, value in arguments.items():
        if state["arguments"].get(name) != value:
            raise UserError(
                f"{path} was trained with --{name.replace('_', '-')} {state['arguments'].get(name)}, not {value}: "
                "resume with the same value, or start anew in another --run-dir"
            )
