"""Reading MNIST and its relatives: whole, verified, or downloaded; and one's own pictures in their place."""

import gzip
import sys
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from conftest import write_idx
from pictures import PHOTOS, encoded, write
from PIL import Image
from torchvision import datasets

from common.data.digits import DATASETS, FILES, load_digits
from common.errors import UserError


def test_real_mnist_is_complete_and_in_order(digits):
    train, test = digits
    assert train.images.shape == (60_000, 1, 28, 28) and test.images.shape == (10_000, 1, 28, 28)
    assert train.images.dtype == torch.uint8 and train.labels.dtype == torch.int64
    assert train.labels[:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]
    assert test.labels.bincount().tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert train.images.float().mean().item() / 255 == pytest.approx(0.1307, abs=1e-4)
    assert train.description == "MNIST, 60,000 pictures" and train.first(7).description == "MNIST, 7 pictures"
    assert len(train.first(7).labels) == 7 and len(train.first(None).images) == 60_000


@pytest.fixture
def small_mnist(tmp_path):
    """A folder with four small, valid files of MNIST's names."""
    folder = tmp_path / "MNIST/raw"
    folder.mkdir(parents=True)
    for name in FILES:
        count = 30 if name.startswith("train") else 10
        values = torch.arange(count).remainder(10).byte()
        write_idx(folder / f"{name}.gz", values[:, None, None].expand(-1, 28, 28) if "images" in name else values)
    return tmp_path


@pytest.fixture
def offline(monkeypatch):
    for name in DATASETS:
        monkeypatch.setattr(getattr(datasets, name), "mirrors", ["http://127.0.0.1:9/"])  # nothing answers there


@pytest.mark.parametrize("dataset", DATASETS)
def test_each_data_set_is_read_from_a_folder_that_cannot_be_written_without_torchvision(
    dataset, small_mnist, monkeypatch
):
    classes = tuple(name.split(" - ")[0] for name in getattr(datasets, dataset).classes)
    monkeypatch.setitem(sys.modules, "torchvision", None)  # an import raises ImportError
    monkeypatch.setattr(Path, "mkdir", Mock(side_effect=PermissionError))
    (small_mnist / "MNIST").rename(small_mnist / dataset)
    for unpacked in (False, True):
        for packed in (small_mnist / dataset / "raw").glob("*.gz") if unpacked else ():
            packed.with_suffix("").write_bytes(gzip.decompress(packed.read_bytes()))
            packed.unlink()
        train, test = load_digits(dataset, small_mnist)
        assert (len(train.images), len(test.images), train.name) == (30, 10, dataset)
        assert train.classes == test.classes == (tuple("0123456789") if dataset == "MNIST" else classes)
        assert torch.equal(train.images[:, 0, 5, 9], train.labels.byte())


DAMAGE = [
    lambda content: content[:-9],
    lambda content: content[:40] + bytes([content[40] ^ 1]) + content[41:],
    lambda content: gzip.compress(gzip.decompress(content)[:-1]),
    lambda content: gzip.compress(gzip.decompress(content).replace(b"\x1c", b"\x1d")),
]


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_file_is_named(damage, small_mnist):
    path = small_mnist / "MNIST/raw/train-images-idx3-ubyte.gz"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(UserError, match=rf"^{path} cannot be read .*: remove it, and the next run fetches"):
        load_digits("MNIST", small_mnist)


@pytest.mark.parametrize("labels", [torch.zeros(9), torch.full((10,), 10)])
def test_labels_that_are_too_few_or_of_no_class_are_refused(labels, small_mnist):
    write_idx(small_mnist / "MNIST/raw/t10k-labels-idx1-ubyte.gz", labels.byte())
    with pytest.raises(UserError, match="t10k-labels-idx1-ubyte.gz does not fit .*: remove both"):
        load_digits("MNIST", small_mnist)


@pytest.mark.parametrize("dataset", DATASETS)
def test_absent_files_that_cannot_be_fetched_end_in_one_line(dataset, tmp_path, offline):
    with pytest.raises(UserError, match=f"cannot download {dataset} .*train-images-idx3-ubyte.gz.*raw") as error:
        load_digits(dataset, tmp_path)
    assert "\n" not in str(error.value)


def test_a_missing_file_is_downloaded(small_mnist, monkeypatch):
    path = small_mnist / f"MNIST/raw/{FILES[1]}.gz"
    content, _ = path.read_bytes(), path.unlink()
    fetch = Mock(side_effect=lambda *_, download: path.write_bytes(content))
    monkeypatch.setattr(datasets, "MNIST", fetch)
    assert len(load_digits("MNIST", small_mnist)[0].labels) == 30
    fetch.assert_called_once_with(small_mnist, download=True)


def test_mnist_beside_the_scripts_is_found_from_another_folder_by_the_default_only(tmp_path, offline, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert len(load_digits("MNIST", Path("data"))[0].images) == 60_000 and not list(tmp_path.iterdir())
    with pytest.raises(UserError, match="cannot download MNIST"):
        load_digits("MNIST", Path("other"))


GREYS = {f"{index:03d}.png": np.full((28, 28), index, np.uint8) for index in range(120)}
OWN = {f"{int(name[:3]) % 12}/{name}": encoded(Image.fromarray(grey), "PNG") for name, grey in GREYS.items()}


def levels(digits):
    return digits.images[:, 0, 3, 3].tolist()


def test_own_pictures_have_a_class_per_folder_and_keep_their_levels(tmp_path):
    train, test = load_digits(str(write(tmp_path / "set.zip", OWN)), tmp_path)
    assert (train.name, train.classes) == ("set.zip", tuple(map(str, range(12)))) and test.classes == train.classes
    assert train.images.shape == (108, 1, 28, 28) and test.images.shape == (12, 1, 28, 28)
    assert train.images.dtype == torch.uint8 and train.labels.dtype == torch.int64
    for part in (train, test):
        assert part.labels.tolist() == [level % 12 for level in levels(part)]
    assert sorted(levels(train) + levels(test)) == list(range(120))
    train, _ = load_digits(str(write(tmp_path / "plain", PHOTOS)), tmp_path)
    assert train.classes == ("plain",) and train.labels.unique().tolist() == [0]


def test_own_test_pictures_are_those_in_the_folder_test_and_valid_ones_train(tmp_path):
    parts = ["train"] * 60 + ["valid"] * 20 + ["test"] * 40
    files = {f"{part}/{name}": data for part, (name, data) in zip(parts, OWN.items(), strict=True)}
    train, test = load_digits(str(write(tmp_path / "set", files)), tmp_path)
    assert sorted(levels(test)) == list(range(80, 120)) and sorted(levels(train)) == list(range(80))
    assert train.classes == tuple(map(str, range(12)))


def test_a_data_set_that_is_nowhere_is_refused_with_the_names_that_there_are(tmp_path):
    with pytest.raises(UserError, match="nist does not exist.*, or one of MNIST, FashionMNIST, KMNIST") as error:
        load_digits("nist", tmp_path)
    assert "\n" not in str(error.value)
