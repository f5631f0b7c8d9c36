"""Faces from every layout of CelebA and from one's own pictures: right pixels, labels by name, no harm done.

Most tests build small archives of drawn faces. Those named `real` need CelebA itself, which may not be passed
on, and are skipped where neither ../shared/celeba nor data/celeba holds it.
"""

import contextlib
import io
import json
import os
import random
import resource
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import threading
import time
import tracemalloc
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision import datasets

from common.data import faces as celeba
from common.data.drawn_faces import draw_faces
from common.data.faces import load_faces
from common.errors import UserError

ROOT = Path(__file__).parents[1]
SIZE = 32
COLUMNS = ("Eyeglasses", "Male", "Smiling", "Young")
# File numbers of all three parts of CelebA.
NUMBERS = [1, 2, 3, 17, 162_769, 162_770, 162_771, 170_000, 182_637, 182_638, 200_001, 202_599]
NAMES = [f"{number:06d}.jpg" for number in NUMBERS]


def encoded(picture: Image.Image, kind: str = "JPEG", **options) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def drawn_pictures(count: int, size: tuple[int, int]) -> list[Image.Image]:
    return [Image.fromarray(face).resize(size) for face in draw_faces(count, 64, seed=9).images]


@pytest.fixture(scope="module")
def aligned() -> dict[str, bytes]:
    """CelebA as far as its format goes: name -> JPEG of 178x218."""
    faces = drawn_pictures(len(NAMES), (178, 218))
    return {name: encoded(face, quality=90) for name, face in zip(NAMES, faces, strict=True)}


@pytest.fixture(scope="module")
def photos() -> dict[str, bytes]:
    """150 pictures of one's own, with 1% of which one may be broken."""
    return {f"{index:03d}.png": encoded(face, "PNG") for index, face in enumerate(drawn_pictures(150, (20, 24)))}


def write_zip(path: Path, files: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def write_folder(path: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(data)
    return path


def load(path: Path | None, data_dir: Path, size: int = SIZE) -> celeba.Faces:
    """Loads quietly, and checks what every result promises."""
    faces = load_faces(path and str(path), data_dir, size, progress=False, echo=lambda message: None)
    count = len(faces.names)
    assert faces.images.shape == (count, 3, size, size) and faces.images.dtype == torch.uint8
    assert faces.images.is_contiguous(memory_format=torch.channels_last)
    assert faces.split.shape == (count,) and set(faces.split.tolist()) == {0, 1, 2}
    assert faces.names == sorted(faces.names) and len(set(faces.names)) == count
    if faces.attributes is not None:
        assert faces.attributes.shape == (count, len(faces.attribute_names))
        assert faces.attributes.dtype == torch.bool
    return faces


def refusal(path: Path | None, data_dir: Path) -> str:
    """The message with which `path` is refused: one line, and nothing of it left behind."""
    with pytest.raises(UserError) as caught:
        load(path, data_dir)
    message = str(caught.value)
    assert "\n" not in message
    assert not list(data_dir.glob("faces/*/")), "a refused source left a cache"
    return message


def messages_of(path: Path | None, data_dir: Path) -> tuple[celeba.Faces, str]:
    messages = []
    faces = load_faces(path and str(path), data_dir, SIZE, progress=False, echo=messages.append)
    return faces, "\n".join(messages)


# ---- Layouts, labels and parts ---------------------------------------------------------------------------


def labels_of(number: int) -> list[int]:
    return [1 if number >> bit & 1 else -1 for bit in range(len(COLUMNS))]


def part_of(number: int) -> int:
    """Unlike the file numbers', so that only the table can tell it."""
    return number % 3


def tables(style: str) -> dict[str, bytes]:
    """The two tables, with their rows in disorder and rows of other pictures among them."""
    rows = [*NUMBERS, 5, 190_000, 123_456]
    random.Random(1).shuffle(rows)
    if style == "csv":
        attributes = [f"image_id,{','.join(COLUMNS)}"]
        attributes += [f"{row:06d}.jpg,{','.join(map(str, labels_of(row)))}" for row in rows]
        parts = ["image_id,partition", *(f"{row:06d}.jpg,{part_of(row)}" for row in rows)]
    else:
        attributes = [str(len(rows)), " ".join(COLUMNS) + " "]
        attributes += [f"{row:06d}.jpg " + "".join(f"{label:3d}" for label in labels_of(row)) for row in rows]
        parts = [f"{row:06d}.jpg {part_of(row)}" for row in rows]
    return {
        f"list_attr_celeba.{style}": "\r\n".join([*attributes, ""]).encode(),
        f"list_eval_partition.{style}": "\n".join([*parts, ""]).encode(),
    }


def official_zip(folder: Path, pictures: dict[str, bytes]) -> Path:
    write_folder(folder, tables("txt"))
    return write_zip(folder / "img_align_celeba.zip", {f"img_align_celeba/{name}": pictures[name] for name in pictures})


def kaggle_files(pictures: dict[str, bytes]) -> dict[str, bytes]:
    nested = {f"img_align_celeba/img_align_celeba/{name}": data for name, data in pictures.items()}
    extra = {"list_bbox_celeba.csv": b"image_id,x_1\n", "__MACOSX/img_align_celeba/._000001.jpg": b"finder"}
    return nested | tables("csv") | extra


LAYOUTS = {
    "the official zip": official_zip,
    "the official zip by its folder": lambda folder, pictures: official_zip(folder, pictures).parent,
    "the official drive": lambda folder, pictures: (
        write_zip(folder / "Img/img_align_celeba.zip", {f"img_align_celeba/{n}": d for n, d in pictures.items()}),
        write_folder(folder / "Anno", {k: v for k, v in tables("txt").items() if "attr" in k}),
        write_folder(folder / "Eval", {k: v for k, v in tables("txt").items() if "eval" in k}),
    )[0],
    "kaggle's archive": lambda folder, pictures: write_zip(
        folder / "archive.zip", kaggle_files(pictures), zipfile.ZIP_DEFLATED
    ),
    "kaggle's archive in a folder": lambda folder, pictures: (
        write_zip(folder / "in" / "archive.zip", kaggle_files(pictures)).parent
    ),
    "kaggle's archive unpacked": lambda folder, pictures: write_folder(folder, kaggle_files(pictures)),
    "the inner folder of kaggle's": lambda folder, pictures: (
        write_folder(folder, kaggle_files(pictures)) / "img_align_celeba" / "img_align_celeba"
    ),
    "torchvision's folder": lambda folder, pictures: write_folder(
        folder, {f"img_align_celeba/{name}": data for name, data in pictures.items()} | tables("txt")
    ),
    "pictures at the top": lambda folder, pictures: write_zip(folder / "flat.zip", pictures | tables("csv")),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_same_faces(layout, aligned, tmp_path):
    disorder = list(aligned)
    random.Random(2).shuffle(disorder)
    path = LAYOUTS[layout](tmp_path / "source", {name: aligned[name] for name in disorder})
    faces = load(path, tmp_path / "data")
    assert faces.names == NAMES
    assert faces.attribute_names == COLUMNS
    assert faces.attributes.tolist() == [[label > 0 for label in labels_of(number)] for number in NUMBERS]
    assert faces.split.tolist() == [part_of(number) for number in NUMBERS]
    assert (faces.source, faces.drawn) == ("CelebA", False)
    for image, name in zip(faces.images, NAMES, strict=True):
        assert close(image, aligned_reference(aligned[name]), 1)


def close(image: torch.Tensor, reference: Image.Image, levels: int) -> bool:
    return np.abs(image.permute(1, 2, 0).numpy().astype(int) - np.asarray(reference).astype(int)).max() <= levels


def aligned_reference(data: bytes, size: int = SIZE) -> Image.Image:
    picture = Image.open(io.BytesIO(data)).convert("RGB").crop((15, 35, 163, 183))
    return picture.resize((size, size), Image.Resampling.BILINEAR)


def test_without_the_flag_data_celeba_is_taken(aligned, tmp_path):
    official_zip(tmp_path / "celeba", aligned)
    assert load(None, tmp_path).names == NAMES


def test_without_tables_the_file_numbers_decide(aligned, tmp_path):
    faces = load(write_zip(tmp_path / "a.zip", aligned), tmp_path / "data")
    assert faces.split.tolist() == [0] * 6 + [1] * 3 + [2] * 3
    assert faces.attributes is None and faces.attribute_names == ()


def test_aligned_png_pictures_take_the_rows_of_their_jpg_names(aligned, tmp_path):
    pngs = {name.replace("jpg", "png"): encoded(Image.open(io.BytesIO(aligned[name])), "PNG") for name in NAMES}
    path = write_folder(tmp_path / "png", pngs | tables("txt"))
    faces = load(path, tmp_path / "data")
    assert faces.split.tolist() == [part_of(number) for number in NUMBERS]
    assert close(faces.images[0], aligned_reference(aligned[NAMES[0]]), 1)


def test_a_subset_without_test_pictures_is_split_by_name(aligned, tmp_path):
    path = write_zip(tmp_path / "a.zip", {name: aligned[name] for name in NAMES[:6]})
    faces, messages = messages_of(path, tmp_path / "data")
    assert sorted(set(faces.split.tolist())) == [0, 1, 2]
    assert "splitting by name" in messages


def test_own_pictures_are_split_by_a_hash_of_their_names(photos, tmp_path):
    pictures = {f"{index:04d}.png": data for index, data in enumerate(list(photos.values()) * 4)}
    faces = load(write_zip(tmp_path / "a.zip", pictures), tmp_path / "data", size=8)
    parts = dict(zip(faces.names, faces.split.tolist(), strict=True))
    train, valid, test = faces.split.bincount(minlength=3).tolist()
    assert abs(train - 480) < 40 and abs(valid - 60) < 30 and abs(test - 60) < 30
    # The same names keep their parts in a folder, in fewer pictures, and on every machine.
    fewer = write_folder(tmp_path / "fewer", {name: pictures[name] for name in list(pictures)[50:]})
    again = load(fewer, tmp_path / "data", size=8)
    assert again.split.tolist() == [parts[name] for name in again.names]
    assert [parts[f"{index:04d}.png"] for index in range(12)] == [2, 0, 2, 0, 0, 0, 2, 2, 0, 0, 0, 1]


def test_own_pictures_named_like_celebas_are_not_taken_for_them(photos, tmp_path):
    numbered = {f"{index + 1:06d}.jpg": data for index, data in enumerate(photos.values())}
    faces = load(write_zip(tmp_path / "mine.zip", numbered), tmp_path / "data")
    assert faces.source == "mine.zip"
    assert faces.split.bincount(minlength=3).min() > 3  # by their numbers, all would be training faces


@pytest.mark.parametrize("count", [3, 4, 5])
def test_a_handful_of_pictures_has_all_three_parts(count, photos, tmp_path):
    few = dict(list(photos.items())[:count])
    assert load(write_folder(tmp_path / "few", few), tmp_path / "data").split.bincount().min() >= 1


def test_a_picture_without_a_row_takes_the_labels_away_and_is_named(aligned, tmp_path):
    path = write_folder(tmp_path / "a", aligned | {"stranger.jpg": aligned[NAMES[0]]} | tables("csv"))
    faces, messages = messages_of(path, tmp_path / "data")
    assert faces.attributes is None and len(faces.names) == len(NAMES) + 1
    assert "stranger.jpg" in messages and "1 of 13" in messages
    assert faces.split[:-1].tolist() == [part_of(number) for number in NUMBERS]


@pytest.mark.parametrize("table", ["list_attr_celeba.txt", "list_attr_celeba.csv", "list_eval_partition.txt"])
@pytest.mark.parametrize(
    "data",
    [b"", b"\n\n", b"<!DOCTYPE html><html>quota</html>", b"\x00\xff\xfe" * 99, b"image_id,A\n000001.jpg,7\n"]
    + [b"9\nA B\n000001.jpg 1 -1\n", b"1\nA B\n000001.jpg 1\n", b"9" * 5_000, b"000001.jpg 3\n", b"a,b,c\n"],
)
def test_a_damaged_table_is_named(table, data, aligned, tmp_path):
    path = write_folder(tmp_path / "a", aligned | {table: data})
    assert table in refusal(path, tmp_path / "data")


def test_names_join_in_any_script_and_in_either_form_of_their_accents(photos, tmp_path):
    names = ["Zoë.png", "李小龙.png", "Ωμέγα.png", "مرحبا.png", "a b c.png", "😀.png"]
    decomposed = [name.replace("ë", "e\u0308") for name in names]
    pictures = dict(zip(decomposed, photos.values(), strict=False))
    table = "id,Smiling\n" + "".join(f'"{n}",{1 if n == "Zoë.png" else -1}\n' for n in names)
    files = {f"Köln/{name}": data for name, data in pictures.items()} | {"list_attr_celeba.csv": table.encode()}
    faces = load(write_zip(tmp_path / "照片.zip", files), tmp_path / "数据")
    smiling = dict(zip(faces.names, faces.attributes[:, 0].tolist(), strict=True))
    assert smiling == {name: name == decomposed[0] for name in decomposed}
    assert faces.source == "照片.zip"


# ---- Pixels ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [32, 64, 128])
def test_aligned_faces_are_pillows_crop_and_resize_within_a_level(size, aligned, tmp_path):
    faces = load(write_zip(tmp_path / "a.zip", aligned), tmp_path / "data", size)
    assert all(
        close(image, aligned_reference(aligned[name], size), 1)
        for image, name in zip(faces.images, faces.names, strict=True)
    )


def test_faces_that_pillow_must_read_keep_their_place_among_the_others(aligned, tmp_path):
    mixed = {}
    for place, (name, data) in enumerate(aligned.items()):
        adobe = encoded(Image.open(io.BytesIO(data)).convert("CMYK"), quality=95)
        mixed[name] = adobe if place % 3 == 1 else data
    faces = load(write_folder(tmp_path / "in", mixed), tmp_path / "data")
    assert faces.names == sorted(mixed)
    for image, name in zip(faces.images, faces.names, strict=True):
        assert close(image, aligned_reference(mixed[name]), 1)


def test_a_second_header_does_not_mislead(tmp_path):
    """libjpeg takes FF FF for one marker with a fill byte before it, others for a segment of 57,344 bytes."""
    small = encoded(drawn_pictures(1, (40, 50))[0], quality=90)
    forged = (b"\xff\xd8\xff" + small[2:]).ljust(57_348, b"\0")
    forged += b"\xff\xc0\0\x11\x08" + struct.pack(">2H", 218, 178) + b"\x03"
    square = Image.open(io.BytesIO(small)).crop((0, 5, 40, 45))
    assert close(alone(forged, "000011.jpg", tmp_path), square.resize((SIZE, SIZE), Image.Resampling.BILINEAR), 1)


def test_large_photos_are_the_centre_square_of_pillows_full_decoding(photos, tmp_path):
    wide = [face.resize((1600, 1200), Image.Resampling.BICUBIC) for face in drawn_pictures(4, (1600, 1200))]
    files = {f"{index}.jpg": encoded(face, quality=92) for index, face in enumerate(wide)}
    faces = load(write_folder(tmp_path / "wide", files), tmp_path / "data", 64)
    for image, data in zip(faces.images, files.values(), strict=True):
        square = Image.open(io.BytesIO(data)).crop((200, 0, 1400, 1200))
        difference = image.permute(1, 2, 0).numpy().astype(int) - np.asarray(
            square.resize((64, 64), Image.Resampling.BILINEAR)
        )
        assert np.abs(difference).max() <= 6 and np.abs(difference).mean() < 0.7


def corners(image: torch.Tensor) -> list[list[int]]:
    """Top left, top right, bottom left, bottom right, as 0 or 1 a channel."""
    inner = SIZE - 4
    return [(image[:, y, x] > 127).int().tolist() for y in (3, inner) for x in (3, inner)]


QUARTERS = [[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 1]]  # red, green, blue, white


def quarters(size: int = 64) -> Image.Image:
    picture = np.zeros((size, size, 3), np.uint8)
    for colour, (rows, columns) in zip(QUARTERS, [(0, 0), (0, 1), (1, 0), (1, 1)], strict=True):
        half = size // 2
        picture[rows * half :, columns * half :][:half, :half] = np.array(colour) * 255
    return Image.fromarray(picture)


def alone(data: bytes, name: str, tmp_path: Path) -> torch.Tensor:
    """What becomes of one picture, with two plain ones beside it, since fewer than three are refused."""
    plain = encoded(Image.new("RGB", (9, 9)), "PNG")
    faces = load(write_folder(tmp_path / "in", {"y.png": plain, "z.png": plain, name: data}), tmp_path / "data")
    return faces.images[faces.names.index(name)]


# How the camera held the picture: the inverse of the turn that each EXIF orientation asks for.
HELD = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


@pytest.mark.parametrize("orientation", [1, *HELD])
def test_exif_orientation_turns_pictures_upright(orientation, tmp_path):
    stored = quarters().transpose(HELD[orientation]) if orientation in HELD else quarters()
    exif = Image.Exif()
    exif[0x0112] = orientation
    assert corners(alone(encoded(stored, quality=95, exif=exif), "a.jpg", tmp_path)) == QUARTERS


def with_alpha() -> Image.Image:
    """The quarters with the blue one transparent, which white shows through."""
    picture = quarters().convert("RGBA")
    picture.paste((0, 0, 255, 0), (0, 32, 32, 64))
    return picture


def animated() -> bytes:
    return encoded(quarters(), "GIF", save_all=True, append_images=[Image.new("RGB", (64, 64), "black")])


GREY = Image.fromarray(np.where(np.arange(64) < 32, 60, 200).astype(np.uint8)[None].repeat(64, 0))
WIDE = Image.fromarray(np.asarray(GREY, np.uint16) * 257)
SHOWN_THROUGH = [*QUARTERS[:2], [1, 1, 1], QUARTERS[3]]
DARK_LEFT = [[0, 0, 0], [1, 1, 1]] * 2
MODES = {
    "rgb.png": (encoded(quarters(), "PNG"), QUARTERS),
    "rgb.bmp": (encoded(quarters(), "BMP"), QUARTERS),
    "rgb.tiff": (encoded(quarters(), "TIFF"), QUARTERS),
    "rgb.webp": (encoded(quarters(), "WEBP", lossless=True), QUARTERS),
    "progressive.JPG": (encoded(quarters(), quality=95, progressive=True), QUARTERS),
    "cmyk.jpeg": (encoded(quarters().convert("CMYK"), quality=95), QUARTERS),
    "cmyk.tif": (encoded(quarters().convert("CMYK"), "TIFF"), QUARTERS),
    "palette.png": (encoded(quarters().quantize(8), "PNG"), QUARTERS),
    "rgba.png": (encoded(with_alpha(), "PNG"), SHOWN_THROUGH),
    "palette with alpha.png": (encoded(with_alpha().quantize(8), "PNG"), SHOWN_THROUGH),
    "palette with a transparent colour.gif": (encoded(with_alpha(), "GIF"), SHOWN_THROUGH),
    "colour key.png": (encoded(quarters(), "PNG", transparency=(0, 0, 255)), SHOWN_THROUGH),
    "animated.gif": (animated(), QUARTERS),
    "grey.jpg": (encoded(GREY), DARK_LEFT),
    "grey.png": (encoded(GREY, "PNG"), DARK_LEFT),
    "bits.png": (encoded(GREY.point(lambda level: 255 * (level > 99)).convert("1"), "PNG"), DARK_LEFT),
    "grey with alpha.png": (encoded(GREY.convert("LA"), "PNG"), DARK_LEFT),
    "16 bits.png": (encoded(WIDE, "PNG"), DARK_LEFT),
    "16 bits.tif": (encoded(WIDE, "TIFF"), DARK_LEFT),
    "a jpeg.png": (encoded(quarters(), quality=95), QUARTERS),
    "000001.jpg": (encoded(quarters(), quality=95), QUARTERS),
}


@pytest.mark.parametrize("name", MODES)
def test_every_kind_of_picture_keeps_its_colours(name, tmp_path):
    data, expected = MODES[name]
    image = alone(data, name, tmp_path)
    assert corners(image) == expected
    if "16 bits" in name:  # scaled, not clipped
        assert abs(int(image[0, 5, 5]) - 60) <= 1 and abs(int(image[0, 5, 28]) - 200) <= 1


@pytest.mark.parametrize("kind", ["CMYK", "L"])
def test_an_aligned_face_that_is_not_rgb_is_cropped_like_the_others(kind, tmp_path):
    face = drawn_pictures(1, (178, 218))[0].convert(kind)
    data = encoded(face, quality=95)
    assert close(alone(data, "000007.jpg", tmp_path), aligned_reference(data), 1)


def test_a_single_pixel_fills_its_picture(tmp_path):
    image = alone(encoded(Image.new("RGB", (1, 1), (10, 200, 30)), "PNG"), "dot.png", tmp_path)
    assert (image == torch.tensor([10, 200, 30], dtype=torch.uint8)[:, None, None]).all()


# ---- Broken and hostile pictures -------------------------------------------------------------------------


def png_header(width: int, height: int) -> bytes:
    """The start of a PNG of that size: enough to be refused, and nothing that could be decoded."""
    header = b"IHDR" + struct.pack(">2I5B", width, height, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    return b"\x89PNG\r\n\x1a\n" + chunk + struct.pack(">I", 1_000) + b"IDAT"


JPEG = encoded(quarters(), quality=90)
ALIGNED_JPEG = encoded(drawn_pictures(1, (178, 218))[0])
HUGE_JPEG = ALIGNED_JPEG.replace(struct.pack(">2H", 218, 178), struct.pack(">2H", 30_000, 30_000))
BROKEN = {
    "truncated.jpg": (JPEG[: len(JPEG) // 2], "truncated"),
    "000009.jpg": (ALIGNED_JPEG[:-500], "truncated"),
    "empty.jpg": (b"", "not a picture"),
    "page.jpg": (b"<!DOCTYPE html><html><body>quota exceeded</body></html>", "not a picture"),
    "program.png": (b"#!/bin/sh\necho hello\n", "not a picture"),
    "script.jpg": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n", "not a picture"),
    "bomb.png": (png_header(30_000, 30_000), "900000000 pixels"),
    "large.png": (png_header(10_001, 10_000), "10001x10000"),
    "000010.jpg": (HUGE_JPEG, "900000000 pixels"),
    "cut.png": (encoded(quarters(), "PNG")[:-30], "truncated"),
}


@pytest.mark.parametrize("name", BROKEN)
@pytest.mark.parametrize("write", [write_zip, write_folder])
def test_one_broken_picture_of_151_is_named_and_skipped(name, write, photos, tmp_path):
    data, reason = BROKEN[name]
    path = write(tmp_path / "in.zip", photos | {name: data})
    faces, messages = messages_of(path, tmp_path / "data")
    assert faces.names == sorted(photos)
    assert f"1 of 151 pictures cannot be read ({name}: " in messages and reason in messages
    about = json.loads(next(tmp_path.glob("data/faces/*/about.json")).read_text())
    assert about["skipped"] == 1


@pytest.mark.parametrize("count, of", [(2, 150), (1, 50), (60, 60)])
def test_more_than_one_in_a_hundred_is_refused_with_the_count_and_names(count, of, photos, tmp_path):
    bad = {f"bad{index:02d}.jpg": b"no picture" for index in range(count)}
    good = dict(list(photos.items())[: of - count])
    message = refusal(write_zip(tmp_path / "a.zip", good | bad), tmp_path / "data")
    assert f"{count} of {of} pictures" in message and "bad00.jpg: not a picture" in message


def test_a_skipped_picture_shifts_no_label(aligned, tmp_path):
    pictures = {f"{number:06d}.jpg": list(aligned.values())[number % 12] for number in range(1, 131)}
    table = f"{130}\nOdd\n" + "".join(f"{name} {1 if int(name[:6]) % 2 else -1}\n" for name in pictures)
    files = pictures | {"000040.jpg": b"", "list_attr_celeba.txt": table.encode()}
    faces = load(write_zip(tmp_path / "a.zip", files), tmp_path / "data")
    assert len(faces.names) == 129 and "000040.jpg" not in faces.names
    assert faces.attributes[:, 0].tolist() == [int(name[:6]) % 2 == 1 for name in faces.names]
    for image, name in zip(faces.images, faces.names, strict=True):
        assert close(image, aligned_reference(pictures[name]), 1)


def with_entry(path: Path, photos: dict[str, bytes], name: str, data: bytes, **fields) -> Path:
    """A zip of the photos and one more entry, whose header in the directory then says what `fields` say."""
    with zipfile.ZipFile(path, "w") as archive:
        for photo, pixels in photos.items():
            archive.writestr(photo, pixels)
        archive.writestr(name, data, fields.pop("compress_type", zipfile.ZIP_DEFLATED))
        for field, value in fields.items():
            setattr(archive.filelist[-1], field, value)
    return path


ENTRIES = {
    "it claims 10 GB": ({"file_size": 10 * 2**30}, "10,737,418,240 bytes"),
    "it is encrypted": ({"flag_bits": 1}, "encrypted"),
    "it is packed with bzip2": ({"compress_type": zipfile.ZIP_BZIP2}, "neither stored nor deflated"),
    "it is packed with lzma": ({"compress_type": zipfile.ZIP_LZMA}, "neither stored nor deflated"),
    "its checksum is wrong": ({"CRC": 1}, "CRC"),
    "it lies beyond the end": ({"header_offset": 2**31}, ""),
}


@pytest.mark.parametrize("entry", ENTRIES)
def test_a_bad_zip_entry_is_named_and_skipped(entry, photos, tmp_path):
    fields, reason = ENTRIES[entry]
    path = with_entry(tmp_path / "a.zip", photos, "bad.png", next(iter(photos.values())), **fields)
    faces, messages = messages_of(path, tmp_path / "data")
    assert len(faces.names) == 150 and "(bad.png: " in messages and reason in messages


def test_a_zip_entry_without_a_name_is_no_picture(photos, tmp_path):
    path = with_entry(tmp_path / "a.zip", photos, "x", b"", filename="")
    assert len(load(path, tmp_path / "data").names) == 150


def test_an_entry_that_inflates_beyond_its_declared_size_takes_no_memory(photos, tmp_path):
    path = with_entry(tmp_path / "a.zip", photos, "bad.png", bytes(64 * 2**20), file_size=100)
    tracemalloc.start()
    faces = load(path, tmp_path / "data")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(faces.names) == 150
    assert peak < 16 * 2**20


@pytest.mark.parametrize(
    "name", ["../evil.png", "a/../../evil.png", "/etc/evil.png", "C:\\evil.png", "a\\..\\evil.png"]
)
def test_zip_paths_that_lead_out_are_left_out(name, photos, tmp_path):
    (tmp_path / "in").mkdir()
    path = with_entry(tmp_path / "in" / "a.zip", photos, name, next(iter(photos.values())))
    faces, messages = messages_of(path, tmp_path / "data")
    assert faces.names == sorted(photos) and "evil.png" in messages
    assert not list(tmp_path.rglob("evil*"))


def test_links_are_not_followed(photos, tmp_path):
    secret = write_folder(tmp_path / "secret", {"secret.png": photos["000.png"], "more/secret.png": photos["001.png"]})
    link = with_entry(tmp_path / "a.zip", photos, "link.png", b"secret/secret.png", external_attr=0o120777 << 16)
    faces, messages = messages_of(link, tmp_path / "data")
    assert faces.names == sorted(photos) and "link.png" in messages

    folder = write_folder(tmp_path / "folder", photos)
    (folder / "link.png").symlink_to(secret / "secret.png")
    (folder / "more").symlink_to(secret / "more")
    (folder / "loop").symlink_to(folder)
    faces, messages = messages_of(folder, tmp_path / "data")
    assert faces.names == sorted(photos) and "link.png" in messages and "left out 3" in messages

    only = tmp_path / "only"
    only.mkdir()
    (only / "img_align_celeba.zip").symlink_to(link)
    assert "only links (img_align_celeba.zip)" in refusal(only, tmp_path / "other data")


def test_a_pipe_named_like_a_picture_is_not_opened(photos, tmp_path):
    folder = write_folder(tmp_path / "folder", photos)
    os.mkfifo(folder / "pipe.png")
    assert load(folder, tmp_path / "data").names == sorted(photos)


def test_hidden_files_and_other_files_are_no_pictures(photos, tmp_path):
    others = {
        ".DS_Store": b"x",
        "._000.png": b"x",
        ".cache/a.png": b"x",
        "__MACOSX/a.png": b"x",
        "readme.txt": b"x",
    }
    for write in (write_zip, write_folder):
        path = write(tmp_path / f"{write.__name__}.zip", {f"./in/{n}": data for n, data in (photos | others).items()})
        assert load(path, tmp_path / "data").names == sorted(photos)


# ---- Sources that are refused ----------------------------------------------------------------------------


def test_a_missing_path(tmp_path):
    assert "nowhere is not there" in refusal(tmp_path / "nowhere", tmp_path / "data")


@pytest.mark.parametrize(
    "data, said",
    [
        (b"\n <!DOCTYPE html><html><title>Google Drive - Quota exceeded</title></html>", "HTML page"),
        (b"<html><body>Sign in</body></html>", "HTML page"),
        (b"PK\x03\x04" + bytes(1_000), "truncated or damaged"),
        (b"", "neither a zip nor a folder"),
        (JPEG, "neither a zip nor a folder"),
    ],
)
def test_a_file_that_is_no_zip(data, said, tmp_path):
    path = tmp_path / "img_align_celeba.zip"
    path.write_bytes(data)
    message = refusal(path, tmp_path / "data")
    assert said in message and "img_align_celeba.zip" in message
    if data:  # what a failed download has left in data/celeba is not silently replaced by drawn faces
        shutil.copy(path, write_folder(tmp_path / "celeba", {"x.txt": b""}))
        assert said in refusal(None, tmp_path)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
def test_a_truncated_zip(share, photos, tmp_path):
    path = write_zip(tmp_path / "a.zip", photos)
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    assert "truncated or damaged" in refusal(path, tmp_path / "data")


@pytest.mark.parametrize("write", [write_zip, write_folder])
def test_no_usable_picture(write, tmp_path):
    for number, files in enumerate([{"readme.txt": b"hello"}, {"__MACOSX/a.png": b"x", ".b.png": b"x"}]):
        path = write(tmp_path / f"{number}.zip", files)
        assert "pictures" in refusal(path, tmp_path / "data")


def test_two_pictures_are_too_few(photos, tmp_path):
    path = write_zip(tmp_path / "a.zip", dict(list(photos.items())[:2]))
    assert "holds 2 pictures" in refusal(path, tmp_path / "data")


def test_several_zips_are_a_question(photos, tmp_path):
    for name in ("one.zip", "two.zip"):
        write_zip(tmp_path / "in" / name, photos)
    message = refusal(tmp_path / "in", tmp_path / "data")
    assert "one.zip" in message and "two.zip" in message


@contextlib.contextmanager
def ordinary_user():
    """Root may read and write everything, so that a test of permissions must not be run by root."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65_534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def open_folder():
    """A folder that an ordinary user may enter, which tmp_path is not when root runs the tests."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o777)
        yield Path(folder)


def test_what_may_not_be_read_is_named(photos, open_folder):
    archive = write_zip(open_folder / "a.zip", photos)
    folder = write_folder(open_folder / "in", photos | {"hidden/151.png": photos["000.png"]})
    archive.chmod(0)
    (folder / "hidden").chmod(0)
    with ordinary_user():
        assert "a.zip cannot be read: Permission denied" in refusal(archive, open_folder / "data")
        assert "hidden cannot be read: Permission denied" in refusal(folder, open_folder / "data")
    (folder / "hidden").chmod(0o755)
    (folder / "000.png").chmod(0)
    with ordinary_user():
        faces, messages = messages_of(folder, open_folder / "data")
    assert len(faces.names) == 150 and "000.png: " in messages and "Permission denied" in messages


# ---- The cache -------------------------------------------------------------------------------------------


@pytest.fixture
def no_decoding(monkeypatch):
    """Calling it makes every later attempt to decode a picture fail the test."""

    def forbid() -> None:
        monkeypatch.setattr(celeba, "_decode_all", lambda *_: pytest.fail("the pictures were decoded again"))

    return forbid


@pytest.mark.parametrize("write", [write_zip, write_folder])
def test_a_second_run_decodes_nothing_and_gives_the_same(write, photos, tmp_path, no_decoding):
    path = write(tmp_path / "in.zip", photos)
    first = load(path, tmp_path / "data")
    no_decoding()
    second = load(path, tmp_path / "data")
    assert torch.equal(first.images, second.images) and torch.equal(first.split, second.split)
    assert (first.names, first.source) == (second.names, second.source)


def test_writing_to_the_images_leaves_the_cache_alone(photos, tmp_path):
    path = write_zip(tmp_path / "a.zip", photos)
    first = load(path, tmp_path / "data")
    before = first.images.clone()
    first.images.zero_()
    assert torch.equal(load(path, tmp_path / "data").images, before)


def test_each_size_has_its_own_cache(photos, tmp_path, no_decoding):
    path = write_zip(tmp_path / "a.zip", photos)
    for size in (16, 32):
        load(path, tmp_path / "data", size)
    no_decoding()
    for size in (16, 32):
        load(path, tmp_path / "data", size)


def test_changed_pictures_and_tables_replace_the_cache(aligned, tmp_path):
    folder = write_folder(tmp_path / "in", aligned)
    assert load(folder, tmp_path / "data").attributes is None
    write_folder(folder, tables("csv"))
    assert load(folder, tmp_path / "data").attribute_names == COLUMNS
    (folder / NAMES[0]).write_bytes(aligned[NAMES[1]])
    faces = load(folder, tmp_path / "data")
    assert torch.equal(faces.images[0], faces.images[1])
    (folder / NAMES[2]).unlink()
    assert len(load(folder, tmp_path / "data").names) == len(NAMES) - 1
    assert len(list(tmp_path.glob("data/faces/*/"))) == 1


def damage_cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1])


def damage_bytes(file: Path) -> None:
    file.write_bytes(b"PK\x03\x04" + bytes(range(256)) * 4)


@pytest.mark.parametrize("damage", [damage_cut, damage_bytes, Path.unlink])
@pytest.mark.parametrize("name", ["pixels.uint8", "about.json", "split.npy", "attributes.npy"])
def test_a_damaged_cache_is_made_again(name, damage, aligned, tmp_path):
    path = write_zip(tmp_path / "a.zip", aligned | tables("csv"))
    images, labels = load(path, tmp_path / "data").images.clone(), load(path, tmp_path / "data").attributes
    damage(next(tmp_path.glob(f"data/faces/*/{name}")))
    faces = load(path, tmp_path / "data")
    assert torch.equal(faces.images, images) and torch.equal(faces.attributes, labels)


def test_too_little_room_is_known_before_the_work(photos, tmp_path, monkeypatch, no_decoding):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(9, 8, 1))
    no_decoding()
    message = refusal(write_zip(tmp_path / "a.zip", photos), tmp_path / "data")
    assert "150 faces take 0 MiB" in message and "--data-dir" in message


def test_a_disk_that_fills_up_leaves_nothing_behind(photos, tmp_path):
    path = write_zip(tmp_path / "a.zip", photos)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        message = refusal(path, tmp_path / "data")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "cannot be written" in message and "--data-dir" in message
    assert len(load(path, tmp_path / "data").names) == 150


def test_a_data_folder_that_may_not_be_written(photos, open_folder):
    path = write_zip(open_folder / "a.zip", photos)
    data = open_folder / "data"
    data.mkdir(mode=0o755)
    with ordinary_user():
        message = refusal(path, data)
    assert "Permission denied" in message and f"{3 * SIZE * SIZE:,} bytes a picture" in message
    # Once the cache is there, reading is enough.
    load(path, data)
    with ordinary_user():
        assert len(load(path, data).names) == 150


def test_a_second_run_waits_for_the_first(photos, tmp_path, monkeypatch):
    path = write_zip(tmp_path / "a.zip", photos)
    decode_all, calls, waiting = celeba._decode_all, [], threading.Event()

    def slow(*arguments):
        calls.append(1)
        assert waiting.wait(20), "the second run did not wait"
        return decode_all(*arguments)

    monkeypatch.setattr(celeba, "_decode_all", slow)
    first = threading.Thread(target=load, args=(path, tmp_path / "data"))
    first.start()
    while not calls:
        time.sleep(0.01)
    faces = load_faces(str(path), tmp_path / "data", SIZE, progress=False, echo=lambda _: waiting.set())
    first.join()
    assert len(faces.names) == 150 and len(calls) == 1


RUN = """
import sys
from pathlib import Path
from common.data.faces import load_faces
load_faces(sys.argv[1], Path(sys.argv[2]), 32)
"""


def test_two_processes_at_once_share_one_cache(photos, tmp_path):
    path = write_zip(tmp_path / "a.zip", photos)
    command = [sys.executable, "-c", RUN, str(path), str(tmp_path / "data")]
    runs = [subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    errors = [run.communicate(timeout=60)[1] for run in runs]
    assert [run.returncode for run in runs] == [0, 0], errors
    assert len(list(tmp_path.glob("data/faces/*/"))) == 1
    assert len(load(path, tmp_path / "data").names) == 150


@pytest.fixture
def slow_run(tmp_path):
    """A run in a process of its own, in the middle of minutes of work; and what it works on."""
    folder = write_folder(tmp_path / "in", {"0.png": encoded(Image.new("RGB", (2_000, 2_000)), "PNG")})
    for index in range(1, 3_000):
        os.link(folder / "0.png", folder / f"{index}.png")
    command = [sys.executable, "-c", RUN, str(folder), str(tmp_path / "data")]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 60
        while not list(tmp_path.glob("data/faces/*.tmp/pixels.uint8")):
            assert process.poll() is None and time.monotonic() < deadline, "the run did not begin"
            time.sleep(0.05)
        time.sleep(0.5)
        yield process, folder
        process.kill()


def test_a_killed_run_leaves_no_half_cache(slow_run, photos, tmp_path):
    process, folder = slow_run
    process.kill()
    process.wait()
    assert [entry.suffix for entry in tmp_path.glob("data/faces/*/")] == [".tmp"]
    for file in folder.iterdir():
        file.unlink()
    write_folder(folder, photos)
    assert len(load(folder, tmp_path / "data").names) == 150
    assert not list(tmp_path.glob("data/faces/*.tmp"))


def test_ctrl_c_ends_a_run_at_once(slow_run, tmp_path):
    process, _ = slow_run
    started = time.monotonic()
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=20)
    assert time.monotonic() - started < 5
    assert process.returncode in (-signal.SIGINT, 130) and "KeyboardInterrupt" in errors
    assert not list(tmp_path.glob("data/faces/*/"))


# ---- Drawn faces and the download ------------------------------------------------------------------------


@pytest.fixture
def few_drawn(monkeypatch):
    monkeypatch.setattr(celeba, "DRAWN_COUNTS", (20, 5, 5))


def test_drawn_faces(tmp_path, few_drawn):
    faces = load_faces("drawn", tmp_path, SIZE, seed=3)
    expected = draw_faces(30, SIZE, seed=3)
    assert torch.equal(faces.images.permute(0, 2, 3, 1), torch.from_numpy(expected.images))
    assert faces.attributes.tolist() == expected.attributes.tolist()
    assert faces.split.tolist() == [0] * 20 + [1] * 5 + [2] * 5
    assert (faces.source, faces.drawn, len(faces.names)) == ("drawn faces", True, 30)
    assert not list(tmp_path.iterdir())


def falls_back(data_dir: Path) -> str:
    faces, messages = messages_of(None, data_dir)
    assert faces.drawn and "DRAWN" in messages and "img_align_celeba.zip" in messages and "\n" not in messages
    assert str(data_dir / "celeba") in messages
    assert not list(data_dir.glob("celeba/[!.]*"))
    return messages


def test_a_download_that_fails_says_why_and_draws(tmp_path, few_drawn, monkeypatch):
    monkeypatch.setattr(celeba, "_DOWNLOAD", "print('FileURLRetrievalError: quota exceeded'); raise SystemExit(1)")
    assert "quota exceeded" in falls_back(tmp_path)


def test_a_download_that_stalls_is_ended(tmp_path, few_drawn, monkeypatch):
    monkeypatch.setattr(celeba, "_DOWNLOAD", "import time; time.sleep(60)")
    monkeypatch.setattr(celeba, "DOWNLOAD_STALL_SECONDS", 0.5)
    started = time.monotonic()
    assert "no data came" in falls_back(tmp_path)
    assert time.monotonic() - started < 10


def test_a_download_that_drips_is_ended(tmp_path, few_drawn, monkeypatch):
    drip = "import sys, time\nwhile True: open(sys.argv[1] + '/x', 'a').write('.'); time.sleep(0.05)"
    monkeypatch.setattr(celeba, "_DOWNLOAD", drip)
    monkeypatch.setattr(celeba, "DOWNLOAD_SECONDS", 1)
    assert "not done after 1 seconds" in falls_back(tmp_path)


def test_without_gdown_nothing_is_tried(tmp_path, few_drawn, monkeypatch):
    monkeypatch.setattr(celeba.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(subprocess, "Popen", lambda *_, **__: pytest.fail("a download was tried"))
    assert "pip install gdown" in falls_back(tmp_path)


def test_a_download_that_works_is_used(aligned, tmp_path, monkeypatch):
    fetched = official_zip(tmp_path / "fetched", aligned).parent
    copy = f"import shutil, sys; shutil.copytree({str(fetched)!r}, sys.argv[1], dirs_exist_ok=True)"
    monkeypatch.setattr(celeba, "_DOWNLOAD", copy)
    faces = load(None, tmp_path)
    assert faces.names == NAMES and faces.attribute_names == COLUMNS and not faces.drawn
    assert {file.name for file in tmp_path.glob("celeba/[!.]*")} == {file.name for file in fetched.iterdir()}


def test_the_download_asks_torchvision_for_the_zip_and_the_tables(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(datasets.utils, "download_file_from_google_drive", lambda *given: asked.append(given))
    monkeypatch.setattr(sys, "argv", ["-c", str(tmp_path)])
    exec(celeba._DOWNLOAD, {})
    known = {name: (file_id, md5) for file_id, md5, name in datasets.CelebA.file_list}
    assert [name for _, _, name, _ in asked][-1] == "img_align_celeba.zip" and len(asked) == 3
    assert all((file_id, md5) == known[name] for file_id, _, name, md5 in asked)


# ---- Any bytes -------------------------------------------------------------------------------------------


def loads_or_refuses(files: dict[str, bytes], path: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        write_folder(Path(folder), files)
        with contextlib.suppress(UserError):
            load(Path(folder) / path, Path(folder) / "data", size=8)


SMALL = {f"{name}.png": encoded(Image.new("RGB", (3, 3), name), "PNG") for name in ("red", "green", "blue")}


def small_zip() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, data in SMALL.items():
            archive.writestr(zipfile.ZipInfo(name), data)
    return file.getvalue()


fuzzed = settings(max_examples=60, deadline=None)


@fuzzed
@given(st.one_of(st.binary(max_size=300), st.binary(max_size=300).map(lambda data: b"PK\x05\x06" + data)))
def test_any_bytes_as_a_zip(data):
    loads_or_refuses({"a.zip": data}, "a.zip")


@fuzzed
@given(st.data())
def test_a_zip_with_any_bytes_changed(data):
    content = bytearray(small_zip())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    loads_or_refuses({"a.zip": bytes(content)}, "a.zip")


lines = st.lists(st.sampled_from(["red.png", "3", "-1", "1", "0", "2", ",", " ", "\n", "\r\n", "A", '"', "\x00", "é"]))


@fuzzed
@given(
    st.sampled_from(celeba.TABLE_FILES),
    st.one_of(st.binary(max_size=200), lines.map("".join).map(str.encode)),
)
def test_any_bytes_as_a_table(name, data):
    loads_or_refuses({f"in/{file}": pixels for file, pixels in (SMALL | {name: data}).items()}, "in")


starts = [
    b"",
    JPEG[:200],
    ALIGNED_JPEG[:700],
    animated()[:100],
    png_header(3, 3),
    b"II*\x00",
    b"RIFF\x10\0\0\0WEBPVP8 ",
]


@fuzzed
@given(st.sampled_from(["in/a.jpg", "in/000001.jpg"]), st.sampled_from(starts), st.binary(max_size=300))
def test_any_bytes_as_a_picture(name, start, rest):
    loads_or_refuses({f"in/{file}": data for file, data in SMALL.items()} | {name: start + rest}, "in")


# ---- CelebA itself ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def real(tmp_path_factory) -> Path:
    """A folder with 300 of the real faces, in a zip, and the real tables."""
    for folder in (ROOT.parent / "shared" / "celeba", ROOT / "data" / "celeba"):
        if (folder / "img_align_celeba.zip").exists() and (folder / "list_attr_celeba.txt").exists():
            break
    else:
        pytest.skip("CelebA is neither in ../shared/celeba nor in data/celeba")
    few = tmp_path_factory.mktemp("real")
    for name in ("list_attr_celeba.txt", "list_eval_partition.txt"):
        shutil.copy(folder / name, few)
    with zipfile.ZipFile(folder / "img_align_celeba.zip") as archive:
        names = [name for name in archive.namelist() if name.endswith(".jpg")]
        chosen = names[:: max(1, len(names) // 300)]
        write_zip(few / "img_align_celeba.zip", {name: archive.read(name) for name in chosen})
    return few


def test_real_faces_are_those_of_pillow_with_the_labels_of_their_names(real, tmp_path):
    faces = load(real, tmp_path, 64)
    assert len(faces.attribute_names) == 40 and faces.source == "CelebA"
    wanted, labels = set(faces.names), {}
    for line in (real / "list_attr_celeba.txt").read_text().splitlines()[2:]:
        if line[:10] in wanted:
            labels[line[:10]] = [value == "1" for value in line[10:].split()]
    parts = dict(line.split() for line in (real / "list_eval_partition.txt").read_text().splitlines())
    assert faces.attributes.tolist() == [labels[name] for name in faces.names]
    assert faces.split.tolist() == [int(parts[name]) for name in faces.names]
    with zipfile.ZipFile(real / "img_align_celeba.zip") as archive:
        for image, name in zip(faces.images, faces.names, strict=True):
            assert close(image, aligned_reference(archive.read(f"img_align_celeba/{name}"), 64), 1)


def test_real_file_numbers_give_the_official_parts(real, tmp_path):
    with_table = load(real, tmp_path / "data").split
    shutil.copy(real / "img_align_celeba.zip", tmp_path)
    without = load(tmp_path / "img_align_celeba.zip", tmp_path / "data").split
    assert torch.equal(with_table, without)
