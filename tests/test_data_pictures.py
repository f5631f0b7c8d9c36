"""Pictures in folders and zips: found, read, or named, whatever they are; and prepared once, whole or not at all."""

from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from pictures import ALIGNED, NAMES, PHOTOS, SIZE, close, drawn_pictures, encoded, load, refusal, some, write
from PIL import Image

from common.data import pictures as module

PNG, JPEG, FACE = PHOTOS["000.png"], encoded(drawn_pictures(1, (64, 64))[0]), ALIGNED[NAMES[0]]

QUARTERS = [[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 1]]  # red, green, blue, white
PICTURE = Image.fromarray(np.kron(np.array(QUARTERS).reshape(2, 2, 3), np.full((32, 32, 1), 255)).astype(np.uint8))
CLEAR = PICTURE.convert("RGBA")  # its blue quarter is transparent, and white shows through
CLEAR.paste((0, 0, 255, 0), (0, 32, 32, 64))
PLAIN = {
    **{f"plain.{kind}": encoded(PICTURE, kind) for kind in ("bmp", "gif", "png", "ppm", "tiff")},
    **{f"plain.{kind}": encoded(PICTURE) for kind in ("jfif", "jpe", "HEIC")},  # the name of the last one lies
    "lossless.webp": encoded(PICTURE, "WEBP", lossless=True),
    "progressive.JPG": encoded(PICTURE, progressive=True),
    "palette.png": encoded(PICTURE.quantize(8), "PNG"),
    "cmyk.jpg": encoded(PICTURE.convert("CMYK")),
    "animated.gif": encoded(PICTURE, "GIF", save_all=True, append_images=[Image.new("RGB", (64, 64))]),
    "a jpeg.png": encoded(PICTURE),
    "000001.jpg": encoded(PICTURE),
    "malformed exif.png": encoded(PICTURE, "PNG", exif=b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\xff"),
}
for orientation, degrees in ((3, 180), (6, 90), (8, 270)):  # EXIF's number for how far the camera was turned
    exif = Image.Exif()
    exif[0x0112] = orientation
    PLAIN[f"{orientation}.jpg"] = encoded(PICTURE.rotate(degrees), exif=exif)
CLEARED = {"clear.png": encoded(CLEAR, "PNG"), "clear.gif": encoded(CLEAR, "GIF")}
GREY = {"grey.jpg": encoded(PICTURE.convert("L"))}  # red and blue are dark, green and white are light


def test_every_kind_of_picture_is_upright_and_keeps_its_colours(tmp_path):
    found = load(write(tmp_path / "in", PLAIN | CLEARED | GREY), tmp_path / "data")
    corners = (found.pixels[:, 3 :: SIZE - 7, 3 :: SIZE - 7] > 127).int().flatten(1, 2).tolist()
    expected = dict.fromkeys(PLAIN, QUARTERS) | dict.fromkeys(CLEARED, [*QUARTERS[:2], [1, 1, 1], [1, 1, 1]])
    expected |= dict.fromkeys(GREY, [[0, 0, 0], [1, 1, 1]] * 2)
    assert dict(zip(found.names, corners, strict=True)) == expected


def test_large_photos_are_the_centre_square_of_pillows_full_decoding(tmp_path):
    wide = [face.resize((1600, 1200), Image.Resampling.BICUBIC) for face in drawn_pictures(3, (400, 300))]
    files = {f"{index}.jpg": encoded(face, quality=92) for index, face in enumerate(wide)}
    found = load(write(tmp_path / "wide", files), tmp_path / "data", 64)
    assert all(close(pixels, data, levels=6) for pixels, data in zip(found.pixels, files.values(), strict=True))


@pytest.mark.parametrize(
    ("white", "dtype", "kind"),
    [(1, "float32", "TIFF"), (255, "float32", "TIFF"), (255, "int32", "TIFF"), (4095, "uint16", "PNG")]
    + [(65535, "uint16", "TIFF"), (65535, "int32", "TIFF")],
)
def test_deep_greys_keep_their_levels_over_the_whole_range_of_the_data_set(white, dtype, kind, tmp_path):
    ramp = np.linspace(0, white, 64 * 64).reshape(64, 64)
    files = {"dark": ramp / 16, "empty": 0 * ramp, "light": ramp}
    files = {f"{name}.{kind}": encoded(Image.fromarray(grey.astype(dtype)), kind) for name, grey in files.items()}
    found = load(write(tmp_path / "grey", files), tmp_path / "data", 64)
    for pixels, share in zip(found.pixels, (1 / 16, 0, 1), strict=True):
        expected = torch.from_numpy(share * ramp / white * 255)[:, :, None]
        assert (pixels - expected).abs().max() <= max(1, share * 255 / white)


def test_deep_greys_beyond_every_range_are_named(tmp_path):
    values = {"below": -0.5, "above": 1e6, "nan": np.nan}
    files = {f"{name}.tif": encoded(Image.new("F", (9, 9), value), "TIFF") for name, value in values.items()}
    message = refusal(write(tmp_path / "in", files), tmp_path / "data")
    assert "above.tif: its grey levels reach from 1e+06" in message and "nan.tif" in message


def test_files_that_are_no_pictures_are_left_out_and_counted(tmp_path, capsys):
    heic, text = {f"{index}.HEIC": b"\0\0\0\x18ftypheic" + bytes(99) for index in range(40)}, {"readme.txt": b"text"}
    found = load(write(tmp_path / "in", some(3) | heic | text | {"model": b"x", "b.heic": b""}), tmp_path / "data")
    assert len(found.names) == 3
    message = capsys.readouterr().err
    assert "left out 41 .heic, 1 without a suffix (" in message and "convert HEIC" in message
    message = refusal(write(tmp_path / "none", heic), tmp_path / "new")
    assert "holds 0 pictures; left out 40 .heic (" in message and not capsys.readouterr().err


HIDDEN = (".thumbnails/1.png", ".ipynb_checkpoints/a.png", "@eaDir/1.png", "__MACOSX/in/._1.png", "cats/.2.png")


def test_the_same_folder_zipped_also_on_an_old_windows_is_the_same_data(tmp_path):
    files = {f"{'cats' if index % 2 else 'dogs'}/{name}": data for index, (name, data) in enumerate(some(20).items())}
    folder = load(write(tmp_path / "in", files | dict.fromkeys(HIDDEN, PNG)), tmp_path / "data")
    assert folder.names == sorted(files)
    hidden = dict.fromkeys((f"pets/{name}" for name in HIDDEN), PNG)
    packed = {f"pets/{name}": data for name, data in files.items()} | hidden | {"pets/": b"", "__MACOSX/._pets": b"x"}
    windows = {name.replace("/", "\\"): data for name, data in files.items()}
    for name, content in {"in.zip": packed, "old.zip": windows}.items():
        zipped = load(write(tmp_path / name, content), tmp_path / "data")
        assert [name.removeprefix("pets/") for name in zipped.names] == folder.names
        assert torch.equal(zipped.pixels, folder.pixels)


def test_a_folder_in_a_zip_can_be_named(tmp_path):
    files = {f"set/faces/{name}": data for name, data in some(4).items()}
    masks = {f"set/faces-mask/{name}": data for name, data in some(50, 4).items()}
    path = write(tmp_path / "a.zip", files | masks)
    found = load(path / "set/faces", tmp_path / "data")
    assert found.title == "faces" and found.names == list(some(4))
    assert len(load(path, tmp_path / "data").names) == 54
    assert "a.zip/set/none holds neither pictures" in refusal(path / "set/none", tmp_path / "new")


def test_a_source_without_three_pictures_or_with_several_zips_is_refused(tmp_path):
    assert "nowhere does not exist" in refusal(tmp_path / "nowhere", tmp_path / "data")
    for name in ("a.zip", "a"):
        files = {"readme.txt": b"", ".b.png": b""}
        assert "neither pictures" in refusal(write(tmp_path / name, files), tmp_path / "data")
    assert "holds 2 pictures" in refusal(write(tmp_path / "in/one.zip", some(2)), tmp_path / "data")
    write(tmp_path / "in/two.zip", PHOTOS)
    message = refusal(tmp_path / "in", tmp_path / "data")
    assert "one.zip, two.zip" in message and "name one of them" in message
    nested = write(tmp_path / "nested.zip", {"celeba/img.zip": (tmp_path / "in/two.zip").read_bytes()})
    assert "no pictures but celeba/img.zip: unpack" in refusal(nested, tmp_path / "data")


BROKEN = {  # the reason given, and the bytes
    "truncated": JPEG[: len(JPEG) // 2],
    "not a picture": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",  # for Ghostscript
    "900000000 pixels": FACE.replace(b"\0\xda\0\xb2", b"\x75\x30" * 2),
}


@pytest.mark.parametrize("reason", BROKEN)
def test_broken_pictures_are_named_and_skipped_up_to_one_in_a_hundred(reason, tmp_path, capsys):
    path = write(tmp_path / "a.zip", PHOTOS | {"a.jpg": BROKEN[reason]})
    assert load(path, tmp_path / "data").names == sorted(PHOTOS)
    message = capsys.readouterr().err
    assert "1 of 151 pictures cannot be read (a.jpg: " in message and reason in message
    message = refusal(write(tmp_path / "in", some(50) | {"a.jpg": BROKEN[reason]}), tmp_path / "new")
    assert "1 of 51 pictures cannot be read (a.jpg: " in message and reason in message


@pytest.mark.parametrize("data", [b"<!DOCTYPE html><html>Quota exceeded</html>", b"PK\x03\x04", b"", "truncated"])
def test_a_zip_that_is_not_complete_is_named(data, tmp_path):
    path = write(tmp_path / "celeba/img_align_celeba.zip", PHOTOS)
    path.write_bytes(path.read_bytes()[:-50] if data == "truncated" else data)
    # The remains of a failed download in data/celeba are not silently replaced by drawn faces.
    for message in (refusal(path, tmp_path), refusal(None, tmp_path)):
        assert f"{path} is not a complete zip" in message and "quota" in message
    for other in ("faces.tgz", "faces.7z", "one.png"):  # whatever they are, no download is to blame
        message = refusal(path.rename(path.with_name(other)), tmp_path)
        assert f"{other} is not a complete zip" in message and "quota" not in message and "unpack" in message
        (path.parent / other).rename(path)


def test_dead_links_are_named_and_a_cache_need_only_be_readable(tmp_path, monkeypatch):
    dead = write(tmp_path / "in", PHOTOS) / "gone.png"
    dead.symlink_to("nowhere")
    assert f"{dead} cannot be read or written (No such file" in refusal(tmp_path / "in", tmp_path / "data")
    dead.unlink()
    load(tmp_path / "in", tmp_path / "data")
    monkeypatch.setattr(Path, "mkdir", Mock(side_effect=PermissionError(13, "Permission denied")))
    assert len(load(tmp_path / "in", tmp_path / "data").names) == 150
    message = refusal(tmp_path / "in", tmp_path / "new")
    assert "new/prepared cannot be read or written (Permission denied)" in message
    assert "3,072 bytes per picture" in message and "--data-dir" in message


def test_a_second_run_decodes_nothing_whatever_the_first_did_to_its_pixels(tmp_path, monkeypatch):
    path = write(tmp_path / "a.zip", PHOTOS)
    before = [(found := load(path, tmp_path / "data", size), found.pixels.clone()) for size in (16, 32)]
    monkeypatch.setattr(module, "_prepare", lambda *_: pytest.fail("the pictures were decoded again"))
    for first, same in before:
        first.pixels.zero_()
        second = load(path, tmp_path / "data", same.shape[1])
        assert torch.equal(second.pixels, same) and second.names == first.names


def test_changed_pictures_replace_the_cache_and_another_source_of_that_name_does_not(tmp_path):
    folder = write(tmp_path / "in", ALIGNED)
    first = load(folder, tmp_path / "data")
    before = first.pixels.clone()
    (folder / NAMES[0]).write_bytes(ALIGNED[NAMES[1]])
    found = load(folder, tmp_path / "data")
    assert torch.equal(found.pixels[0], found.pixels[1])
    assert torch.equal(first.pixels, before), "a run keeps what it has mapped"
    load(write(tmp_path / "other/in", PHOTOS), tmp_path / "data")
    assert len(list(tmp_path.glob("data/prepared/*/"))) == 2


def test_the_cache_outlives_what_is_no_change_of_the_pictures(tmp_path, monkeypatch):
    folder = write(tmp_path / "in", PHOTOS)
    load(folder, tmp_path / "data")
    monkeypatch.setattr(module, "_prepare", lambda *_: pytest.fail("the pictures were decoded again"))
    for name in (".DS_Store", "list_attr_celeba.csv", "notes.txt"):
        (folder / name).touch()
    (folder / ".#notes.txt").symlink_to("nowhere")
    load(folder, tmp_path / "data")
    monkeypatch.chdir(tmp_path)
    load(Path("in"), tmp_path / "data")


@pytest.mark.parametrize("name", ["pixels.uint8", "arrays.npz"])
def test_a_damaged_cache_is_made_again(name, tmp_path):
    path = write(tmp_path / "a.zip", ALIGNED)
    pixels = load(path, tmp_path / "data").pixels.clone()
    file = next(tmp_path.glob(f"data/prepared/*/{name}"))
    file.write_bytes(file.read_bytes()[:-1])
    assert torch.equal(load(path, tmp_path / "data").pixels, pixels)
