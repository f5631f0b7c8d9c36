"""Broken, hostile and odd pictures, zips and tables: named, counted, bounded."""

import contextlib
import os
import tempfile
import tracemalloc
import zipfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pictures import ALIGNED, NAMES, PHOTOS, drawn_pictures, encoded, load, refusal, write
from PIL import Image

from common.errors import UserError

PNG, JPEG, FACE = PHOTOS["000.png"], encoded(drawn_pictures(1, (64, 64))[0]), ALIGNED[NAMES[0]]
BROKEN = {  # the picture's name, its bytes, the fields of its zip entry, and the reason given
    "cut short": ("a.jpg", JPEG[: len(JPEG) // 2], {}, "truncated"),
    "an aligned face cut short": ("000009.jpg", FACE[:-500], {}, "truncated"),
    "empty": ("empty.jpg", b"", {}, "not a picture"),
    "for Ghostscript": ("a.jpg", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", {}, "not a picture"),
    "too many pixels": ("000010.jpg", FACE.replace(b"\0\xda\0\xb2", b"\x75\x30" * 2), {}, "900000000 pixels"),
    "claims 10 GB": ("bad.png", PNG, {"file_size": 10 * 2**30}, "10,737,418,240 bytes"),
    "inflates beyond its size": ("bad.png", bytes(32 * 2**20), {"file_size": 100}, ""),
    "packed with lzma": ("bad.png", PNG, {"compress_type": zipfile.ZIP_LZMA}, "neither stored nor deflated"),
    "of another checksum": ("bad.png", PNG, {"CRC": 1}, "CRC"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_one_broken_picture_of_151_is_named_and_skipped_and_takes_no_memory(case, tmp_path, capsys):
    name, data, fields, reason = BROKEN[case]
    with zipfile.ZipFile(path := write(tmp_path / "a.zip", PHOTOS), "a") as file:
        file.writestr(name, data, fields.get("compress_type", zipfile.ZIP_DEFLATED))
        for field, value in fields.items():
            setattr(file.filelist[-1], field, value)
    tracemalloc.start()
    assert load(path, tmp_path / "data").names == sorted(PHOTOS)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    message = capsys.readouterr().err
    assert f"1 of 151 pictures cannot be read ({name}: " in message and reason in message
    assert peak < 16 * 2**20


@pytest.mark.parametrize("count, of", [(2, 150), (1, 50), (60, 60)])
def test_more_than_one_broken_picture_in_a_hundred_is_refused_with_count_and_names(count, of, tmp_path):
    bad = {f"bad{index:02d}.jpg": b"no picture" for index in range(count)}
    message = refusal(write(tmp_path / "in", dict(list(PHOTOS.items())[: of - count]) | bad), tmp_path / "data")
    assert f"{count} of {of} pictures" in message and "bad00.jpg: not a picture" in message


WEB_PAGE = b"<!DOCTYPE html><html>Quota exceeded</html>"
ODD_TABLES = [
    b"",
    WEB_PAGE,
    b"\x00\xff\xfe" * 99,
    b"9" * 5_000,
    b"id,A\n000001.jpg,x\n000002.jpg,1\n",
    b"1\nA B\na.jpg 1\n",
]


@pytest.mark.parametrize("table", ["list_attr_celeba.txt", "list_attr_celeba.csv", "list_eval_partition.txt"])
def test_a_damaged_table_is_named(table, tmp_path):
    for number, data in enumerate(ODD_TABLES):
        path = write(tmp_path / str(number), ALIGNED | {table: data})
        assert f"{table} cannot be used" in refusal(path, tmp_path / "data")


@pytest.mark.parametrize("data", [WEB_PAGE, b"PK\x03\x04" + bytes(999), b"", JPEG, "truncated"])
def test_a_file_that_is_not_a_complete_zip_is_named(data, tmp_path):
    path = write(tmp_path / "celeba/img_align_celeba.zip", PHOTOS)
    path.write_bytes(path.read_bytes()[:-50] if data == "truncated" else data)
    # The remains of a failed download in data/celeba are not silently replaced by drawn faces.
    for message in (refusal(path, tmp_path), refusal(None, tmp_path)):
        assert f"{path} is not a complete zip" in message and "quota" in message


def test_a_source_without_three_pictures_or_with_several_zips_is_refused(tmp_path):
    assert "nowhere does not exist" in refusal(tmp_path / "nowhere", tmp_path / "data")
    for name in ("a.zip", "a"):
        assert "pictures" in refusal(write(tmp_path / name, {"readme.txt": b"", ".b.png": b""}), tmp_path / "data")
    few = dict(list(PHOTOS.items())[:2])
    assert "holds 2 pictures" in refusal(write(tmp_path / "in/one.zip", few), tmp_path / "data")
    write(tmp_path / "in/two.zip", PHOTOS)
    message = refusal(tmp_path / "in", tmp_path / "data")
    assert "2 zips" in message and "one.zip" in message and "two.zip" in message


def test_dead_links_and_folders_without_permission_are_named_and_a_cache_need_only_be_readable():
    with tempfile.TemporaryDirectory() as name:  # unlike tmp_path, open to other users
        folder, data, closed = Path(name), Path(name, "data"), write(Path(name, "closed"), {"a.txt": b""})
        path, hidden, user = write(folder / "a.zip", PHOTOS), write(folder / "in/hidden", PHOTOS), os.geteuid()
        load(path, data)
        for dead in (folder / "in/gone.png", folder / "in/list_attr_celeba.txt"):
            dead.symlink_to("nowhere")
            assert f"{dead} cannot be read (No such file" in refusal(folder / "in", closed)
            dead.unlink()
        for place in (folder, *folder.rglob("*")):  # whatever the umask
            place.chmod(0o755)
        for place, mode in {hidden: 0, closed: 0o555, data / "faces": 0o555}.items():
            place.chmod(mode)
        os.seteuid(user or 65_534)  # root may read and write everything
        try:
            assert len(load(path, data).names) == 150
            assert "hidden cannot be read (Permission denied)" in refusal(folder / "in", closed)
            message = refusal(path, closed)
        finally:
            os.seteuid(user)
        assert "Permission denied" in message and "3,072 bytes per picture" in message and "--data-dir" in message


SMALL = {f"{name}.png": encoded(Image.new("RGB", (3, 3), name), "PNG") for name in ("red", "green", "blue")}
SMALL |= {"000001.jpg": FACE, "list_attr_celeba.csv": b"id,A,B\nred.png,1,-1\ngreen.png,1,1\nblue.png,-1,1\n"}


@settings(max_examples=30)
@given(st.sampled_from([*SMALL, "a.zip"]), st.lists(st.tuples(st.integers(0, 999), st.binary(min_size=1)), min_size=1))
def test_any_file_with_any_bytes_changed_loads_or_is_refused(name, changes):
    with tempfile.TemporaryDirectory() as folder:
        path = write(Path(folder, "in"), SMALL | {"a.zip": SMALL}) / name
        content = bytearray(path.read_bytes())
        for place, value in changes:
            content[place : place + len(value)] = value
        path.write_bytes(content)
        with contextlib.suppress(UserError):
            load(path if name == "a.zip" else path.parent, Path(folder, "data"), size=8)
