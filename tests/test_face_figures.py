"""What is drawn of a model of faces, with a decoder whose pictures show the code that they come from."""

import numpy as np
import torch
from conftest import recorded

from common.data.batches import to_float
from common.figures import sheets
from common.figures.face_figures import FaceFigures

GENERATOR = torch.Generator().manual_seed(0)
LATENT, TRAIN = (torch.randn(count, 3, generator=GENERATOR) for count in (20, 60))
FACES = torch.randint(0, 256, (20, 3, 8, 8), dtype=torch.uint8, generator=GENERATOR)


def decode(codes):
    return codes[:, :, None, None].expand(-1, 3, 8, 8)


def sheet(folder, figure, **needed):
    """The pictures (R, C, 3, 8, 8) of a figure."""
    with recorded(sheets, "show") as drawn:
        getattr(FaceFigures("", folder, "s", FACES, LATENT, TRAIN, decode), figure)(**needed)
    assert (folder / f"s_{figure}.png").exists()
    return torch.from_numpy(drawn["show"][1]).movedim(-1, 2)


def test_faces_their_reconstructions_the_line_between_two_and_samples_of_the_prior(tmp_path):
    rows = sheet(tmp_path, "reconstructions")
    assert torch.equal(rows[0], to_float(FACES[:10])) and torch.equal(rows[1], decode(LATENT[:10]))
    rows = sheet(tmp_path, "interpolation")
    assert torch.equal(rows[1, 0], to_float(FACES[2])) and torch.equal(rows[1, -1], to_float(FACES[3]))
    steps = torch.linspace(0, 1, 8)[:, None]
    torch.testing.assert_close(rows[1, 1:-1], decode(LATENT[2] + steps * (LATENT[3] - LATENT[2])))
    noise = torch.randn(30, 3, generator=torch.Generator().manual_seed(0))
    assert torch.equal(sheet(tmp_path, "samples").flatten(0, 1), decode(noise))


def test_attributes_move_faces_along_their_own_direction(tmp_path):
    rows = sheet(tmp_path, "attributes", labels=TRAIN[:, :2] > 0, names=("Smiling", "Blond_Hair"))
    for attribute in (0, 1):
        assert (np.diff(rows[attribute, 1:, attribute, 0, 0]) > 0).all()
    FaceFigures("", tmp_path, "s", FACES, LATENT, TRAIN, decode).attributes(labels=None, names=())
    assert not (tmp_path / "s_attributes.png").exists()
