"""Faces from every layout of CelebA, from your own pictures, or drawn: the right pixels, labels and parts."""

import io
import random
import shutil
import zipfile
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch
from conftest import NO_CELEBA, real_faces
from pictures import ALIGNED, NAMES, NUMBERS, PHOTOS, SIZE, close, encoded, some, write
from PIL import Image
from torchvision import datasets

from common.data import celeba as module
from common.data.celeba import load_faces
from common.data.drawn_faces import draw_faces


def load(path, data_dir, size=SIZE):
    """Train, valid and test faces, after checks that every result must pass."""
    parts = load_faces(path and str(path), data_dir, size)
    for part in parts:
        count = len(part.images)
        assert count and part.images.shape == (count, 3, size, size) and part.images.dtype == torch.uint8
        assert part.images.is_contiguous(memory_format=torch.channels_last)
        if part.attributes is not None:
            assert part.attributes.shape == (count, len(part.attribute_names))
            assert part.attributes.dtype == torch.bool
    return parts


def same(faces, files):
    """Whether these are the faces of these files, in their order."""
    return all(close(image.permute(1, 2, 0), data) for image, data in zip(faces.images, files, strict=True))


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
PNG = {name.replace("jpg", "png"): encoded(Image.open(io.BytesIO(data)), "PNG") for name, data in ALIGNED.items()}
LAYOUTS = {  # the files in the folder "in", the path given, and the targets of the links in the folder "links"
    "the official zip by its folder": (OFFICIAL, "in"),
    "kaggle's archive": ({"archive.zip": KAGGLE}, "in/archive.zip"),
    "kaggle's archive unpacked": (KAGGLE, "in"),
    "the inner folder of kaggle's": (KAGGLE, "in/img_align_celeba/img_align_celeba"),
    "torchvision's folder": (IN_FOLDER | TXT, "in"),
    "the inner folder of a zip": ({"archive.zip": KAGGLE}, "in/archive.zip/img_align_celeba/img_align_celeba"),
    "pictures at the top of a zip": ({"flat.zip": ALIGNED | CSV}, "in/flat.zip"),
    "img_align_celeba_png, whose tables say .jpg": (PNG | TXT, "in"),
    "links to zip and tables": (OFFICIAL, "links", *(f"in/{name}" for name in OFFICIAL)),
    "links to a folder and tables": (IN_FOLDER | TXT, "links", *(f"in/{name}" for name in ("img_align_celeba", *TXT))),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_same_faces(layout, tmp_path, capsys):
    files, named, *targets = LAYOUTS[layout]
    write(tmp_path / "in", files)
    (tmp_path / "links").mkdir()
    for target in targets:
        (tmp_path / "links" / Path(target).name).symlink_to(tmp_path / target)
    for number, faces in enumerate(load(tmp_path / named, tmp_path / "data")):
        chosen = [each for each in NUMBERS if each % 3 == number]
        assert same(faces, [ALIGNED[f"{each:06d}.jpg"] for each in chosen])
        assert faces.attributes.tolist() == [[bool(each >> bit & 1) for bit in range(4)] for each in chosen]
        assert (faces.attribute_names, faces.name, faces.drawn) == (COLUMNS, "CelebA", False)
        assert faces.description == f"CelebA, {len(chosen)} pictures"
        first = faces.first(None).first(2)
        assert torch.equal(first.images, faces.images[:2]) and len(first.attributes) == 2
    assert not capsys.readouterr().err


def test_without_a_table_file_numbers_give_the_parts_and_every_run_says_that_labels_are_missing(tmp_path, capsys):
    path = write(tmp_path / "a.zip", ALIGNED)
    for _ in range(2):
        for faces, start in zip(load(path, tmp_path / "data"), (0, 6, 9), strict=True):
            assert same(faces, [*ALIGNED.values()][start : start + len(faces.images)])
            assert faces.attributes is None and faces.attribute_names == ()
        assert f"{path} has no labels: put list_attr_celeba.txt" in capsys.readouterr().err
    parts = load(write(tmp_path / "b.zip", {name: ALIGNED[name] for name in NAMES[:6]}), tmp_path / "data")
    assert [len(part.images) for part in parts] == [4, 1, 1], "a part that would be empty gets some of train"


def test_own_pictures_are_split_by_their_names_and_a_handful_has_all_three_parts(tmp_path):
    pictures = {f"{index:06d}.jpg": data for index, data in enumerate(PHOTOS.values(), 1)}
    parts = load(write(tmp_path / "mine.zip", pictures), tmp_path / "data")
    assert parts[0].name == "mine.zip", "names alone do not make them CelebA's"
    assert [len(part.images) for part in parts] == [120, 15, 15]
    again = load(write(tmp_path / "packed.zip", {f"in/{name}": pictures[name] for name in pictures}), tmp_path / "data")
    assert all(torch.equal(one.images, two.images) for one, two in zip(parts, again, strict=True))
    assert not same(parts[2], [*pictures.values()][-15:]), "the parts are interleaved"
    for count in (3, 4, 5):
        load(write(tmp_path / str(count), some(count)), tmp_path / "data")


@pytest.mark.parametrize("names", [("train", "valid", "test"), ("Training", "val", "testing"), ("train", None, "test")])
def test_pictures_of_train_valid_and_test_folders_are_kept_apart(names, tmp_path):
    """Whatever a table says of them. A missing part is taken from train, never from test."""
    parts = [some(20, 20 * index) if name else {} for index, name in enumerate(names)]
    files = {f"all/{name}/{place}": part[place] for name, part in zip(names, parts, strict=True) for place in part}
    table = {"list_eval_partition.csv": "\n".join(f"{name},0" for name in PHOTOS).encode()}
    train, valid, test = load(write(tmp_path / "in.zip", files | table), tmp_path / "data")
    assert same(test, parts[2].values())
    if names[1]:
        assert same(train, parts[0].values()) and same(valid, parts[1].values())
    else:
        assert [len(train.images), len(valid.images)] == [18, 2]


def test_a_refused_download_says_why_and_draws_labelled_faces(tmp_path, monkeypatch, capsys):
    refuse = Mock(side_effect=RuntimeError("Failed to retrieve file url:\n\n\tToo many users have viewed this file."))
    monkeypatch.setattr(datasets.utils, "download_file_from_google_drive", refuse)
    monkeypatch.setattr(module, "DRAWN_COUNTS", (20, 5, 5))
    parts, (pictures, attributes) = load(None, tmp_path), draw_faces(30, SIZE)
    message = capsys.readouterr().err
    assert message.count("\n") == 1 and str(tmp_path / "celeba") in message
    assert "Too many users" in message and "DRAWN" in message and "img_align_celeba.zip" in message
    images = torch.cat([part.images for part in parts]).permute(0, 2, 3, 1)
    assert torch.equal(images, torch.from_numpy(pictures))
    assert torch.cat([part.attributes for part in parts]).tolist() == attributes.tolist()
    assert [part.description for part in parts] == [f"drawn faces, {count} pictures" for count in (20, 5, 5)]
    assert load("drawn", tmp_path / "new")[0].drawn and not (tmp_path / "new").exists() and refuse.call_count == 1


@pytest.mark.parametrize("refused", [(), OFFICIAL.keys() - {"img_align_celeba.zip"}])
def test_a_download_asks_torchvision_for_its_files_and_uses_what_arrives(refused, tmp_path, monkeypatch, capsys):
    fetched = write(tmp_path / "fetched", OFFICIAL)

    def fetch(file_id, folder, name, md5):
        assert any((file_id, md5, name) == file for file in datasets.CelebA.file_list)
        if name in refused:
            raise RuntimeError("Too many users")
        shutil.copy(fetched / name, folder)

    monkeypatch.setattr(datasets.utils, "download_file_from_google_drive", fetch)
    parts = load(None, tmp_path)
    assert sum(len(part.images) for part in parts) == len(NAMES) and not parts[0].drawn
    assert parts[0].attribute_names == (() if refused else COLUMNS)
    assert ("has no labels" in capsys.readouterr().err) == bool(refused)


@pytest.mark.skipif(real_faces() is None, reason=NO_CELEBA)
def test_real_faces_equal_pillows_with_the_labels_and_parts_of_their_names(tmp_path):
    with zipfile.ZipFile(real_faces() / "img_align_celeba.zip") as file:
        names = sorted(name for name in file.namelist() if name.endswith(".jpg"))
        pictures = {name: file.read(name) for name in names[:: max(1, len(names) // 150)]}
    path = write(tmp_path / "few/img_align_celeba.zip", pictures)
    rows = {}
    for table in TXT:
        text = (real_faces() / table).read_text()
        write(path.parent, {table: text.encode()})
        rows[table] = {f"img_align_celeba/{line[:10]}": line.split()[1:] for line in text.splitlines()}
    alone = load(shutil.copy(path, tmp_path / "again.zip"), tmp_path / "other")
    for number, faces in enumerate(load(path.parent, tmp_path, 64)):
        chosen = [name for name in pictures if rows["list_eval_partition.txt"][name] == [str(number)]]
        assert same(faces, [pictures[name] for name in chosen]) and faces.name == "CelebA"
        labels = [[value == "1" for value in rows["list_attr_celeba.txt"][name]] for name in chosen]
        assert faces.attributes.tolist() == labels and len(faces.attribute_names) == 40
        assert len(alone[number].images) == len(chosen), "the file numbers give the official parts"
