"""The check of a device: its quick part, rehearsed on a CPU, and the exit code where there is no GPU."""

import os
import subprocess
import sys

import torch
from conftest import ROOT


def check(*flags):
    words = [sys.executable, ROOT / "tests/measure/device_check.py", *flags]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(list(map(str, words)), stdout=subprocess.PIPE, text=True, env=environment)


def test_the_quick_part_succeeds_on_a_cpu_and_a_part_without_its_device_fails():
    rehearsal, absent = check("--device", "cpu", "--parts", "agreement"), check("--parts", "agreement")
    output = rehearsal.communicate(timeout=300)[0]
    assert rehearsal.returncode == 0 and "failed: none" in output
    assert output.count("\n| vanilla_vae_celeba | ") == 4 and output.count("e-07 |\n") >= 2
    output = absent.communicate(timeout=300)[0]
    if not torch.cuda.is_available():
        assert absent.returncode == 1 and "**failed**: UserError: --device cuda" in output
