"""Shared by the explorer pages: numbers as text, and templates that become one file without a server or a network."""

import base64
import gzip
import json
import re
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from common.files import write_atomically

FOLDER = Path(__file__).parent
UNKNOWN = "it can't compute a layer of this model"


def render(template: str, content: dict) -> bytes:
    """The page of a template in this folder: {{a file}} stands for that file, {{content}} for `content` as JSON."""

    def included(match: re.Match) -> str:
        if match[1] == "content":
            return json.dumps(content).replace("<", "\\u003c")  # no text in it can end its <script>
        return (FOLDER / match[1]).read_text(encoding="utf-8")

    return re.sub(r"\{\{([\w.]+)\}\}", included, (FOLDER / template).read_text(encoding="utf-8")).encode()


def save(path: Path, page: bytes | str) -> None:
    """Write `page` to `path`, atomically; a `str` says why there is none. Raises UserError if that fails."""
    if isinstance(page, str):
        path.unlink(missing_ok=True)  # it would show another model
        print(f"no explorer page {path}: {page}", flush=True)
    else:
        write_atomically(path, page)
        print(f"wrote {path}", flush=True)


def listed(values: Tensor) -> list:
    """Numbers (N,) or (N, M) for JSON, with six digits."""
    return [float(f"{value:.6g}") if values.ndim == 1 else listed(value) for value in values]


def pack(values: Tensor, kind: str) -> str:
    """Whole numbers as numpy's `kind`, compressed, in base64."""
    return base64.b64encode(gzip.compress(values.numpy().astype(kind).tobytes(), 5, mtime=0)).decode()


def pack_nibbles(values: np.ndarray) -> str:
    """Whole numbers below 16, two per byte; an odd count is padded with a zero."""
    first, second = np.append(values, [0] * (values.size % 2)).reshape(-1, 2).T.astype(np.uint8)
    return pack(torch.from_numpy(16 * first + second), "u1")
