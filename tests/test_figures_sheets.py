"""Sheets of pictures: every pixel in its place, and no grey level rescaled."""

import io

import numpy as np
from PIL import Image

from common.figures import sheets


def test_grey_levels_are_drawn_as_ink_on_paper_and_never_rescaled():
    rows = np.zeros((2, 3, 4, 5), np.float32)
    rows[1, 2] = 0.25
    sheet = sheets.tile(rows, gap=2)
    assert sheet.shape == (2 * 4 + 2, 3 * 5 + 2 * 2, 3)
    assert (sheet[6:, 14:] == 0.75).all()
    sheet[6:, 14:] = 1
    assert (sheet == 1).all()


def test_colours_are_drawn_as_they_are_with_white_between_them():
    rows = np.random.default_rng(0).random((2, 2, 4, 4, 3), np.float32)
    sheet = sheets.tile(rows, gap=1)
    for row in range(2):
        for column in range(2):
            assert (sheet[row * 5 : row * 5 + 4, column * 5 : column * 5 + 4] == rows[row, column]).all()
    assert (sheet[4] == 1).all() and (sheet[:, 4] == 1).all()


def test_names_stand_before_their_rows_and_above_their_columns():
    rows = np.random.default_rng(0).random((2, 3, 4, 4), np.float32)
    (axes,) = sheets.pictures(rows, "", columns=("x", "y", "z"), names=("a", "b")).axes
    np.testing.assert_array_equal(axes.images[0].get_array(), sheets.tile(rows))
    places = {text.get_text(): text.get_position() for text in axes.texts}
    assert places["a"][1] < 4 < places["b"][1] and places["x"][0] < 4 < places["y"][0] < 10 < places["z"][0]
    assert axes.images[0].origin == "upper"


def test_a_saved_figure_is_a_picture_of_its_size_and_leaves_no_other_file(tmp_path):
    sheets.save(sheets.new(3, 2, r"a folder named $\nothing$"), tmp_path / "sheet.png")
    assert Image.open(io.BytesIO((tmp_path / "sheet.png").read_bytes())).size == (3 * sheets.DPI, 2 * sheets.DPI)
    assert [path.name for path in tmp_path.iterdir()] == ["sheet.png"]


def test_curves_show_training_and_validation_of_every_term():
    history = [{"epoch": epoch, "mse": 1 / epoch, "valid_mse": 2 / epoch, "kl": epoch - 2.0} for epoch in (1, 2, 3)]
    figure = sheets.curves(history, {"mse": "error", "kl": "KL"}, "training")
    error, kl = figure.axes
    assert [list(line.get_ydata()) for line in error.lines] == [[1, 1 / 2, 1 / 3], [2, 1, 2 / 3]]
    assert [list(line.get_ydata()) for line in kl.lines] == [[-1, 0, 1]]
    assert (error.get_yscale(), kl.get_yscale()) == ("log", "linear")  # a logarithm would hide negative values
