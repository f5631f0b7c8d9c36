"""Files that are written whole or not at all."""

import json

import pytest

from common import files
from common.errors import UserError


def test_a_write_that_fails_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "file"
    files.write_atomically(path, b"old")

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(UserError, match=r"No space left on device.*needs 2\.0 MB"):
        files.write_atomically(path, b"x" * 2_000_000)
    assert path.read_bytes() == b"old"
    assert [found.name for found in tmp_path.iterdir()] == ["file"]


def test_json_is_written_whole_or_not_at_all_and_holds_no_nan(tmp_path):
    path = tmp_path / "new/results.json"
    files.write_json(path, {"mse": 0.5})
    with pytest.raises(ValueError):
        files.write_json(path, {"mse": float("nan")})
    assert json.loads(path.read_text()) == {"mse": 0.5}


def test_a_writable_folder_is_made_and_left_empty_and_another_is_refused(tmp_path):
    files.check_writable(tmp_path / "a/b")
    assert list((tmp_path / "a/b").iterdir()) == []
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot write to the folder .*file/b"):
        files.check_writable(tmp_path / "file/b")
