"""Files written whole or not at all."""

import contextlib
import json
import os
from pathlib import Path

from common.errors import UserError


def write_atomically(path: Path, content: bytes) -> None:
    """Write `content` to `path` so that a reader finds the old file or the new one, never a partial one.

    Raises UserError, naming the space needed, if the disk is full or the folder can't be written; a file already
    at `path` is then untouched.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise UserError(
            f"cannot write {path}: {error.strerror or error}; it needs {len(content) / 1e6:.1f} MB in {path.parent}"
        ) from error


def write_json(path: Path, value: object) -> None:
    """Write `value` as indented JSON, atomically. NaN and infinity, which JSON lacks, raise ValueError."""
    write_atomically(path, (json.dumps(value, indent=2, allow_nan=False) + "\n").encode())


def check_writable(folder: Path) -> None:
    """Create `folder` and check that a file can be written there, before any work is done. Raises UserError."""
    # Not a file from tempfile: on Windows, that tries two billion names where no file can be made.
    probe = folder / f".{os.getpid()}.tmp"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            probe.write_bytes(b"\0" * 4096)
        finally:
            probe.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(f"cannot write to the folder {folder}: {error.strerror or error}") from error
