"""The drawn faces: seeded to the bit, true to their labels, cartoon faces at every size."""

import numpy as np
import pytest

from common.data import drawn_faces
from common.data.drawn_faces import BLOCK, draw_faces

CELEBA_NAMES = """
5_o_Clock_Shadow Arched_Eyebrows Attractive Bags_Under_Eyes Bald Bangs Big_Lips Big_Nose Black_Hair Blond_Hair
Blurry Brown_Hair Bushy_Eyebrows Chubby Double_Chin Eyeglasses Goatee Gray_Hair Heavy_Makeup High_Cheekbones Male
Mouth_Slightly_Open Mustache Narrow_Eyes No_Beard Oval_Face Pale_Skin Pointy_Nose Receding_Hairline Rosy_Cheeks
Sideburns Smiling Straight_Hair Wavy_Hair Wearing_Earrings Wearing_Hat Wearing_Lipstick Wearing_Necklace
Wearing_Necktie Young
"""


@pytest.fixture(scope="module")
def drawing():
    return draw_faces(3_000, 32)


def label(drawing, name):
    return drawing.attributes[:, drawing.attribute_names.index(name)]


@pytest.mark.parametrize("size", [16, 32, 64, 128])
def test_every_size_has_its_shape_and_a_face_in_each_picture(size):
    count = BLOCK + 3
    drawing = draw_faces(count, size)
    assert drawing.images.shape == (count, size, size, 3) and drawing.images.dtype == np.uint8
    assert drawing.attributes.shape == (count, len(drawing.attribute_names)) and drawing.attributes.dtype == bool
    assert all(values.shape == (count,) for values in drawing.factors.values())
    assert drawing.images.std(axis=(1, 2)).min() > 5, "some picture is nearly empty"


def test_same_seed_gives_the_same_bits_and_another_seed_other_faces():
    first, again, other = draw_faces(70, seed=3), draw_faces(70, seed=3), draw_faces(70, seed=4)
    assert np.array_equal(first.images, again.images)
    assert np.array_equal(first.attributes, again.attributes)
    assert not any(np.array_equal(one, two) for one, two in zip(first.images, other.images, strict=True))


@pytest.mark.parametrize("count", [1, BLOCK - 1, BLOCK, BLOCK + 1])
def test_a_longer_draw_begins_with_a_shorter_one(count):
    short, long = draw_faces(count), draw_faces(3 * BLOCK)
    assert np.array_equal(short.images, long.images[:count])
    assert np.array_equal(short.attributes, long.attributes[:count])
    assert all(np.array_equal(values, long.factors[name][:count]) for name, values in short.factors.items())


def test_no_face_is_drawn_twice(drawing):
    assert len({image.tobytes() for image in drawing.images}) == len(drawing.images)


def test_the_names_are_celebas_and_every_label_occurs_both_ways(drawing):
    assert set(drawing.attribute_names) <= set(CELEBA_NAMES.split())
    share = drawing.attributes.mean(axis=0)
    assert share.min() > 0.03 and share.max() < 0.97, dict(zip(drawing.attribute_names, share, strict=True))


def test_labels_do_not_contradict_one_another(drawing):
    colours = sum(label(drawing, f"{name}_Hair").astype(int) for name in ("Black", "Blond", "Brown", "Gray"))
    assert np.array_equal(colours, 1 - label(drawing, "Bald"))
    for name in ("Bald", "Mustache"):
        assert not (label(drawing, name) & ~label(drawing, "Male")).any()
    assert label(drawing, "Male")[~label(drawing, "No_Beard")].all()
    smile = drawing.factors["smile"]
    assert smile[label(drawing, "Smiling")].min() > smile[~label(drawing, "Smiling")].max()


def test_the_labels_can_be_seen(drawing):
    """A linear fit to the pixels of 2,000 faces ranks the other 1,000 by each label."""
    pixels = drawing.images.reshape(len(drawing.images), -1) / 255.0
    pixels -= pixels.mean(axis=0)
    truth = np.where(drawing.attributes, 1.0, -1.0)
    mean = truth[:2_000].mean(axis=0)
    kernel = pixels @ pixels[:2_000].T
    weights = np.linalg.solve(kernel[:2_000] + 30 * np.eye(2_000), truth[:2_000] - mean)
    guess, truth = kernel[2_000:] @ weights, truth[2_000:]
    for name, scores, is_so in zip(drawing.attribute_names, guess.T, truth.T > 0, strict=True):
        if name == "Wavy_Hair":
            continue  # the waves begin anywhere, so no pixel tells it by itself
        # The chance that a face with the label scores higher than one without.
        ranked = (scores[is_so][:, None] > scores[~is_so]).mean()
        assert ranked > (0.7 if name in ("Smiling", "Narrow_Eyes") else 0.88), f"{name}: {ranked:.3f}"


def test_the_factors_can_be_seen(drawing):
    cheeks = drawing.images[:, 15:20].astype(float).mean(axis=(1, 3))
    left, right = cheeks[:, 8:12].mean(axis=1), cheeks[:, 20:24].mean(axis=1)
    assert np.corrcoef(right - left, drawing.factors["light"])[0, 1] > 0.5
    assert np.corrcoef(left + right, drawing.factors["skin"])[0, 1] > 0.5


@pytest.mark.parametrize("size", [31, 64])
def test_painting_in_windows_cuts_nothing_off(size, monkeypatch):
    windowed = draw_faces(8 * BLOCK, size, seed=5).images
    monkeypatch.setattr(drawn_faces._Canvas, "part", lambda canvas, *where: canvas)
    assert np.array_equal(windowed, draw_faces(8 * BLOCK, size, seed=5).images)
