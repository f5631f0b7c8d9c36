"""Processes, started by `torchrun`, that act as one: each takes a share of every batch; gradients are averaged."""

import contextlib
import io
import os
import sys
from collections.abc import Iterator
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor
from torch.optim.optimizer import register_optimizer_step_pre_hook

from common.errors import UserError, first_line, out_of_memory

PATIENCE = timedelta(hours=2)  # how long processes wait for the one that prepares the pictures


def launched() -> bool:
    """Whether torchrun started this process."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def world() -> int:
    """How many processes there are."""
    return dist.get_world_size() if launched() and dist.is_initialized() else 1


def rank() -> int:
    """This process's number; 0 is the first, which alone prints, writes files and draws."""
    return dist.get_rank() if world() > 1 else 0


def local_device(device: torch.device) -> torch.device:
    """This process's own accelerator. Raises UserError if there are more processes than accelerators."""
    if not launched():
        return device
    index, count = int(os.environ["LOCAL_RANK"]), torch.accelerator.device_count()
    # All processes must end here: one that waited for the others would have to be killed.
    if (wanted := int(os.environ["LOCAL_WORLD_SIZE"])) > count:
        raise UserError(f"--nproc-per-node {wanted} exceeds the GPUs here, {count}: lower it, or use --device cpu")
    torch.accelerator.set_device_index(index)
    return torch.device(device.type, index)


@contextlib.contextmanager
def joined(device: torch.device) -> Iterator[None]:
    """Join the processes that torchrun started: NCCL between GPUs where PyTorch has it, otherwise Gloo."""
    store, number, count = next(dist.rendezvous("env://", timeout=PATIENCE))
    if os.environ["GROUP_WORLD_SIZE"] == "1":
        # torchrun's store keeps the addresses of dead processes. Several machines each count their own restarts.
        store = dist.PrefixStore(os.environ["TORCHELASTIC_RESTART_COUNT"], store)
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" and dist.is_nccl_available() else "gloo"
    dist.init_process_group(backend, store=store, rank=number, world_size=count, timeout=PATIENCE)
    hook = register_optimizer_step_pre_hook(average_gradients)
    out, err = (sys.stdout, sys.stderr) if number == 0 else (io.StringIO(), io.StringIO())
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            yield
        part()
    except RuntimeError as error:
        # After the last epoch, or when memory runs out, an error has nothing to do with the other processes.
        if out_of_memory(error) or world() == 1:
            raise
        raise UserError(f"process {number} failed, or lost the others: {first_line(error)}") from error
    finally:
        hook.remove()


def part() -> None:
    """Leave the group together with all others, once: NCCL's communicators must be destroyed at about the same time."""
    if launched() and dist.is_initialized():
        gathered(None)
        dist.destroy_process_group()


def average_gradients(optimizer: torch.optim.Optimizer, *_: object) -> None:
    """Average the gradients of an optimizer's weights over the processes; PyTorch calls it before every step."""
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    gradients = [weight.grad for weight in weights if weight.grad is not None]
    means = total(torch.cat([gradient.reshape(-1) for gradient in gradients])).div_(world())
    for gradient, mean in zip(gradients, means.split([each.numel() for each in gradients]), strict=True):
        gradient.copy_(mean.view(gradient.shape))


def gathered(value: object) -> list:
    """Every process's `value`, given to all. It goes through the CPU: on GPUs, a long wait for others may time out."""
    values = [value] * world()
    if world() > 1:
        dist.all_gather_object(values, value)
    return values


def first(value: object) -> object:
    """The first process's `value`, given to all."""
    return gathered(value)[0]


def total(value: Tensor) -> Tensor:
    """The sum of `value` over the processes, computed in place."""
    if world() > 1:
        dist.all_reduce(value)
    return value
