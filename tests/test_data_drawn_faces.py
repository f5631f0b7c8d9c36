"""The drawn faces: bit-identical for a seed, true to their labels, drawn at every size."""

import numpy as np
import pytest

from common.data.drawn_faces import BLOCK, draw_faces
from common.figures.faces import DIRECTIONS


@pytest.fixture(scope="module")
def drawing():
    return draw_faces(2_000, 32)


def label(drawing, name):
    return drawing.attributes[:, drawing.attribute_names.index(name)]


@pytest.mark.parametrize("size", [16, 31, 64, 128])
def test_every_size_has_its_shape_and_a_face_in_each_picture(size):
    count = BLOCK + 3
    images, attributes, names = draw_faces(count, size)
    assert images.shape == (count, size, size, 3) and images.dtype == np.uint8 and images.flags.c_contiguous
    assert attributes.shape == (count, len(names)) and attributes.dtype == bool
    assert images.std(axis=(1, 2)).min() > 5, "some picture is nearly empty"


def test_the_same_seed_gives_bit_identical_faces_and_another_seed_other_faces():
    first, again, other = draw_faces(70, seed=3), draw_faces(70, seed=3), draw_faces(70, seed=4)
    assert np.array_equal(first.images, again.images) and np.array_equal(first.attributes, again.attributes)
    assert not any(np.array_equal(one, two) for one, two in zip(first.images, other.images, strict=True))


@pytest.mark.parametrize("count", [1, BLOCK - 1, BLOCK, BLOCK + 1])
def test_a_longer_draw_begins_with_a_shorter_one(count):
    short, long = draw_faces(count), draw_faces(3 * BLOCK)
    assert np.array_equal(short.images, long.images[:count])
    assert np.array_equal(short.attributes, long.attributes[:count])


def test_no_face_is_drawn_twice(drawing):
    assert len({image.tobytes() for image in drawing.images}) == len(drawing.images)


def test_every_label_occurs_both_ways_and_none_contradicts_another(drawing):
    assert set(DIRECTIONS) <= set(drawing.attribute_names)
    assert drawing.attributes.mean(axis=0).min() > 0.03 and drawing.attributes.mean(axis=0).max() < 0.97
    assert (sum(label(drawing, f"{name}_Hair").astype(int) for name in ("Black", "Blond", "Brown", "Gray")) == 1).all()
    assert label(drawing, "Male")[~label(drawing, "No_Beard")].all()


def test_the_labels_can_be_seen(drawing):
    """A linear fit to the pixels of 1,500 faces ranks the other 500 by each label."""
    pixels = drawing.images.reshape(len(drawing.images), -1) / np.float32(255)
    pixels -= pixels.mean(axis=0)
    truth = np.where(drawing.attributes, 1.0, -1.0)
    kernel = pixels @ pixels[:1_500].T
    weights = np.linalg.solve(kernel[:1_500] + 30 * np.eye(1_500), truth[:1_500] - truth[:1_500].mean(axis=0))
    guesses = (kernel[1_500:] @ weights).T
    for name, scores, is_so in zip(drawing.attribute_names, guesses, truth[1_500:].T > 0, strict=True):
        # The chance that a face with the label scores higher than one without.
        ranked = (scores[is_so][:, None] > scores[~is_so]).mean()
        assert ranked > (0.75 if name == "Smiling" else 0.85), f"{name}: {ranked:.3f}"


def test_faces_with_glasses_are_darker_around_the_eyes(drawing):
    around = drawing.images[:, 12:17, 8:24].mean(axis=(1, 2, 3))
    worn = label(drawing, "Eyeglasses")
    assert around[worn].mean() < around[~worn].mean() - 5
