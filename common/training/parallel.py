"""Several processes, started by `torchrun`, act as one. With a single process, each function is trivial.

Every process takes its own share of each shuffled batch, DistributedDataParallel averages the gradients, and only
the first process prints, checkpoints, measures and draws.
"""

import contextlib
import io
import os
import sys
from collections.abc import Iterator
from datetime import timedelta
from typing import NoReturn, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from common.errors import UserError, first_line, out_of_memory

T = TypeVar("T")

PATIENCE = timedelta(hours=2)  # how long the others wait while the first prepares the data


def launched() -> bool:
    """Whether torchrun started this process. Some builds of PyTorch have no torch.distributed."""
    return dist.is_available() and dist.is_torchelastic_launched()


def world() -> int:
    """How many processes there are."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """This process's number; 0 is the first."""
    return dist.get_rank() if world() > 1 else 0


def local_device(device: torch.device) -> torch.device:
    """This process's own accelerator. Raises UserError if there are more processes than accelerators."""
    if device.type == "cpu" or not launched():
        return device
    index, count = int(os.environ["LOCAL_RANK"]), torch.accelerator.device_count()
    if index >= count:
        raise UserError(f"--nproc-per-node exceeds the {count} {device.type} devices here: "
                        "start fewer processes, or use --device cpu")  # fmt: skip
    torch.accelerator.set_device_index(index)
    return torch.device(device.type, index)


@contextlib.contextmanager
def joined(device: torch.device) -> Iterator[None]:
    """Join the processes that torchrun started, if it did: NCCL between GPUs where PyTorch has it, otherwise Gloo.

    All but the first are silent, and wait here until it has prepared the data and calls `let_others_start`.
    """
    if not launched():
        yield
        return
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" and dist.is_nccl_available() else "gloo"
    store, number, count = next(dist.rendezvous("env://", timeout=PATIENCE))
    if os.environ["GROUP_WORLD_SIZE"] == "1":
        # torchrun keeps one store across restarts, with the addresses of dead processes in it. Several machines
        # each count their own restarts, so the count can't name an attempt there.
        store = dist.PrefixStore(os.environ["TORCHELASTIC_RESTART_COUNT"], store)
    dist.init_process_group(backend, store=store, rank=number, world_size=count, timeout=PATIENCE)
    try:
        if rank() == 0:
            yield
        else:
            with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
                gathered(None)
                yield
    except RuntimeError as error:
        # After the last epoch, or when memory runs out, an error has nothing to do with the other processes.
        if out_of_memory(error) or world() == 1:
            raise
        raise UserError(f"process {rank()} failed, or lost the others: {first_line(error)}") from error


def let_others_start() -> None:
    """Called by every process; the first one's call ends the others' wait in `joined`."""
    if rank() == 0:
        gathered(None)


def leave(code: int) -> NoReturn:
    """End this process at once: a regular exit can wait for the engine's threads, or crash in one of them."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def part() -> None:
    """Leave the group together, after the last epoch. Only the first process returns; the others end."""
    if launched():
        number = rank()
        gathered(None)  # NCCL's communicators must be destroyed by all processes at about the same time.
        dist.destroy_process_group()
        if number > 0:
            leave(0)


def gathered(value: T) -> list[T]:
    """Every process's `value`, given to all. It goes through the CPU: on GPUs, a long wait for others may time out."""
    values = [value] * world()
    if world() > 1:
        dist.all_gather_object(values, value)
    return values


def first(value: T) -> T:
    """The first process's `value`, given to all."""
    return gathered(value)[0]


def wrap(module: nn.Module, device: torch.device) -> nn.Module:
    """`module` with its gradients averaged over the processes."""
    if world() == 1:
        return module
    devices = None if device.type == "cpu" else [device]
    # The only buffer, the faces' variance, is set to the same value in all processes between epochs.
    return nn.parallel.DistributedDataParallel(module, device_ids=devices, broadcast_buffers=False)


def share(batch: Tensor) -> Tensor:
    """This process's part of a batch of indices (B,); all parts together are the batch."""
    return batch[rank() :: world()]


def total(value: Tensor) -> Tensor:
    """The sum of `value` over the processes, computed in place."""
    if world() > 1:
        dist.all_reduce(value)
    return value


def batch_mean(values: Tensor) -> Tensor:
    """The mean of `values` (B,), one per image, over the whole batch, whatever each process's share of it."""
    if world() == 1:
        return values.mean()
    # Counted on the device: copying a number from the host would make it wait in every step.
    sums = total(torch.stack([values.sum(), torch.ones_like(values).sum()]))
    return sums[0] / sums[1]
