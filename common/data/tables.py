"""What tables, folders and names say about pictures: their labels, and whether they train, validate or test."""

import csv
import hashlib
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import numpy as np

from common.errors import UserError, first_line

TRAIN, VALID, TEST = 0, 1, 2  # the numbers of CelebA's list_eval_partition
LAST_TRAIN, LAST_VALID = 162_770, 182_637  # the last file numbers of these parts in CelebA
PARTS = {"train": TRAIN, "training": TRAIN, "valid": VALID, "val": VALID, "validation": VALID}
PARTS |= {"test": TEST, "testing": TEST}
LABELS = {"1": 1, "1.0": 1, "true": 1, "-1": 0, "-1.0": 0, "0": 0, "0.0": 0, "false": 0}
TABLES = tuple(f"{name}.{kind}" for name in ("list_attr_celeba", "list_eval_partition") for kind in ("txt", "csv"))

Readers = dict[str, Callable[[], BinaryIO]]  # a function that opens each file, by its name


def labels(tables: Readers, names: list[str]) -> tuple[list[str], np.ndarray | None]:
    """The columns of list_attr_celeba, and the labels of the pictures, (N, A) bool; None if it lacks some of them."""
    columns, rows = _read(tables, "list_attr_celeba", names, LABELS)
    return (columns, np.array([rows[name] for name in names]) > 0) if len(rows) == len(names) else ([], None)


def split(tables: Readers, names: list[str], aligned: np.ndarray) -> tuple[list[str], np.ndarray]:
    """The names of pictures below the folder that all share, and the part of each, (N,).

    Folders train/ and valid/ or test/ give the parts, and then aren't in the names; otherwise list_eval_partition,
    otherwise the file numbers of `aligned` pictures of CelebA. Others are for training, but a part that would be empty
    gets a tenth of those, by a hash of the name.
    """
    _, rows = _read(tables, "list_eval_partition", names, PARTS | {"0": TRAIN, "1": VALID, "2": TEST})
    paths = [name.split("/") for name in names]
    shared = len(os.path.commonprefix([path[:-1] for path in paths]))
    paths = [path[shared:] for path in paths]
    tops = [PARTS.get(path[0].lower()) if len(path) > 1 else None for path in paths]
    if {TRAIN} < {*tops} - {None}:
        paths = [path if top is None else path[1:] for path, top in zip(paths, tops, strict=True)]
        split = np.array([top or TRAIN for top in tops])
    else:
        numbers = [int(name[-10:-4]) if own else 0 for name, own in zip(names, aligned, strict=True)]
        parts = zip(names, np.searchsorted((LAST_TRAIN, LAST_VALID), numbers), strict=True)
        split = np.array([rows[name][-1] if name in rows else part for name, part in parts])
    if len(set(split)) < 3 and (split == TRAIN).sum() < 3:  # too few to share
        split[:] = TRAIN
    names = ["/".join(path) for path in paths]
    train = sorted(np.flatnonzero(split == TRAIN), key=lambda index: hashlib.sha256(os.fsencode(names[index])).digest())
    for part in {VALID, TEST} - set(split):
        split[train[part::10]] = part
    return names, split


def few(names: list[str]) -> str:
    """The first few names for a message, on one line whatever characters they contain."""
    return ", ".join([repr(name)[1:-1][:120] for name in names[:3]] + ["..."] * (len(names) > 3))


def _read(tables: Readers, table: str, names: list[str], codes: dict[str, int]) -> tuple[list[str], dict[str, list]]:
    """The columns of CelebA's, Kaggle's or one's own table, and its rows for `names`, as codes; empty without one."""
    where = next((name for name in TABLES if name.startswith(table) and name in tables), None)
    if where is None:
        return [], {}
    # The last key with a row wins; the first is for img_align_celeba_png, whose tables say .jpg.
    keys = {name: (f"{Path(name).stem}.jpg", Path(name).name, name) for name in names}
    known, rows = set().union(*keys.values()), {}
    try:
        with tables[where]() as file:
            lines = [line for line in file.read().decode("utf-8-sig", "replace").splitlines() if line.strip()]
        lines = lines[lines[0].strip().isdigit() :]  # CelebA's begins with the number of its rows
        mark = next((mark for mark in ",;\t" if mark in lines[0]), None)
        header = [cell.strip(' "') for cell in lines[0].split(mark)]
        for cells in csv.reader(lines, delimiter=mark) if mark else map(str.split, lines):
            name, *values = cells[header[0] == "" :]  # pandas writes an index without a name first
            if name in known:
                rows[name] = [codes.get(value.strip().lower()) for value in values]
                if None in rows[name] or not len(values) == len(next(iter(rows.values()))) > 0:
                    raise ValueError(f"the line of {few([name])} is unclear")
        if codes is LABELS and known.intersection(header):
            raise ValueError("its first line has no names of columns")
    except Exception as error:  # damaged tables and zip entries raise many kinds
        values = "1 or -1 in each column" if codes is LABELS else "0, 1 or 2 for train, valid or test"
        needs = f"it needs a line of column names, then one per picture: its name and {values}"
        raise UserError(f"{where} cannot be used ({first_line(error)}): {needs}") from error
    found = {name: rows[key] for name, each in keys.items() for key in each if key in rows}
    if without := [name for name in names if name not in found]:
        problem = f"{where} has no line for {len(without):,} of {len(names):,} pictures ({few(without)})"
        print(f"{problem}: {'no labels are used' if codes is LABELS else 'those are for training'}", file=sys.stderr)
    return header[-len(next(iter(found.values()), [])) :], found
