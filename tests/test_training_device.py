"""The choice of device, precision and threads, and the detection of memory that ran out."""

from unittest.mock import Mock

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


def test_auto_leaves_an_accelerator_that_fails_at_its_first_kernel(monkeypatch, capsys):
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available: torch.device("cuda"))
    monkeypatch.setattr(device.processes, "local_device", lambda found: torch.device(found.type, 1))
    monkeypatch.setattr(torch, "ones", probe := Mock(side_effect=RuntimeError("no kernel image\nis available")))
    assert device.choose_device("auto") == CPU
    assert probe.call_args.kwargs["device"] == torch.device("cuda", 1), "a process computes on another's"
    assert "cuda fails here (no kernel image): computing on the CPU" in capsys.readouterr().out


@pytest.fixture
def clock(monkeypatch):
    """Seconds that pass only when a faked step takes them: clock(seconds per precision and threads, of the first)."""
    now, threads = 0.0, 0

    def set_threads(count):
        nonlocal threads
        threads = count

    def install(seconds, first=0.0):
        rest = [first]

        def step(precision):
            nonlocal now
            now += seconds(precision, threads) + (rest.pop() if rest else 0)

        monkeypatch.setattr(device, "trial_step", lambda *_: step)
        return lambda: now

    monkeypatch.setattr(torch, "set_num_threads", set_threads)
    monkeypatch.setattr(device.time, "perf_counter", lambda: now)
    return install


@pytest.mark.parametrize(("fp32", "bf16", "expected"), [(20, 10, "bf16"), (10, 20, "fp32"), (10, 10, "fp32")])
@pytest.mark.parametrize("first", [0, 5])
def test_bf16_is_chosen_only_where_it_is_clearly_faster_however_slow_the_start(clock, fp32, bf16, expected, first):
    now = clock(lambda precision, threads: (bf16 if precision == "bf16" else fp32) / 1000, first=first)
    assert device.choose_arithmetic(CPU, "auto", [1])[:2] == (expected, 1)
    assert now() - first < 1.3 * device.SECONDS


@pytest.mark.parametrize(("alone", "busy", "expected"), [(1, 1.3, 4), (1, 0.6, 2), (1, 0.9, 4)])
def test_fewer_threads_are_taken_only_where_they_are_clearly_faster(clock, alone, busy, expected):
    clock(lambda precision, threads: {4: alone, 2: busy, 1: 2}[threads] / 100)
    assert device.choose_arithmetic(CPU, "fp32", [4, 2, 1])[:2] == ("fp32", expected)


def test_all_processes_take_as_many_trial_steps_as_the_first_and_its_choice(clock, monkeypatch):
    """Otherwise they would wait for one another forever. The first process's answers are faked."""
    answers = iter([False, False, False, True, ("bf16", 1, "the first one's")])
    monkeypatch.setattr(device.processes, "first", lambda mine: next(answers))
    now = clock(lambda precision, threads: 1.0)
    assert device.choose_arithmetic(CPU, "auto", [1]) == ("bf16", 1, "the first one's")
    assert now() == 2 * 4


def test_the_threads_to_try_are_those_that_the_process_may_use(monkeypatch, tmp_path):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 16)
    monkeypatch.setattr(device.os, "sched_getaffinity", lambda process: set(range(12)), raising=False)
    monkeypatch.setattr(device, "QUOTA", tmp_path / "cpu.max")
    assert device.thread_counts() == [12, 6, 3, 1]
    (tmp_path / "cpu.max").write_text("450000 100000\n")
    assert device.thread_counts() == [4, 2, 1]
    (tmp_path / "cpu.max").write_text("max 100000\n")
    assert device.thread_counts() == [12, 6, 3, 1]
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    assert device.thread_counts() == [3]


@pytest.mark.parametrize("error", [MemoryError(), torch.OutOfMemoryError("CUDA out of memory"),
    RuntimeError("MPS backend out of memory (MPS allocated: 9.00 GB, other allocations: 1.00 GB)"),
    RuntimeError("Invalid buffer size: 80.00 GB"), RuntimeError("CUDA error: out of memory"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:127] data. DefaultCPUAllocator: can't allocate memory: you tried to "
                 "allocate 4000000000000 bytes. Error code 12 (Cannot allocate memory)")])  # fmt: skip
def test_memory_that_ran_out_is_recognized_by_type_or_text(error):
    assert out_of_memory(error)


def test_an_illegal_memory_access_is_not_taken_for_memory_that_ran_out():
    assert not out_of_memory(RuntimeError("CUDA error: an illegal memory access was encountered"))
    assert not out_of_memory(ValueError("memory"))
