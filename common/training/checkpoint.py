"""Checkpoints: written atomically, and loaded without running code."""

import io
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from common.errors import UserError
from common.files import write_atomically

KEYS = ("script", "arguments", "data", "images", "precision", "threads", "history", "model", "optimizer")


def save(path: Path, state: dict) -> None:
    """Write a checkpoint atomically. Raises UserError if it can't be written."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    write_atomically(path, buffer.getvalue())


def load(path: Path | str) -> dict:
    """Read a checkpoint written by `save`, with its tensors on the CPU.

    A stranger's file can't run code. Raises UserError if it is damaged or foreign, and OSError if it can't be read.
    """
    content = io.BytesIO(Path(path).read_bytes())
    try:
        with warnings.catch_warnings(action="ignore"):  # about foreign pickles, which are refused
            state = torch.load(content, map_location="cpu", weights_only=True)
        [state[name] for name in KEYS]
    except Exception as error:  # damaged, hostile and foreign files raise exceptions of many kinds
        raise UserError(f"{path} is damaged or not a checkpoint of this project: remove it and train again") from error
    return state


def load_model(path: Path | str, build: Callable[[dict], nn.Module]) -> nn.Module:
    """The trained model of a checkpoint, ready for use on the CPU; `build` makes an untrained one of its arguments.

    Raises UserError if the checkpoint is damaged, or of another model.
    """
    state = load(path)
    try:
        model = build(state["arguments"])
        model.load_state_dict(state["model"])
    except (KeyError, RuntimeError) as error:
        raise UserError(f"{path} holds a model of {state['script']}.py: load it with that script") from error
    return model.eval()
