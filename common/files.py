"""Files written whole or not at all, and locks between processes."""

import contextlib
import errno
import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from common.errors import UserError

ON_WINDOWS = os.name == "nt"
if ON_WINDOWS:
    import msvcrt
else:
    import fcntl


def write_atomically(path: Path, content: bytes) -> None:
    """Write `content` to `path` so that a reader finds the old file or the new one, never a partial one.

    Raises UserError, naming the space needed, if that fails; a file already at `path` is then untouched.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        for _ in range(10 if ON_WINDOWS else 0):  # There, a scanner or an indexer may hold the file for a moment.
            with contextlib.suppress(PermissionError):
                return os.replace(temporary, path)
            time.sleep(0.1)
        os.replace(temporary, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        need = f"it needs {len(content) / 1e6:.1f} MB in {path.parent}"
        raise UserError(f"cannot write {path}: {error.strerror or error}; {need}") from error


def write_json(path: Path, value: object) -> None:
    """Write `value` as indented JSON, atomically. NaN and infinity, which JSON lacks, raise ValueError."""
    write_atomically(path, (json.dumps(value, indent=2, allow_nan=False) + "\n").encode())


def check_writable(folder: Path) -> None:
    """Create `folder` and check that a file can be written there, before any work is done. Raises UserError."""
    write_atomically(folder / ".probe", b"\0" * 4096)
    (folder / ".probe").unlink(missing_ok=True)


@contextlib.contextmanager
def locked_folder(folder: Path) -> Iterator[None]:
    """Hold `folder` for one run, and clear what a killed one left. Raises UserError if another run holds it."""
    check_writable(folder)
    with lock(folder / ".lock", f"another run is using {folder}: wait for it, or give this one its own --run-dir"):
        for leftover in folder.glob(".*.tmp"):
            leftover.unlink(missing_ok=True)
        yield


@contextlib.contextmanager
def lock(path: Path, refusal: str = "") -> Iterator[None]:
    """Hold an exclusive lock on the file `path`, which is made if absent and stays.

    If another process holds it, waits or, with a `refusal`, raises UserError with that message. Where the file system
    has no locks, as on some network drives, a line on stderr says so and the block runs without one.
    """
    with open(path, "ab") as file:  # closing it ends the lock
        while True:
            try:
                if ON_WINDOWS:
                    msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)  # LK_LOCK would wait for ten seconds only
                else:
                    fcntl.flock(file, fcntl.LOCK_EX | (fcntl.LOCK_NB if refusal else 0))
                break
            except OSError as error:
                if error.errno != (errno.EACCES if ON_WINDOWS else errno.EAGAIN):
                    print(f"{path} cannot be locked ({error.strerror}): start no second run there", file=sys.stderr)
                    break
                if refusal:
                    raise UserError(refusal) from error
            time.sleep(0.1)
        yield
