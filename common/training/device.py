"""Where to compute, in which precision, and with how many threads."""

import os
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch
from torch import Tensor, nn

from common.errors import UserError, first_line
from common.training import processes

SECONDS = 0.4  # for the trial of precisions and threads
ROUNDS = 20  # of it, at most; at least 2
CLEARLY = 0.95  # bf16 must take less than this share of fp32's time; otherwise the more exact fp32 is chosen
TRIAL_SIZE, LARGEST = 256, 1024  # pictures of the trial on a GPU: by default, and at most
FAR = 2 / 3  # fewer threads must take less than this share, so that an idle machine always uses the same number
QUOTA = Path("/sys/fs/cgroup/cpu.max")  # a container's share of the cores: microseconds per period, and the period


def set_up(device: torch.device) -> None:
    """Set up this process's arithmetic and memory."""
    torch.set_flush_denormal(True)  # Numbers below 1e-38 slow a CPU down and change nothing.
    # glibc then keeps the memory that a step frees (up to twice the largest block freed), which saves 4% of a step.
    torch.empty(30 * 2**20, dtype=torch.uint8)
    if device.type == "cuda":
        torch.backends.cudnn.allow_tf32 = False  # By default, convolutions would round to TF32.


def choose_device(name: str) -> torch.device:
    """`auto` is the accelerator that PyTorch sees and can use, otherwise the CPU. Raises UserError if it is absent."""
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    if name not in ("auto", "cpu", accelerator and accelerator.type):
        raise UserError(f"--device {name}: PyTorch {torch.__version__} sees none here; use --device auto or cpu")
    if accelerator and name != "cpu":
        accelerator = processes.local_device(accelerator)  # before anything computes on another process's
        try:
            torch.ones(1, device=accelerator).add(1).item()
            return accelerator
        except RuntimeError as error:  # it is too old for this PyTorch, or others hold it
            if name != "auto" or processes.launched():  # all processes must compute on the same kind of device
                raise
            print(f"{accelerator.type} fails here ({first_line(error)}): computing on the CPU", flush=True)
    return torch.device("cpu")


def memory_format(device: torch.device) -> torch.memory_format:
    """The layout of images and kernels in which convolutions are fastest."""
    # On MPS, PyTorch's convolutions of channels_last images took 30 times as long until 2026.
    return torch.contiguous_format if device.type == "mps" else torch.channels_last


def on_device(images: Tensor, device: torch.device) -> Tensor:
    """`images` on `device` for the whole run; left on the host if they would take more than half of a GPU's memory."""
    if device.type == "cuda" and images.nbytes > torch.cuda.mem_get_info(device)[0] / 2:
        return images
    return images.to(device, memory_format=memory_format(device))


def thread_counts() -> list[int]:
    """The numbers of threads worth a trial: all that this process may use, a half of them, a quarter, ..., one."""
    count = torch.get_num_threads()
    if "OMP_NUM_THREADS" in os.environ:
        return [count]
    if hasattr(os, "sched_getaffinity"):
        count = min(count, len(os.sched_getaffinity(0)))
    if QUOTA.exists() and (quota := QUOTA.read_text().split())[0] != "max":
        count = min(count, max(1, int(quota[0]) // int(quota[1])))
    return [count >> halvings for halvings in range(count.bit_length())]


def trial_step(device: torch.device, batch_size: int) -> Callable[[str], None]:
    """A step of training, in the precision it is given, of a small network with the scripts' kinds of layers."""
    layers = [nn.Conv2d(3, 64, 8, 4, 2), nn.SiLU(), nn.Conv2d(64, 96, 4, 2, 1), nn.SiLU(), nn.Flatten()]
    network = nn.Sequential(*layers, nn.Linear(96 * 8 * 8, 512), nn.SiLU(), nn.Linear(512, 784)).to(device)
    # On a GPU, launches decide in small batches and arithmetic in large ones. A CPU may have to emulate bf16.
    count = 16 if device.type == "cpu" else min(batch_size, LARGEST)
    batch = torch.rand(count, 3, 64, 64, device=device)

    def step(precision: str) -> None:
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            loss = network(batch).square().mean()
        loss.backward()
        loss.item()  # waits for the device

    return step


def choose_arithmetic(
    device: torch.device, precision: str, threads: list[int], batch_size: int = TRIAL_SIZE
) -> tuple[str, int, str]:
    """The precision ("fp32" or "bf16"), the number of threads, and the reason, in words, by a short trial.

    `precision` may be "auto"; `threads` are the numbers to choose from, the preferred one first. The combinations
    alternate, so that a drift in speed affects all. All processes take equally many steps, and the first one chooses.
    """
    has_bf16 = device.type == "cpu" or device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    precisions = [precision] if precision != "auto" else ["fp32", "bf16"][: 1 + has_bf16]
    threads = threads if device.type == "cpu" else threads[:1]
    times: dict[tuple[str, int], list[float]] = {(each, count): [] for count in threads for each in precisions}
    if len(times) == 1:
        return precisions[0], threads[0], "as requested" if precision != "auto" else "bf16 isn't tried here"
    step = trial_step(device, batch_size)
    for number in range(1 + ROUNDS):
        if number == 1:  # the first round loads kernels and libraries, and isn't counted
            started = time.perf_counter()
        for (each, count), found in times.items():
            torch.set_num_threads(count)
            began = time.perf_counter()
            step(each)
            found.append(time.perf_counter() - began)
        if processes.first(number >= 2 and time.perf_counter() - started > SECONDS):
            break
    typical = {combination: median(found[1:]) for combination, found in times.items()}
    best = {count: min(typical[each, count] for each in precisions) for count in threads}
    chosen = threads[0]
    for count in threads[1:]:
        chosen = count if best[count] < FAR * best[chosen] else chosen
    ratio = typical[precisions[-1], chosen] / typical[precisions[0], chosen]
    reason = f"bf16 takes {ratio:.2f} times as long as fp32" if len(precisions) > 1 else "as requested"
    if chosen < threads[0]:
        reason += f"; {threads[0]} threads are slower, since the machine is busy or has many cores"
    return processes.first((precisions[-1] if ratio < CLEARLY else precisions[0], chosen, reason))
