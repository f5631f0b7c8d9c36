"""The drawn faces: the same for a seed, true to their labels, drawn at every size."""

import numpy as np
import pytest

from common.data.drawn_faces import ATTRIBUTES, draw_faces
from common.figures.face_figures import DIRECTIONS


@pytest.mark.parametrize("size", [31, 64, 128])
def test_every_size_has_its_shape_and_a_face_in_each_picture(size):
    images, attributes = draw_faces(20, size)
    assert images.shape == (20, size, size, 3) and images.dtype == np.uint8
    assert attributes.shape == (20, len(ATTRIBUTES)) and attributes.dtype == bool
    assert images.std(axis=(1, 2)).min() > 5, "some picture is nearly empty"
    assert len({image.tobytes() for image in images}) == 20, "some face is drawn twice"


def test_a_seed_gives_the_same_faces_however_many_and_another_seed_other_faces():
    first, again, other = draw_faces(20, seed=3), draw_faces(30, seed=3), draw_faces(20, seed=4)
    assert all(np.array_equal(one, two[:20]) for one, two in zip(first, again, strict=True))
    assert not any(np.array_equal(one, two) for one, two in zip(first[0], other[0], strict=True))


def test_every_label_occurs_both_ways_contradicts_no_other_and_can_be_seen():
    """A linear fit to the pixels of 1,500 faces ranks the other 500 by each label."""
    images, attributes = draw_faces(2_000, 32)
    label = dict(zip(ATTRIBUTES, attributes.T, strict=True))
    assert set(DIRECTIONS) <= set(label)
    assert attributes.mean(axis=0).min() > 0.03 and attributes.mean(axis=0).max() < 0.97
    assert (sum(label[f"{name}_Hair"].astype(int) for name in ("Black", "Blond", "Brown", "Gray")) == 1).all()
    assert label["Male"][~label["No_Beard"]].all()

    pixels = images.reshape(len(images), -1) / np.float32(255)
    pixels -= pixels.mean(axis=0)
    truth = np.where(attributes, 1.0, -1.0)
    kernel = pixels @ pixels[:1_500].T
    weights = np.linalg.solve(kernel[:1_500] + 30 * np.eye(1_500), truth[:1_500] - truth[:1_500].mean(axis=0))
    guesses = (kernel[1_500:] @ weights).T
    for name, scores, is_so in zip(ATTRIBUTES, guesses, truth[1_500:].T > 0, strict=True):
        # The chance that a face with the label scores higher than one without.
        ranked = (scores[is_so][:, None] > scores[~is_so]).mean()
        assert ranked > (0.75 if name == "Smiling" else 0.85), f"{name}: {ranked:.3f}"
