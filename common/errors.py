"""The exception for errors that a user can fix, and how to tell that memory ran out."""

import torch

# On the CPU, PyTorch has no exception of its own for it, only these texts (c10/core/impl/alloc_cpu.cpp).
CPU_ALLOCATOR = ("can't allocate memory: you tried to allocate", "not enough memory: you tried to allocate")


class UserError(Exception):
    """An expected error: one line that says what is wrong, where, and what to do. The exit code is 2."""


def out_of_memory(error: BaseException) -> bool:
    """Whether `error` says that memory ran out, on the device or on the host."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in CPU_ALLOCATOR)


def first_line(error: BaseException) -> str:
    """The first line of the error's text, or its type where it has none."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
