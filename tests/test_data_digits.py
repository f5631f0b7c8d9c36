"""Reading the digits: whole, verified, and downloaded or unpacked again if damaged."""

import gzip
import hashlib
import shutil

import pytest
import torch
from conftest import ROOT, write_idx
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision import datasets

from common.data import digits as data
from common.errors import UserError


def test_real_mnist_is_complete_and_in_order(digits):
    train, test = digits
    assert train.images.shape == (60_000, 1, 28, 28) and test.images.shape == (10_000, 1, 28, 28)
    assert train.images.dtype == torch.uint8
    assert train.labels[:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]
    assert test.labels.bincount().tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert train.images.float().mean().item() / 255 == pytest.approx(0.1307, abs=1e-4)
    assert train.classes == tuple("0123456789")


@pytest.fixture
def small_mnist(tmp_path, monkeypatch):
    """A folder with four small, valid files of MNIST's names, whose md5 sums torchvision expects."""
    folder = tmp_path / "MNIST" / "raw"
    folder.mkdir(parents=True)
    resources = []
    for name, _ in datasets.MNIST.resources:
        count = 30 if name.startswith("train") else 10
        shape = (count, 28, 28) if "images" in name else (count,)
        write_idx(
            folder / name, torch.arange(count).repeat_interleave(784 if len(shape) == 3 else 1).view(shape).byte()
        )
        resources.append((name, hashlib.md5((folder / name).read_bytes()).hexdigest()))
    monkeypatch.setattr(datasets.MNIST, "resources", resources)
    monkeypatch.setattr(datasets.MNIST, "mirrors", ["http://127.0.0.1:9/"])  # nothing answers there
    return tmp_path


def test_a_damaged_download_is_named_and_refused_if_it_cannot_be_fetched_again(small_mnist, capsys):
    packed = small_mnist / "MNIST/raw/train-images-idx3-ubyte.gz"
    data.load_digits("MNIST", small_mnist)  # unpacks
    content = bytearray(packed.read_bytes())
    content[20] ^= 1
    packed.write_bytes(content)
    with pytest.raises(UserError, match=r"train-images-idx3-ubyte\.gz"):
        data.load_digits("MNIST", small_mnist)
    assert f"{packed} is damaged" in capsys.readouterr().out


@pytest.mark.parametrize("damage", [lambda content: content[:1000], lambda content: content[:-1] + b"\xff"])
def test_a_damaged_unpacked_file_is_unpacked_again(small_mnist, damage):
    before, _ = data.load_digits("MNIST", small_mnist)
    unpacked = small_mnist / "MNIST/raw/train-images-idx3-ubyte"
    unpacked.write_bytes(damage(unpacked.read_bytes()))
    after, _ = data.load_digits("MNIST", small_mnist)
    assert torch.equal(before.images, after.images)


def test_absent_files_that_cannot_be_fetched_end_in_one_line(small_mnist):
    shutil.rmtree(small_mnist / "MNIST")
    with pytest.raises(UserError, match="cannot read MNIST") as error:
        data.load_digits("MNIST", small_mnist)
    assert "\n" not in str(error.value)


@settings(max_examples=60)
@given(head=st.sampled_from([b"", b"\0\0\x08\x03", b"\0\0\x08\x01", b"\0\0\x0d\x03"]), rest=st.binary(max_size=60))
def test_arbitrary_bytes_as_unpacked_files_are_refused(small_mnist, head, rest):
    folder = small_mnist / "MNIST/raw"
    for name, _ in datasets.MNIST.resources:
        (folder / name).unlink(missing_ok=True)
        (folder / name).with_suffix("").write_bytes(head + rest)
    with pytest.raises(UserError):
        data.load_digits("MNIST", small_mnist)


def test_labels_that_are_too_few_are_refused(small_mnist):
    data.load_digits("MNIST", small_mnist)  # unpacks
    folder = small_mnist / "MNIST/raw"
    for packed in folder.glob("*.gz"):
        packed.unlink()
    write_idx(folder / "train-labels-idx1-ubyte", torch.zeros(29).byte(), packed=False)
    with pytest.raises(UserError, match="incomplete MNIST"):
        data.load_digits("MNIST", small_mnist)


@pytest.mark.parametrize("dataset", data.DATASETS)
def test_each_data_set_is_read(dataset, small_mnist, monkeypatch):
    monkeypatch.setattr(getattr(datasets, dataset), "resources", datasets.MNIST.resources)
    (small_mnist / "MNIST").rename(small_mnist / dataset)
    train, test = data.load_digits(dataset, small_mnist)
    assert (len(train.images), len(test.images), len(train.classes)) == (30, 10, 10)


def test_the_committed_files_are_the_official_ones():
    for name, md5 in datasets.MNIST.resources:
        content = (ROOT / "data/MNIST/raw" / name).read_bytes()
        assert hashlib.md5(content).hexdigest() == md5
        gzip.decompress(content)
