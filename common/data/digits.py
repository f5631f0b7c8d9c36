"""MNIST, its two relatives, and your own pictures, all 28x28 and grey."""

import gzip
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from common.data import pictures, tables
from common.data.batches import Part
from common.data.tables import TEST
from common.errors import UserError, first_line
from common.files import lock

FASHION = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")
KUZUSHIJI = ("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo")
DATASETS = {"MNIST": tuple("0123456789"), "FashionMNIST": FASHION, "KMNIST": KUZUSHIJI}  # the names of their classes
FILES = [f"{part}-{kind}-ubyte" for part in ("train", "t10k") for kind in ("images-idx3", "labels-idx1")]
OWN = Path(__file__).parents[2] / "data"  # MNIST is in the repository


@dataclass(frozen=True)
class Digits(Part):
    """`images` (N, 1, 28, 28) uint8, `labels` (N,) int64, `classes` their names, and the `name` of the data set."""

    images: Tensor
    labels: Tensor
    classes: tuple[str, ...]
    name: str


def load_digits(dataset: str, data_dir: Path) -> tuple[Digits, Digits]:
    """The train and test split of `dataset`: one of DATASETS, or a path to pictures of one's own.

    The four files are read from data_dir, for the default also from the repository's own folder, packed or not, and
    downloaded by torchvision if absent. A folder or zip of pictures has a subfolder per class, or a single class; its
    test pictures are those in test/, otherwise a tenth by a hash of the name. Raises UserError.
    """
    if dataset not in DATASETS:
        try:
            found = pictures.load(Path(dataset), data_dir, 28, "L")
        except pictures.NothingFound as error:
            raise UserError(f"{error}, or one of {', '.join(DATASETS)}") from error
        names, split = tables.split(found.tables, found.names, found.aligned)
        names = [name.split("/")[0] if "/" in name else found.title for name in names]
        classes = sorted(set(names), key=lambda name: name.zfill(20) if name.isdigit() else name)  # "10" follows "9"
        labels, images = torch.tensor([classes.index(name) for name in names]), found.pixels.permute(0, 3, 1, 2)
        order = np.random.default_rng(0).permutation(len(names))  # so that the first N are of all classes
        parts = [torch.from_numpy(order[chosen[order]]) for chosen in (split != TEST, split == TEST)]
        return tuple(Digits(images[part], labels[part], tuple(classes), found.title) for part in parts)
    own = _files(OWN, dataset) if data_dir == Path("data") else []
    files, parts = _files(data_dir, dataset) or own, []
    if not files:
        folder = data_dir / dataset / "raw"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with lock(folder / ".lock"):  # of several runs, the first one downloads
                from torchvision import datasets  # here, since it takes a second, and may not fit this PyTorch

                getattr(datasets, dataset)(data_dir, download=True)
            files = _files(data_dir, dataset)
        except Exception as error:
            advice = f"put {', '.join(f'{name}.gz' for name in FILES)} into {folder} and run again"
            raise UserError(f"cannot download {dataset} ({first_line(error)}): {advice}") from error
    for images, labels in (files[:2], files[2:]):
        part = Digits(_read(images)[:, None], _read(labels).long(), DATASETS[dataset], dataset)
        if len(part.images) != len(part.labels) or part.labels.max() > 9:
            raise UserError(f"{labels} does not fit {images}: remove both, and the next run fetches them again")
        parts.append(part)
    return tuple(parts)


def _files(data_dir: Path, dataset: str) -> list[Path]:
    """The four files, packed or not; none if one of them is absent."""
    folder = data_dir / dataset / "raw"
    files = [packed if (packed := folder / f"{name}.gz").exists() else folder / name for name in FILES]
    return files if all(path.exists() for path in files) else []


def _read(path: Path) -> Tensor:
    """The contents of an IDX file: images (N, 28, 28) or labels (N,), uint8."""
    try:
        with gzip.open(path) if path.suffix == ".gz" else open(path, "rb") as file:  # gzip verifies its checksum
            content = file.read()
        shape = np.frombuffer(content, ">i4", content[3], offset=4)
        array = np.frombuffer(content, np.uint8, offset=4 + shape.nbytes).reshape(shape)
        if content[:3] != b"\0\0\x08" or array.shape[1:] != ((28, 28) if "images" in path.name else ()):
            raise ValueError(f"its shape is {array.shape}")
        return torch.from_numpy(array.copy())
    except Exception as error:  # damaged files raise exceptions of many kinds
        problem = f"{path} cannot be read ({first_line(error)})"
        raise UserError(f"{problem}: remove it, and the next run fetches it again") from error
