"""The one exception that stands for what a user can cause and mend, and how to tell that memory ran out."""


class UserError(Exception):
    """An expected error: one line that says what is wrong, where, and what to do. Exit code 2."""


def out_of_memory(error: Exception) -> bool:
    """Whether memory ran out. On the CPU, PyTorch has no exception of its own for it, only a text."""
    return isinstance(error, MemoryError) or "memory" in str(error)
