"""Faces from every layout of CelebA and from your own pictures: the right pixels, labels and parts for each name."""

import io
import random
import shutil
import time
import zipfile
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from conftest import NO_CELEBA, real_faces
from pictures import ALIGNED, NAMES, NUMBERS, PHOTOS, SIZE, drawn_pictures, encoded, load, write
from PIL import Image, ImageOps
from torchvision import datasets

from common.data import archive
from common.data import faces as module
from common.data.drawn_faces import draw_faces


def close(image, data, levels=1):
    """Whether the image is Pillow's crop and resize of these bytes, within `levels` grey levels."""
    picture, square = Image.open(io.BytesIO(data)).convert("RGB"), image.shape[1:]
    picture = picture.crop((15, 35, 163, 183)) if picture.size == (178, 218) else picture
    reference = np.int16(ImageOps.fit(picture, square, Image.Resampling.BILINEAR))
    return np.abs(image.permute(1, 2, 0).numpy() - reference).max() <= levels


def table(separator, *rows):
    return "\r\n".join(separator.join(map(str, row)) for row in rows).encode()


COLUMNS = ("Eyeglasses", "Male", "Smiling", "Young")
ROWS = random.Random(1).sample([*NUMBERS, 5, 190_000], 14)  # shuffled, with rows of other pictures among them
LABELS = [[f"{row:06d}.jpg", *(1 if row >> bit & 1 else -1 for bit in range(4))] for row in ROWS]
PARTS = [[f"{row:06d}.jpg", row % 3] for row in ROWS]  # unlike those by file number: only the table gives them
TXT = {"list_attr_celeba.txt": table("  ", [len(ROWS)], COLUMNS, *LABELS)}
TXT |= {"list_eval_partition.txt": table(" ", *PARTS)}
CSV = {"list_attr_celeba.csv": table(",", ["image_id", *COLUMNS], *LABELS)}
CSV |= {"list_eval_partition.csv": table(",", ["image_id", "partition"], *PARTS)}
IN_FOLDER = {f"img_align_celeba/{name}": ALIGNED[name] for name in random.Random(2).sample(NAMES, len(NAMES))}
KAGGLE = {f"img_align_celeba/{name}": data for name, data in IN_FOLDER.items()} | CSV
KAGGLE |= dict.fromkeys((".DS_Store", "readme.txt", "list_bbox_celeba.csv", "__MACOSX/in/._000001.jpg"), b"other")
OFFICIAL = {"img_align_celeba.zip": IN_FOLDER} | TXT
DRIVE = {"Img/img_align_celeba.zip": IN_FOLDER}
DRIVE |= {f"{'Anno' if 'attr' in name else 'Eval'}/{name}": data for name, data in TXT.items()}
PNG = {name.replace("jpg", "png"): encoded(Image.open(io.BytesIO(data)), "PNG") for name, data in ALIGNED.items()}
LAYOUTS = {  # the files in the folder "in", the path given, and the targets of the links in the folder "links"
    "the official zip": (OFFICIAL, "in/img_align_celeba.zip"),
    "the official zip by its folder": (OFFICIAL, "in"),
    "the official drive": (DRIVE, "in/Img/img_align_celeba.zip"),
    "kaggle's archive": ({"archive.zip": KAGGLE}, "in/archive.zip"),
    "kaggle's archive by its folder": ({"archive.zip": KAGGLE}, "in"),
    "kaggle's archive unpacked": (KAGGLE, "in"),
    "the inner folder of kaggle's": (KAGGLE, "in/img_align_celeba/img_align_celeba"),
    "torchvision's folder": (IN_FOLDER | TXT, "in"),
    "pictures at the top of a zip": ({"flat.zip": ALIGNED | CSV}, "in/flat.zip"),
    "img_align_celeba_png, whose tables say .jpg": (PNG | TXT, "in"),
    "a link to the zip, tables beside its target": (OFFICIAL, "links/img_align_celeba.zip", "in/img_align_celeba.zip"),
    "links to zip and tables": (OFFICIAL, "links", *(f"in/{name}" for name in OFFICIAL)),
    "a link to a folder": (IN_FOLDER | TXT, "links/in", "in"),
    "links to a folder and tables": (IN_FOLDER | TXT, "links", *(f"in/{name}" for name in ("img_align_celeba", *TXT))),
    "links to pictures and tables": (ALIGNED | TXT, "links", *(f"in/{name}" for name in ALIGNED | TXT)),
    "links in a circle, two to one folder": (IN_FOLDER | TXT, "links", "links", "in", "in/img_align_celeba"),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_same_faces(layout, tmp_path):
    files, named, *targets = LAYOUTS[layout]
    write(tmp_path / "in", files)
    (tmp_path / "links").mkdir()
    for target in targets:
        (tmp_path / "links" / Path(target).name).symlink_to(tmp_path / target)
    faces = load(tmp_path / named, tmp_path / "data")
    assert [Path(name).stem for name in faces.names] == [Path(name).stem for name in NAMES]
    assert faces.attributes.tolist() == [[bool(number >> bit & 1) for bit in range(4)] for number in NUMBERS]
    assert faces.split.tolist() == [number % 3 for number in NUMBERS]
    assert (faces.attribute_names, faces.source, faces.drawn) == (COLUMNS, "CelebA", False)
    assert all(map(close, faces.images, ALIGNED.values()))


def test_without_a_table_file_numbers_give_the_parts_and_without_a_row_labels_are_left_out(tmp_path, capsys):
    faces = load(write(tmp_path / "a.zip", ALIGNED), tmp_path / "data")
    assert faces.split.tolist() == [0] * 6 + [1] * 3 + [2] * 3
    assert faces.attributes is None and faces.attribute_names == ()
    load(write(tmp_path / "b.zip", {name: ALIGNED[name] for name in NAMES[:6]}), tmp_path / "data")
    assert "split by name" in capsys.readouterr().err, "they leave a part empty"
    faces = load(write(tmp_path / "c", ALIGNED | {"stranger.jpg": ALIGNED[NAMES[0]]} | CSV), tmp_path / "data")
    assert faces.attributes is None and faces.split[:-1].tolist() == [number % 3 for number in NUMBERS]
    assert "no row for 1 of 13 pictures (stranger.jpg)" in capsys.readouterr().err


def test_other_numbers_than_the_parts_in_a_table_are_no_part(tmp_path, capsys):
    parts = [[name, index % 4] for index, name in enumerate(NAMES)]
    faces = load(write(tmp_path / "a", ALIGNED | {"list_eval_partition.txt": table(" ", *parts)}), tmp_path / "data")
    assert faces.split.tolist() == [index % 4 for index in range(len(NAMES))]
    assert "split by name" not in capsys.readouterr().err
    parts = [[name, 1 + index % 3] for index, name in enumerate(NAMES)]
    faces = load(write(tmp_path / "b", ALIGNED | {"list_eval_partition.txt": table(" ", *parts)}), tmp_path / "data")
    assert set(faces.split.tolist()) == {0, 1, 2} and "split by name" in capsys.readouterr().err


def test_own_pictures_are_split_by_their_names_and_a_handful_has_all_three_parts(tmp_path):
    pictures = {f"{index:06d}.jpg": data for index, data in enumerate(PHOTOS.values(), 1)}
    faces = load(write(tmp_path / "mine.zip", pictures), tmp_path / "data")
    assert faces.source == "mine.zip", "names alone do not make them CelebA's"
    assert faces.split.bincount().tolist() == [120, 15, 15]
    assert len(set(faces.split.nonzero().flatten().diff().tolist())) > 5, "the parts are interleaved"
    backwards = write(tmp_path / "backwards.zip", dict(reversed(pictures.items())))
    assert torch.equal(load(backwards, tmp_path / "data").split, faces.split)
    for count in (3, 4, 5):
        load(write(tmp_path / str(count), dict(list(PHOTOS.items())[:count])), tmp_path / "data")


def test_names_in_any_script_keep_their_labels_and_a_skipped_picture_shifts_none(tmp_path):
    names = ["Zoë.png", "李小龙.png", "Ωμέγα.png", "مرحبا.png", "a b c.png", "😀.png", *list(PHOTOS)[6:]]
    pictures = {f"Köln/{name}": data for name, data in zip(names, PHOTOS.values(), strict=True)}
    labels = {f"Köln/{name}": len(name) + place & 2 > 0 for place, name in enumerate(names)}
    rows = [[f'"{name[5:]}"', 1 if label else -1] for name, label in labels.items()]
    files = pictures | {"Köln/040.png": b"", "list_attr_celeba.csv": table(",", ["id", "Smiling"], *rows)}
    faces = load(write(tmp_path / "照片.zip", files), tmp_path / "数据")
    assert faces.names == sorted(pictures.keys() - {"Köln/040.png"}) and faces.source == "照片.zip"
    assert faces.attributes[:, 0].tolist() == [labels[name] for name in faces.names]
    assert all(close(image, pictures[name]) for image, name in zip(faces.images, faces.names, strict=True))


@pytest.mark.parametrize("removed", [False, True], ids=["with its decoder", "without it"])
def test_aligned_faces_equal_pillows_within_a_level_even_without_torchvisions_decoder(removed, tmp_path, monkeypatch):
    """Even if only Pillow can read every third one (CMYK), which keeps its place among the others."""
    if removed:
        monkeypatch.delattr("torchvision.io.decode_jpeg")
    cmyk = {name: Image.open(io.BytesIO(ALIGNED[name])).convert("CMYK") for name in NAMES[1::3]}
    mixed = ALIGNED | {name: encoded(picture, quality=95) for name, picture in cmyk.items()}
    path = write(tmp_path / "a.zip", mixed)
    for size in (64, 128):
        assert all(map(close, load(path, tmp_path / "data", size).images, mixed.values()))


def test_large_photos_are_the_centre_square_of_pillows_full_decoding(tmp_path):
    wide = [face.resize((1600, 1200), Image.Resampling.BICUBIC) for face in drawn_pictures(3, (400, 300))]
    files = {f"{index}.jpg": encoded(face, quality=92) for index, face in enumerate(wide)}
    faces = load(write(tmp_path / "wide", files), tmp_path / "data", 64)
    assert all(close(image, data, levels=6) for image, data in zip(faces.images, files.values(), strict=True))


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_grey_pictures_of_16_bits_keep_their_levels(tmp_path, kind):
    levels = np.linspace(0, 65535, 64 * 64).astype(np.uint16).reshape(64, 64)
    grey = encoded(Image.fromarray(levels), kind)
    faces = load(write(tmp_path / "grey", {f"{index}.{kind}": grey for index in range(3)}), tmp_path / "data", 64)
    assert (faces.images.int() - torch.from_numpy(levels // 256).int()).abs().max() <= 1


QUARTERS = [[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 1]]  # red, green, blue, white
PICTURE = Image.fromarray(np.kron(np.array(QUARTERS).reshape(2, 2, 3), np.full((32, 32, 1), 255)).astype(np.uint8))
CLEAR = PICTURE.convert("RGBA")  # its blue quarter is transparent, and white shows through
CLEAR.paste((0, 0, 255, 0), (0, 32, 32, 64))
PLAIN = {
    **{f"plain.{kind}": encoded(PICTURE, kind) for kind in ("bmp", "gif", "png", "tiff")},
    "lossless.webp": encoded(PICTURE, "WEBP", lossless=True),
    "progressive.JPG": encoded(PICTURE, progressive=True),
    "palette.png": encoded(PICTURE.quantize(8), "PNG"),
    "animated.gif": encoded(PICTURE, "GIF", save_all=True, append_images=[Image.new("RGB", (64, 64))]),
    "a jpeg.png": encoded(PICTURE),
    "000001.jpg": encoded(PICTURE),
}
for orientation, degrees in ((3, 180), (6, 90), (8, 270)):  # EXIF's number for how far the camera was turned
    exif = Image.Exif()
    exif[0x0112] = orientation
    PLAIN[f"{orientation}.jpg"] = encoded(PICTURE.rotate(degrees), exif=exif)
CLEARED = {"clear.png": encoded(CLEAR, "PNG"), "clear.gif": encoded(CLEAR, "GIF")}
GREY = {"grey.jpg": encoded(PICTURE.convert("L"))}  # red and blue are dark, green and white are light


def test_every_kind_of_picture_is_upright_and_keeps_its_colours(tmp_path):
    faces = load(write(tmp_path / "in", PLAIN | CLEARED | GREY), tmp_path / "data")
    corners = (faces.images[:, :, 3 :: SIZE - 7, 3 :: SIZE - 7] > 127).int().flatten(2).transpose(1, 2).tolist()
    expected = dict.fromkeys(PLAIN, QUARTERS) | dict.fromkeys(CLEARED, [*QUARTERS[:2], [1, 1, 1], [1, 1, 1]])
    expected |= dict.fromkeys(GREY, [[0, 0, 0], [1, 1, 1]] * 2)
    assert dict(zip(faces.names, corners, strict=True)) == expected


def test_few_decoded_pictures_wait_to_be_written(tmp_path, monkeypatch):
    decoded, waiting, decode = [], [], module._decode_chunk
    slow_disk = Mock(write=lambda _: time.sleep(0.05) or waiting.append(len(decoded) - len(waiting)))
    monkeypatch.setattr(module, "AHEAD", 2)
    monkeypatch.setattr(module, "_decode_chunk", lambda *a, **b: decoded.append(a) or decode(*a, **b))
    module._prepare(archive.find(write(tmp_path, PHOTOS)), 8, slow_disk)
    assert len(waiting) == 10 and max(waiting) <= 2


REFUSED = Mock(side_effect=RuntimeError("Failed to retrieve file url:\n\n\tToo many users have viewed this file."))


def stalled(*_):
    """A download that ends, with an error, long after it was given up."""
    time.sleep(5)
    raise OSError


@pytest.mark.parametrize(
    ("fails", "seconds", "reason"), [(REFUSED, 60, "Too many users"), (stalled, 0.5, "TimeoutError")]
)
def test_a_refused_or_stalled_download_says_why_and_draws_labelled_faces(
    fails, seconds, reason, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(module, "DRAWN_COUNTS", (20, 5, 5))
    monkeypatch.setattr(module, "DOWNLOAD_SECONDS", seconds)
    monkeypatch.setattr(datasets.utils, "download_file_from_google_drive", fails)
    faces, expected = module.load_faces(None, tmp_path, SIZE), draw_faces(30, SIZE)
    message = capsys.readouterr().err
    assert message.count("\n") == 1 and str(tmp_path / "celeba") in message
    assert reason in message and "DRAWN" in message and "img_align_celeba.zip" in message
    assert torch.equal(faces.images.permute(0, 2, 3, 1), torch.from_numpy(expected.images))
    assert faces.attributes.tolist() == expected.attributes.tolist()
    assert faces.split.tolist() == [0] * 20 + [1] * 5 + [2] * 5
    assert (faces.source, faces.drawn) == ("drawn faces", True)
    monkeypatch.setattr(datasets.utils, "download_file_from_google_drive", lambda *_: pytest.fail("a second download"))
    assert module.load_faces("drawn", tmp_path / "new", SIZE).drawn and not (tmp_path / "new").exists()
    monkeypatch.setenv("RANK", "1")
    assert module.load_faces(None, tmp_path, SIZE).drawn


def test_a_download_asks_torchvision_for_the_zip_and_the_tables_and_is_used(tmp_path, monkeypatch):
    fetched = write(tmp_path / "fetched", OFFICIAL)
    download = Mock(side_effect=lambda file_id, folder, name, md5: shutil.copy(fetched / name, folder))
    monkeypatch.setattr(datasets.utils, "download_file_from_google_drive", download)
    faces = load(None, tmp_path)
    assert len(faces.names) == len(NAMES) and faces.attribute_names == COLUMNS and not faces.drawn
    asked = [(file_id, md5, name) for (file_id, _, name, md5), _ in download.call_args_list]
    assert set(asked) <= set(datasets.CelebA.file_list) and sorted(name for *_, name in asked) == sorted(OFFICIAL)


@pytest.mark.skipif(real_faces() is None, reason=NO_CELEBA)
def test_real_faces_equal_pillows_with_the_labels_and_parts_of_their_names(tmp_path):
    with zipfile.ZipFile(real_faces() / "img_align_celeba.zip") as file:
        names = [name for name in file.namelist() if name.endswith(".jpg")]
        pictures = {name: file.read(name) for name in names[:: max(1, len(names) // 150)]}
    path, rows = write(tmp_path / "few/img_align_celeba.zip", pictures), []
    for name in TXT:
        text = (real_faces() / name).read_text()
        write(path.parent, {name: text.encode()})
        rows.append([line.split()[1:] for line in text.splitlines() if f"img_align_celeba/{line[:10]}" in pictures])
    faces = load(path.parent, tmp_path, 64)
    assert len(faces.attribute_names) == 40 and faces.source == "CelebA"
    assert faces.attributes.tolist() == [[value == "1" for value in row] for row in rows[0]]
    assert faces.split.tolist() == [int(part) for (part,) in rows[1]]
    assert all(map(close, faces.images, pictures.values()))
    alone = load(shutil.copy(path, tmp_path / "again.zip"), tmp_path / "other")
    assert torch.equal(alone.split, faces.split), "the file numbers give the official parts"
