"""Faces as one uint8 tensor: CelebA in any of its layouts, one's own pictures, or drawn faces.

Pictures are cropped and resized once by all cores and kept in DATA_DIR/faces, from where the next run starts at once.
CelebA: Liu et al. 2015, "Deep Learning Face Attributes in the Wild", https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html.
"""

import hashlib
import io
import os
import re
import shutil
import subprocess
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
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
from common.training.parallel import rank

TRAIN, VALID, TEST = 0, 1, 2  # the numbers of CelebA's list_eval_partition
LAST_TRAIN, LAST_VALID = 162_770, 182_637  # the last file numbers of those parts in it
DRAWN_COUNTS = (10_000, 1_000, 1_000)  # drawn faces to train, validate and test

ALIGNED_NAME = re.compile(r"(?:.*/)?\d{6}\.(?:jpg|png)", re.DOTALL)
ALIGNED_SIZE = (178, 218)  # width and height of a picture in img_align_celeba
ALIGNED_CROP = (15, 35, 163, 183)  # left, top, right, bottom of its centre 148x148
# Its bytes 158 to 168: a colour JPEG of that size, after a JFIF header and two tables alone (no EXIF turns it).
ALIGNED_FRAME = b"\xff\xc0\x00\x11\x08\x00\xda\x00\xb2\x03"

# A name does not decide which of Pillow's readers a file reaches, and some start other programs (EPS).
IMAGE_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")
MAX_PIXELS = 100_000_000  # a larger picture is refused by its header
MAX_BROKEN = 0.01  # the share of broken pictures that is skipped; with more, the run refuses
CHUNK, AHEAD = 16, 64  # pictures that a thread decodes at once, and chunks before the first of them is written

# Some of what torchvision.datasets.CelebA fetches, and limits in seconds; the first shows soon whether Google serves.
DOWNLOADS = {"list_eval_partition.txt": 60, "list_attr_celeba.txt": 300, "img_align_celeba.zip": 3_600}
DOWNLOAD = """
import sys
from torchvision.datasets import CelebA, utils
folder, wanted = sys.argv[1:]
try:
    file_id, md5 = next((file_id, md5) for file_id, md5, name in CelebA.file_list if name == wanted)
    utils.download_file_from_google_drive(file_id, folder, wanted, md5)
except Exception as error:
    print(" ".join(f"{type(error).__name__}: {error}".split())[:300].rstrip("."))
    sys.exit(1)
"""


@dataclass(frozen=True)
class Faces:
    """Square face pictures, in the order of their names, and what is known about them.

    images: (N, 3, S, S) uint8 RGB, channels_last; mapped from the cache, so read when first used.
    split: (N,) uint8, 0 train, 1 valid, 2 test.
    attributes: (N, A) bool, named by attribute_names, CelebA's own; None where the pictures have no labels.
    names: N file names, relative to the folder that all share.
    source: what the pictures are, for the console and the titles of figures; drawn: that they are no photographs.
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
        """What a run was trained on, for its checkpoint: a resumed one must see the same."""
        return f"{self.source}, {len(self.images):,} pictures"


def load_faces(faces: str | None, data_dir: Path, size: int = 64) -> Faces:
    """Loads the faces that `--faces` names as pictures of `size` x `size` pixels.

    faces: a zip or a folder (CelebA in any layout, or one's own pictures), or the word "drawn". None means
        data_dir/celeba, otherwise torchvision's download into it, otherwise drawn faces, after saying why.

    Aligned CelebA pictures are cropped to their centre 148x148, all others to the centre square of the upright
    picture, and resized with antialiasing. The part of a picture is that in the partition file, otherwise by the
    number in the name of an aligned picture, otherwise by a hash of the name: about 80% train, 10% valid, 10% test.

    Raises UserError if the pictures cannot be used or the cache cannot be written.
    """
    celeba = data_dir / "celeba"
    try:
        if faces != "drawn":
            return _load(celeba if faces is None else Path(faces).expanduser(), data_dir, size)
    except archive.NothingFound:
        if faces is not None:
            raise
        # Of the processes that torchrun starts, the first alone downloads; what it found, the others find too.
        problem = "the first process has said why" if rank() else _download(celeba)
        if problem is None:
            return _load(celeba, data_dir, size)
        print(
            f"CelebA is not in {celeba} and could not be downloaded: {problem}. To train on real faces, "
            "fetch img_align_celeba.zip, list_attr_celeba.txt and list_eval_partition.txt from "
            "https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html, or the archive of "
            "https://www.kaggle.com/datasets/jessicali9530/celeba-dataset, put what you fetched into "
            f"{celeba} as it is (nothing needs unpacking) and run again; or pass --faces PATH. "
            f"This run continues with {sum(DRAWN_COUNTS):,} DRAWN faces.",
            file=sys.stderr,
        )
    drawing = draw_faces(sum(DRAWN_COUNTS), size)
    images, attributes = torch.from_numpy(drawing.images), torch.from_numpy(drawing.attributes)
    split = torch.arange(3, dtype=torch.uint8).repeat_interleave(torch.tensor(DRAWN_COUNTS))
    names = [f"drawn_{index:06d}" for index in range(len(images))]
    return Faces(images.permute(0, 3, 1, 2), split, attributes, drawing.attribute_names, names, "drawn faces", True)


def _download(celeba: Path) -> str | None:
    """Downloads CelebA into the folder `celeba`. Returns what went wrong, or None when it is there.

    In a process of its own: neither a name server nor Google Drive that never answers can hold up the run.
    """
    new, progress = celeba / ".download", None if sys.stderr.isatty() else subprocess.DEVNULL
    try:
        celeba.mkdir(parents=True, exist_ok=True)
        with FileLock(celeba / ".lock"):
            if (celeba / "img_align_celeba.zip").exists():  # another run has fetched it meanwhile
                return None
            try:
                for name, limit in DOWNLOADS.items():
                    command = [sys.executable, "-c", DOWNLOAD, str(new), name]
                    done = subprocess.run(command, timeout=limit, stdout=-1, stderr=progress, text=True)
                    if done.returncode:
                        return done.stdout.strip() or f"{name} ended with code {done.returncode}"
                for name in DOWNLOADS:
                    (new / name).replace(celeba / name)
            except subprocess.TimeoutExpired:
                return f"{name} was not there after {limit:,} seconds"
            finally:
                shutil.rmtree(new, ignore_errors=True)
    except OSError as error:
        return f"{celeba} cannot be written ({error.strerror or error})"


def _load(path: Path, data_dir: Path, size: int) -> Faces:
    """The faces at `path` from their cache: one for a path and a size, replaced when the pictures change."""
    try:
        source = archive.find(path)
        stamp, path = source.stamp(), source.path.resolve()
    except OSError as error:
        problem = f"{error.filename or path} cannot be read ({error.strerror or error})"
        raise UserError(f"{problem}: make it readable or name another") from error
    label, digest = re.sub(r"[^\w-]+", "_", path.stem)[:40], hashlib.sha256(os.fsencode(path)).hexdigest()
    folder = data_dir / "faces" / f"{label}-{size}-{digest[:12]}"
    images, arrays = cache.load(folder, stamp, size, partial(_prepare, source, size))
    images, split, attributes = images.permute(0, 3, 1, 2), *map(torch.from_numpy, (arrays["split"], arrays["labels"]))
    columns, names = tuple(arrays["columns"].tolist()), arrays["names"].tolist()
    return Faces(images, split, attributes if columns else None, columns, names, arrays["source"].item(), False)


def _prepare(source: archive.Source, size: int, file: BinaryIO) -> dict[str, np.ndarray]:
    """Writes the pictures of `source` to `file`, (S, S, 3) uint8 each, and returns what is known about them."""
    with source.opened() as (pictures, tables):
        columns, rows = archive.read_table(tables, "list_attr_celeba")
        _, parts = archive.read_table(tables, "list_eval_partition")
        kept, broken = _decode_all(pictures, size, file)
    if broken:
        problem = f"{source.path}: {len(broken):,} of {len(pictures):,} pictures cannot be read ({archive.few(broken)})"
        if len(broken) > MAX_BROKEN * len(pictures):
            raise UserError(f"{problem}, more than {MAX_BROKEN:.0%}: replace or remove them")
        print(f"{problem}; they are skipped", file=sys.stderr)
    if len(kept) < 3:
        raise UserError(f"{source.path} holds {len(kept)} pictures: add some, it takes 3 to train, validate and test")

    aligned = np.array(list(kept.values()))
    shared = os.path.commonprefix([min(kept), max(kept)]).rfind("/") + 1
    names = [archive.normal(name[shared:]) for name in kept]
    labels = archive.join(names, rows)
    without = [name for name, row in zip(names, labels, strict=True) if row is None]
    if rows and without:
        problem = f"list_attr_celeba has no row for {len(without):,} of {len(names):,} pictures"
        print(f"{problem} ({archive.few(without)}): the run continues without labels", file=sys.stderr)
    labels, columns = (np.zeros(0, bool), []) if without else (np.array(labels) > 0, columns)
    split = _split(names, aligned, parts, source.path)
    title = "CelebA" if aligned.all() else archive.few([source.path.absolute().name])
    arrays = {"names": names, "split": split, "labels": labels, "columns": np.array(columns, str), "source": title}
    return {name: np.asarray(array) for name, array in arrays.items()}


def _split(names: list[str], aligned: np.ndarray, parts: dict[str, np.ndarray], path: Path) -> np.ndarray:
    """The part of each picture, (N,) uint8: by the table, otherwise by CelebA's file numbers or a hash."""
    hashes = [hashlib.sha256(name.encode("utf-8", "surrogatepass")).digest()[:8] for name in names]
    place = np.array([int.from_bytes(digest, "big") / 2**64 for digest in hashes])
    by_hash = np.digitize(place, (0.8, 0.9)).astype(np.uint8)
    if len(np.unique(by_hash)) < 3:  # of a handful of pictures, each part takes at least one
        by_hash[np.argsort(place)[-3:]] = TRAIN, VALID, TEST
    split = by_hash.copy()
    numbers = [int(names[index][-10:-4]) for index in np.flatnonzero(aligned)]
    split[aligned] = np.digitize(numbers, (LAST_TRAIN, LAST_VALID), right=True)
    for index, row in enumerate(archive.join(names, parts)):
        split[index] = split[index] if row is None else row[0]
    if len(np.unique(split)) == 3:
        return split
    problem = f"{path}: its pictures leave a part of CelebA (train, valid, test) empty"
    print(f"{problem}: they are split by name instead", file=sys.stderr)
    return by_hash


def _decode_all(pictures: archive.Readers, size: int, file: BinaryIO) -> tuple[dict[str, bool], list[str]]:
    """Writes the pictures to `file` in the order of their names, (S, S, 3) uint8 each.

    Returns, by name, whether each is an aligned CelebA picture, and "name: reason" of the broken ones.
    The file is written, not mapped: a full disk is then an error, not a signal, and its pages take no memory.
    """
    kept, broken, queue, step, threads = {}, [], sorted(pictures), CHUNK * AHEAD, torch.get_num_threads()
    bar = tqdm(total=len(queue), desc="preparing faces", unit="face", disable=None)
    with bar, warnings.catch_warnings(), ThreadPoolExecutor(os.cpu_count()) as pool:
        warnings.simplefilter("ignore")  # Pillow's, on odd metadata, would tear the bar
        torch.set_num_threads(1)  # for each worker: on all cores, they would mostly wait for one another
        try:
            for start in range(0, len(queue), step):
                names = queue[start : start + step]
                chunks = [{name: pictures[name] for name in names[at : at + CHUNK]} for at in range(0, step, CHUNK)]
                for good, bad, pixels in pool.map(partial(_decode_chunk, size=size), chunks):
                    kept.update(good)
                    broken += bad
                    file.write(pixels)
                    bar.update(len(good) + len(bad))
        finally:
            pool.shutdown(cancel_futures=True)  # after Ctrl-C or on a full disk
            torch.set_num_threads(threads)
    return kept, broken


def _decode_chunk(pictures: archive.Readers, size: int) -> tuple[dict[str, bool], list[str], bytes]:
    """Which of the pictures are aligned, "name: reason" of the broken ones, and the pixels of the others."""
    decoded, crops, broken = {}, {}, []
    for name, read in pictures.items():
        try:
            data = read()
            if (crop := _aligned_crop(data, name)) is not None:
                crops[name] = crop
            decoded[name] = _decode(data, name, size) if crop is None else (None, True)
        except Exception as error:  # on damaged bytes Pillow and zipfile raise nearly anything
            reason = "not a picture" if isinstance(error, UnidentifiedImageError) else error
            broken.append(f"{name}: {reason}" if str(reason) else f"{name}: {type(error).__name__}")
    if crops:  # all at once: one by one, the threads would pass their lock around for a third of the time
        together = torch.stack(list(crops.values())).permute(0, 3, 1, 2)
        resized = F.interpolate(together, (size, size), mode="bilinear", antialias=True).permute(0, 2, 3, 1).numpy()
        decoded |= {name: (face, True) for name, face in zip(crops, resized, strict=True)}
    pixels = b"".join(face.data for face, _ in decoded.values())
    return {name: aligned for name, (_, aligned) in decoded.items()}, broken, pixels


def _aligned_crop(data: bytes, name: str) -> Tensor | None:
    """The face in one of CelebA's own JPEGs, (148, 148, 3) uint8; None for other pictures.

    Once resized, these are Pillow's pixels within one grey level, in half the time.
    """
    if data[158:168] != ALIGNED_FRAME or not ALIGNED_NAME.fullmatch(name):
        return None
    from torchvision.io import ImageReadMode, decode_jpeg  # here: it takes a second, and few runs need it

    try:
        picture = decode_jpeg(torch.frombuffer(bytearray(data), dtype=torch.uint8), ImageReadMode.RGB)
    except RuntimeError:
        return None  # Pillow says more clearly what is wrong
    left, top, right, bottom = ALIGNED_CROP
    return picture[:, top:bottom, left:right].permute(1, 2, 0) if picture.shape[1:] == ALIGNED_SIZE[::-1] else None


def _decode(data: bytes, name: str, size: int) -> tuple[np.ndarray, bool]:
    """One picture as (S, S, 3) uint8 RGB, and whether it is an aligned CelebA picture."""
    with Image.open(io.BytesIO(data), formats=IMAGE_FORMATS) as picture:
        if picture.width * picture.height > MAX_PIXELS:
            raise ValueError(f"{picture.width}x{picture.height} pixels, more than {MAX_PIXELS:,}")
        # A large JPEG is decoded smaller, though never below four times the size it is then resized to.
        picture.draft(None, (4 * size, 4 * size))
        ImageOps.exif_transpose(picture, in_place=True)
        aligned = picture.size == ALIGNED_SIZE and ALIGNED_NAME.fullmatch(name) is not None
        side = min(picture.size)
        left, top = (picture.width - side) // 2, (picture.height - side) // 2
        face = _rgb(picture.crop(ALIGNED_CROP if aligned else (left, top, left + side, top + side)))
        return np.array(face.resize((size, size), Image.Resampling.BILINEAR)), aligned


def _rgb(picture: Image.Image) -> Image.Image:
    """A picture of any mode as RGB, what is transparent on white."""
    if picture.mode.startswith("I"):  # 16 bits, which Pillow would clip to 8
        picture = Image.fromarray((np.asarray(picture).astype(np.int64).clip(0, 2**16 - 1) >> 8).astype(np.uint8))
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
    return picture.convert("RGB")
