"""What maps of a latent plane share: a colour for each class, and names that are legible."""

import colorsys
from collections.abc import Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.patheffects import withStroke

# Ten colours that colour-blind people can tell apart (Petroff 2021, "Accessible Color Sequences for Data
# Visualization", https://arxiv.org/abs/2107.02270), in an order in which digits that look alike differ most.
PALETTE = tuple(mpl.color_sequences["petroff10"][place] for place in (0, 8, 5, 1, 4, 3, 6, 7, 2, 9))
NAMED = 50  # classes, at most, that have names and colours
TEXT = {"ha": "center", "va": "center", "parse_math": False, "path_effects": [withStroke(linewidth=3, foreground="w")]}


def colours(count: int) -> np.ndarray:
    """RGB (count, 3) in [0, 1] for as many classes; the same for all if they are too many to be told apart."""
    if count <= len(PALETTE):
        return np.array(PALETTE[:count])
    if count > NAMED:
        return np.array(PALETTE[:1] * count)
    return np.array([colorsys.hls_to_rgb(number / count, 0.35 + 0.15 * (number % 3), 0.8) for number in range(count)])


def spread_apart(places: np.ndarray, distance: float, fixed: Sequence[np.ndarray] = ()) -> np.ndarray:
    """Move places (N, 2) to about `distance` from one another and from `fixed` ones (M, 2), for names to be legible."""
    places = places + 1e-6 * distance * np.arange(1, len(places) + 1)[:, None]  # two at the same place part, too
    for _ in range(50):
        gaps = places[:, None] - np.concatenate([places, np.reshape(fixed, (-1, 2))])
        lengths = np.linalg.norm(gaps, axis=2, keepdims=True)
        places = places + (gaps / lengths.clip(1e-12) * (distance - lengths).clip(0) / 2).sum(axis=1)
    return places
