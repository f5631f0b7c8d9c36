"""MNIST and its two relatives, read and verified by torchvision."""

import contextlib
import hashlib
import os
import socket
import zlib
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock
from torch import Tensor

from common.errors import UserError

DATASETS = ("MNIST", "FashionMNIST", "KMNIST")


@dataclass(frozen=True)
class Digits:
    """Pictures of ten classes: `images` (N, 1, 28, 28) uint8, `labels` (N,) int64, `classes` their ten names."""

    images: Tensor
    labels: Tensor
    classes: tuple[str, ...]


def load_digits(dataset: str, data_dir: Path) -> tuple[Digits, Digits]:
    """The train and test split of `dataset`, read by torchvision from `data_dir`, downloaded if absent.

    Damaged files are found by checksum, named, and downloaded again. Raises UserError if that fails.
    """
    from torchvision import datasets  # here, since the import takes a second

    kind = getattr(datasets, dataset)
    folder = data_dir / dataset / "raw"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # Two concurrent runs must not both unpack: one would read the other's half-written files. Nothing is unpacked
        # if the folder can't be written.
        with FileLock(folder / ".lock") if os.access(folder, os.W_OK) else contextlib.nullcontext():
            _remove_damaged(folder, kind.resources)
            socket.setdefaulttimeout(20)
            with contextlib.redirect_stdout(None):
                splits = [kind(data_dir, train=train, download=True) for train in (True, False)]
    except Exception as error:  # damaged files raise exceptions of many kinds
        names = ", ".join(name for name, _ in kind.resources)
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"cannot read {dataset} ({reason}): put {names} in {folder} and run again") from error
    finally:
        socket.setdefaulttimeout(None)
    for split in splits:
        if split.data.shape[1:] != (28, 28) or split.targets.shape != split.data.shape[:1] or not len(split.data):
            raise UserError(f"{folder} holds an incomplete {dataset}: remove the files without .gz there and run again")
    classes = tuple(name.split(" - ")[0] for name in kind.classes)
    train, test = (Digits(split.data[:, None], split.targets, classes) for split in splits)
    return train, test


def _remove_damaged(folder: Path, resources: list[tuple[str, str]]) -> None:
    """Remove damaged files that torchvision would trust, so that it downloads or unpacks them again.

    It checks the .gz files, but not those unpacked from them earlier; these are checked against the CRC in the .gz.
    """
    for name, md5 in resources:
        packed, unpacked = folder / name, (folder / name).with_suffix("")
        if not packed.exists():
            continue
        content = packed.read_bytes()
        if hashlib.md5(content, usedforsecurity=False).hexdigest() != md5:
            print(f"{packed} is damaged (its md5 is not {md5}): fetching it again", flush=True)
            unpacked.unlink(missing_ok=True)
        elif unpacked.exists() and zlib.crc32(unpacked.read_bytes()) != int.from_bytes(content[-8:-4], "little"):
            unpacked.unlink()
