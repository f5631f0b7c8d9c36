"""The cache of prepared faces: whole or not at all, one per source and size, shared by concurrent runs."""

import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from unittest.mock import Mock

import pytest
import torch
from conftest import ROOT
from pictures import ALIGNED, NAMES, PHOTOS, encoded, load, refusal, write
from PIL import Image

from common.data import faces as module
from common.errors import out_of_memory

TABLE = ("image_id,Young\n" + "".join(f"{name},1\n" for name in NAMES)).encode()


@pytest.mark.parametrize("name", ["a.zip", "a"])
def test_a_second_run_decodes_nothing_whatever_the_first_did_to_its_images(name, tmp_path, monkeypatch):
    path = write(tmp_path / name, PHOTOS)
    before = [(faces := load(path, tmp_path / "data", size), faces.images.clone()) for size in (16, 32)]
    monkeypatch.setattr(module, "_prepare", lambda *_: pytest.fail("the pictures were decoded again"))
    for first, same in before:
        first.images.zero_()
        second = load(path, tmp_path / "data", same.shape[-1])
        assert torch.equal(second.images, same) and torch.equal(second.split, first.split)
        assert (second.names, second.source) == (first.names, first.source)


def test_changed_pictures_and_tables_replace_the_cache_and_another_source_of_that_name_does_not(tmp_path):
    folder = write(tmp_path / "in", ALIGNED)
    assert load(folder, tmp_path / "data").attributes is None
    write(folder, {"list_attr_celeba.csv": TABLE})
    assert load(folder, tmp_path / "data").attribute_names == ("Young",)
    (folder / NAMES[0]).write_bytes(ALIGNED[NAMES[1]])
    faces = load(folder, tmp_path / "data")
    assert torch.equal(faces.images[0], faces.images[1])
    (folder / NAMES[2]).unlink()
    for source, count in ((folder, 11), (write(tmp_path / "other/in", PHOTOS), 150), (folder, 11)):
        assert len(load(source, tmp_path / "data").names) == count
    assert len(list(tmp_path.glob("data/faces/*/"))) == 2


@pytest.mark.parametrize("name", ["pixels.uint8", "arrays.npz"])
def test_a_damaged_cache_is_made_again(name, tmp_path):
    path = write(tmp_path / "a.zip", ALIGNED | {"list_attr_celeba.csv": TABLE})
    first = load(path, tmp_path / "data")
    images = first.images.clone()
    for damage in (lambda whole: whole[:-1], lambda _: b"PK\x03\x04" + bytes(range(256)) * 4, lambda _: b""):
        file = next(tmp_path.glob(f"data/faces/*/{name}"))
        file.write_bytes(damage(file.read_bytes()))
        faces = load(path, tmp_path / "data")
        assert torch.equal(faces.images, images) and torch.equal(faces.attributes, first.attributes)


def test_a_cache_too_large_to_be_mapped_is_kept(tmp_path, monkeypatch):
    path = write(tmp_path / "a.zip", PHOTOS)
    load(path, tmp_path / "data")
    monkeypatch.setattr(module, "_prepare", lambda *_: pytest.fail("the pictures were decoded again"))
    error = RuntimeError("unable to mmap 9958 bytes from file <pixels.uint8>: Cannot allocate memory (12)")
    with monkeypatch.context() as patch, pytest.raises(RuntimeError) as raised:
        patch.setattr(torch, "from_file", Mock(side_effect=error))
        load(path, tmp_path / "data")
    assert out_of_memory(raised.value)
    assert len(load(path, tmp_path / "data").names) == 150


def test_a_disk_that_fills_up_leaves_nothing_behind(tmp_path):
    path = write(tmp_path / "a.zip", PHOTOS)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        message = refusal(path, tmp_path / "data")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "cannot be written" in message and "3,072 bytes per picture" in message and "--data-dir" in message
    assert len(load(path, tmp_path / "data").names) == 150


def test_of_two_concurrent_runs_one_waits_and_decodes_nothing(tmp_path, monkeypatch):
    path, calls, prepare, held = write(tmp_path / "a.zip", PHOTOS), [], module._prepare, threading.Event()

    def slow(*given):
        calls.append(held.wait(20))
        return prepare(*given)

    monkeypatch.setattr(module, "_prepare", slow)
    with ThreadPoolExecutor(2) as pool:
        runs = [pool.submit(load, path, tmp_path / "data") for _ in range(2)]
        time.sleep(0.3)
        assert not any(run.done() for run in runs)
        held.set()
        assert [len(run.result().names) for run in runs] == [150, 150] and len(calls) == 1


def test_a_run_that_is_interrupted_or_killed_ends_at_once_and_leaves_no_half_cache(tmp_path):
    data, large = tmp_path / "data", encoded(Image.new("RGB", (1_000, 1_000)), "PNG")
    folder = write(tmp_path / "in", {f"{index}.png": large for index in range(3_000)})  # a minute of work
    run = f"load_faces({str(folder)!r}, Path({str(data)!r}), 32)"
    code = f"from common.data.faces import *\ntry: {run}\nexcept KeyboardInterrupt: "
    code += f"print(*Path({str(data)!r}).glob('faces/*/'), flush=True)\n{run}"
    with subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=-1, stderr=subprocess.DEVNULL) as process:
        for end, left in ((signal.SIGINT, b"\n"), (signal.SIGKILL, b"")):
            deadline = time.monotonic() + 60
            while not list(data.glob("faces/*.tmp/pixels.uint8")):
                assert process.poll() is None and time.monotonic() < deadline, "the run did not begin"
                time.sleep(0.02)
            process.send_signal(end)
            sent = time.monotonic()
            assert process.stdout.readline() == left and time.monotonic() - sent < 10
    assert [entry.suffix for entry in data.glob("faces/*/")] == [".tmp"]
    shutil.rmtree(folder)
    assert len(load(write(folder, PHOTOS), data).names) == 150
    assert not list(data.glob("faces/*.tmp"))
