"""Faces from every layout of CelebA and from one's own pictures: right pixels, labels and parts by name."""

import io
import random
import shutil
import time
import zipfile

import numpy as np
import pytest
import torch
from conftest import real_faces
from pictures import (
    ALIGNED,
    NAMES,
    NUMBERS,
    PHOTOS,
    SIZE,
    base_names,
    drawn_pictures,
    encoded,
    load,
    write_folder,
    write_zip,
)
from PIL import Image
from torchvision import datasets

from common.data import faces as module
from common.data.drawn_faces import draw_faces
from common.data.faces import load_faces

# ---- Layouts, labels and parts ---------------------------------------------------------------------------

COLUMNS = ("Eyeglasses", "Male", "Smiling", "Young")
LABELS = {number: [1 if number >> bit & 1 else -1 for bit in range(len(COLUMNS))] for number in range(202_600)}


def part_of(number):
    """Unlike the file numbers', so that only the table can tell it."""
    return number % 3


def tables(style):
    """The two tables, with their rows in disorder and rows of other pictures among them."""
    rows = random.Random(1).sample([*NUMBERS, 5, 190_000, 123_456], len(NUMBERS) + 3)
    comma, heads = (
        (",", (["image_id", *COLUMNS], ["image_id", "partition"])) if style == "csv" else ("  ", (COLUMNS, ()))
    )
    attributes = [comma.join([f"{row:06d}.jpg", *map(str, LABELS[row])]) for row in rows]
    parts = [comma.join([f"{row:06d}.jpg", str(part_of(row))]) for row in rows]
    count = [] if style == "csv" else [str(len(rows))]
    return {
        f"list_attr_celeba.{style}": "\r\n".join([*count, comma.join(heads[0]), *attributes, ""]).encode(),
        f"list_eval_partition.{style}": "\n".join([*[comma.join(heads[1])][: len(heads[1])], *parts, ""]).encode(),
    }


def inside(pictures, folder="img_align_celeba/"):
    return {folder + name: data for name, data in pictures.items()}


def official_zip(folder, pictures):
    write_folder(folder, tables("txt"))
    return write_zip(folder / "img_align_celeba.zip", inside(pictures))


def official_drive(folder, pictures):
    for name, data in tables("txt").items():
        write_folder(folder / ("Anno" if "attr" in name else "Eval"), {name: data})
    return write_zip(folder / "Img/img_align_celeba.zip", inside(pictures))


def kaggle_files(pictures):
    extra = {"list_bbox_celeba.csv": b"image_id,x_1\n", "__MACOSX/img_align_celeba/._000001.jpg": b"finder"}
    return inside(pictures, "img_align_celeba/img_align_celeba/") | tables("csv") | extra


def linked(target, *links):
    """Links in a folder elsewhere to what is in the folder of `target`; the first of them."""
    folder = target.parent.parent / "elsewhere"
    folder.mkdir()
    for name in links:
        (folder / name).symlink_to(target.parent / name)
    return folder / links[0]


LAYOUTS = {
    "the official zip": official_zip,
    "the official zip by its folder": lambda *given: official_zip(*given).parent,
    "the official drive": official_drive,
    "kaggle's archive": lambda to, them: write_zip(to / "archive.zip", kaggle_files(them), zipfile.ZIP_DEFLATED),
    "kaggle's archive in a folder": lambda to, them: write_zip(to / "in/archive.zip", kaggle_files(them)).parent,
    "kaggle's archive unpacked": lambda to, them: write_folder(to, kaggle_files(them)),
    "the inner folder of kaggle's": lambda to, them: (
        write_folder(to, kaggle_files(them)) / "img_align_celeba/img_align_celeba"
    ),
    "torchvision's folder": lambda to, them: write_folder(to, inside(them) | tables("txt")),
    "pictures at the top": lambda to, them: write_zip(to / "flat.zip", them | tables("csv")),
    "a link to the zip, tables beside its target": lambda *given: linked(official_zip(*given), "img_align_celeba.zip"),
    "a folder of links to zip and tables": lambda *given: (
        linked(official_zip(*given), "img_align_celeba.zip", *tables("txt")).parent
    ),
    "a link to a folder": lambda to, them: linked(write_folder(to, inside(them) | tables("txt")), to.name),
    "a folder with a link to the pictures": lambda to, them: (
        linked(write_folder(to, inside(them) | tables("txt")) / "x", "img_align_celeba", *tables("txt")).parent
    ),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_same_faces(layout, tmp_path):
    disorder = random.Random(2).sample(NAMES, len(NAMES))
    path = LAYOUTS[layout](tmp_path / "source", {name: ALIGNED[name] for name in disorder})
    faces = load(path, tmp_path / "data")
    assert base_names(faces) == NAMES
    assert faces.attribute_names == COLUMNS
    assert faces.attributes.tolist() == [[label > 0 for label in LABELS[number]] for number in NUMBERS]
    assert faces.split.tolist() == [part_of(number) for number in NUMBERS]
    assert (faces.source, faces.drawn) == ("CelebA", False)
    for image, data in zip(faces.images, ALIGNED.values(), strict=True):
        assert close(image, aligned_reference(data))


def close(image, reference, levels=1):
    return np.abs(image.permute(1, 2, 0).numpy().astype(int) - np.asarray(reference).astype(int)).max() <= levels


def aligned_reference(data, size=SIZE):
    picture = Image.open(io.BytesIO(data)).convert("RGB").crop((15, 35, 163, 183))
    return picture.resize((size, size), Image.Resampling.BILINEAR)


def test_links_in_a_circle_end_and_a_picture_behind_two_links_counts_once(tmp_path):
    folder = write_folder(tmp_path / "folder", PHOTOS)
    more = write_folder(tmp_path / "more", {"a.png": PHOTOS["000.png"]})
    for name, target in {"loop": folder, "one": more, "two": more, "b.png": more / "a.png"}.items():
        (folder / name).symlink_to(target)
    assert load(folder, tmp_path / "data").names == [*PHOTOS, "b.png", "one/a.png"]


def test_without_tables_the_file_numbers_decide(tmp_path):
    faces = load(write_zip(tmp_path / "a.zip", ALIGNED), tmp_path / "data")
    assert faces.split.tolist() == [0] * 6 + [1] * 3 + [2] * 3
    assert faces.attributes is None and faces.attribute_names == ()


def test_a_subset_without_test_pictures_is_split_by_name(tmp_path, capsys):
    load(write_zip(tmp_path / "a.zip", {name: ALIGNED[name] for name in NAMES[:6]}), tmp_path / "data")
    assert "split by name" in capsys.readouterr().err


def test_aligned_png_pictures_take_the_rows_of_their_jpg_names(tmp_path):
    pngs = {name.replace("jpg", "png"): encoded(Image.open(io.BytesIO(ALIGNED[name])), "PNG") for name in NAMES}
    faces = load(write_folder(tmp_path / "png", pngs | tables("txt")), tmp_path / "data")
    assert faces.split.tolist() == [part_of(number) for number in NUMBERS]
    assert close(faces.images[0], aligned_reference(ALIGNED[NAMES[0]]))


def test_own_pictures_are_split_by_their_names(tmp_path):
    pictures = {f"{index:04d}.png": data for index, data in enumerate(list(PHOTOS.values()) * 4)}
    split = load(write_zip(tmp_path / "a.zip", pictures), tmp_path / "data", size=8).split
    assert split.bincount().tolist() == [480, 60, 60]
    numbered = {
        f"{index + 1:06d}.jpg": data for index, data in enumerate(PHOTOS.values())
    }  # not to be taken for CelebA's
    assert load(write_folder(tmp_path / "c", numbered), tmp_path / "data").split.bincount().tolist() == [120, 15, 15]
    backwards = dict(reversed(pictures.items()))
    assert torch.equal(load(write_folder(tmp_path / "b", backwards), tmp_path / "data", size=8).split, split)
    assert len(set(split.nonzero().flatten().diff().tolist())) > 5, "the parts lie among one another without a pattern"


@pytest.mark.parametrize("count", [3, 4, 5])
def test_a_handful_of_pictures_has_all_three_parts(count, tmp_path):
    load(write_folder(tmp_path / "few", dict(list(PHOTOS.items())[:count])), tmp_path / "data")


def test_a_picture_without_a_row_takes_the_labels_away_and_is_named(tmp_path, capsys):
    path = write_folder(tmp_path / "a", ALIGNED | {"stranger.jpg": ALIGNED[NAMES[0]]} | tables("csv"))
    faces = load(path, tmp_path / "data")
    assert faces.attributes is None and len(faces.names) == len(NAMES) + 1
    assert "no row for 1 of 13 pictures (stranger.jpg)" in capsys.readouterr().err
    assert faces.split[:-1].tolist() == [part_of(number) for number in NUMBERS]


def test_names_join_in_any_script(tmp_path):
    names = ["Zoë.png", "李小龙.png", "Ωμέγα.png", "مرحبا.png", "a b c.png", "😀.png"]
    table = "id,Smiling\n" + "".join(f'"{name}",{1 if name == "Zoë.png" else -1}\n' for name in names)
    files = inside(dict(zip(names, PHOTOS.values(), strict=False)), "Köln/") | {"list_attr_celeba.csv": table.encode()}
    faces = load(write_zip(tmp_path / "照片.zip", files), tmp_path / "数据")
    smiling = dict(zip(base_names(faces), faces.attributes[:, 0].tolist(), strict=True))
    assert smiling == {name: name == "Zoë.png" for name in names}
    assert faces.source == "照片.zip"


def test_a_skipped_picture_shifts_no_label(tmp_path):
    pictures = {f"{number:06d}.jpg": ALIGNED[NAMES[number % 12]] for number in range(1, 131)}
    table = "130\nOdd\n" + "".join(f"{name} {1 if int(name[:6]) % 2 else -1}\n" for name in pictures)
    files = pictures | {"000040.jpg": b"", "list_attr_celeba.txt": table.encode()}
    faces = load(write_zip(tmp_path / "a.zip", files), tmp_path / "data")
    assert len(faces.names) == 129 and "000040.jpg" not in faces.names
    assert faces.attributes[:, 0].tolist() == [int(name[:6]) % 2 == 1 for name in faces.names]
    for image, name in zip(faces.images, faces.names, strict=True):
        assert close(image, aligned_reference(pictures[name]))


# ---- Pixels ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [32, 64, 128])
def test_aligned_faces_are_pillows_crop_and_resize_within_a_level(size, tmp_path):
    """Also where only Pillow can read every third, which keeps its place among the others."""
    mixed = {
        name: encoded(Image.open(io.BytesIO(data)).convert("CMYK"), quality=95) if place % 3 == 1 else data
        for place, (name, data) in enumerate(ALIGNED.items())
    }
    faces = load(write_zip(tmp_path / "a.zip", mixed), tmp_path / "data", size)
    for image, name in zip(faces.images, faces.names, strict=True):
        assert close(image, aligned_reference(mixed[name], size))


def test_large_photos_are_the_centre_square_of_pillows_full_decoding(tmp_path):
    wide = [face.resize((1600, 1200), Image.Resampling.BICUBIC) for face in drawn_pictures(4, (1600, 1200))]
    files = {f"{index}.jpg": encoded(face, quality=92) for index, face in enumerate(wide)}
    faces = load(write_folder(tmp_path / "wide", files), tmp_path / "data", 64)
    for image, data in zip(faces.images, files.values(), strict=True):
        square = Image.open(io.BytesIO(data)).crop((200, 0, 1400, 1200))
        assert close(image, square.resize((64, 64), Image.Resampling.BILINEAR), levels=6)


def alone(data, name, folder):
    """What becomes of one picture, with two plain ones beside it, since fewer than three are refused."""
    faces = load(write_folder(folder / "in", dict.fromkeys(("y.png", "z.png"), PLAIN) | {name: data}), folder / "data")
    return faces.images[faces.names.index(name)]


PLAIN = encoded(Image.new("RGB", (9, 9)), "PNG")
QUARTERS = [[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 1]]  # red, green, blue, white
PICTURE = Image.fromarray(np.kron(np.array(QUARTERS).reshape(2, 2, 3), np.full((32, 32, 1), 255)).astype(np.uint8))


def corners(image):
    """Top left, top right, bottom left, bottom right, as 0 or 1 per channel."""
    return [(image[:, y, x] > 127).int().tolist() for y in (3, SIZE - 4) for x in (3, SIZE - 4)]


TURNS = Image.Transpose
# How the camera held the picture: the inverse of the turn that each EXIF orientation asks for.
HELD = {2: TURNS.FLIP_LEFT_RIGHT, 3: TURNS.ROTATE_180, 4: TURNS.FLIP_TOP_BOTTOM, 5: TURNS.TRANSPOSE}
HELD |= {6: TURNS.ROTATE_90, 7: TURNS.TRANSVERSE, 8: TURNS.ROTATE_270}


@pytest.mark.parametrize("orientation", [1, *HELD])
def test_exif_orientation_turns_pictures_upright(orientation, tmp_path):
    stored = PICTURE.transpose(HELD[orientation]) if orientation in HELD else PICTURE
    exif = Image.Exif()
    exif[0x0112] = orientation
    assert corners(alone(encoded(stored, quality=95, exif=exif), "a.jpg", tmp_path)) == QUARTERS


CLEAR = PICTURE.convert("RGBA")  # its blue quarter is transparent, which white shows through
CLEAR.paste((0, 0, 255, 0), (0, 32, 32, 64))
GREY = Image.fromarray(np.where(np.arange(64) < 32, 60, 200).astype(np.uint8)[None].repeat(64, 0))
SHOWN_THROUGH = [*QUARTERS[:2], [1, 1, 1], QUARTERS[3]]
DARK_LEFT = [[0, 0, 0], [1, 1, 1]] * 2
MODES = {
    "rgb.bmp": (encoded(PICTURE, "BMP"), QUARTERS),
    "rgb.webp": (encoded(PICTURE, "WEBP", lossless=True), QUARTERS),
    "progressive.JPG": (encoded(PICTURE, quality=95, progressive=True), QUARTERS),
    "cmyk.tif": (encoded(PICTURE.convert("CMYK"), "TIFF"), QUARTERS),
    "palette.png": (encoded(PICTURE.quantize(8), "PNG"), QUARTERS),
    "rgba.png": (encoded(CLEAR, "PNG"), SHOWN_THROUGH),
    "palette with alpha.png": (encoded(CLEAR.quantize(8), "PNG"), SHOWN_THROUGH),
    "palette with a transparent colour.gif": (encoded(CLEAR, "GIF"), SHOWN_THROUGH),
    "animated.gif": (encoded(PICTURE, "GIF", save_all=True, append_images=[Image.new("RGB", (64, 64))]), QUARTERS),
    "grey.jpg": (encoded(GREY), DARK_LEFT),
    "bits.png": (encoded(GREY.point(lambda level: 255 * (level > 99)).convert("1"), "PNG"), DARK_LEFT),
    "grey with alpha.png": (encoded(GREY.convert("LA"), "PNG"), DARK_LEFT),
    "a jpeg.png": (encoded(PICTURE, quality=95), QUARTERS),
    "000001.jpg": (encoded(PICTURE, quality=95), QUARTERS),
}


@pytest.mark.parametrize("name", MODES)
def test_every_kind_of_picture_keeps_its_colours(name, tmp_path):
    data, expected = MODES[name]
    assert corners(alone(data, name, tmp_path)) == expected


# ---- Drawn faces and the download ------------------------------------------------------------------------


@pytest.fixture
def few_drawn(monkeypatch):
    monkeypatch.setattr(module, "DRAWN_COUNTS", (20, 5, 5))


def test_drawn_faces_come_with_labels_and_parts_and_write_nothing(tmp_path, few_drawn):
    faces, expected = load_faces("drawn", tmp_path, SIZE), draw_faces(30, SIZE)
    assert torch.equal(faces.images.permute(0, 2, 3, 1), torch.from_numpy(expected.images))
    assert faces.attributes.tolist() == expected.attributes.tolist()
    assert faces.split.tolist() == [0] * 20 + [1] * 5 + [2] * 5
    assert (faces.source, faces.drawn, len(faces.names)) == ("drawn faces", True, 30)
    assert not list(tmp_path.iterdir())


def refused(*_):
    raise RuntimeError("Failed to retrieve file url:\n\n\tToo many users have viewed or downloaded this file.")


@pytest.mark.parametrize(("fails", "reason"), [(refused, "Too many users"), (lambda *_: time.sleep(5), "TimeoutError")])
def test_a_download_that_is_refused_or_stalls_says_why_and_draws(
    fails, reason, tmp_path, few_drawn, monkeypatch, capsys
):
    monkeypatch.setattr(datasets.utils, "download_file_from_google_drive", fails)
    monkeypatch.setattr(module, "DOWNLOAD_SECONDS", 0.5)
    assert load_faces(None, tmp_path, SIZE).drawn
    message = capsys.readouterr().err.rstrip("\n")
    assert reason in message and "DRAWN" in message and "img_align_celeba.zip" in message and "\n" not in message
    assert str(tmp_path / "celeba") in message
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setattr(datasets.utils, "download_file_from_google_drive", lambda *_: pytest.fail("a second download"))
    assert load_faces(None, tmp_path, SIZE).drawn


def test_a_download_asks_torchvision_for_the_zip_and_the_tables_and_is_used(tmp_path, monkeypatch):
    fetched, asked = official_zip(tmp_path / "fetched", ALIGNED).parent, []

    def download(file_id, folder, name, md5):
        asked.append((file_id, md5, name))
        shutil.copy(fetched / name, folder)

    monkeypatch.setattr(datasets.utils, "download_file_from_google_drive", download)
    faces = load(None, tmp_path)
    assert base_names(faces) == NAMES and faces.attribute_names == COLUMNS and not faces.drawn
    assert set(asked) <= set(datasets.CelebA.file_list)
    assert sorted(name for _, _, name in asked) == sorted(file.name for file in fetched.iterdir())


# ---- CelebA itself ---------------------------------------------------------------------------------------


@pytest.mark.skipif(real_faces() is None, reason="real CelebA is neither in data/celeba nor where CELEBA says")
def test_real_faces_are_those_of_pillow_with_the_labels_and_parts_of_their_names(tmp_path):
    folder, few = real_faces(), tmp_path / "few"
    with zipfile.ZipFile(folder / "img_align_celeba.zip") as archive:
        names = [name for name in archive.namelist() if name.endswith(".jpg")]
        pictures = {name: archive.read(name) for name in names[:: max(1, len(names) // 150)]}
    path = write_zip(few / "img_align_celeba.zip", pictures)
    rows = {}
    for name in ("list_attr_celeba.txt", "list_eval_partition.txt"):
        shutil.copy(folder / name, few)
        lines = (folder / name).read_text().splitlines()
        rows[name] = [line.split()[1:] for line in lines if f"img_align_celeba/{line[:10]}" in pictures]
    faces = load(few, tmp_path, 64)
    assert len(faces.attribute_names) == 40 and faces.source == "CelebA"
    assert faces.attributes.tolist() == [[value == "1" for value in row] for row in rows["list_attr_celeba.txt"]]
    assert faces.split.tolist() == [int(part) for (part,) in rows["list_eval_partition.txt"]]
    for image, data in zip(faces.images, pictures.values(), strict=True):
        assert close(image, aligned_reference(data, 64))
    alone = shutil.copy(path, tmp_path / "again.zip")
    assert torch.equal(load(alone, tmp_path / "other").split, faces.split), "the file numbers give the official parts"
