"""Pictures in a folder or a zip, read in place and prepared once: cropped, resized and kept in DATA_DIR/prepared."""

import contextlib
import hashlib
import os
import re
import shutil
import sys
import warnings
import zipfile
from collections import Counter
from functools import partial
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor
from tqdm import tqdm

from common.data.tables import TABLES, Readers, few
from common.errors import UserError, first_line
from common.files import lock

FORMAT = 5  # to be increased when the same pictures would be prepared differently
ALIGNED_NAME = re.compile(r"(?:.*/)?\d{6}\.(?:jpg|png)", re.DOTALL)
ALIGNED_SIZE = (178, 218)  # width and height of a picture in CelebA's img_align_celeba
# Pillow chooses a file's reader by its content, not its name, and some other readers start programs (EPS).
KINDS = ("JPEG", "MPO", "PNG", "WEBP", "BMP", "GIF", "TIFF", "AVIF", "PPM")
HIDDEN = re.compile(r"(^|/)(\.|@eaDir/|__MACOSX/)|/$")  # also a NAS's thumbnails, what macOS adds to zips, and folders
NO_PICTURES = (".txt", ".csv", ".md", ".json", ".xml", ".html", ".pdf", ".ini", ".db", ".zip")  # nobody misses them
WHITES = (1, 255, 1023, 4095, 16_383, 65_535)  # white in pictures of floats, and of 8 to 16 bits


class NothingFound(UserError):
    """The path does not exist, or holds neither pictures nor a zip."""


class Pictures(NamedTuple):
    """Prepared pictures in the order of their names, and what says more about them."""

    pixels: Tensor  # (N, S, S, C) uint8, mapped from the cache, so read on first use
    names: list[str]  # N paths in the folder or zip
    aligned: np.ndarray  # (N,) bool, whether it is an aligned picture of CelebA, by its name and size
    tables: Readers  # of CelebA's tables, or one's own of these names
    title: str  # the name of the folder or zip


def load(path: Path, data_dir: Path, size: int, mode: str) -> Pictures:
    """The pictures at `path`, `size` x `size` pixels in Pillow's `mode` RGB or L.

    `path` is a zip, a folder in a zip, a folder with pictures at any depth, or a folder with one zip. Of aligned
    pictures of CelebA, the centre 148x148 is taken, of others the centre square of the upright picture. The first run
    prepares them, others meanwhile wait, and later ones find them, until the pictures change. Raises NothingFound if
    there are none, and UserError if they can't be used or the cache can't be written.
    """
    prepared, shape = data_dir / "prepared", (size, size, len(mode))
    try:
        path, files, tables, stamp = _find(path.expanduser())
        name = f"{size}{mode}-{hashlib.sha256(os.fsencode(path.resolve())).hexdigest()[:8]}"
        folder = prepared / f"{name}-{stamp}"  # so nothing is replaced that another run has mapped
        if (cached := _cached(folder, shape)) is None:
            prepared.mkdir(parents=True, exist_ok=True)
            with lock(prepared / f"{name}.lock"):
                if (cached := _cached(folder, shape)) is None:  # otherwise another run has made it meanwhile
                    for old in prepared.glob(f"{name}-*"):  # outdated, damaged, or of a killed run
                        shutil.rmtree(old, ignore_errors=True)
                    _prepare(path, files, size, mode, folder)
                    cached = _cached(folder, shape)
    except OSError as error:
        problem = f"{error.filename or prepared} cannot be read or written ({error.strerror or error})"
        room = f"{prepared} needs {size * size * len(mode):,} bytes per picture, or give another --data-dir"
        raise UserError(f"{problem}: pictures must be readable, and {room}") from error
    return Pictures(*cached, tables, few([path.absolute().name]))


def _find(path: Path) -> tuple[Path, Readers, Readers, str]:
    """The zip or folder meant by `path`, its pictures, their tables, and a stamp that changes with the pictures."""
    archive = next((place for place in (path, *path.parents) if place.is_file()), None)
    if archive:
        try:
            opened = zipfile.ZipFile(archive)
        except Exception as error:  # invalid zips raise more than BadZipFile
            advice = "name the folder of a picture, and unpack other archives"
            if archive.suffix.lower() == ".zip":
                advice = "fetch it again; Google Drive sends a web page instead when its quota is exceeded"
            raise UserError(f"{archive} is not a complete zip ({error}): {advice}") from error
        # Old zips of Windows have backslashes.
        found = {info.filename.replace("\\", "/"): partial(opened.open, info) for info in opened.infolist()}
    elif path.exists():
        places, tops, seen, start = [], [path], set(), len(os.path.join(path, ""))
        for top in tops:  # `path`, then the links to folders, each folder once: links may be circular
            for folder, inner, names in os.walk(top, onerror=print):
                if (real := os.path.realpath(folder)) in seen or HIDDEN.search(f"{folder[start:]}/name"):
                    inner.clear()
                    continue
                seen.add(real)
                inner.sort()  # of several links to a folder, always the same one is read
                tops += [link for name in inner if os.path.islink(link := os.path.join(folder, name))]
                places += [os.path.join(folder, name) for name in names]
        places.sort()
        found = {place[start:].replace(os.sep, "/"): partial(open, place, "rb") for place in places}
    else:
        raise NothingFound(f"{path} does not exist: name a zip or a folder of pictures")
    # Tables may also lie beside or one level above the zip or folder; the nearest win.
    outside = (archive or path).absolute().parent
    near = [place / table for place in (outside.parent, outside) for table in TABLES]
    tables = {table.name: partial(open, table, "rb") for table in near if table.exists()}
    tables |= {base: read for name, read in found.items() if (base := name.rpartition("/")[2]) in TABLES}
    inside = "".join(f"{part}/" for part in path.relative_to(archive or path).parts)
    names = [name for name in found if name.startswith(inside) and not HIDDEN.search(name)]
    files = {name[len(inside) :]: found[name] for name in names if not name.lower().endswith(NO_PICTURES)}
    zips = [name[len(inside) :] for name in names if name.lower().endswith(".zip")]
    if zips and not any(map(_is_picture, files)):
        if len(zips) == 1 and not archive:
            return _find(path / zips[0])
        raise UserError(f"{path} holds no pictures but {few(zips)}: unpack what lies in a zip, and name one of them")
    if not files:
        raise NothingFound(f"{path} holds neither pictures nor a zip of them: name another")
    sources = {"": archive} if archive else {name: path / name for name in files}
    stamps = [(name, about.st_size, about.st_mtime_ns) for name, file in sources.items() for about in [file.stat()]]
    return path, files, tables, hashlib.sha256(repr((FORMAT, stamps)).encode()).hexdigest()[:16]


def _is_picture(name: str) -> bool:
    """Whether it is named like a picture that this Pillow can read."""
    return Image.registered_extensions().get(os.path.splitext(name)[1].lower()) in KINDS


def _cached(folder: Path, shape: tuple[int, int, int]) -> tuple[Tensor, list[str], np.ndarray] | None:
    """The pixels, names and alignments that a run has prepared; None if they are missing or damaged."""
    with contextlib.suppress(Exception):  # a damaged file fails in many ways, and is always made again
        arrays = np.load(folder / "arrays.npz", allow_pickle=False)
        names = arrays["names"].tolist()
        # A private mapping: a caller's accidental changes never reach the file.
        pixels = np.memmap(folder / "pixels.uint8", np.uint8, "c", shape=(len(names), *shape))
        return torch.from_numpy(pixels), names, arrays["aligned"]


def _prepare(path: Path, files: Readers, size: int, mode: str, folder: Path) -> None:
    """Makes the cache `folder`, which appears whole or not at all."""
    new = folder.with_name(f"{folder.name}.tmp")
    new.mkdir()
    Image.init()  # loads the readers of all kinds
    done, broken, others = [], [], Counter()
    try:
        with open(new / "pixels.uint8", "wb") as file:  # not mapped: a full disk then raises an error, not SIGBUS
            for name, read in tqdm(sorted(files.items()), "preparing", unit=" pictures", disable=None):
                try:
                    with read() as opened:
                        pixels, peak, aligned = _decode(opened, name, size, mode)
                except Exception as error:  # on damaged bytes, Pillow and zipfile raise nearly anything
                    if _is_picture(name):
                        unknown = isinstance(error, UnidentifiedImageError)
                        broken.append(f"{name}: {'not a picture' if unknown else first_line(error)}")
                    else:
                        others[os.path.splitext(name)[1].lower() or "without a suffix"] += 1
                else:
                    file.write(pixels.tobytes())
                    done.append((name, peak, aligned))
        problem = f"{path} holds {len(done):,} pictures"
        if others:
            kinds = ", ".join(f"{count:,} {kind}" for kind, count in others.most_common())
            problem += f"; left out {kinds} (not readable; convert HEIC to JPEG first)"
        if broken:
            problem += f"; {len(broken):,} of {len(done) + len(broken):,} pictures cannot be read ({few(broken)})"
        if len(done) < 3 or len(broken) > 0.01 * (len(done) + len(broken)):
            problem += ": at least 3 are needed, and at most 1% may be broken"
            raise UserError(problem) if done or broken else NothingFound(problem)
        if broken or others:
            print(problem, file=sys.stderr)
        names, peaks, aligned = zip(*done, strict=True)
        white = next(level for level in WHITES if max(peaks) <= 1.05 * level)  # one for the whole data set
        pixels = np.memmap(new / "pixels.uint8", np.uint8, "r+", shape=(len(names), size, size, len(mode)))
        for index in np.flatnonzero(peaks):
            pixels[index] = np.minimum(pixels[index] * (peaks[index] / white) + 0.5, 255)
        del pixels  # Windows renames no folder with a mapped file
        np.savez(new / "arrays.npz", names=names, aligned=aligned)
        new.rename(folder)
    finally:
        shutil.rmtree(new, ignore_errors=True)


def _decode(file: BinaryIO, name: str, size: int, mode: str) -> tuple[np.ndarray, float, bool]:
    """One picture (S, S, C) uint8, the maximum of deep greys, which becomes white, or 0, and whether it is aligned."""
    kinds = [kind for kind in KINDS if kind in Image.OPEN]  # not every Pillow knows AVIF
    with warnings.catch_warnings(action="ignore"), Image.open(file, formats=kinds) as picture:
        picture.draft(None, (4 * size, 4 * size))  # a large JPEG is decoded smaller, but not below this
        picture.load()
        with contextlib.suppress(Exception):  # a malformed EXIF block: the picture stays as it is
            picture = ImageOps.exif_transpose(picture)
    peak = 0.0
    if picture.mode[0] in "IF":  # Pillow would clip them at 255
        levels = np.asarray(picture).astype(np.float32)
        peak = levels.max().item()
        if not (levels.min() >= 0 and peak <= 1.05 * WHITES[-1]):  # nor may any be NaN
            raise ValueError(f"its grey levels reach from {levels.min():g} to {peak:g}, not from 0 to 1, 255 or 65535")
        picture = Image.fromarray((levels * (255 / (peak or 1)) + 0.5).astype(np.uint8))
    if picture.has_transparency_data:  # white shows through
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture.convert("RGBA"))
    picture = picture.convert(mode)
    if aligned := picture.size == ALIGNED_SIZE and ALIGNED_NAME.fullmatch(name) is not None:
        picture = picture.crop((15, 35, 163, 183))
    return np.asarray(ImageOps.fit(picture, (size, size), Image.Resampling.BILINEAR)), peak, aligned
