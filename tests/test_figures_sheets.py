"""Sheets of pictures and curves: every pixel in its place, no grey level rescaled, no setting of the user's."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
from conftest import recorded
from PIL import Image

from common.figures import sheets

DRAW = """from pathlib import Path
import vanilla_vae_celeba
from common.figures import sheets
with sheets.Figures(r"$\\no$", Path(), "s").drawing("", Path({!r}), "", (3, 2)):
    pass"""


def test_pictures_stand_side_by_side_with_their_names_digits_as_ink_on_paper_and_faces_as_they_are(tmp_path):
    digits = np.random.default_rng(0).random((2, 3, 4, 5), np.float32)
    sheet = sheets.tile(digits, gap=2)
    assert sheet.shape == (2 * 4 + 2, 3 * 5 + 2 * 2, 3)
    assert (sheet[6:, 14:] == 1 - digits[1, 2][..., None]).all() and (sheet[4:6] == 1).all()
    faces = np.random.default_rng(0).random((2, 2, 4, 4, 3), np.float32)
    sheet = sheets.tile(faces, gap=1)
    assert (sheet[5:, :4] == faces[1, 0]).all() and (sheet[:4, 5:] == faces[0, 1]).all()
    assert (sheet[4] == 1).all() and (sheet[:, 4] == 1).all()
    with sheets.Figures("VAE on 手書き", tmp_path, "s").drawing("", None, "β = 4", (3, 2)) as axes:
        assert axes.figure.get_suptitle() == "VAE on own pictures: β = 4"  # in scripts that the font has
        sheets.show(axes, digits, columns=("x", "y", "z"), names=("a", "b"))
    places = {text.get_text(): text.get_position() for text in axes.texts}
    assert places["a"][1] < 4 < places["b"][1] and places["x"][0] < 5 < places["y"][0] < 12 < places["z"][0]


def test_figures_depend_on_no_backend_and_no_setting_of_the_user(tmp_path):
    exec(DRAW.format(str(tmp_path / "here.png")))
    assert Image.open(tmp_path / "here.png").size == (3 * sheets.DPI, 2 * sheets.DPI)
    (tmp_path / "matplotlibrc").write_text("text.usetex: True\naxes.facecolor: red\nsavefig.dpi: 10\n")
    foreign = os.environ | {"MPLBACKEND": "not_installed", "MATPLOTLIBRC": str(tmp_path)}
    draw = [sys.executable, "-c", DRAW.format(str(tmp_path / "there.png"))]
    subprocess.run(draw, env=foreign, cwd=Path(__file__).parents[1], check=True)
    assert (tmp_path / "there.png").read_bytes() == (tmp_path / "here.png").read_bytes()


def test_curves_show_training_and_validation_of_every_term(tmp_path):
    history = [{"epoch": epoch, "mse": 1 / epoch, "valid_mse": 2 / epoch, "kl": epoch - 2.0} for epoch in (1, 2, 3)]
    del history[2]["valid_mse"]  # the loop was left before
    figures = sheets.Figures("a model", tmp_path, "s")
    with recorded(sheets, "save") as drawn:
        figures.curves(history=history, names={"mse": "error", "kl": "KL"})
    error, kl = drawn["save"][0].axes
    assert [list(line.get_ydata()) for line in error.lines] == [[1, 1 / 2, 1 / 3], [2, 1]]
    assert (error.get_yscale(), kl.get_yscale()) == ("log", "linear")  # a logarithm would hide negative values
