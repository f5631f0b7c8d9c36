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
    return lambda: monkeypatch.setattr(module, "_decode_all", lambda *_: pytest.fail("the pictures were decoded again"))


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
    one, two = write_zip(tmp_path / "1/a.zip", PHOTOS), write_zip(tmp_path / "2/a.zip", ALIGNED)
    for path, count in ((one, 150), (two, 12), (one, 150)):
        assert len(load(path, tmp_path / "data").names) == count


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


def test_a_second_run_waits_for_the_first_and_says_so(tmp_path, monkeypatch, capfd):
    path = write_zip(tmp_path / "a.zip", PHOTOS)
    decode_all, calls, said = module._decode_all, [], []

    def slow(*arguments):
        calls.append(1)
        deadline = time.monotonic() + 20
        while "waiting for another run" not in "".join(said):
            said.append(capfd.readouterr().err)
            assert time.monotonic() < deadline, "the second run did not wait"
            time.sleep(0.01)
        return decode_all(*arguments)

    monkeypatch.setattr(module, "_decode_all", slow)
    runs = [threading.Thread(target=load, args=(path, tmp_path / "data")) for _ in range(2)]
    for run in runs:
        run.start()
    for run in runs:
        run.join()
    assert len(calls) == 1 and len(load(path, tmp_path / "data").names) == 150


RUN = f"""
import sys
from pathlib import Path
from common.data.faces import load_faces
load_faces(sys.argv[1], Path(sys.argv[2]), {SIZE})
"""


def test_two_processes_at_once_share_one_cache(tmp_path):
    path = write_zip(tmp_path / "a.zip", PHOTOS)
    command = [sys.executable, "-c", RUN, str(path), str(tmp_path / "data")]
    runs = [subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    errors = [run.communicate(timeout=60)[1] for run in runs]
    assert [run.returncode for run in runs] == [0, 0], errors
    assert len(list(tmp_path.glob("data/faces/*/"))) == 1


@pytest.fixture
def slow_run(tmp_path):
    """A run in a process of its own, in the middle of minutes of work; and the folder of its pictures."""
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


def test_a_killed_run_leaves_no_half_cache(slow_run, tmp_path):
    process, folder = slow_run
    process.kill()
    process.wait()
    assert [entry.suffix for entry in tmp_path.glob("data/faces/*/")] == [".tmp"]
    for file in folder.iterdir():
        file.unlink()
    assert len(load(write_folder(folder, PHOTOS), tmp_path / "data").names) == 150
    assert not list(tmp_path.glob("data/faces/*.tmp"))


def test_ctrl_c_ends_a_run_at_once(slow_run, tmp_path):
    process, _ = slow_run
    started = time.monotonic()
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=20)
    assert time.monotonic() - started < 15
    assert process.returncode in (-signal.SIGINT, 130) and "KeyboardInterrupt" in errors
    assert not list(tmp_path.glob("data/faces/*/"))
