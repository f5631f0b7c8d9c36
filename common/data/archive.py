"""Pictures in a folder or a zip, read in place, and CelebA's tables in it and around it. Links are followed."""

import hashlib
import json
import os
import stat
import threading
import unicodedata
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

from common.errors import UserError

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")  # of pictures
TABLES = {"list_attr_celeba": (-1, 0, 1), "list_eval_partition": (0, 1, 2)}  # and the values that each may hold
TABLE_FILES = tuple(table + suffix for table in TABLES for suffix in (".txt", ".csv"))
MAX_FILE_BYTES = 256 * 2**20  # a larger file, packed or not, is refused by its size

Readers = dict[str, Callable[[], bytes]]  # what reads each file, by its name


class NothingFound(UserError):
    """The place is not there, or holds neither pictures nor a zip."""


class Source(NamedTuple):
    """A folder of pictures, or a zip: the paths of `pictures` and `tables` by name, without those inside the zip."""

    path: Path
    pictures: dict[str, str]
    tables: dict[str, str]

    def stamp(self) -> str:
        """A digest of paths, sizes and times: it changes whenever the pictures or their tables do."""
        paths = [*self.pictures.values(), *self.tables.values()] + ([] if self.pictures else [str(self.path)])
        abouts = [(path, os.stat(path) if os.path.exists(path) else None) for path in sorted(paths)]
        stamps = [(path, about and (about.st_size, about.st_mtime_ns)) for path, about in abouts]
        return hashlib.sha256(json.dumps(stamps).encode()).hexdigest()

    @contextmanager
    def opened(self) -> Iterator[tuple[Readers, Readers]]:
        """The readers of pictures and of tables, which many threads may call at once. Raises UserError if no zip."""
        files = (self.pictures, self.tables)
        pictures, tables = ({name: partial(_read_file, path) for name, path in some.items()} for some in files)
        if pictures:
            yield pictures, tables
            return
        try:
            archive = zipfile.ZipFile(self.path)
        except Exception as error:  # bytes that are no zip raise more than BadZipFile
            reason = f"{error}; Google Drive sends a web page instead when its quota is exceeded"
            raise UserError(f"{self.path} is no whole zip ({reason}): fetch it again or name another") from error
        with archive:
            lock = threading.Lock()  # zipfile counts its open entries without one
            for info in archive.infolist():
                base = info.filename.rpartition("/")[2]
                if any(map(_is_hidden, info.filename.split("/"))):
                    continue
                if base in TABLE_FILES:
                    tables[base] = partial(_read_entry, archive, info, lock)
                elif base.lower().endswith(SUFFIXES):
                    pictures[info.filename] = partial(_read_entry, archive, info, lock)
            yield pictures, tables


def find(path: Path) -> Source:
    """The pictures at `path`: a zip, a folder with pictures at any depth, or a folder with one zip.

    Raises NothingFound where there are none, UserError where it is unclear which are meant, and OSError.
    """
    if not path.exists():
        raise NothingFound(f"{path} is not there: name a zip or a folder of pictures")
    if not path.is_dir():
        return Source(path, {}, _tables_near(path))
    files = list(_walk(path))
    inside = len(os.path.join(path, ""))
    pictures = {file[inside:].replace(os.sep, "/"): file for file in files if file.lower().endswith(SUFFIXES)}
    tables = {os.path.basename(file): file for file in files if os.path.basename(file) in TABLE_FILES}
    if pictures:
        return Source(path, pictures, _tables_near(path) | tables)
    zips = [Path(file) for file in files if file.lower().endswith(".zip")]
    zips = [file for file in zips if file.name == "img_align_celeba.zip"] or zips
    if not zips:
        raise NothingFound(f"{path} holds neither pictures ({' '.join(SUFFIXES)}) nor a zip of them: name another")
    if len(zips) > 1:
        raise UserError(f"{path} holds {len(zips)} zips ({few([file.name for file in zips])}): name one of them")
    return Source(zips[0], {}, _tables_near(zips[0]) | tables)


def read_table(tables: Readers, table: str) -> tuple[list[str], dict[str, np.ndarray]]:
    """The columns of one of TABLES, and its rows by file name; both empty where it is not there.

    Reads the official .txt or Kaggle's .csv. Raises UserError on anything else.
    """
    where = next((name for name in TABLE_FILES if name.startswith(table) and name in tables), None)
    if where is None:
        return [], {}
    try:
        lines = [line for line in tables[where]().decode("utf-8-sig", "replace").splitlines() if line.strip()]
        if len(lines) < 3:
            raise ValueError("it holds hardly any rows")
        comma = "," if "," in lines[0] else None
        if comma:
            columns, lines = lines[0].split(",")[1:], lines[1:]
        elif table == "list_eval_partition":
            columns = ["partition"]
        else:
            told, columns, lines = int(lines[0]), lines[1].split(), lines[2:]
            if len(lines) < told:
                raise ValueError(f"{len(lines):,} rows, where its first line says {told:,}")
        load = partial(np.loadtxt, lines, delimiter=comma, quotechar='"', comments=None)
        values = load(dtype=np.int8, usecols=range(1, len(columns) + 1), ndmin=2)
        if not np.isin(values, TABLES[table]).all():
            raise ValueError(f"not all of its values are in {TABLES[table]}")
        names = load(dtype=str, usecols=0, ndmin=1).tolist()
        return [column.strip() for column in columns], dict(zip(map(normal, names), values, strict=True))
    except Exception as error:  # the bytes may be anything, and so may an entry of a zip
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{where} cannot be used ({reason}): fetch it again or remove it") from error


def join(names: list[str], rows: dict[str, np.ndarray]) -> list[np.ndarray | None]:
    """The row of each of the pictures' `names`, None for those that have none."""
    # The last key is for img_align_celeba_png, whose tables say .jpg.
    keys = [(name, base := name.rpartition("/")[2], f"{base[:-4]}.jpg") for name in names]
    return [next((rows[key] for key in each if key in rows), None) for each in keys]


def few(names: list[str]) -> str:
    """The first few of the names for a message: on one line, whatever characters they are made of."""
    return ", ".join([repr(name)[1:-1][:120] for name in names[:3]] + ["..."] * (len(names) > 3))


def normal(name: str) -> str:
    """macOS writes an accent as a character of its own, where most tables do not."""
    return unicodedata.normalize("NFC", name)


def _walk(path: Path) -> Iterator[str]:
    """The files in a folder; each folder once, however many links lead there or back."""

    def fail(error: OSError) -> None:
        raise error

    seen = set()
    for folder, inner, files in os.walk(path, followlinks=True, onerror=fail):
        real = os.path.realpath(folder)
        inner[:] = [] if real in seen else sorted(name for name in inner if not _is_hidden(name))
        yield from (os.path.join(folder, name) for name in files if real not in seen and not _is_hidden(name))
        seen.add(real)


def _tables_near(path: Path) -> dict[str, str]:
    """The tables around a zip or folder, and around its target if it is a link; those nearest to the link win."""
    parents = [parent for place in (path.resolve(), path.absolute()) for parent in (place.parent.parent, place.parent)]
    # Anno and Eval are what CelebA's own Google Drive calls the folders beside that of the zip.
    folders = [parent / inside for parent in parents for inside in ("Anno", "Eval", "")]
    return {name: str(near / name) for near in folders for name in TABLE_FILES if os.path.lexists(near / name)}


def _is_hidden(part: str) -> bool:
    return part == "__MACOSX" or (part.startswith(".") and part != ".")


def _read_file(path: str) -> bytes:
    about = os.stat(path)
    if not stat.S_ISREG(about.st_mode):
        raise ValueError("not a file")  # reading a pipe or a device would wait forever
    with open(path, "rb") as file:
        return _read(file, about.st_size)


def _read_entry(archive: zipfile.ZipFile, info: zipfile.ZipInfo, lock: threading.Lock) -> bytes:
    if info.flag_bits & 1 or info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError("encrypted, or neither stored nor deflated")  # what zipfile would inflate without a bound
    with lock, archive.open(info) as file:
        return _read(file, info.file_size)


def _read(file: BinaryIO, size: int) -> bytes:
    if size > MAX_FILE_BYTES:
        raise ValueError(f"{size:,} bytes, more than {MAX_FILE_BYTES:,}")
    return file.read(size)  # without the size, a zip would inflate even what exceeds what it declares
