"""Files that are written whole or not at all, and locks."""

import errno
import json
import os
import threading
from unittest.mock import Mock

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
    with pytest.raises(UserError, match="cannot write .*file/b"):
        files.check_writable(tmp_path / "file/b")


def test_two_runs_do_not_share_a_folder(tmp_path):
    with files.locked_folder(tmp_path):
        (tmp_path / ".checkpoint.pt.1.tmp").touch()
        with pytest.raises(UserError, match="another run is using"), files.locked_folder(tmp_path):
            pass
    with pytest.raises(BlockingIOError), files.locked_folder(tmp_path):
        assert not list(tmp_path.glob("*.tmp"))
        raise BlockingIOError("the console is full")


def test_a_file_that_a_scanner_holds_on_windows_is_replaced_when_it_lets_go(tmp_path, monkeypatch):
    replace, refusals = files.os.replace, iter([PermissionError(), PermissionError()])

    def held(source, target):
        for error in refusals:
            raise error
        replace(source, target)

    monkeypatch.setattr(files.time, "sleep", lambda seconds: None)
    monkeypatch.setattr(files.os, "replace", held)
    monkeypatch.setattr(files, "ON_WINDOWS", True)
    files.write_atomically(tmp_path / "file", b"new")
    assert (tmp_path / "file").read_bytes() == b"new"


def test_a_lock_excludes_others_until_it_ends_even_in_an_error(tmp_path):
    path, done = tmp_path / "lock", threading.Event()

    def wait():
        with files.lock(path):
            done.set()

    thread = threading.Thread(target=wait)
    with pytest.raises(ZeroDivisionError), files.lock(path):
        with pytest.raises(UserError, match="it is taken"), files.lock(path, "it is taken"):
            pass
        thread.start()
        assert not done.wait(0.3)
        raise ZeroDivisionError
    assert done.wait(10)
    thread.join()


def test_a_lock_on_windows_waits_for_longer_than_ten_seconds(tmp_path, monkeypatch):
    refusals = [OSError(errno.EACCES, "Permission denied")] * 200
    monkeypatch.setattr(files, "msvcrt", Mock(**{"locking.side_effect": [*refusals, None]}), raising=False)
    monkeypatch.setattr(files, "ON_WINDOWS", True)
    monkeypatch.setattr(files.time, "sleep", pauses := Mock())
    with files.lock(tmp_path / "lock"):
        assert sum(pause.args[0] for pause in pauses.call_args_list) > 10


@pytest.mark.skipif(os.name == "nt", reason="its locks are others")
@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS])
def test_without_locks_in_the_file_system_a_line_says_so(number, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(files.fcntl, "flock", Mock(side_effect=OSError(number, "No locks available")))
    with files.lock(tmp_path / "lock"):
        message = capsys.readouterr().err
    assert message.count("\n") == 1 and f"{tmp_path}/lock cannot be locked (No locks available)" in message
