"""Checkpoints: written atomically, loaded without running code, resumed exactly; and the lock of a run's folder."""

import contextlib
import io
import warnings
import zipfile
from pathlib import Path

import torch
from filelock import FileLock, Timeout

from common.errors import UserError
from common.files import check_writable, write_atomically

FORMAT = 2
KINDS = {"script": str, "arguments": dict, "data": str, "precision": str, "epoch": int}
KINDS |= {"model": dict, "optimizer": list, "history": list}


@contextlib.contextmanager
def run_folder(folder: Path):
    """Lock `folder` for one run: a second run in it at the same time raises UserError."""
    check_writable(folder)
    lock = FileLock(folder / ".lock")
    try:
        with lock.acquire(timeout=0):
            for leftover in folder.glob(".*.tmp"):  # of a run that was killed while writing
                leftover.unlink(missing_ok=True)
            yield folder
    except Timeout as error:
        raise UserError(f"another run is using {folder}: wait for it, or give this one its own --run-dir") from error


def save(path: Path, state: dict) -> None:
    """Write a checkpoint atomically. Raises UserError if it can't be written."""
    buffer = io.BytesIO()
    torch.save({"format": FORMAT, **state}, buffer)
    write_atomically(path, buffer.getvalue())


def load(path: Path) -> dict:
    """Read a checkpoint written by `save`, with its tensors on the CPU.

    Only tensors and plain values are read (`weights_only=True`), so a file from a stranger can't run code.
    Raises UserError for a file that is damaged, foreign, or of a newer format, and OSError for one that can't be read.
    """
    content = io.BytesIO(path.read_bytes())
    try:
        if damaged := zipfile.ZipFile(content).testzip():  # torch.load doesn't compare checksums
            raise ValueError(f"{damaged} has changed")
        content.seek(0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about foreign pickles, which are refused
            state = torch.load(content, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged and hostile files raise exceptions of many kinds
        raise UserError(f"{path} is damaged or not a checkpoint of this project: remove it and train again") from error
    version = state.get("format") if isinstance(state, dict) else None
    if isinstance(version, int) and version != FORMAT:
        raise UserError(f"{path} has format {version}, this version reads {FORMAT}: update it, or train again")
    if version != FORMAT or not all(isinstance(state.get(name), kind) for name, kind in KINDS.items()):
        raise UserError(f"{path} is not a checkpoint of this project: choose another --run-dir")
    return state


def check_same_run(state: dict, script: str, arguments: dict, data: str, path: Path) -> None:
    """Raise UserError, naming the difference, unless the checkpoint `state` is of `script`, `arguments` and `data`."""
    if state["script"] != script:
        raise UserError(f"{path} was written by {state['script']}.py, not {script}.py: choose another --run-dir")
    if state["data"] != data:
        raise UserError(f"{path} was trained on {state['data']}, not on {data}: choose another --run-dir")
    for name, value in arguments.items():
        if (found := state["arguments"].get(name)) != value:
            found, value = ("its default" if each is None else each for each in (found, value))
            raise UserError(f"{path} was trained with --{name.replace('_', '-')} {found}, not {value}: "
                            "resume with the same value, or start over in another --run-dir")  # fmt: skip
