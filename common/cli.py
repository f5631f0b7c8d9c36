"""The flags that the three scripts share, and their exit: an expected error prints one line and gives exit code 2."""

import argparse
import contextlib
import gc
import math
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import torch

from common.errors import UserError, first_line, out_of_memory
from common.training import parallel


class Stopped(KeyboardInterrupt):
    """SIGTERM, handled like Ctrl-C."""


class Help(argparse.ArgumentDefaultsHelpFormatter):
    """Help that shows the default of each flag that has one."""

    def _get_help_string(self, action: argparse.Action) -> str:
        return action.help if action.default is None else super()._get_help_string(action)


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line."""

    def error(self, message: str) -> None:
        self.exit(2, f"{self.prog}: {message} (--help lists the flags)\n")


def number(kind: type, least: float, above: bool = False, below: float = math.inf) -> Callable[[str], float]:
    """A flag's type: a finite `kind` of at least `least` (greater if `above`) and less than `below`."""

    def parse(text: str) -> float:
        with contextlib.suppress(ValueError):
            value = kind(text)
            if (value > least if above else value >= least) and value < below:
                return value
        noun = "a whole number" if kind is int else "a finite number"
        limit = f" and below {below:g}" if below < math.inf else ""
        raise argparse.ArgumentTypeError(f"{text!r} is not {noun} {'above' if above else 'of at least'} {least}{limit}")

    return parse


positive_int = number(int, 1, below=2**31)
non_negative_float = number(float, 0)


def parser(script: str, description: str, **defaults: float) -> Parser:
    """A parser for the shared flags with this script's `defaults`: epochs, latent_dim and perhaps batch_size, lr."""
    by_length = "" if "lr" in defaults else " (default: by the length of the run)"
    flags = Parser(prog=f"{script}.py", description=description.splitlines()[0], formatter_class=Help)
    add = flags.add_argument
    add("--epochs", type=positive_int, help="passes over the training images")
    add("--batch-size", type=positive_int, help=f"images per step{by_length}")
    add("--lr", type=number(float, 0, above=True, below=1000), help=f"peak learning rate{by_length}")
    add("--latent-dim", type=positive_int, help="dimensions of the latent space")
    add("--seed", type=number(int, 0, below=2**63), default=0, help="random seed of weights, shuffles and noise")
    add("--device", choices=("auto", "cpu", "cuda", "mps"), default="auto", help="auto: the accelerator, if any")
    add("--precision", choices=("auto", "fp32", "bf16"), default="auto", help="auto: the faster one, by a short trial")
    add("--compile", action="store_true", help="compile the training step with torch.compile")
    add("--data-dir", type=Path, default=Path("data"), help="folder of the data sets, downloaded if absent")
    add("--images-dir", type=Path, default=Path("images"), help="folder for the figures")
    add("--run-dir", type=Path, default=Path("runs", script), help="folder for checkpoint, metrics and results")
    add("--limit", type=positive_int, metavar="N", help="train on the first N images only (a quick try)")
    add("--resume", action="store_true", help="continue from RUN_DIR/checkpoint.pt; a finished run redraws its figures")
    flags.set_defaults(**defaults)
    return flags


def run(main: Callable[[], None]) -> None:
    """Call `main`; exit with code 2 after an expected error, 130 after Ctrl-C, 143 after SIGTERM."""

    def stop(*_: object) -> None:
        raise Stopped

    signal.signal(signal.SIGTERM, stop)
    try:
        main()
        gc.freeze()  # As it ends, Python would otherwise search all of PyTorch's objects for garbage, for a second.
        return
    except UserError as error:
        code, message = 2, f"error: {error}"
    except KeyboardInterrupt as error:
        code = 143 if isinstance(error, Stopped) else 130
        message = f"stopped{f': {error}' if str(error) else ''}"
    except OSError as error:
        code, message = 2, f"error: {error.filename or 'input or output'}: {error.strerror or error}"
    except (MemoryError, RuntimeError) as error:
        if out_of_memory(error):
            code, message = 2, "error: out of memory: choose a smaller --batch-size, --latent-dim or --limit"
        elif isinstance(error, torch.AcceleratorError):  # the GPU is too old for this PyTorch, or others hold it
            code, message = 2, f"error: the accelerator failed ({first_line(error)}): use --device cpu"
        else:
            raise
    try:
        sys.stdout.flush()
    except OSError:  # nobody reads it, or the disk is full: Python's flush at exit would fail again
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    print(message, file=sys.stderr, flush=True)
    if parallel.world() > 1:
        parallel.leave(code)
    sys.exit(code)
