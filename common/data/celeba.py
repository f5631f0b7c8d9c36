"""Faces as uint8 tensors: CelebA in any of its layouts, your own pictures, or drawn faces.

CelebA: Liu et al. 2015, "Deep Learning Face Attributes in the Wild", https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html.
"""

import contextlib
import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from common.data import pictures, tables
from common.data.batches import Part, select
from common.data.drawn_faces import ATTRIBUTES, draw_faces
from common.data.tables import TEST, TRAIN, VALID
from common.files import lock

DRAWN_COUNTS = (10_000, 1_000, 1_000)  # drawn faces to train, validate and test
DOWNLOADS = ("img_align_celeba.zip", "list_attr_celeba.txt", "list_eval_partition.txt")
OFFICIAL = "https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html"


@dataclass(frozen=True)
class Faces(Part):
    """Square face pictures of one part, in the order of their names, with their labels.

    images: (N, 3, S, S) uint8 RGB, channels_last; mapped from the cache where they are adjacent, so read on first use.
    attributes: (N, A) bool, None without labels. name: of the pictures, for titles. drawn: whether by draw_faces.
    """

    images: Tensor
    attributes: Tensor | None
    attribute_names: tuple[str, ...]
    name: str
    drawn: bool


def load_faces(faces: str | None, data_dir: Path, size: int = 64) -> tuple[Faces, Faces, Faces]:
    """The pictures that `--faces` names, to train, validate and test: a zip or a folder, or the word "drawn".

    None means data_dir/celeba, otherwise torchvision's download into it, otherwise drawn faces, after saying why.
    `pictures.load` says how they are cropped, `tables.split` how they are divided. Raises UserError if the pictures
    cannot be used or the cache cannot be written.
    """
    if faces not in (None, "drawn"):
        return _load(Path(faces), data_dir, size)
    if faces is None:
        celeba = data_dir / "celeba"
        with contextlib.suppress(pictures.NothingFound):
            return _load(celeba, data_dir, size)
        problem = ""
        try:
            celeba.mkdir(parents=True, exist_ok=True)
            with lock(celeba / ".lock"):
                from torchvision import datasets  # here: it takes a second, and few runs need it

                for file_id, md5, name in datasets.CelebA.file_list:
                    if name in DOWNLOADS and not (celeba / name).exists():  # another run may have been quicker
                        datasets.utils.download_file_from_google_drive(file_id, str(celeba), name, md5)
        except Exception as error:
            problem = " ".join(str(error).split())[:300].rstrip(".: ")
        if (celeba / DOWNLOADS[0]).exists():
            return _load(celeba, data_dir, size)
        advice = f"put {', '.join(DOWNLOADS)} from {OFFICIAL} there as they are, or Kaggle's archive of jessicali9530"
        advice += f", and run again; or pass --faces PATH. This run continues with {sum(DRAWN_COUNTS):,} DRAWN faces."
        problem = f"CelebA is not in {celeba} and could not be downloaded: {problem}"
        print(f"{problem}. To train on real faces, {advice}", file=sys.stderr)
    images, attributes = map(torch.from_numpy, draw_faces(sum(DRAWN_COUNTS), size))
    parts = zip(images.permute(0, 3, 1, 2).split(DRAWN_COUNTS), attributes.split(DRAWN_COUNTS), strict=True)
    return tuple(Faces(*part, ATTRIBUTES, "drawn faces", True) for part in parts)


def _load(path: Path, data_dir: Path, size: int) -> tuple[Faces, Faces, Faces]:
    found = pictures.load(path, data_dir, size, "RGB")
    columns, labels = tables.labels(found.tables, found.names)
    _, split = tables.split(found.tables, found.names, found.aligned)
    title, parts = "CelebA" if found.aligned.all() else found.title, []
    if title == "CelebA" and not any(name.startswith("list_attr") for name in found.tables):
        print(f"{path} has no labels: put list_attr_celeba.txt from {OFFICIAL} there", file=sys.stderr)
    for chosen in (split == TRAIN, split == VALID, split == TEST):
        images = select(found.pixels, torch.from_numpy(chosen)).permute(0, 3, 1, 2)
        attributes = None if labels is None else torch.from_numpy(labels[chosen])
        parts.append(Faces(images, attributes, tuple(columns), title, False))
    return tuple(parts)
