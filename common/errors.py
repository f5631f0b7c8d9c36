"""The exception for errors that a user can fix, and a check for running out of memory."""

import torch

# When memory runs out on the CPU, PyTorch raises a RuntimeError with one of these texts (c10/core/impl/alloc_cpu.cpp).
CPU_ALLOCATOR = ("can't allocate memory: you tried to allocate", "not enough memory: you tried to allocate")


class UserError(Exception):
    """An expected error: one line that says what is wrong, where, and what to do. The exit code is 2."""


def out_of_memory(error: BaseException) -> bool:
    """Whether `error` means that memory ran out, on the device or on the host."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in CPU_ALLOCATOR)


def first_line(error: BaseException) -> str:
    """The first line of the error's text, or its type if it has no text."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
