"""The check of a device: its quick part, rehearsed on a CPU, and the exit code where there is no GPU."""

import sys
from argparse import Namespace

import device_check
import pytest
import torch


def check(capfd, monkeypatch, *flags):
    monkeypatch.setattr(device_check, "HERE", Namespace())
    monkeypatch.setattr(sys, "argv", ["device_check.py", *flags])
    with pytest.raises(SystemExit) as ending:
        device_check.main()  # each of its parts is a process
    return ending.value.code, capfd.readouterr().out


def test_the_quick_part_succeeds_on_a_cpu_and_a_part_without_its_device_fails(capfd, monkeypatch):
    code, output = check(capfd, monkeypatch, "--device", "cpu", "--parts", "agreement")
    assert code == 0 and "failed: none" in output
    assert output.count("\n| vanilla_vae_celeba | ") == 4 and output.count("e-07 |\n") >= 2
    if not torch.cuda.is_available():
        code, output = check(capfd, monkeypatch, "--parts", "agreement")
        assert code == 1 and "**failed**: UserError: --device cuda" in output
