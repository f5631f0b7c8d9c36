"""The cache of prepared faces: whole or not at all, one per source and size, shared by runs at once."""

import os
import resource
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from conftest import ROOT
from pictures import ALIGNED, NAMES, PHOTOS, SIZE, encoded, load, refusal, write_folder, write_zip
from PIL import Image

from common.data import faces as module

TABLE = ("image_id,Young\n" + "".join(f"{name},1\n" for name in NAMES)).encode()


@pytest.fixture
def no_decoding(monkeypatch):
    """Calling it makes every later attempt to decode pictures fail the test."""
    return lambda: monkeypatch.setattr(module, "_prepare", lambda *_: pytest.fail("the pictures were decoded again"))


@pytest.mark.parametrize("write", [write_zip, write_folder])
def test_a_second_run_decodes_nothing_and_gives_the_same_at_each_size(write, tmp_path, no_decoding):
    path = write(tmp_path / "in.zip", PHOTOS)
    before = [load(path, tmp_path / "data", size) for size in (16, 32)]
    no_decoding()
    for first in before:
        second = load(path, tmp_path / "data", first.images.shape[-1])
        assert torch.equal(first.images, second.images) and torch.equal(first.split, second.split)
        assert (first.names, first.source) == (second.names, second.source)


def test_writing_to_the_images_leaves_the_cache_alone(tmp_path):
    path = write_zip(tmp_path / "a.zip", PHOTOS)
    first = load(path, tmp_path / "data")
    before = first.images.clone()
    first.images.zero_()
    assert torch.equal(load(path, tmp_path / "data").images, before)


def test_sources_of_one_name_do_not_share_a_cache(tmp_path):
    for folder, pictures in (("1", PHOTOS), ("2", ALIGNED), ("1", PHOTOS)):
        path = write_zip(tmp_path / folder / "a.zip", pictures)
        assert len(load(path, tmp_path / "data").names) == len(pictures)


def test_changed_pictures_and_tables_replace_the_cache(tmp_path):
    folder = write_folder(tmp_path / "in", ALIGNED)
    assert load(folder, tmp_path / "data").attributes is None
    write_folder(folder, {"list_attr_celeba.csv": TABLE})
    assert load(folder, tmp_path / "data").attribute_names == ("Young",)
    (folder / NAMES[0]).write_bytes(ALIGNED[NAMES[1]])
    faces = load(folder, tmp_path / "data")
    assert torch.equal(faces.images[0], faces.images[1])
    (folder / NAMES[2]).unlink()
    assert len(load(folder, tmp_path / "data").names) == len(NAMES) - 1
    assert len(list(tmp_path.glob("data/faces/*/"))) == 1


DAMAGES = [
    lambda file: file.write_bytes(file.read_bytes()[:-1]),
    lambda file: file.write_bytes(b"PK\x03\x04" + bytes(range(256)) * 4),
    Path.unlink,
]


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", ["pixels.uint8", "arrays.npz"])
def test_a_damaged_cache_is_made_again(name, damage, tmp_path):
    path = write_zip(tmp_path / "a.zip", ALIGNED | {"list_attr_celeba.csv": TABLE})
    images, labels = load(path, tmp_path / "data").images.clone(), load(path, tmp_path / "data").attributes
    damage(next(tmp_path.glob(f"data/faces/*/{name}")))
    faces = load(path, tmp_path / "data")
    assert torch.equal(faces.images, images) and torch.equal(faces.attributes, labels)


def test_a_disk_that_fills_up_leaves_nothing_behind(tmp_path):
    path = write_zip(tmp_path / "a.zip", PHOTOS)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        message = refusal(path, tmp_path / "data")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "cannot be written" in message and "--data-dir" in message
    assert len(load(path, tmp_path / "data").names) == 150


def test_of_two_runs_at_once_one_waits_and_decodes_nothing(tmp_path, monkeypatch):
    path, calls, prepare = write_zip(tmp_path / "a.zip", PHOTOS), [], module._prepare
    held = threading.Event()

    def slow(*given):
        calls.append(given)
        held.wait(20)
        return prepare(*given)

    monkeypatch.setattr(module, "_prepare", slow)
    runs = [threading.Thread(target=load, args=(path, tmp_path / "data")) for _ in range(2)]
    for run in runs:
        run.start()
    time.sleep(0.3)
    assert all(run.is_alive() for run in runs)
    held.set()
    for run in runs:
        run.join()
    assert len(calls) == 1 and len(load(path, tmp_path / "data").names) == 150


@pytest.fixture
def minutes_of_work(tmp_path):
    """A folder of pictures that take minutes to decode."""
    folder = write_folder(tmp_path / "in", {"0.png": encoded(Image.new("RGB", (1_000, 1_000)), "PNG")})
    for index in range(1, 3_000):
        os.link(folder / "0.png", folder / f"{index}.png")
    return folder


def test_a_killed_run_leaves_no_half_cache(minutes_of_work, tmp_path):
    code = "from common.data.faces import *; load_faces("
    code += f"{str(minutes_of_work)!r}, Path({str(tmp_path / 'data')!r}), {SIZE})"
    with subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stderr=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 60
        while not list(tmp_path.glob("data/faces/*.tmp/pixels.uint8")):
            assert process.poll() is None and time.monotonic() < deadline, "the run did not begin"
            time.sleep(0.02)
        process.kill()
    assert [entry.suffix for entry in tmp_path.glob("data/faces/*/")] == [".tmp"]
    for file in minutes_of_work.iterdir():
        file.unlink()
    assert len(load(write_folder(minutes_of_work, PHOTOS), tmp_path / "data").names) == 150
    assert not list(tmp_path.glob("data/faces/*.tmp"))


def test_ctrl_c_ends_a_run_at_once(minutes_of_work, tmp_path):
    started = time.monotonic()
    threading.Timer(0.5, signal.raise_signal, [signal.SIGINT]).start()
    with pytest.raises(KeyboardInterrupt):
        load(minutes_of_work, tmp_path / "data")
    assert time.monotonic() - started < 10
    assert not list(tmp_path.glob("data/faces/*/"))
