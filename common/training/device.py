"""Where to compute, in which precision, and compiled or not."""

import math
import sys
import time
from collections.abc import Callable
from statistics import median

import torch
from torch import Tensor, nn

from common.errors import UserError, first_line
from common.training import parallel

SECONDS = 0.4  # for timing both precisions
PIXELS = 100_000  # times channels, in that trial: fewer would time the overhead, more take long where bf16 is emulated
ROUNDS = 20  # at most
CLEARLY = 0.95  # bf16 must take less than this share of fp32's time; otherwise the more exact fp32 is chosen


def set_up(device: torch.device) -> None:
    """Set up this process's arithmetic and memory."""
    torch.set_flush_denormal(True)  # Numbers below 1e-38 slow a CPU down and change nothing.
    # Then glibc keeps the memory that a step frees for the next: up to twice the largest block freed. Otherwise the
    # system would clear it again in every step, which takes 4% of a step of 512 digits.
    torch.empty(30 * 2**20, dtype=torch.uint8)
    if device.type == "cuda":
        # By default, convolutions would round to TF32. After the newer `conv.fp32_precision` is set, reading this
        # flag, as torch.compile may, would be an error.
        torch.backends.cudnn.allow_tf32 = False


def choose_device(name: str) -> torch.device:
    """`auto` is the accelerator that PyTorch sees, otherwise the CPU. Raises UserError if the device is absent."""
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    if name == "auto":
        return accelerator or torch.device("cpu")
    if name != "cpu" and (accelerator is None or accelerator.type != name):
        raise UserError(f"--device {name}: PyTorch {torch.__version__} sees none here; use --device auto or cpu")
    return torch.device(name)


def memory_format(device: torch.device) -> torch.memory_format:
    """The layout of images and kernels in which convolutions are fastest."""
    # On MPS, PyTorch's convolutions of channels_last images took 30 times as long until 2026.
    return torch.contiguous_format if device.type == "mps" else torch.channels_last


def on_device(images: Tensor, device: torch.device) -> Tensor:
    """`images` on `device` for the whole run; left on the host if they would take more than half of its free memory."""
    if device.type == "cuda":
        free = torch.cuda.mem_get_info(device)[0]
    elif device.type == "mps":
        free = torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory()
    else:
        free = math.inf
    return images if images.nbytes > free / 2 else images.to(device, memory_format=memory_format(device))


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """A context in which operations run in bf16 where that is safe, if `precision` is "bf16"."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")


def faster_precision(step: Callable[[Tensor], dict], batch: Tensor, device: torch.device) -> tuple[str, str]:
    """The faster of "fp32" and "bf16" for `step`, which gives a `batch` a "loss"; and the reason, in words.

    The two alternate, so that a drift in the machine's speed affects both. The first call of each prepares kernels and
    isn't counted. All processes take equally many steps, since they may wait for one another, and the first chooses.
    """
    if device.type == "mps":
        return "fp32", "bf16 is not used on MPS"
    if device.type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
        return "fp32", "this GPU has no bf16 arithmetic"

    def seconds(precision: str) -> float:
        began = time.perf_counter()
        with autocast(device, precision):
            loss = step(few)["loss"].sum()
        loss.backward()
        if device.type != "cpu":
            torch.accelerator.synchronize()
        return time.perf_counter() - began

    few = batch[: math.ceil(PIXELS / batch[0].numel())]
    began = time.perf_counter()
    times: dict[str, list[float]] = {"fp32": [], "bf16": []}
    for _ in range(1 + ROUNDS):
        for precision, found in times.items():
            found.append(seconds(precision))
        if parallel.first(time.perf_counter() - began > SECONDS):
            break
    fp32, bf16 = (median(found[1:] or found) for found in times.values())
    ratio = f"bf16 takes {bf16 / fp32:.2f} times as long as fp32 here"
    return parallel.first(("bf16" if bf16 < CLEARLY * fp32 else "fp32", ratio))


def compiled(module: nn.Module, batch: Tensor, device: torch.device, precision: str) -> nn.Module:
    """`module`, a step that returns terms with a "loss", compiled and tried on `batch`, forward and backward.

    If that fails, because there is no compiler or for any other reason, `module` is returned unchanged, and the
    console says why.
    """
    # Batch sizes differ by one image at most: both are compiled in the first epoch, and nothing is compiled later.
    attempt = torch.compile(module, dynamic=False)
    try:
        with autocast(device, precision):
            terms = attempt(batch)
        terms["loss"].sum().backward()
    except Exception as error:  # A missing compiler alone raises exceptions of many kinds.
        reason = first_line(error)
        print(f"--compile: torch.compile fails here ({reason}); training continues without it", file=sys.stderr)
        return module
    finally:
        module.zero_grad()
    return attempt
