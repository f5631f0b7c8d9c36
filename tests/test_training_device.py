"""The choice of device and of precision, and the detection of memory that ran out."""

import pytest
import torch

from common.errors import UserError, out_of_memory
from common.training import device

CPU = torch.device("cpu")


def test_an_absent_device_is_an_error():
    assert device.choose_device("cpu") == CPU
    absent = "mps" if not torch.backends.mps.is_available() else "cuda"
    with pytest.raises(UserError, match=f"--device {absent}"):
        device.choose_device(absent)


@pytest.mark.parametrize(("slow", "expected"), [("fp32", "bf16"), ("bf16", "fp32"), (None, "fp32")])
def test_bf16_is_chosen_only_where_it_is_clearly_faster(monkeypatch, slow, expected):
    now = 0.0
    monkeypatch.setattr(device.time, "perf_counter", lambda: now)

    def step(batch):
        nonlocal now
        assert device.PIXELS <= batch.numel() <= 2 * device.PIXELS
        precision = "bf16" if torch.is_autocast_enabled("cpu") else "fp32"
        now += 0.02 if precision == slow else 0.01
        return {"loss": torch.zeros(1, requires_grad=True)}

    chosen, reason = device.faster_precision(step, torch.zeros(500, 1, 28, 28), CPU)
    assert chosen == expected and "times as long as fp32" in reason
    assert now < 1.2 * device.SECONDS


def test_all_processes_take_as_many_trial_steps_as_the_first_and_its_choice(monkeypatch):
    """Otherwise a loss that waits for the others would wait forever. The first process's answers are faked."""
    steps, answers = [], iter([False, False, False, True, ("bf16", "the first one's")])
    monkeypatch.setattr(device.parallel, "first", lambda mine: next(answers))

    def step(batch):
        steps.append(1)
        return {"loss": torch.zeros(1, requires_grad=True)}

    assert device.faster_precision(step, torch.zeros(2, 1, 28, 28), CPU) == ("bf16", "the first one's")
    assert len(steps) == 2 * 4


@pytest.mark.parametrize("error", [MemoryError(), torch.OutOfMemoryError("CUDA out of memory"),
    RuntimeError("MPS backend out of memory (MPS allocated: 9.00 GB, other allocations: 1.00 GB)"),
    RuntimeError("Invalid buffer size: 80.00 GB"), RuntimeError("CUDA error: out of memory"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:127] data. DefaultCPUAllocator: can't allocate memory: you tried to "
                 "allocate 4000000000000 bytes. Error code 12 (Cannot allocate memory)")])  # fmt: skip
def test_memory_that_ran_out_is_recognized_by_type_or_text(error):
    assert out_of_memory(error)


def test_the_message_of_the_cpu_allocator_is_still_recognized():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60, dtype=torch.uint8)
    assert out_of_memory(caught.value)


def test_an_illegal_memory_access_is_not_taken_for_memory_that_ran_out():
    assert not out_of_memory(RuntimeError("CUDA error: an illegal memory access was encountered"))
    assert not out_of_memory(ValueError("memory"))
