"""Faces as one uint8 tensor: CelebA in any of its layouts, your own pictures, or drawn faces.

Pictures are cropped and resized once by all cores and kept in DATA_DIR/faces, where the next run finds them.
CelebA: Liu et al. 2015, "Deep Learning Face Attributes in the Wild", https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html.
"""

import contextlib
import hashlib
import io
import os
import re
import sys
from bisect import bisect_left
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from filelock import FileLock
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from common.data import archive, cache
from common.data.drawn_faces import draw_faces
from common.errors import UserError

TRAIN, VALID, TEST = 0, 1, 2  # the numbers of CelebA's list_eval_partition
LAST_TRAIN, LAST_VALID = 162_770, 182_637  # the last file numbers of these parts
DRAWN_COUNTS = (10_000, 1_000, 1_000)  # drawn faces to train, validate and test

ALIGNED_NAME = re.compile(r"(?:.*/)?\d{6}\.(?:jpg|png)", re.DOTALL)
ALIGNED_SIZE = (178, 218)  # width and height of a picture in img_align_celeba
# Its bytes 158 to 168: a colour JPEG of that size, after only a JFIF header and two tables (so no EXIF rotation).
ALIGNED_FRAME = b"\xff\xc0\x00\x11\x08\x00\xda\x00\xb2\x03"

# Pillow chooses a file's reader by its content, not its name, and some readers start other programs (EPS).
IMAGE_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")
MAX_BROKEN = 0.01  # the share of broken pictures that may be skipped; more are an error
CHUNK, AHEAD = 16, 64  # pictures that a thread decodes at once; chunks that may wait to be written

DOWNLOADS = ("img_align_celeba.zip", "list_attr_celeba.txt", "list_eval_partition.txt")
DOWNLOAD_SECONDS = 3_600  # at most


@dataclass(frozen=True)
class Faces:
    """Square face pictures, in the order of their names, with their labels and parts.

    images: (N, 3, S, S) uint8 RGB, channels_last; mapped from the cache, so read on first use.
    split: (N,) uint8, 0 train, 1 valid, 2 test.
    attributes: (N, A) bool, named by attribute_names, CelebA's own; None if the pictures have no labels.
    names: N paths in the folder or zip.
    source: a name of the pictures, for the console and the titles of figures; drawn: whether draw_faces made them.
    """

    images: Tensor
    split: Tensor
    attributes: Tensor | None
    attribute_names: tuple[str, ...]
    names: list[str]
    source: str
    drawn: bool

    @property
    def description(self) -> str:
        """A description of the training data for checkpoints: a resumed run must see the same."""
        return f"{self.source}, {len(self.images):,} pictures"


def load_faces(faces: str | None, data_dir: Path, size: int = 64) -> Faces:
    """Loads the pictures that `--faces` names, at `size` x `size` pixels: a zip or a folder, or the word "drawn".

    None means data_dir/celeba, otherwise torchvision's download into it, otherwise drawn faces, after saying why.

    Aligned CelebA pictures are cropped to their centre 148x148, all others to the centre square of the upright
    picture, and resized with antialiasing. The partition file says which part a picture belongs to, otherwise the
    number of an aligned picture, otherwise a hash of the name: 80% train, 10% valid, 10% test.

    Raises UserError if the pictures cannot be used or the cache cannot be written.
    """
    celeba = data_dir / "celeba"
    try:
        if faces != "drawn":
            return _load(celeba if faces is None else Path(faces), data_dir, size)
    except archive.NothingFound:
        if faces is not None:
            raise
        if (problem := _download(celeba)) is None:
            return _load(celeba, data_dir, size)
        print(
            f"CelebA is not in {celeba} and could not be downloaded: {problem}. To train on real faces, "
            f"fetch {', '.join(DOWNLOADS)} from https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html, or the archive of "
            f"https://www.kaggle.com/datasets/jessicali9530/celeba-dataset, put the files into {celeba} as they "
            "are (nothing needs unpacking) and run again; or pass --faces PATH. "
            f"This run continues with {sum(DRAWN_COUNTS):,} DRAWN faces.",
            file=sys.stderr,
        )
    images, attributes, columns = draw_faces(sum(DRAWN_COUNTS), size)
    images, attributes = torch.from_numpy(images).permute(0, 3, 1, 2), torch.from_numpy(attributes)
    split = torch.arange(3, dtype=torch.uint8).repeat_interleave(torch.tensor(DRAWN_COUNTS))
    return Faces(images, split, attributes, columns, list(map(str, range(len(images)))), "drawn faces", True)


def _download(celeba: Path) -> str | None:
    """Downloads CelebA into the folder `celeba`. Returns the reason if that fails, otherwise None."""
    if os.environ.get("RANK", "0") != "0":  # torchrun's number of this process, which has waited for the first
        return "the first process printed the reason"

    def fetch() -> None:
        celeba.mkdir(parents=True, exist_ok=True)
        with FileLock(celeba / ".lock"):  # a second run waits, and finds the first one's files
            for file_id, md5, name in datasets.CelebA.file_list:
                if name in DOWNLOADS:
                    datasets.utils.download_file_from_google_drive(file_id, str(celeba), name, md5)

    try:
        from torchvision import datasets  # here: it takes a second, and few runs need it

        ThreadPool(1).apply_async(fetch).get(DOWNLOAD_SECONDS)  # a daemon thread: it never outlives the run
    except Exception as error:
        return " ".join(f"{type(error).__name__}: {error}".split())[:300].rstrip(".: ")


def _load(path: Path, data_dir: Path, size: int) -> Faces:
    """The faces at `path` from their cache: one per path and size, replaced when the pictures change."""
    try:
        source = archive.find(path)
        stamp, path = source.stamp(), source.path.resolve()
    except OSError as error:
        raise UserError(f"{error.filename} cannot be read ({error.strerror}): make it readable") from error
    folder = data_dir / "faces" / f"{path.stem[:40]}-{size}-{hashlib.sha256(os.fsencode(path)).hexdigest()[:12]}"
    images, arrays = cache.load(folder, stamp, size, partial(_prepare, source, size))
    images, split, attributes = images.permute(0, 3, 1, 2), *map(torch.from_numpy, (arrays["split"], arrays["labels"]))
    columns, names = tuple(arrays["columns"].tolist()), arrays["names"].tolist()
    return Faces(images, split, attributes if columns else None, columns, names, arrays["source"].item(), False)


def _prepare(source: archive.Source, size: int, file: BinaryIO) -> dict[str, object]:
    """Writes the pictures of `source` to `file`, (S, S, 3) uint8 each, and returns the arrays to keep beside them."""
    aligned, broken = {}, []
    with source.opened() as (pictures, tables), ThreadPoolExecutor(os.cpu_count()) as pool:
        columns, rows = archive.read_table(tables, "list_attr_celeba", pictures)
        _, parts = archive.read_table(tables, "list_eval_partition", pictures)
        queue = sorted(pictures.items())
        chunks = [queue[start : start + CHUNK] for start in range(0, len(queue), CHUNK)]
        with tqdm(total=len(queue), desc="preparing faces", unit="face", disable=None) as bar:
            for start in range(0, len(chunks), AHEAD):  # bounds the memory and the wait after Ctrl-C
                for good, bad, pixels in pool.map(partial(_decode_chunk, size=size), chunks[start : start + AHEAD]):
                    aligned |= good
                    broken += bad
                    file.write(pixels)  # not mapped: a full disk then raises an error, not SIGBUS
                    bar.update(len(good) + len(bad))
    if broken:
        problem = f"{source.path}: {len(broken):,} of {len(pictures):,} pictures cannot be read ({archive.few(broken)})"
        if len(broken) > MAX_BROKEN * len(pictures):
            raise UserError(f"{problem}, more than {MAX_BROKEN:.0%}: replace or remove them")
        print(f"{problem}; they are skipped", file=sys.stderr)
    if len(aligned) < 3:
        raise UserError(f"{source.path} holds {len(aligned)} pictures: 3 are needed to train, validate and test")

    without = [name for name in aligned if name not in rows]
    if columns and without:
        problem = f"list_attr_celeba has no row for {len(without):,} of {len(aligned):,} pictures"
        print(f"{problem} ({archive.few(without)}): the run continues without labels", file=sys.stderr)
    labels, columns = ([], []) if without else ([rows[name] > 0 for name in aligned], columns)
    split = _split(aligned, {name: row[0] for name, row in parts.items()}, source.path)
    title = "CelebA" if all(aligned.values()) else archive.few([source.path.absolute().name])
    return {"names": list(aligned), "split": split, "labels": labels, "columns": columns, "source": title}


def _split(aligned: dict[str, bool], parts: dict[str, int], path: Path) -> np.ndarray:
    """The part of each picture, (N,) uint8: by the table, otherwise by CelebA's file numbers or a hash."""
    order = np.argsort([hashlib.sha256(os.fsencode(name)).hexdigest() for name in aligned])
    by_hash = np.resize(np.uint8([TEST, VALID, *[TRAIN] * 8]), len(aligned))[order]
    split = by_hash.copy()
    for index, name in enumerate(aligned):
        if name in parts:
            split[index] = parts[name]
        elif aligned[name]:
            split[index] = bisect_left((LAST_TRAIN, LAST_VALID), int(name[-10:-4]))
    if {TRAIN, VALID, TEST} <= set(split.tolist()):
        return split
    print(f"{path} leaves a part of CelebA (train, valid, test) empty, so it is split by name instead", file=sys.stderr)
    return by_hash


def _decode_chunk(pictures: list[tuple[str, Callable]], size: int) -> tuple[dict[str, bool], list[str], bytes]:
    """Which of the pictures are aligned, "name: reason" of the broken ones, and the pixels of the others."""
    good, bad, squares = {}, [], []
    for name, read in pictures:
        try:
            square, good[name] = _decode(read(), name, size)
            squares.append(square)
        except Exception as error:  # on damaged bytes, Pillow and zipfile raise nearly anything
            reason = "not a picture" if isinstance(error, UnidentifiedImageError) else str(error)
            bad.append(f"{name}: {reason or type(error).__name__}")
    # Neighbours of equal size together: one by one, the threads would contend for the GIL a third of the time.
    stacks = (torch.from_numpy(np.stack([*equal])).permute(0, 3, 1, 2) for _, equal in groupby(squares, np.shape))
    resize = partial(F.interpolate, size=(size, size), mode="bilinear", antialias=True)
    return good, bad, b"".join(resize(stack).permute(0, 2, 3, 1).numpy().tobytes() for stack in stacks)


def _decode(data: bytes, name: str, size: int) -> tuple[np.ndarray, bool]:
    """One picture as (S, S, 3) uint8 RGB, and whether it is an aligned CelebA picture."""
    named = ALIGNED_NAME.fullmatch(name) is not None
    if named and data[158:168] == ALIGNED_FRAME:
        # Once resized, these are Pillow's pixels within one grey level, in half the time. Pillow reads the files that
        # torchvision can't, and will read everything once torchvision drops its deprecated decoder.
        with contextlib.suppress(ImportError, RuntimeError):
            from torchvision.io import ImageReadMode, decode_jpeg  # here: it takes a second, and few runs need it

            picture = decode_jpeg(torch.frombuffer(bytearray(data), dtype=torch.uint8), ImageReadMode.RGB)
            return picture[:, 35:183, 15:163].permute(1, 2, 0).numpy(), True
    with Image.open(io.BytesIO(data), formats=IMAGE_FORMATS) as picture:  # refuses more than 179 million pixels
        # A large JPEG is decoded at a reduced size, but never below four times the final one.
        picture.draft(None, (4 * size, 4 * size))
        picture = ImageOps.exif_transpose(picture)
    if picture.mode.startswith("I"):  # 16 bits of grey, which Pillow would clip at 255
        picture = Image.fromarray((np.asarray(picture) >> 8).clip(0, 255).astype(np.uint8))
    if picture.has_transparency_data:  # white shows through
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture.convert("RGBA"))
    if aligned := named and picture.size == ALIGNED_SIZE:
        picture = picture.crop((15, 35, 163, 183))
    return np.array(ImageOps.fit(picture.convert("RGB"), (size, size), Image.Resampling.BILINEAR)), aligned
