"""The flags that the three scripts share, and their exit: an expected error prints one line and gives exit code 2."""

import argparse
import contextlib
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from common.errors import UserError, first_line, out_of_memory
from common.training import processes


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are UserErrors, so that a notebook's kernel survives them."""

    def error(self, message: str) -> None:
        raise UserError(f"{message} (--help lists the flags)")


def number(kind: type, least: float, below: float) -> Callable[[str], float]:
    """A flag's type: a finite `kind` of at least `least` and below `below`."""

    def parse(text: str) -> float:
        with contextlib.suppress(ValueError):
            if least <= (value := kind(text)) < below:
                return value
        noun = "a whole number" if kind is int else "a number"
        raise argparse.ArgumentTypeError(f"{text!r} is not {noun} of at least {least:g} and below {below:g}")

    return parse


positive_int = number(int, 1, 2**31)
weight = number(float, 0, 1e9)


def folder(text: str) -> Path:
    """A flag's type: a path, in which ~ is the home folder even where the shell doesn't expand it (--data-dir=~/x)."""
    return Path(text).expanduser()


def parser(script: str, description: str, defaults: dict[str, float]) -> Parser:
    """A parser for the shared flags with this script's `defaults`: epochs, latent_dim, batch_size, lr."""
    style = argparse.ArgumentDefaultsHelpFormatter
    flags = Parser(prog=f"{script}.py", description=description.splitlines()[0], formatter_class=style)
    add, by_length = flags.add_argument, "" if "lr" in defaults else "; None: by the length of the run"
    add("--epochs", type=positive_int, help="passes over the training images")
    add("--batch-size", type=positive_int, help=f"images per step, of all processes together{by_length}")
    add("--lr", type=number(float, 1e-9, 1000), help=f"peak learning rate{by_length}")
    add("--latent-dim", type=positive_int, help="dimensions of the latent space")
    add("--seed", type=number(int, 0, 2**63), default=0, help="random seed of weights, shuffles and noise")
    add("--device", choices=("auto", "cpu", "cuda", "mps"), default="auto", help="auto: the accelerator, if any")
    add("--precision", choices=("auto", "fp32", "bf16"), default="auto", help="auto: the faster one, by a short trial")
    add("--data-dir", type=folder, default=Path("data"), help="folder of the data sets, downloaded if absent")
    add("--images-dir", type=folder, default=Path("images"), help="folder for the figures")
    add("--run-dir", type=folder, default=Path("runs", script), help="folder for checkpoint, metrics and results")
    add("--limit", type=positive_int, metavar="N", help="train, and validate, on the first N images only (a quick try)")
    add("--resume", action="store_true", help="continue from RUN_DIR/checkpoint.pt; a finished run redraws its figures")
    flags.set_defaults(**defaults)
    return flags


def run(main: Callable[[Sequence[str]], None]) -> None:
    """Call `main` with the command line, and exit: with 2 after an expected error, 128 plus the signal after one."""

    def stop(signum: int, _: object) -> None:
        error = KeyboardInterrupt()
        error.signal = signum
        raise error

    for signum in {signal.SIGTERM, getattr(signal, "SIGUSR1", signal.SIGTERM)}:  # SIGUSR1: SLURM's; not on Windows
        signal.signal(signum, stop)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # a path may have characters that the console lacks
    try:
        main(sys.argv[1:])
        code, message = 0, ""
    except UserError as error:
        code, message = 2, f"error: {error}"
    except KeyboardInterrupt as error:
        code, message = 128 + getattr(error, "signal", signal.SIGINT), f"stopped: {error}".removesuffix(": ")
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
    print(message, end="\n" * bool(message), file=sys.stderr, flush=True)
    if processes.launched():  # a regular exit can wait for the engine's threads, or crash in one of them
        os._exit(code)
    sys.exit(code)
