"""Shared by the explorer pages: numbers as text, and templates that become one file without a server or a network."""

import base64
import contextlib
import gzip
import json
import re
from collections.abc import Iterator
from pathlib import Path

from torch import Tensor

from common.files import write_atomically

FOLDER = Path(__file__).parent
LIMIT = 8_000_000  # bytes of a page


class NoPage(Exception):
    """There can be no page of this model; the message says why."""


@contextlib.contextmanager
def written(path: Path, template: str) -> Iterator[dict]:
    """Gives the content of a page, to be filled; then the page is written to `path`, atomically.

    In a template of this folder, {{a file}} stands for that file, and {{content}} for the content as JSON. If NoPage is
    raised inside, or the page would be larger than `LIMIT`, the console says why, and the page of an earlier model is
    removed. Raises UserError if `path` can't be written.
    """
    try:
        yield (content := {})
        text = (FOLDER / template).read_text(encoding="utf-8")
        text = re.sub(r"{{(\w+\.\w+)}}", lambda name: (FOLDER / name[1]).read_text(encoding="utf-8"), text)
        numbers = json.dumps(content).replace("<", "\\u003c")  # no text in it can end its <script>
        page = text.replace("{{content}}", numbers).encode()
        if len(page) > LIMIT:
            raise NoPage(f"it would take {len(page) / 1e6:.1f} MB, more than {LIMIT / 1e6:.0f}")
        write_atomically(path, page)
        print(f"wrote {path}", flush=True)
    except NoPage as reason:
        path.unlink(missing_ok=True)
        print(f"no explorer page {path}: {reason}", flush=True)


def listed(values: Tensor) -> list:
    """Numbers (N,) or (N, M) for JSON, with six digits."""
    return [float(f"{value:.6g}") if values.ndim == 1 else listed(value) for value in values]


def pack(values: Tensor) -> str:
    """Whole numbers below 65,536: the low bytes of all, then the high ones, compressed, in base64."""
    halves = values.flatten().numpy().astype("<u2").view("u1").reshape(-1, 2).T
    return base64.b64encode(gzip.compress(halves.tobytes(), 5, mtime=0)).decode()
