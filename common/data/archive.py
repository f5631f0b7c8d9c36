"""Pictures read in place from a folder or a zip, and CelebA's tables in or near it. Links are followed."""

import hashlib
import os
import threading
import zipfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from common.errors import UserError

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")  # of pictures
TABLES = ("list_attr_celeba.txt", "list_attr_celeba.csv", "list_eval_partition.txt", "list_eval_partition.csv")
MAX_BYTES = 256 * 2**20  # a zip entry that inflates to more is refused

Readers = dict[str, Callable[[], bytes]]  # a function that reads each file, by its name


class NothingFound(UserError):
    """The path does not exist, or holds neither pictures nor a zip."""


class Source(NamedTuple):
    """A folder of pictures, or a zip: the paths of `pictures` and `tables` by name, except those inside the zip."""

    path: Path
    pictures: dict[str, str]
    tables: dict[str, str]

    def stamp(self) -> str:
        """A digest of paths, sizes and times: it changes whenever the pictures or their tables do."""
        paths = sorted([*(self.pictures.values() or [str(self.path)]), *self.tables.values()])
        stamps = [(path, about.st_size, about.st_mtime_ns) for path in paths for about in [os.stat(path)]]
        return hashlib.sha256(repr(stamps).encode()).hexdigest()

    @contextmanager
    def opened(self) -> Iterator[tuple[Readers, Readers]]:
        """The readers of pictures and of tables, which are thread-safe. Raises UserError if the zip is damaged."""
        files = (self.pictures, self.tables)
        pictures, tables = ({name: Path(path).read_bytes for name, path in some.items()} for some in files)
        if pictures:
            yield pictures, tables
            return
        try:
            archive = zipfile.ZipFile(self.path)
        except Exception as error:  # invalid zips raise more than BadZipFile
            reason = f"{error}; Google Drive sends a web page instead when its quota is exceeded"
            raise UserError(f"{self.path} is not a complete zip ({reason}): fetch it again or name another") from error
        with archive:

            def read(info: zipfile.ZipInfo) -> bytes:
                # zipfile doesn't bound the output of other methods (bzip2, LZMA).
                if info.file_size > MAX_BYTES or info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                    raise ValueError(f"too large ({info.file_size:,} bytes), or neither stored nor deflated")
                with lock, archive.open(info) as file:
                    return file.read(info.file_size)  # bounded, in case the entry holds more than it says

            lock = threading.Lock()  # zipfile's count of open entries is not thread-safe
            for info in archive.infolist():
                base = info.filename.rpartition("/")[2]
                if base in TABLES:
                    tables[base] = partial(read, info)
                elif base.lower().endswith(SUFFIXES) and not base.startswith("."):  # as macOS's own files do
                    pictures[info.filename] = partial(read, info)
            yield pictures, tables


def find(path: Path) -> Source:
    """The pictures at `path`: a zip, a folder with pictures at any depth, or a folder with one zip.

    Raises NothingFound if there are none, UserError if it is unclear which are meant, and OSError.
    """
    if not path.exists():
        raise NothingFound(f"{path} does not exist: name a zip or a folder of pictures")
    pictures, tables = {}, {}
    if path.is_dir():
        files = list(_walk(str(path), set()))
        start = len(os.path.join(path, ""))
        pictures = {file[start:].replace(os.sep, "/"): file for file in files if file.lower().endswith(SUFFIXES)}
        tables = {os.path.basename(file): file for file in files if os.path.basename(file) in TABLES}
        zips = [file for file in files if file.lower().endswith(".zip")]
        if not (pictures or zips):
            raise NothingFound(f"{path} holds neither pictures ({' '.join(SUFFIXES)}) nor a zip of them: name another")
        if len(zips) > 1 and not pictures:
            raise UserError(f"{path} holds {len(zips)} zips ({few(zips)}): name one of them")
        path = path if pictures else Path(zips[0])
    # Tables may also lie beside or one level above the zip or folder, or its link's target; the nearest win. Anno and
    # Eval are the folders of tables in CelebA's own Google Drive, next to that of the zip.
    parents = [parent for place in (path.resolve(), path.absolute()) for parent in (place.parent.parent, place.parent)]
    near = [parent / inner / table for parent in parents for inner in ("Anno", "Eval", "") for table in TABLES]
    return Source(path, pictures, {table.name: str(table) for table in near if os.path.lexists(table)} | tables)


def read_table(tables: Readers, table: str, names: Iterable[str]) -> tuple[list[str], dict[str, np.ndarray]]:
    """The columns of a table (official .txt or Kaggle's .csv), and the rows it has for the pictures' `names`.

    Both are empty if there is no such table. Raises UserError if it is damaged.
    """
    where = next((name for name in TABLES if name.startswith(table) and name in tables), None)
    if where is None:
        return [], {}
    try:
        lines = tables[where]().decode("utf-8-sig", "replace").splitlines()
        comma = "," if where.endswith(".csv") else None
        if len(lines) < 3 or len(lines[2].split(comma)) < 2:
            raise ValueError("it has too few rows or columns")
        columns = ["partition"]
        if comma:
            columns, lines = lines[0].split(",")[1:], lines[1:]
        elif table == "list_attr_celeba":
            columns, lines = lines[1].split(), lines[2:]  # the first line is the number of rows
        load = partial(np.loadtxt, lines, delimiter=comma, quotechar='"', comments=None)
        values = load(dtype=np.int8, usecols=range(1, len(columns) + 1), ndmin=2)
        rows = dict(zip(load(dtype=str, usecols=0, ndmin=1).tolist(), values, strict=True))
    except Exception as error:  # damaged tables and zip entries raise many kinds
        raise UserError(f"{where} cannot be used ({error!r:.200}): fetch it again or remove it") from error
    # The first key is for img_align_celeba_png, whose tables say .jpg; the last one with a row wins.
    keys = {name: (f"{(base := name.rpartition('/')[2])[:-4]}.jpg", base, name) for name in names}
    return columns, {name: rows[key] for name, each in keys.items() for key in each if key in rows}


def few(names: list[str]) -> str:
    """The first few names for a message, on one line whatever characters they contain."""
    return ", ".join([repr(name)[1:-1][:120] for name in names[:3]] + ["..."] * (len(names) > 3))


def _walk(folder: str, seen: set[str]) -> Iterator[str]:
    """The files in a folder that are not hidden; each folder is read once, however many links lead to it."""
    if (real := os.path.realpath(folder)) not in seen:
        seen.add(real)
        for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
            if not entry.name.startswith("."):
                yield from _walk(entry.path, seen) if entry.is_dir() else [entry.path]
