"""Shared by the tests of faces: small pictures, written as zips and folders, and the checks of every load."""

import io
import zipfile
from pathlib import Path

import pytest
import torch
from PIL import Image

from common.data.drawn_faces import draw_faces
from common.data.faces import Faces, load_faces
from common.errors import UserError

SIZE = 32


def encoded(picture: Image.Image, kind: str = "JPEG", **options) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def drawn_pictures(count: int, size: tuple[int, int]) -> list[Image.Image]:
    return [Image.fromarray(face).resize(size) for face in draw_faces(count, 64, seed=9).images]


# File numbers of all three parts of CelebA, and JPEGs of its names and size.
NUMBERS = [1, 2, 3, 17, 162_769, 162_770, 162_771, 170_000, 182_637, 182_638, 200_001, 202_599]
NAMES = [f"{number:06d}.jpg" for number in NUMBERS]
ALIGNED = {name: encoded(face, quality=90) for name, face in zip(NAMES, drawn_pictures(12, (178, 218)), strict=True)}
# 150 pictures of your own, of which one may be broken.
PHOTOS = {f"{index:03d}.png": encoded(face, "PNG") for index, face in enumerate(drawn_pictures(150, (20, 24)))}


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


def load(path: Path | None, data_dir: Path, size: int = SIZE) -> Faces:
    """The loaded faces, after checks that every result must pass."""
    faces = load_faces(path and str(path), data_dir, size)
    count = len(faces.names)
    assert faces.images.shape == (count, 3, size, size) and faces.images.dtype == torch.uint8
    assert faces.images.is_contiguous(memory_format=torch.channels_last)
    assert faces.split.shape == (count,) and {0, 1, 2} <= set(faces.split.tolist())
    assert faces.names == sorted(set(faces.names))
    if faces.attributes is not None:
        assert faces.attributes.shape == (count, len(faces.attribute_names)) and faces.attributes.dtype == torch.bool
    return faces


def refusal(path: Path | None, data_dir: Path) -> str:
    """The message with which `path` is refused: one line, with no cache left behind."""
    with pytest.raises(UserError) as caught:
        load(path, data_dir)
    assert "\n" not in str(caught.value)
    assert not list(data_dir.glob("faces/*/")), "a refused source left a cache"
    return str(caught.value)
