"""Checkpoints: saved and loaded whole, refused from strangers and from other runs, one run to a folder."""

import pickle

import pytest
import torch
from conftest import Payload
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import UserError
from common.training import checkpoint

STATE = {
    "script": "a",
    "arguments": {"beta": 1.0},
    "data": "",
    "precision": "fp32",
    "epoch": 3,
    "model": {"w": torch.arange(4.0)},
    "optimizer": [],
    "history": [],
}


def test_a_saved_checkpoint_is_loaded_as_it_was_and_leaves_no_other_file(tmp_path):
    checkpoint.save(tmp_path / "c.pt", STATE)
    state = checkpoint.load(tmp_path / "c.pt")
    assert state["epoch"] == 3 and torch.equal(state["model"]["w"], torch.arange(4.0))
    assert [path.name for path in tmp_path.iterdir()] == ["c.pt"]


@pytest.mark.parametrize("writer", [pickle.dump, lambda value, file: torch.save(value, file)])
def test_a_pickle_with_a_payload_is_refused(tmp_path, writer):
    with open(tmp_path / "evil.pt", "wb") as file:
        writer({"format": 1, "model": Payload(tmp_path / "payload-ran")}, file)
    with pytest.raises(UserError, match=r"evil\.pt is damaged or not a checkpoint"):
        checkpoint.load(tmp_path / "evil.pt")
    assert not (tmp_path / "payload-ran").exists()


def test_a_newer_format_or_a_foreign_file_is_refused(tmp_path):
    torch.save({"format": 99, **STATE}, tmp_path / "new.pt")
    with pytest.raises(UserError, match="has format 99"):
        checkpoint.load(tmp_path / "new.pt")
    torch.save({"weights": torch.ones(3)}, tmp_path / "foreign.pt")
    with pytest.raises(UserError, match="not a checkpoint of this project"):
        checkpoint.load(tmp_path / "foreign.pt")


@settings(max_examples=60)
@given(content=st.binary(max_size=400), keep=st.integers(0, 2000), flip=st.integers(0, 1500))
def test_arbitrary_and_damaged_bytes_are_refused_cleanly(tmp_path, content, keep, flip):
    path = tmp_path / "c.pt"
    path.write_bytes(content)
    with pytest.raises(UserError):
        checkpoint.load(path)
    checkpoint.save(path, STATE)
    damaged = bytearray(path.read_bytes()[:keep])
    if flip < len(damaged):
        damaged[flip] ^= 0xFF
    path.write_bytes(damaged)
    try:
        checkpoint.load(path)
    except UserError as error:
        assert "\n" not in str(error)


def test_a_changed_weight_is_noticed(tmp_path):
    checkpoint.save(tmp_path / "c.pt", STATE)
    content, weights = (tmp_path / "c.pt").read_bytes(), STATE["model"]["w"].numpy().tobytes()
    assert content.count(weights) == 1
    (tmp_path / "c.pt").write_bytes(content.replace(weights, bytes(len(weights))))
    with pytest.raises(UserError, match="damaged"):
        checkpoint.load(tmp_path / "c.pt")


def test_another_script_or_argument_is_named(tmp_path):
    checkpoint.check_same_run(STATE, "a", {"beta": 1.0}, "", tmp_path)
    with pytest.raises(UserError, match=r"--beta 1\.0, not 2\.0"):
        checkpoint.check_same_run(STATE, "a", {"beta": 2.0}, "", tmp_path)
    with pytest.raises(UserError, match="--lr its default, not 0.1:"):
        checkpoint.check_same_run(STATE, "a", {"beta": 1.0, "lr": 0.1}, "", tmp_path)
    with pytest.raises(UserError, match="trained on .*, not on 30 pictures"):
        checkpoint.check_same_run(STATE, "a", {"beta": 1.0}, "30 pictures", tmp_path)
    with pytest.raises(UserError, match=r"written by a\.py, not b\.py"):
        checkpoint.check_same_run(STATE, "b", {"beta": 1.0}, "", tmp_path)


def test_two_runs_do_not_share_a_folder(tmp_path):
    with checkpoint.run_folder(tmp_path):
        (tmp_path / ".checkpoint.pt.1.tmp").touch()
        with pytest.raises(UserError, match="another run is using"), checkpoint.run_folder(tmp_path):
            pass
    with checkpoint.run_folder(tmp_path):
        assert not list(tmp_path.glob("*.tmp"))
