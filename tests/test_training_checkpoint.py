"""Checkpoints: saved and loaded whole, refused from strangers and from other runs."""

import pickle

import pytest
import torch
from conftest import Payload
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from common.errors import UserError
from common.training import checkpoint

STATE = {
    "script": "a",
    "arguments": {"beta": 1.0},
    "data": "",
    "precision": "fp32",
    "threads": 1,
    "epoch": 3,
    "images": 10,
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
        writer({"model": Payload(tmp_path / "payload-ran")}, file)
    with pytest.raises(UserError, match=r"evil\.pt is damaged or not a checkpoint"):
        checkpoint.load(tmp_path / "evil.pt")
    assert not (tmp_path / "payload-ran").exists()


def test_a_foreign_file_is_refused(tmp_path):
    torch.save({"weights": torch.ones(3)}, tmp_path / "foreign.pt")
    with pytest.raises(UserError, match="not a checkpoint of this project"):
        checkpoint.load(tmp_path / "foreign.pt")


def test_a_checkpoint_of_another_model_is_not_loaded_into_this_one(tmp_path):
    checkpoint.save(tmp_path / "c.pt", STATE | {"model": nn.Linear(2, 3).state_dict()})
    assert checkpoint.load_model(tmp_path / "c.pt", lambda arguments: nn.Linear(2, 3)).training is False
    with pytest.raises(UserError, match="holds a model of a.py"):
        checkpoint.load_model(tmp_path / "c.pt", lambda arguments: nn.Linear(3, 3))


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
