"""Wrong calls end in one clear line on the console and exit code 2, never in a traceback."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch
from conftest import ROOT, draw_nothing, ends_in_one_line

import vanilla_ae
import vanilla_vae_celeba
import vanilla_vae_mnist
from common import cli
from common.errors import UserError
from common.training import checkpoint


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--epochs", "0"], "argument --epochs: '0' is not a whole number of at least 1 and below"),
        (["--batch-size", "-3"], "--batch-size"),
        (["--latent-dim", "0"], "--latent-dim"),
        (["--latent-dim", "two"], "--latent-dim: 'two' is not"),
        (["--lr", "nan"], "--lr: 'nan' is not a number of at least 1e-09 and below 1000"),
        (["--lr", "inf"], "--lr"),
        (["--lr", "1e38"], "--lr"),
        (["--lr", "0"], "--lr"),
        (["--seed", "-1"], "--seed"),
        (["--seed", str(2**63)], "--seed"),
        (["--noise", "-1"], "--noise"),
        (["--noise", "nan"], "--noise"),
        (["--limit", "0"], "--limit"),
        (["--device", "tpu"], "--device"),
        (["--epoch-count", "3"], "--epoch-count"),
        (["5"], "unrecognized arguments: 5"),
    ],
)
def test_a_wrong_flag_is_named_in_one_line(capsys, arguments, message):
    code, line = ends_in_one_line(capsys, lambda: vanilla_ae.main(arguments))
    assert code == 2 and message in line and line.startswith("error: ")


@pytest.mark.parametrize("script", [vanilla_vae_mnist, vanilla_vae_celeba])
def test_a_beta_that_is_negative_or_not_a_number_is_refused(capsys, script):
    for beta in ("-1", "nan"):
        code, line = ends_in_one_line(capsys, lambda beta=beta: script.main(["--beta", beta]))
        assert code == 2 and "--beta" in line


def test_an_absent_accelerator_is_refused_and_the_alternatives_are_named(capsys, monkeypatch):
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available: None)
    code, line = ends_in_one_line(capsys, lambda: vanilla_ae.main(["--device", "cuda"]))
    assert code == 2 and "--device cuda" in line and "use --device auto or cpu" in line


@pytest.mark.parametrize("flag", ["--images-dir", "--run-dir", "--data-dir"])
def test_a_folder_that_cannot_be_made_is_named_before_any_training(capsys, tmp_path, monkeypatch, flag):
    monkeypatch.setattr(vanilla_ae, "Autoencoder", lambda *_: pytest.fail("it went on to train"))
    (tmp_path / "file").write_text("")
    folders = {"--images-dir": tmp_path / "i", "--run-dir": tmp_path / "r", flag: tmp_path / "file" / "folder"}
    arguments = [str(part) for pair in folders.items() for part in pair]
    code, line = ends_in_one_line(capsys, lambda: vanilla_ae.main(arguments))
    assert code == 2 and str(tmp_path / "file") in line


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (UserError("no such zip"), 2, "error: no such zip"),
        (OSError(28, "No space left on device", "x.png"), 2, "x.png: No space left on device"),
        (MemoryError(), 2, "out of memory"),
        (RuntimeError("CUDA error: out of memory"), 2, "out of memory"),
        (torch.AcceleratorError("CUDA error: no kernel image\nCompile with..."), 2, "image): use --device cpu"),
        (KeyboardInterrupt("in epoch 3"), 130, "stopped: in epoch 3"),
    ],
)
def test_every_expected_error_ends_in_one_line_with_its_exit_code(capsys, error, code, text):
    def main(*_):
        raise error

    ending, line = ends_in_one_line(capsys, main)
    assert ending == code and text in line


@pytest.mark.parametrize("bug", [ZeroDivisionError(), RuntimeError("the shapes cannot be multiplied")])
def test_a_bug_is_not_hidden(bug):
    def main(*_):
        raise bug

    with pytest.raises(type(bug)):
        cli.run(main)


def test_a_notebook_gets_an_exception_and_its_own_arguments_are_not_read(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "argv", ["ipykernel_launcher.py", "-f", "kernel.json"])
    with pytest.raises(UserError, match="--epochs"):
        vanilla_ae.main(["--epochs", "none"])
    monkeypatch.setattr(vanilla_ae, "load_digits", Mock(side_effect=UserError("it went on with the defaults")))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="went on"):
        vanilla_ae.main()


def test_a_tilde_is_the_home_folder(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    assert vanilla_ae.parse_args(["--data-dir=~/mnist"]).data_dir == Path("/home/me/mnist")


IMPORTED = """import sys, vanilla_ae, vanilla_vae_mnist
print("torchvision" in sys.modules)
vanilla_ae.cli.run(lambda argv: [print(text, flush=True) for text in ("wrote 顔.png", 100_000 * "x")])"""


def test_an_import_trains_nothing_and_an_output_that_lacks_a_character_or_is_closed_ends_in_no_traceback():
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    environment = os.environ | {"PYTHONIOENCODING": "cp1252", "MPLBACKEND": "not_installed"}  # as a notebook's
    with subprocess.Popen([sys.executable, "-c", IMPORTED], cwd=ROOT, env=environment, **pipes) as process:
        assert [process.stdout.readline() for _ in range(2)] == ["False\n", "wrote ?.png\n"]
        process.stdout.close()  # as `head` does
        errors = process.stderr.read()
    assert process.returncode == 2 and errors == "error: input or output: Broken pipe\n"


@pytest.mark.parametrize("script", [vanilla_ae, vanilla_vae_mnist, vanilla_vae_celeba])
def test_help_names_the_default_of_every_flag(capsys, script, monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.delenv("PYTHON_COLORS", raising=False)
    monkeypatch.setenv("COLUMNS", "120")
    with pytest.raises(SystemExit):
        script.parse_args(["--help"])
    shown = " ".join(capsys.readouterr().out.split())
    defaults = vars(script.parse_args([]))
    for name, value in defaults.items():
        flag = f"--{name.replace('_', '-')}"
        assert flag in shown
        if value is not None:
            assert f"(default: {value})" in shown.split(f" {flag} ", 1)[1].split(" --")[0], flag
    if defaults["batch_size"] is None:
        assert shown.count("by the length of the run") == 2


@pytest.mark.parametrize("script", [vanilla_ae, vanilla_vae_mnist])
def test_the_flags_reach_the_data_set_and_the_training(few_digits, tmp_path, monkeypatch, script):
    load = Mock(return_value=few_digits)
    monkeypatch.setattr(script, "load_digits", load)
    draw_nothing(monkeypatch, script)
    flags = ["--limit", "64", "--epochs", "1", "--precision", "fp32", "--device", "cpu"]
    folders = ["--data-dir", str(tmp_path), "--run-dir", str(tmp_path / "run"), "--images-dir", str(tmp_path)]
    script.main(["--dataset", "KMNIST", "--lr", "0.003", "--batch-size", "16", *flags, *folders])
    load.assert_called_once_with("KMNIST", tmp_path)
    arguments = checkpoint.load(tmp_path / "run/checkpoint.pt")["arguments"]
    assert (arguments["limit"], arguments["batch_size"], arguments["lr"]) == (64, 16, 0.003)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGUSR1, 138)])
def test_ctrl_c_and_the_signals_of_schedulers_keep_the_last_finished_epoch(
    capsys, monkeypatch, tmp_path, small_data, number, code
):
    """The signals come in the second step of epoch 3; `test_faults` sends one to a process."""
    steps, loss = iter(range(1, 100)), vanilla_ae.loss
    monkeypatch.setattr(vanilla_ae, "loss", lambda *a: signal.raise_signal(number) if next(steps) == 6 else loss(*a))
    monkeypatch.chdir(tmp_path)
    flags = ["--data-dir", str(small_data), "--limit", "128", "--batch-size", "64", "--precision", "fp32"]
    ending, line = ends_in_one_line(capsys, lambda: vanilla_ae.main(flags))
    assert ending == code and line.startswith("stopped: ") and "holds epoch 2, and --resume continues from it" in line
    assert checkpoint.load(tmp_path / "runs/vanilla_ae/checkpoint.pt")["history"][-1]["epoch"] == 2
