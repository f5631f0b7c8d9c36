"""Shared by the tests of pictures: small ones, written as zips and folders, and the checks of every load."""

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from common.data import pictures
from common.data.celeba import load_faces
from common.data.drawn_faces import draw_faces
from common.errors import UserError

SIZE = 32


def encoded(picture: Image.Image, kind: str = "JPEG", **options) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def drawn_pictures(count: int, size: tuple[int, int]) -> list[Image.Image]:
    return [Image.fromarray(face).resize(size) for face in draw_faces(count, 64, seed=9)[0]]


# File numbers of all three parts of CelebA, and JPEGs of its names and size.
NUMBERS = [1, 2, 3, 17, 162_769, 162_770, 162_771, 170_000, 182_637, 182_638, 200_001, 202_599]
NAMES = [f"{number:06d}.jpg" for number in NUMBERS]
ALIGNED = {name: encoded(face, quality=90) for name, face in zip(NAMES, drawn_pictures(12, (178, 218)), strict=True)}
# 150 pictures of your own, of which one may be broken.
PHOTOS = {f"{index:03d}.png": encoded(face, "PNG") for index, face in enumerate(drawn_pictures(150, (20, 24)))}


def some(count: int, start: int = 0) -> dict[str, bytes]:
    """A few of the photos."""
    return dict(list(PHOTOS.items())[start : start + count])


def write(path: Path, files: dict) -> Path:
    """Writes `files` (bytes by name) as a zip if `path` ends in .zip, otherwise as a folder, which may hold zips."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w") as archive:
            for name, data in files.items():
                archive.writestr(name, data, zipfile.ZIP_STORED if name.endswith("jpg") else zipfile.ZIP_DEFLATED)
        return path
    for name, data in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        write(path / name, data) if isinstance(data, dict) else (path / name).write_bytes(data)
    return path


def load(path: Path, data_dir: Path, size: int = SIZE, mode: str = "RGB") -> pictures.Pictures:
    """The prepared pictures, after checks that every result must pass."""
    found = pictures.load(path, data_dir, size, mode)
    count = len(found.names)
    assert found.pixels.shape == (count, size, size, len(mode)) and found.pixels.dtype == torch.uint8
    assert found.aligned.shape == (count,) and found.names == sorted(set(found.names))
    return found


def close(pixels: torch.Tensor, data: bytes, levels: int = 1) -> bool:
    """Whether these pixels (S, S, 3) are Pillow's crop and resize of the file, within `levels` grey levels."""
    picture = Image.open(io.BytesIO(data)).convert("RGB")
    picture = picture.crop((15, 35, 163, 183)) if picture.size == (178, 218) else picture
    reference = np.int16(ImageOps.fit(picture, pixels.shape[:2], Image.Resampling.BILINEAR))
    return np.abs(pixels.numpy() - reference).max() <= levels


def refusal(path: Path | None, data_dir: Path) -> str:
    """The message with which `path` is refused: one line, with no cache left behind."""
    with pytest.raises(UserError) as caught:
        load_faces(path and str(path), data_dir, SIZE)
    assert "\n" not in str(caught.value)
    assert not list(data_dir.glob("prepared/*/")), "a refused source left a cache"
    return str(caught.value)
