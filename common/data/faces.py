"""Faces as one uint8 tensor: CelebA in any of its layouts, one's own pictures, or drawn faces.

Pictures are read in place (a zip is never extracted), cropped and resized once by all cores, and kept in a
memory-mapped file under DATA_DIR/faces, from which the next run starts at once. CelebA: Liu et al. 2015,
"Deep Learning Face Attributes in the Wild", https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html.
"""

import functools
import hashlib
import importlib.util
import io
import json
import math
import os
import re
import shutil
import stat
import subprocess
import sys
import threading
import time
import unicodedata
import warnings
import zipfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
import torch
from filelock import FileLock, Timeout
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from common.data.drawn_faces import draw_faces
from common.errors import UserError
from common.training.parallel import rank

TRAIN, VALID, TEST = 0, 1, 2  # the numbers of CelebA's list_eval_partition
LAST_TRAIN, LAST_VALID = 162_770, 182_637  # the last file numbers of those parts in it
DRAWN_COUNTS = (10_000, 1_000, 1_000)  # drawn faces to train, validate and test

ALIGNED_NAME = re.compile(r"(?:.*/)?(\d{6})\.(?:jpg|png)", re.DOTALL)
ALIGNED_SIZE = (178, 218)  # width and height of a picture in img_align_celeba
ALIGNED_CROP = (15, 35, 163, 183)  # left, top, right, bottom of its centre 148x148

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")
# A name does not decide which of Pillow's readers a file reaches, and some start other programs (EPS).
IMAGE_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")
ATTRIBUTE_FILES = ("list_attr_celeba.txt", "list_attr_celeba.csv")
PARTITION_FILES = ("list_eval_partition.txt", "list_eval_partition.csv")
TABLE_FILES = ATTRIBUTE_FILES + PARTITION_FILES

MAX_PIXELS = 100_000_000  # a larger picture is refused by its header
MAX_FILE_BYTES = 256 * 2**20  # a larger file is refused by its size
MAX_BROKEN = 0.01  # the share of broken pictures that is skipped; with more, the run refuses

CACHE_FORMAT = 1  # to be raised when the same pictures would make another cache
CHUNK = 16  # pictures that a thread decodes between two looks at the queue
DOWNLOAD_STALL_SECONDS = 20
DOWNLOAD_SECONDS = 3_600


@dataclass(frozen=True)
class Faces:
    """Square face pictures, in the order of their names, and what is known about them.

    images: (N, 3, S, S) uint8 RGB, channels_last; mapped from the cache, so read when first used.
    split: (N,) uint8, 0 train, 1 valid, 2 test.
    attributes: (N, A) bool, or None where the pictures have no labels.
    attribute_names: the A names, CelebA's own where they fit.
    names: N file names, relative to the folder that all share, with forward slashes.
    source: what the pictures are, for the console and the titles of figures.
    drawn: whether these are drawn faces and not photographs.
    """

    images: torch.Tensor
    split: torch.Tensor
    attributes: torch.Tensor | None
    attribute_names: tuple[str, ...]
    names: list[str]
    source: str
    drawn: bool

    @property
    def description(self) -> str:
        """What a run was trained on, for its checkpoint: a resumed one must see the same."""
        return f"{self.source}, {len(self.images):,} pictures"


def load_faces(
    faces: str | None,
    data_dir: Path,
    size: int = 64,
    *,
    seed: int = 0,
    progress: bool = True,
    echo: Callable[[str], None] | None = None,
) -> Faces:
    """Loads the faces that `--faces` names as pictures of `size` x `size` pixels.

    faces: a zip or a folder (CelebA in any layout, or one's own pictures), or the word "drawn". None means
        data_dir/celeba, else torchvision's download into it, else drawn faces, after saying why.
    seed: of the drawn faces; the others do not depend on it.
    echo: gets each message for the user; stderr by default.

    Aligned CelebA pictures are cropped to their centre 148x148, all others, turned upright by their EXIF
    orientation, to their centre square; both are resized with antialiasing. The partition file decides which
    part a picture belongs to, else the number in the name of an aligned CelebA picture, else a hash of the
    name: about 80% train, 10% valid, 10% test.

    Raises UserError if the pictures cannot be used or the cache cannot be written.
    """
    echo = echo or _echo_to_stderr
    if faces == "drawn":
        return _drawn(size, seed)
    if faces is not None:
        return _load(_find(Path(os.path.expanduser(faces))), data_dir, size, progress, echo)
    celeba = data_dir / "celeba"
    try:
        source = _find(celeba)
    except _NothingFound:
        # Of the processes that torchrun starts, the first alone downloads; what it found, the others find too.
        if problem := "the first process has said why" if rank() else _download(celeba, progress):
            echo(
                f"CelebA is not in {celeba} and could not be downloaded: {problem}. To train on real faces, "
                "fetch img_align_celeba.zip, list_attr_celeba.txt and list_eval_partition.txt from "
                "https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html, or the archive of "
                "https://www.kaggle.com/datasets/jessicali9530/celeba-dataset, put what you fetched into "
                f"{celeba} as it is (nothing needs unpacking) and run again; or pass --faces PATH. "
                f"Going on with {sum(DRAWN_COUNTS):,} DRAWN faces."
            )
            return _drawn(size, seed)
        source = _find(celeba)
    return _load(source, data_dir, size, progress, echo)


def _echo_to_stderr(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


def _drawn(size: int, seed: int) -> Faces:
    drawing = draw_faces(sum(DRAWN_COUNTS), size, seed)
    return Faces(
        images=torch.from_numpy(drawing.images).permute(0, 3, 1, 2),
        split=torch.arange(3, dtype=torch.uint8).repeat_interleave(torch.tensor(DRAWN_COUNTS)),
        attributes=torch.from_numpy(drawing.attributes),
        attribute_names=drawing.attribute_names,
        names=[f"drawn_{index:06d}" for index in range(sum(DRAWN_COUNTS))],
        source="drawn faces",
        drawn=True,
    )


# ---- Sources: a folder or a zip, listed and read, never followed out of or extracted -----------------------


class _NothingFound(UserError):
    """Where pictures were looked for, there is nothing of the kind."""


class _Picture(NamedTuple):
    name: str  # its path inside the folder or zip
    handle: str | zipfile.ZipInfo


class _Contents(NamedTuple):
    """What an opened source holds. Many threads may call `read` at once."""

    pictures: list[_Picture]
    left_out: list[str]  # links, and paths that lead out
    tables: dict[str, Callable[[], bytes]]  # what reads the file of that name
    read: Callable[[_Picture], bytes]


class _Folder:
    """The pictures in a folder and its subfolders; links are not followed."""

    def __init__(self, path: Path):
        self.path = path
        self.pictures: list[_Picture] = []
        self.links: list[str] = []
        self.zips: list[Path] = []
        self.tables = _tables_near(path)
        self._stamps: list[tuple[str, int, int]] = []
        pending = [""]
        while pending:
            inside = pending.pop()
            with os.scandir(path / inside) as entries:
                for entry in entries:
                    if not _is_hidden(entry.name):
                        self._add(entry, inside + entry.name, pending)

    def _add(self, entry: os.DirEntry, name: str, pending: list[str]) -> None:
        suffix = os.path.splitext(name)[1].lower()
        if entry.is_symlink():
            if suffix in (".zip", *IMAGE_SUFFIXES) or entry.name in TABLE_FILES or entry.is_dir():
                self.links.append(name)
        elif entry.is_dir():
            pending.append(name + "/")
        elif not entry.is_file():
            pass  # reading a pipe or a device would wait forever
        elif suffix in IMAGE_SUFFIXES:
            about = entry.stat()
            self.pictures.append(_Picture(name, entry.path))
            self._stamps.append((name, about.st_size, about.st_mtime_ns))
        elif suffix == ".zip":
            self.zips.append(Path(entry.path))
        elif entry.name in TABLE_FILES:
            self.tables[entry.name] = Path(entry.path)

    def stamp(self) -> str:
        """Changes whenever the pictures or their tables do."""
        return _digest([sorted(self._stamps), _stamps(self.tables)])

    @contextmanager
    def opened(self) -> Iterator[_Contents]:
        tables = _readers(self.tables)
        yield _Contents(self.pictures, self.links, tables, lambda picture: _read_file(picture.handle))


class _Zip:
    """The pictures in a zip, with the tables in it and around it."""

    def __init__(self, path: Path, tables: dict[str, Path]):
        self.path = path
        self.tables = tables

    def stamp(self) -> str:
        """Changes whenever the zip or a table does; it does not open the zip, which takes seconds."""
        return _digest(_stamps({"": self.path, **self.tables}))

    @contextmanager
    def opened(self) -> Iterator[_Contents]:
        with _open_zip(self.path) as archive:
            pictures, left_out, tables = [], [], _readers(self.tables)
            entries = {info.filename: info for info in archive.infolist()}  # of two with one name, the last
            for name, info in entries.items():
                base = name.rpartition("/")[2]
                if any(map(_is_hidden, name.split("/"))):
                    continue
                if base in TABLE_FILES:
                    tables[base] = functools.partial(_read_entry, archive, info)
                elif os.path.splitext(base)[1].lower() in IMAGE_SUFFIXES:
                    if _leads_out(name) or stat.S_ISLNK(info.external_attr >> 16):
                        left_out.append(name)
                    else:
                        pictures.append(_Picture(name, info))
            lock = threading.Lock()  # zipfile counts its open entries without one

            def read(picture: _Picture) -> bytes:
                with lock:
                    return _read_entry(archive, picture.handle)

            yield _Contents(pictures, left_out, tables, read)


def _find(path: Path) -> _Folder | _Zip:
    """The source at `path`: a folder with pictures, a zip, or a folder with a zip."""
    try:
        if path.is_dir():
            return _find_in_folder(path)
        if path.exists():
            return _Zip(path, _tables_near(path))
    except OSError as error:
        raise _cannot_read(path, error) from error
    raise _NothingFound(f"{path} is not there; it must be a zip or a folder of pictures")


def _find_in_folder(path: Path) -> _Folder | _Zip:
    folder = _Folder(path)
    if folder.pictures:
        return folder
    zips = [file for file in folder.zips if file.name == "img_align_celeba.zip"] or folder.zips
    if len(zips) == 1:
        return _Zip(zips[0], _tables_near(zips[0]) | folder.tables)
    if zips:
        found = _some([str(file.relative_to(path)) for file in zips])
        raise UserError(f"{path} holds {len(zips)} zips ({found}): name one of them")
    if folder.links:
        found = _some(folder.links)
        raise UserError(f"{path} holds only links ({found}), which are not followed: name what they lead to")
    raise _NothingFound(f"{path} holds neither pictures ({' '.join(IMAGE_SUFFIXES)}) nor a zip of them")


def _tables_near(path: Path) -> dict[str, Path]:
    """The tables around a zip or folder of pictures, the nearest of each name."""
    parents = (path.absolute().parent.parent, path.absolute().parent)
    # Anno and Eval are what CelebA's own Google Drive calls the folders beside that of the zip.
    folders = [parent / inside for parent in parents for inside in ("Anno", "Eval", "")]
    candidates = [folder / name for folder in folders for name in TABLE_FILES]
    return {table.name: table for table in candidates if table.is_file() and not table.is_symlink()}


def _stamps(files: dict[str, Path]) -> list[tuple[str, int, int]]:
    abouts = [(str(path), path.stat()) for path in files.values()]
    return sorted((name, about.st_size, about.st_mtime_ns) for name, about in abouts)


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()


def _readers(tables: dict[str, Path]) -> dict[str, Callable[[], bytes]]:
    return {name: functools.partial(_read_file, path) for name, path in tables.items()}


def _read_file(path: str | Path) -> bytes:
    with open(path, "rb") as file:
        return file.read(_allowed(os.fstat(file.fileno()).st_size))


def _open_zip(path: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(path)
    except OSError as error:
        raise _cannot_read(path, error) from error
    except Exception as error:  # bytes that are no zip raise more than BadZipFile
        with open(path, "rb") as file:
            head = file.read(1024).lstrip().lower()
        if head.startswith((b"<!doctype html", b"<html")):
            problem = "is an HTML page and not a zip (Google Drive sends one when its quota is exceeded)"
        elif head.startswith(b"pk"):
            problem = "is a truncated or damaged zip"
        else:
            problem = "is neither a zip nor a folder"
        raise UserError(f"{path} {problem}: fetch it again or name another") from error


def _read_entry(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes:
    if info.flag_bits & 1:
        raise ValueError("encrypted")
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError("neither stored nor deflated")  # zipfile inflates the other kinds without a bound
    with archive.open(info) as file:
        return file.read(_allowed(info.file_size))  # read() would inflate even what exceeds the declared size


def _allowed(size: int) -> int:
    if size > MAX_FILE_BYTES:
        raise ValueError(f"{size:,} bytes, more than {MAX_FILE_BYTES:,}")
    return size


def _is_hidden(part: str) -> bool:
    return part == "__MACOSX" or (part.startswith(".") and part not in (".", ".."))


def _leads_out(name: str) -> bool:
    return re.match(r"[/\\]|[A-Za-z]:", name) is not None or ".." in re.split(r"[/\\]", name)


def _cannot_read(path: Path, error: OSError) -> UserError:
    return UserError(f"{error.filename or path} cannot be read: {error.strerror or error}")


def _some(names: list[str]) -> str:
    """The first few of the names for a message: on one line, whatever characters they are made of."""
    shown = ", ".join(repr(name)[1:-1][:120] for name in names[:3])
    return f"{shown}, ..." if len(names) > 3 else shown


# ---- The cache: a folder that appears whole or not at all --------------------------------------------------


def _load(source: _Folder | _Zip, data_dir: Path, size: int, progress: bool, echo: Callable[[str], None]) -> Faces:
    """The faces of `source` from its cache, which is made where it is missing, damaged or out of date."""
    try:
        path, stamp = source.path.resolve(), source.stamp()
    except OSError as error:
        raise _cannot_read(source.path, error) from error
    label = re.sub(r"[^\w-]+", "_", path.stem)[:40]
    # One cache for a path and a size: that of changed pictures replaces the old one.
    cache = data_dir / "faces" / f"{label}-{size}-{_digest(str(path))[:12]}"
    if faces := _open_cache(cache, size, stamp):
        return faces
    try:
        cache.parent.mkdir(parents=True, exist_ok=True)
        with _locked(cache, echo):
            if faces := _open_cache(cache, size, stamp):  # the run that was waited for has made it
                return faces
            _make_cache(source, cache, size, stamp, progress, echo)
    except OSError as error:
        raise _cannot_write(cache.parent, error, f"{3 * size * size:,} bytes a picture") from error
    if faces := _open_cache(cache, size, stamp):
        return faces
    raise UserError(f"{cache} was made and cannot be opened: something else changes it, or the disk fails")


@contextmanager
def _locked(path: Path, echo: Callable[[str], None]) -> Iterator[None]:
    lock = FileLock(f"{path}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        echo(f"waiting for another run, which is making {path}")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _open_cache(cache: Path, size: int, stamp: str) -> Faces | None:
    """The faces in `cache`, or None if it is missing, damaged or made from something else."""
    try:
        about = json.loads((cache / "about.json").read_bytes())
        if (about["format"], about["stamp"]) != (CACHE_FORMAT, stamp):
            return None
        names, attribute_names = about["names"], tuple(about["attribute_names"])
        split = np.load(cache / "split.npy", allow_pickle=False)
        attributes = np.load(cache / "attributes.npy", allow_pickle=False)
        pixels, shape = cache / "pixels.uint8", (len(names), size, size, 3)
        found = (split.shape, attributes.shape, pixels.stat().st_size)
        if found != (shape[:1], (len(names), len(attribute_names)), math.prod(shape)):
            return None
        # A private mapping: what a caller changes by mistake stays out of the file.
        images = torch.from_file(str(pixels), shared=False, size=math.prod(shape), dtype=torch.uint8)
        return Faces(
            images=images.view(shape).permute(0, 3, 1, 2),
            split=torch.from_numpy(split),
            attributes=torch.from_numpy(attributes) if attribute_names else None,
            attribute_names=attribute_names,
            names=names,
            source=about["source"],
            drawn=False,
        )
    except Exception:  # a damaged file fails in many ways, and is made again after any of them
        return None


def _make_cache(
    source: _Folder | _Zip, cache: Path, size: int, stamp: str, progress: bool, echo: Callable[[str], None]
) -> None:
    temporary = cache.with_name(f"{cache.name}.tmp")
    for old in (temporary, cache):  # what a killed run left, and what is out of date
        if old.exists():
            shutil.rmtree(old)
    temporary.mkdir()
    try:
        with source.opened() as contents:
            _write_cache(source.path, contents, temporary, size, stamp, progress, echo)
        temporary.rename(cache)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _write_cache(
    path: Path,
    contents: _Contents,
    folder: Path,
    size: int,
    stamp: str,
    progress: bool,
    echo: Callable[[str], None],
) -> None:
    pictures, left_out = contents.pictures, contents.left_out
    if left_out:
        echo(f"{path}: left out {len(left_out):,} links or paths that lead out of it ({_some(left_out)})")
    if not pictures:
        raise UserError(f"{path} holds no pictures ({' '.join(IMAGE_SUFFIXES)})")
    room, free = len(pictures) * size * size * 3, shutil.disk_usage(folder).free
    if room > free:
        raise UserError(
            f"{len(pictures):,} faces take {_mib(room)} in {folder.parent}, where {_mib(free)} are free: "
            "make room, or give another --data-dir"
        )
    attribute_table = _read_table(path, contents, ATTRIBUTE_FILES)
    partition_table = _read_table(path, contents, PARTITION_FILES)
    try:
        with open(folder / "pixels.uint8", "wb") as file:
            kept, broken = _decode_all(contents, size, file, progress)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise _cannot_write(folder.parent, error, _mib(room)) from error
    if broken:
        problem = f"{path}: {len(broken):,} of {len(pictures):,} pictures cannot be read ({_some(broken)})"
        if len(broken) > MAX_BROKEN * len(pictures):
            raise UserError(f"{problem}, more than {MAX_BROKEN:.0%}: replace or remove them")
        echo(f"{problem}; they are skipped")
    if len(kept) < 3:
        raise UserError(f"{path} holds {len(kept)} pictures: it takes 3, to train, validate and test with")

    names = _below_common_folder([name for name, _ in kept])
    aligned = np.array([is_aligned for _, is_aligned in kept])
    attribute_names, attributes = _attributes(names, attribute_table, echo)
    np.save(folder / "attributes.npy", attributes)
    np.save(folder / "split.npy", _split(names, aligned, partition_table, path, echo))
    about = {
        "format": CACHE_FORMAT,
        "stamp": stamp,
        "source": "CelebA" if aligned.all() else _some([path.absolute().name]),
        "skipped": len(broken),
        "attribute_names": attribute_names,
        "names": names,
    }
    (folder / "about.json").write_text(json.dumps(about))


def _cannot_write(folder: Path, error: OSError, room: str) -> UserError:
    return UserError(
        f"the prepared faces cannot be written to {folder}: {error.strerror or error}; they take {room}: "
        "make room there, or give another --data-dir"
    )


def _mib(count: int) -> str:
    return f"{count / 2**20:,.0f} MiB"


# ---- Pixels ------------------------------------------------------------------------------------------------


def _decode_all(
    contents: _Contents, size: int, file: BinaryIO, progress: bool
) -> tuple[list[tuple[str, bool]], list[str]]:
    """Writes the pictures to `file` in the order of their names, (S, S, 3) uint8 each.

    Returns (name, whether it is an aligned CelebA picture) of each, and "name: reason" of the broken ones.
    The file is written, not mapped: a full disk is then an error, not a signal, and its pages take no memory.
    """
    pictures = sorted(contents.pictures)
    stop = threading.Event()

    def decode(chunk: list[_Picture]) -> list[tuple[str, np.ndarray | None, bool | str]]:
        decoded, crops = [], {}
        for picture in chunk:
            if stop.is_set():
                break
            try:
                data = contents.read(picture)
                crop = _aligned_crop(data, picture.name)
                if crop is None:
                    decoded.append((picture.name, *_decode(data, picture.name, size)))
                else:
                    crops[len(decoded)] = crop
                    decoded.append((picture.name, None, True))
            except UnidentifiedImageError:
                decoded.append((picture.name, None, "not a picture"))
            except Exception as error:  # on damaged bytes Pillow and zipfile raise nearly anything
                decoded.append((picture.name, None, str(error) or type(error).__name__))
        # All at once: one by one, the threads would pass their lock around for a third of the time.
        if crops:
            for place, face in zip(crops, _resize(list(crops.values()), size), strict=True):
                decoded[place] = (chunk[place].name, face, True)
        return decoded

    kept, broken = [], []
    workers = os.cpu_count() or 1
    chunks = (pictures[start : start + CHUNK] for start in range(0, len(pictures), CHUNK))
    bar = tqdm(total=len(pictures), desc="preparing faces", unit="face", disable=None if progress else True)
    with bar, warnings.catch_warnings(), _one_torch_thread(), ThreadPoolExecutor(workers) as pool:
        warnings.simplefilter("ignore")  # Pillow's, on odd metadata, would tear the bar
        try:
            for decoded in _map_in_order(pool, decode, chunks, ahead=4 * workers):
                kept += [(name, note) for name, pixels, note in decoded if pixels is not None]
                broken += [f"{name}: {note}" for name, pixels, note in decoded if pixels is None]
                # One write a chunk: each gives the threads' lock away, and waits to get it back.
                file.write(b"".join(pixels.data for _, pixels, _ in decoded if pixels is not None))
                bar.update(len(decoded))
        finally:
            stop.set()  # after Ctrl-C or on a full disk, the pool finishes the pictures in hand and no more
    return kept, broken


@contextmanager
def _one_torch_thread() -> Iterator[None]:
    """One for each worker: if each resized on all cores, they would mostly wait for one another."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _map_in_order(pool: ThreadPoolExecutor, function: Callable, tasks: Iterable, ahead: int) -> Iterator:
    """pool.map() with at most `ahead` tasks between the one that is taken and the last that is submitted."""
    pending: deque = deque()
    for task in tasks:
        pending.append(pool.submit(function, task))
        if len(pending) > ahead:
            yield pending.popleft().result()
    while pending:
        yield pending.popleft().result()


def _aligned_crop(data: bytes, name: str) -> Tensor | None:
    """The face in a JPEG that has the name and the size of CelebA's own, (148, 148, 3) uint8; None for other pictures.

    Once resized, these are Pillow's pixels within one grey level, in half the time.
    """
    if not ALIGNED_NAME.fullmatch(name) or _jpeg_size(data) != ALIGNED_SIZE:
        return None
    # Here, since the import takes a second, and neither one's own pictures nor a run that finds its cache need it.
    from torchvision.io import ImageReadMode, decode_jpeg

    try:
        picture = decode_jpeg(torch.frombuffer(bytearray(data), dtype=torch.uint8), ImageReadMode.RGB)
    except RuntimeError:
        return None  # Pillow says more clearly what is wrong
    if picture.shape[1:] != ALIGNED_SIZE[::-1]:
        return None  # two headers, of which the decoder took the other one
    left, top, right, bottom = ALIGNED_CROP
    return picture[:, top:bottom, left:right].permute(1, 2, 0)  # as it lies in memory


def _resize(crops: list[Tensor], size: int) -> np.ndarray:
    """(H, W, 3) uint8 each -> (N, S, S, 3) uint8, antialiased."""
    together = torch.stack(crops).permute(0, 3, 1, 2)
    return F.interpolate(together, (size, size), mode="bilinear", antialias=True).permute(0, 2, 3, 1).numpy()


def _decode(data: bytes, name: str, size: int) -> tuple[np.ndarray, bool]:
    """One picture as (S, S, 3) uint8 RGB, and whether it is an aligned CelebA picture."""
    named_aligned = ALIGNED_NAME.fullmatch(name) is not None
    with Image.open(io.BytesIO(data), formats=IMAGE_FORMATS) as picture:
        if picture.width * picture.height > MAX_PIXELS:
            raise ValueError(f"{picture.width}x{picture.height} pixels, more than {MAX_PIXELS:,}")
        if not named_aligned:
            # A large JPEG is decoded smaller, though never below four times the size it is then resized to.
            picture.draft(None, (4 * size, 4 * size))
        ImageOps.exif_transpose(picture, in_place=True)
        aligned = named_aligned and picture.size == ALIGNED_SIZE
        side = min(picture.size)
        left, top = (picture.width - side) // 2, (picture.height - side) // 2
        face = _rgb(picture.crop(ALIGNED_CROP if aligned else (left, top, left + side, top + side)))
        return np.array(face.resize((size, size), Image.Resampling.BILINEAR)), aligned


def _rgb(picture: Image.Image) -> Image.Image:
    """A picture of any mode as RGB, what is transparent on white."""
    if picture.mode.startswith("I"):  # 16 bits, which Pillow would clip to 8
        levels = np.asarray(picture).astype(np.int64).clip(0, 2**16 - 1) >> 8
        picture = Image.fromarray(levels.astype(np.uint8))
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
    return picture.convert("RGB")


def _jpeg_size(data: bytes) -> tuple[int, int] | None:
    """Width and height in the header of a plain colour JPEG; None for anything else."""
    at = 2
    while data[:2] == b"\xff\xd8" and at + 10 <= len(data) and data[at] == 0xFF:
        marker, length = data[at + 1], int.from_bytes(data[at + 2 : at + 4], "big")
        if marker in (0xC0, 0xC1, 0xC2):  # start of frame: its precision, height, width and number of colours
            height, width = (int.from_bytes(data[at + i : at + i + 2], "big") for i in (5, 7))
            return (width, height) if data[at + 9] == 3 else None
        # Tables, JFIF, comments. Exif could turn the picture, Adobe's marker its colours, and others would mean that
        # this loop and the decoder don't read the same header.
        if marker not in (0xC4, 0xDB, 0xDD, 0xE0, 0xFE):
            return None
        at += 2 + length
    return None


# ---- Names, labels and parts: joined by name ---------------------------------------------------------------


class _Table(NamedTuple):
    """One of CelebA's tables: `values` is (rows, columns) uint8, `rows` the row of each file name."""

    where: str
    columns: tuple[str, ...]
    rows: dict[str, int]
    values: np.ndarray

    def find(self, names: list[str]) -> np.ndarray:
        """The row of each name, -1 for those that have none."""
        return np.array([self._row(name) for name in names])

    def _row(self, name: str) -> int:
        base = name.rpartition("/")[2]
        # The last is for img_align_celeba_png, whose tables say .jpg.
        for key in (name, base, os.path.splitext(base)[0] + ".jpg"):
            if (row := self.rows.get(_normal(key))) is not None:
                return row
        return -1


def _normal(name: str) -> str:
    """macOS writes an accent as a character of its own, where most tables do not."""
    return unicodedata.normalize("NFC", name)


def _read_table(path: Path, contents: _Contents, file_names: tuple[str, ...]) -> _Table | None:
    for name in file_names:
        if read := contents.tables.get(name):
            try:
                return _parse_table(read(), name)
            except Exception as error:  # the bytes may be anything, and so may a zip entry
                problem = f"{name} of {path} cannot be used: {error}"
                raise UserError(f"{problem}; fetch it again or remove it") from error
    return None


def _parse_table(data: bytes, where: str) -> _Table:
    """Parses the official .txt or Kaggle's .csv. Raises ValueError on anything else.

    All of the 202,599 x 40 values are parsed at once, a digit each: one after the other would take seconds.
    """
    lines = [line.strip() for line in data.removeprefix(b"\xef\xbb\xbf").splitlines()]
    lines = [line for line in lines if line]
    separator, is_partition = b"," if b"," in b"".join(lines[:1]) else None, where in PARTITION_FILES
    if separator:
        header, lines = lines[0].split(separator)[1:], lines[1:]
    elif is_partition:
        header = [b"partition"]
    else:
        if not (lines and lines[0].isdigit()):
            raise ValueError("its first line is not the number of its rows")
        told, header, lines = int(lines[0]), b"".join(lines[1:2]).split(), lines[2:]
        if len(lines) < told:
            raise ValueError(f"{len(lines):,} rows, where its first line says {told:,}")
    if not (lines and header) or (is_partition and len(header) != 1):
        raise ValueError("no rows, or not the columns of such a file")

    names = [line.split(separator, 1)[0] for line in lines]
    values = b"\n".join([line[len(name) + 1 :] for line, name in zip(lines, names, strict=True)])
    values, digits = (values, b"012") if is_partition else (values.replace(b"-1", b"0"), b"01")
    values = values.translate(None, b" ,\t")
    rows = values.split(b"\n")
    if {*map(len, rows)} != {len(header)} or values.translate(None, digits + b"\n"):
        at = next(at for at, row in enumerate(rows) if len(row) != len(header) or row.strip(digits))
        raise ValueError(f"the row of {_some([repr(names[at])])} does not hold {len(header)} values")
    names = _normal(b"\n".join(names).decode("utf-8", "surrogateescape")).replace('"', "").split("\n")
    return _Table(
        where=where,
        columns=tuple(name.strip().decode("utf-8", "replace") for name in header),
        rows={name: row for row, name in enumerate(names)},
        values=(np.frombuffer(b"".join(rows), dtype=np.uint8) - ord("0")).reshape(len(rows), len(header)),
    )


def _below_common_folder(names: list[str]) -> list[str]:
    common = os.path.commonprefix([min(names), max(names)])
    return [name[common.rfind("/") + 1 :] for name in names]


def _attributes(
    names: list[str], table: _Table | None, echo: Callable[[str], None]
) -> tuple[tuple[str, ...], np.ndarray]:
    """Attribute names and labels, (N, A) bool; none at all where a picture lacks them."""
    if table is not None:
        rows = table.find(names)
        if rows.min() >= 0:
            return table.columns, table.values[rows].astype(bool)
        without = [names[index] for index in np.flatnonzero(rows < 0)]
        echo(
            f"{table.where} has no row for {len(without):,} of {len(names):,} pictures ({_some(without)}): "
            "going on without labels"
        )
    return (), np.zeros((len(names), 0), dtype=bool)


def _split(
    names: list[str], aligned: np.ndarray, table: _Table | None, path: Path, echo: Callable[[str], None]
) -> np.ndarray:
    """The part of each picture, (N,) uint8: by the table, else by CelebA's file numbers, else by a hash."""
    by_hash = _split_by_hash(names)
    split = by_hash.copy()
    numbers = [int(ALIGNED_NAME.fullmatch(names[index])[1]) for index in np.flatnonzero(aligned)]
    split[aligned] = np.searchsorted([LAST_TRAIN, LAST_VALID], numbers)
    if table is not None:
        rows = table.find(names)
        split[rows >= 0] = table.values[rows[rows >= 0], 0]
    if len(np.unique(split)) == 3:
        return split
    echo(f"{path}: its pictures leave a part of CelebA (train, valid, test) empty: splitting by name instead")
    return by_hash


def _split_by_hash(names: list[str]) -> np.ndarray:
    """About 80% train, 10% valid and 10% test, at least one of each."""
    hashes = [hashlib.sha256(_normal(name).encode("utf-8", "surrogatepass")).digest()[:8] for name in names]
    place = np.array([int.from_bytes(digest, "big") / 2**64 for digest in hashes])
    test = int(np.clip((place >= 0.9).sum(), 1, len(names) - 2))
    valid = int(np.clip((place >= 0.8).sum() - test, 1, len(names) - 1 - test))
    order = np.argsort(place, kind="stable")
    split = np.full(len(names), TRAIN, dtype=np.uint8)
    split[order[-test - valid :]] = VALID
    split[order[-test:]] = TEST
    return split


# ---- Download ----------------------------------------------------------------------------------------------

# Only the zip and two tables of what torchvision.datasets.CelebA fetches, tables first: they show soon and
# cheaply whether Google Drive serves, and nothing is extracted into 202,599 files.
_DOWNLOAD = """
import sys
from torchvision.datasets import CelebA
from torchvision.datasets.utils import download_file_from_google_drive
wanted = ["list_eval_partition.txt", "list_attr_celeba.txt", "img_align_celeba.zip"]
files = {name: (file_id, md5) for file_id, md5, name in CelebA.file_list}
try:
    for name in wanted:
        file_id, md5 = files[name]
        download_file_from_google_drive(file_id, sys.argv[1], name, md5)
except Exception as error:
    print(" ".join(f"{type(error).__name__}: {error}".split()))
    sys.exit(1)
"""


def _download(celeba: Path, progress: bool) -> str | None:
    """Downloads CelebA into the folder `celeba`. Returns what went wrong, or None when it is there.

    In a process of its own: neither a name server nor Google Drive that never answers can hold up the run.
    """
    if importlib.util.find_spec("gdown") is None:
        return "torchvision needs gdown for it (pip install gdown)"
    partial = celeba / ".download"
    try:
        celeba.mkdir(parents=True, exist_ok=True)
        with FileLock(celeba / ".lock"):
            if (celeba / "img_align_celeba.zip").exists():  # another run has fetched it meanwhile
                return None
            if partial.exists():
                shutil.rmtree(partial)
            partial.mkdir()
            try:
                if problem := _run_download(partial, progress):
                    return problem
                for file in partial.iterdir():
                    file.replace(celeba / file.name)
            finally:
                shutil.rmtree(partial, ignore_errors=True)
    except OSError as error:
        return f"{celeba} cannot be written ({error.strerror or error})"
    return None


def _run_download(folder: Path, progress: bool) -> str | None:
    command = [sys.executable, "-c", _DOWNLOAD, str(folder)]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    bar = tqdm(desc="downloading CelebA", unit="B", unit_scale=True, disable=None if progress else True)
    with child, bar:
        try:
            seen, started = 0, time.monotonic()
            moved = started
            while child.poll() is None:
                time.sleep(0.1)
                now, size = time.monotonic(), _bytes_in(folder)
                if size > seen:
                    bar.update(size - seen)
                    seen, moved = size, now
                if now - moved > DOWNLOAD_STALL_SECONDS:
                    return f"no data came for {DOWNLOAD_STALL_SECONDS} seconds"
                if now - started > DOWNLOAD_SECONDS:
                    return f"it was not done after {DOWNLOAD_SECONDS:,} seconds"
        finally:
            child.kill()
        if child.returncode == 0:
            return None
        said = child.stdout.read().strip().rpartition("\n")[2]
        return said[:300].rstrip(".") or f"the download ended with code {child.returncode}"


def _bytes_in(folder: Path) -> int:
    total = 0
    for file in folder.iterdir():
        with suppress(FileNotFoundError):  # gdown renames its files
            total += file.stat().st_size
    return total
