"""Broken, hostile and odd pictures, zips and tables: named, counted, bounded."""

import contextlib
import os
import struct
import tempfile
import tracemalloc
import zipfile
import zlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pictures import ALIGNED, NAMES, PHOTOS, base_names, drawn_pictures, encoded, load, refusal, write_folder, write_zip
from PIL import Image

from common.data import archive
from common.errors import UserError


def png_header(width, height):
    """The start of a PNG of that size: enough to be refused, and nothing that could be decoded."""
    header = b"IHDR" + struct.pack(">2I5B", width, height, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    return b"\x89PNG\r\n\x1a\n" + chunk + struct.pack(">I", 1_000) + b"IDAT"


FACE = drawn_pictures(1, (64, 64))[0]
JPEG, ALIGNED_JPEG = encoded(FACE), ALIGNED[NAMES[0]]
BROKEN = {
    "truncated.jpg": (JPEG[: len(JPEG) // 2], "truncated"),
    "000009.jpg": (ALIGNED_JPEG[:-500], "truncated"),
    "empty.jpg": (b"", "not a picture"),
    "page.jpg": (b"<!DOCTYPE html><html><body>quota exceeded</body></html>", "not a picture"),
    "script.jpg": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n", "not a picture"),
    "bomb.png": (png_header(30_000, 30_000), "900000000 pixels"),
    "000010.jpg": (ALIGNED_JPEG.replace(struct.pack(">2H", 218, 178), b"\x75\x30" * 2), "900000000 pixels"),
    "cut.png": (encoded(FACE, "PNG")[:-30], "truncated"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_one_broken_picture_of_151_is_named_and_skipped(name, tmp_path, capsys):
    data, reason = BROKEN[name]
    for write in (write_zip, write_folder):
        path = write(tmp_path / f"{write.__name__}.zip", PHOTOS | {name: data})
        assert load(path, tmp_path / "data").names == sorted(PHOTOS)
        message = capsys.readouterr().err
        assert f"1 of 151 pictures cannot be read ({name}: " in message and reason in message


@pytest.mark.parametrize("count, of", [(2, 150), (1, 50), (60, 60)])
def test_more_than_one_in_a_hundred_is_refused_with_the_count_and_names(count, of, tmp_path):
    bad = {f"bad{index:02d}.jpg": b"no picture" for index in range(count)}
    good = dict(list(PHOTOS.items())[: of - count])
    message = refusal(write_zip(tmp_path / "a.zip", good | bad), tmp_path / "data")
    assert f"{count} of {of} pictures" in message and "bad00.jpg: not a picture" in message


def with_entry(path, name, data, **fields):
    """A zip of the photos and one more entry, whose header in the directory then says what `fields` say."""
    with zipfile.ZipFile(path, "w") as file:
        for photo, pixels in PHOTOS.items():
            file.writestr(photo, pixels)
        file.writestr(name, data, fields.pop("compress_type", zipfile.ZIP_DEFLATED))
        for field, value in fields.items():
            setattr(file.filelist[-1], field, value)
    return path


ENTRIES = {
    "it claims 10 GB": ({"file_size": 10 * 2**30}, "10,737,418,240 bytes"),
    "it is encrypted": ({"flag_bits": 1}, ""),
    "it is packed with lzma": ({"compress_type": zipfile.ZIP_LZMA}, "neither stored nor deflated"),
    "its checksum is wrong": ({"CRC": 1}, "CRC"),
    "it lies beyond the end": ({"header_offset": 2**31}, ""),
}


@pytest.mark.parametrize("entry", ENTRIES)
def test_a_bad_zip_entry_is_named_and_skipped(entry, tmp_path, capsys):
    fields, reason = ENTRIES[entry]
    path = with_entry(tmp_path / "a.zip", "bad.png", PHOTOS["000.png"], **fields)
    assert len(load(path, tmp_path / "data").names) == 150
    message = capsys.readouterr().err
    assert "(bad.png: " in message and reason in message


def test_an_entry_that_inflates_beyond_its_declared_size_takes_no_memory(tmp_path):
    path = with_entry(tmp_path / "a.zip", "bad.png", bytes(64 * 2**20), file_size=100)
    tracemalloc.start()
    assert len(load(path, tmp_path / "data").names) == 150
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 16 * 2**20


def test_a_dead_link_is_named(tmp_path):
    folder = write_folder(tmp_path / "folder", PHOTOS)
    for name in ("gone.png", "list_attr_celeba.txt"):
        (folder / name).symlink_to(tmp_path / "nowhere")
        assert f"{name} cannot be read (No such file" in refusal(folder, tmp_path / "data")
        (folder / name).unlink()


def test_hidden_files_and_other_files_are_no_pictures(tmp_path):
    others = dict.fromkeys((".DS_Store", "._000.png", "__MACOSX/._a.png", "readme.txt"), b"x")
    for write in (write_zip, write_folder):
        path = write(tmp_path / f"{write.__name__}.zip", {f"./in/{n}": data for n, data in (PHOTOS | others).items()})
        assert base_names(load(path, tmp_path / "data")) == sorted(PHOTOS)


DAMAGED_TABLES = [b"", b"\n\n", b"<!DOCTYPE html><html>quota</html>", b"\x00\xff\xfe" * 99, b"9" * 5_000, b"a,b,c\n"]
DAMAGED_TABLES += [b"id,A\n000001.jpg,x\n000002.jpg,1\n", b"1\nA B\n000001.jpg 1\n"]


@pytest.mark.parametrize("table", ["list_attr_celeba.txt", "list_attr_celeba.csv", "list_eval_partition.txt"])
def test_a_damaged_table_is_named(table, tmp_path):
    for number, data in enumerate(DAMAGED_TABLES):
        path = write_folder(tmp_path / str(number), ALIGNED | {table: data})
        assert f"{table} cannot be used" in refusal(path, tmp_path / "data")


# ---- Sources that are refused ----------------------------------------------------------------------------


@pytest.mark.parametrize("data", [b"<!DOCTYPE html><html>Quota exceeded</html>", b"PK\x03\x04" + bytes(999), b"", JPEG])
def test_a_file_that_is_no_zip_is_named(data, tmp_path):
    path = write_folder(tmp_path / "celeba", {"img_align_celeba.zip": data}) / "img_align_celeba.zip"
    # What a failed download has left in data/celeba is not silently replaced by drawn faces.
    for message in (refusal(path, tmp_path), refusal(None, tmp_path)):
        assert f"{path} is no whole zip" in message and "quota" in message


def test_a_truncated_zip_is_refused(tmp_path):
    path = write_zip(tmp_path / "a.zip", PHOTOS)
    path.write_bytes(path.read_bytes()[:-50])
    assert "no whole zip" in refusal(path, tmp_path / "data")


def test_a_source_without_three_pictures_or_with_several_zips_is_refused(tmp_path):
    assert "nowhere is not there" in refusal(tmp_path / "nowhere", tmp_path / "data")
    for write in (write_zip, write_folder):
        for number, files in enumerate([{"readme.txt": b"hello"}, {".b.png": b"x"}]):
            path = write(tmp_path / f"{write.__name__}{number}.zip", files)
            assert "pictures" in refusal(path, tmp_path / "data")
    two = write_zip(tmp_path / "in/one.zip", dict(list(PHOTOS.items())[:2]))
    assert "holds 2 pictures" in refusal(two, tmp_path / "data")
    write_zip(tmp_path / "in/two.zip", PHOTOS)
    message = refusal(tmp_path / "in", tmp_path / "data")
    assert "one.zip" in message and "two.zip" in message


@contextlib.contextmanager
def ordinary_user():
    """Root may read and write everything, so that a test of permissions must not be run by root."""
    user = os.geteuid()
    os.seteuid(user or 65_534)
    yield
    os.seteuid(user)


def test_folders_without_permission_are_named_and_one_with_a_cache_may_be_read():
    with tempfile.TemporaryDirectory() as name:  # unlike tmp_path, others may enter it
        folder, data = Path(name), Path(name) / "data"
        folder.chmod(0o777)
        data.mkdir(mode=0o755)
        path, hidden = write_zip(folder / "a.zip", PHOTOS), write_folder(folder / "in/hidden", PHOTOS)
        hidden.chmod(0)
        with ordinary_user():
            assert "hidden cannot be read (Permission denied)" in refusal(folder / "in", data)
            message = refusal(path, data)
        assert "Permission denied" in message and "3,072 bytes per picture" in message and "--data-dir" in message
        load(path, data)
        with ordinary_user():
            assert len(load(path, data).names) == 150


# ---- Any bytes -------------------------------------------------------------------------------------------


def loads_or_refuses(files, path):
    with tempfile.TemporaryDirectory() as folder:
        write_folder(Path(folder), files)
        with contextlib.suppress(UserError):
            load(Path(folder) / path, Path(folder) / "data", size=8)


SMALL = {f"in/{name}.png": encoded(Image.new("RGB", (3, 3), name), "PNG") for name in ("red", "green", "blue")}
fuzzed = settings(max_examples=60, deadline=None)


@fuzzed
@given(st.data())
def test_a_zip_with_any_bytes_changed_loads_or_is_refused(data):
    with tempfile.TemporaryDirectory() as folder:
        content = bytearray(write_zip(Path(folder) / "a.zip", SMALL).read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    loads_or_refuses({"a.zip": bytes(content)}, "a.zip")


lines = st.lists(st.sampled_from(["red.png", "3", "-1", "1", "0", "2", ",", " ", "\n", "\r\n", "A", '"', "\x00", "é"]))


@fuzzed
@given(st.sampled_from(archive.TABLES), st.binary(max_size=200) | lines.map("".join).map(str.encode))
def test_any_bytes_as_a_table_load_or_are_refused(name, data):
    loads_or_refuses(SMALL | {f"in/{name}": data}, "in")


starts = [b"", JPEG[:200], ALIGNED_JPEG[:700], png_header(3, 3), b"GIF89a", b"II*\x00", b"RIFF\x10\0\0\0WEBPVP8 "]


@fuzzed
@given(st.sampled_from(["in/a.jpg", "in/000001.jpg"]), st.sampled_from(starts), st.binary(max_size=300))
def test_any_bytes_as_a_picture_load_or_are_refused(name, start, rest):
    loads_or_refuses(SMALL | {name: start + rest}, "in")
