"""The exception for errors that a user can fix, and a check for running out of memory."""

import torch

# In PyTorch's RuntimeErrors when memory runs out on a CPU, MPS or a filled GPU, or a file is too large to be mapped.
NO_MEMORY = ("you tried to allocate", "out of memory", "Invalid buffer size", "ALLOC_FAILED", "Cannot allocate memory")


class UserError(Exception):
    """An expected error: one line that says what is wrong, where, and what to do. The exit code is 2."""


def out_of_memory(error: BaseException) -> bool:
    """Whether `error` means that memory ran out, on the device or on the host."""
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or any(text in str(error) for text in NO_MEMORY)


def first_line(error: BaseException) -> str:
    """The first line of the error's text, or its type if it has no text."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
