"""Several processes as one: what `torchrun` starts, on PyTorch's own engine. Alone, each function is trivial.

Every process draws its own share of each shuffled batch, DistributedDataParallel averages the gradients, and the
first process alone prints, checkpoints, measures and draws.
"""

import contextlib
import io
import os
import sys
from collections.abc import Iterator
from datetime import timedelta
from typing import NoReturn

import torch
import torch.distributed as dist
from torch import Tensor, nn

from common.errors import UserError, out_of_memory

PATIENCE = timedelta(hours=2)  # the others' wait while the first prepares the data


def rank() -> int:
    """This process's number; 0 is the first."""
    return dist.get_rank() if dist.is_initialized() else 0


def world() -> int:
    """How many processes there are."""
    return dist.get_world_size() if dist.is_initialized() else 1


def local_device(device: torch.device) -> torch.device:
    """The accelerator that is this process's own: torchrun numbers the processes of a machine by LOCAL_RANK.

    Raises UserError where there are more processes than accelerators.
    """
    if device.type == "cpu" or not dist.is_torchelastic_launched():
        return device
    index = int(os.environ["LOCAL_RANK"])
    if index >= torch.accelerator.device_count():
        raise UserError(
            f"--nproc-per-node is more than the {torch.accelerator.device_count()} {device.type} devices here: "
            "start fewer processes, or use --device cpu"
        )
    device = torch.device(device.type, index)
    torch.accelerator.set_device_index(device.index)
    return device


@contextlib.contextmanager
def joined(device: torch.device) -> Iterator[None]:
    """Join the processes that torchrun started, if it did: NCCL between GPUs, Gloo between CPUs.

    All but the first are silent, and wait here until it has prepared the data and calls `let_others_start`.
    """
    if not dist.is_torchelastic_launched():
        yield
        return
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    store, number, count = next(dist.rendezvous("env://", timeout=PATIENCE))
    if os.environ["GROUP_WORLD_SIZE"] == "1":
        # torchrun keeps one store over its restarts, and in it the addresses of the dead. On several machines
        # the restarts are counted by each, so that they can't name an attempt.
        store = dist.PrefixStore(os.environ["TORCHELASTIC_RESTART_COUNT"], store)
    dist.init_process_group(backend, store=store, rank=number, world_size=count, timeout=PATIENCE)
    try:
        if rank() == 0:
            yield
        else:
            with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
                _meet()
                yield
    except RuntimeError as error:
        if out_of_memory(error):
            raise
        raise UserError(f"process {rank()} failed, or lost the others: {str(error).splitlines()[0]}") from error
    except SystemExit:
        leave(0)  # the others' regular end
    # Not after an error: destroying the group would wait for processes that are waiting for this one.
    dist.destroy_process_group()


def leave(code: int) -> NoReturn:
    """End this process at once: a regular exit can wait for the engine's threads, or crash in one of them."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def let_others_start() -> None:
    """Called by every process; the first one's call ends the others' wait in `joined`."""
    if world() > 1 and rank() == 0:
        _meet()


def _meet() -> None:
    dist.all_reduce(torch.zeros(1))  # on the CPU, since a GPU's barrier may time out during a long preparation


def wrap(module: nn.Module, device: torch.device) -> nn.Module:
    """`module` with its gradients averaged over the processes."""
    if world() == 1:
        return module
    return nn.parallel.DistributedDataParallel(module, device_ids=None if device.type == "cpu" else [device])


def share(batch: Tensor) -> Tensor:
    """This process's part of a batch of indices (B,); all parts together are the batch."""
    return batch[rank() :: world()]


def total(value: Tensor) -> Tensor:
    """The sum of `value` over the processes."""
    if world() > 1:
        value = value.clone()
        dist.all_reduce(value)
    return value


def batch_mean(values: Tensor) -> Tensor:
    """The mean of `values` (B,), one an image, over the whole batch, whatever each process's share of it."""
    if world() == 1:
        return values.mean()
    together = total(torch.stack([values.sum(), values.new_tensor(len(values))]))
    return together[0] / together[1]
