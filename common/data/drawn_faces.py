"""Cartoon faces with some of CelebA's attributes, for tests and for when there are no photographs.

Each face is a stack of shapes. A shape is given by its signed distance, negative inside; with the distance in
pixels, it covers clip(1/2 - distance, 0, 1) of a pixel, so edges are smooth without supersampling.
"""

import functools
import os
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

ATTRIBUTES = (
    *("Bangs", "Black_Hair", "Blond_Hair", "Brown_Hair", "Eyeglasses", "Gray_Hair", "Male", "Mouth_Slightly_Open"),
    *("No_Beard", "Smiling", "Wearing_Lipstick", "Young"),
)
BLOCK = 32  # faces drawn together: few enough to fit into a core's cache

HAIR = np.array([[25, 20, 22], [225, 188, 105], [98, 58, 32], [176, 176, 180]])  # black, blond, brown, gray
SKIN = np.array([[92, 58, 40], [158, 106, 74], [214, 160, 124], [252, 226, 208]])  # and all tones between
IRIS = np.array([[62, 40, 24], [70, 110, 170], [80, 120, 70]])
SHIRT = np.array([[60, 80, 140], [150, 50, 60], [235, 235, 230], [50, 50, 55], [80, 130, 95]])
FIXED = np.array([[30, 26, 30], [250, 248, 240], [196, 30, 62], [62, 22, 26]], np.float32)
DARK, WHITE, LIPSTICK, LIP_TINT = FIXED.reshape(4, 3, 1, 1, 1)


class DrawnFaces(NamedTuple):
    """images: (N, S, S, 3) uint8 RGB. attributes: (N, A) bool, named by attribute_names (CelebA's names)."""

    images: np.ndarray
    attributes: np.ndarray
    attribute_names: tuple[str, ...] = ATTRIBUTES


def draw_faces(count: int, size: int = 64, seed: int = 0) -> DrawnFaces:
    """Draws `count` faces (at least 1) of `size` x `size` pixels, each determined by `seed` and its index.

    So the same seed gives bit-identical faces on any number of cores, and a longer draw begins with a shorter one.
    """

    def draw(block: int) -> tuple[np.ndarray, np.ndarray]:
        face = _sample(np.random.default_rng([seed, block]))
        return _draw(face, size), np.stack([face[name].ravel() > 0 for name in ATTRIBUTES], axis=1)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        blocks = zip(*pool.map(draw, range(-(-count // BLOCK))), strict=True)
        return DrawnFaces(*(np.concatenate(block)[:count] for block in blocks))


def _sample(rng: np.random.Generator) -> dict[str, np.ndarray]:
    """The features of each face of a block: numbers and flags (BLOCK, 1, 1), colours (3, BLOCK, 1, 1), float32."""
    shape = (BLOCK, 1, 1)

    def chance(probability: np.ndarray | float) -> np.ndarray:
        return rng.random(shape) < probability

    def colour(table: np.ndarray, index: np.ndarray) -> np.ndarray:
        return table[index.ravel()].T[:, :, None, None]

    male, young, smiling = chance(0.45), chance(0.65), chance(0.5)
    opened = chance(np.where(smiling, 0.6, 0.25))
    hair = np.where(chance(np.where(young, 0.02, 0.65)), 3, rng.integers(0, 3, shape))
    tone = rng.beta(2.2, 1.3, BLOCK) * (len(SKIN) - 1)
    face = {f"{name}_Hair": hair == index for index, name in enumerate(("Black", "Blond", "Brown", "Gray"))} | {
        "Bangs": chance(np.where(male, 0.15, 0.35)),
        "Eyeglasses": chance(0.2),
        "Male": male,
        "Mouth_Slightly_Open": opened,
        "No_Beard": ~(male & chance(0.3)),
        "Smiling": smiling,
        "Wearing_Lipstick": ~male & chance(0.6),
        "Young": young,
        "hair": colour(HAIR, hair) * rng.uniform(0.85, 1.12, shape),
        "iris": colour(IRIS, rng.integers(0, len(IRIS), shape)),
        "shirt": colour(SHIRT, rng.integers(0, len(SHIRT), shape)),
        "skin": np.stack([np.interp(tone, range(len(SKIN)), channel) for channel in SKIN.T])[:, :, None, None],
        "long_hair": chance(np.where(male, 0.06, 0.85)),
        "smile": np.where(smiling, rng.uniform(0.5, 1, shape), rng.uniform(-0.45, 0.1, shape)),
        "gap": opened * rng.uniform(0.09, 0.17, shape),
        "jaw": rng.uniform(-0.15, 0, shape) + 0.15 * male,
        "yaw": np.clip(rng.normal(0, 0.09, shape), -0.2, 0.2),
        "light": rng.uniform(-0.22, 0.22, shape),
        "hue": rng.uniform(0, 1, shape),
        "right": rng.uniform(-0.04, 0.04, shape),
        "down": rng.uniform(-0.04, 0.04, shape),
        "scale": rng.uniform(0.67, 0.76, shape),  # half the height of the head, in halves of the picture
    }
    return {name: value.astype(np.float32) for name, value in face.items()}


def _ellipse(u: np.ndarray, v: np.ndarray, a: np.ndarray | float, b: np.ndarray | float) -> np.ndarray:
    """Signed distance to an ellipse of half axes a and b, exact to first order at its edge."""
    x, y = u / a, v / b
    radius = np.sqrt(x * x + y * y)
    return (radius - 1) * radius / np.sqrt((x / a) ** 2 + (y / b) ** 2 + 1e-6)


def _draw(face: dict[str, np.ndarray], size: int) -> np.ndarray:
    """The pictures of one block, (BLOCK, S, S, 3) uint8, painted from back to front."""
    skin, hair, male, long_hair = (face[name] for name in ("skin", "hair", "Male", "long_hair"))
    # The place of each pixel on the face: x runs to the right and y down, and the head reaches from y = -1 to 1. In u,
    # the features that turn with the head are centred.
    at = (np.arange(size, dtype=np.float32) + 0.5) / size * 2 - 1
    x, y = (at - face["right"]) / face["scale"], (at[:, None] - face["down"]) / face["scale"]
    u, pixels = x - face["yaw"], face["scale"] * (size / 2)
    third = np.arange(3, dtype=np.float32)[:, None, None, None] / 3
    background = (150 + 42 * np.cos(2 * np.pi * (face["hue"] + third))) * (1 - 0.2 * at[:, None])
    image = background.repeat(size, axis=3)

    def paint(colour: np.ndarray, *shapes: np.ndarray, opacity: np.ndarray | float = 1) -> None:
        """Paints where all shapes overlap, each given by its signed distance, in a colour or a field of colours."""
        nonlocal image
        image += np.clip(0.5 - functools.reduce(np.maximum, shapes) * pixels, 0, 1) * opacity * (colour - image)

    back = _ellipse(x, np.minimum(y, 0), 0.97, 1.12)  # long hair hangs straight down from its widest place
    paint(hair * 0.72, back, y - 1.45, opacity=long_hair)
    paint(skin * 0.78, np.abs(x) - 0.34, 0.5 - y)  # the neck
    paint(face["shirt"], _ellipse(x, y - 1.95, 1.4, 0.72))
    paint(skin * 0.86, _ellipse(np.abs(x) - 0.79, y - 0.08, 0.12, 0.2))  # the ears
    # The jaw makes the head wider or narrower below its middle; a beard leaves an ellipse around the nose free.
    head = _ellipse(x / (1 + face["jaw"] * np.maximum(y, 0)), y, 0.78, 1)
    shade = 1 + face["light"] * x
    paint(skin * (shade - 0.5 * np.maximum(head + 0.3, 0)), head)
    paint(hair * 0.9, head, -_ellipse(u, y + 0.05, 0.62, 0.5), 0.1 - y, opacity=1 - face["No_Beard"])

    folds = np.abs(_ellipse(u, y - 0.55, 0.42, 0.34)) - 0.014
    paint(skin * 0.68, folds, np.abs(y - 0.5) - 0.22, opacity=1 - face["Young"])
    for tone, tip in ((0.66, 0.28), (1.02, 0.25)):  # the nose and its shadow
        paint(skin * tone, _ellipse(u - 0.3 * face["yaw"], y - tip, 0.13, 0.085))
    # Closed lips meet in a dark line, open ones show teeth.
    width = 0.28 + 0.09 * face["smile"]
    across = 1 - np.minimum((u / width) ** 2, 1)  # from 0 at the corners of the mouth to 1 in its middle
    below = y - 0.6 + face["smile"] * (0.16 - 0.22 * across)  # the upper lip
    ends, gap, lip = np.abs(u) - width, face["gap"] * across, (0.07 - 0.03 * male) * across + 0.015
    lips = np.where(face["Wearing_Lipstick"] > 0, LIPSTICK, 0.55 * skin + LIP_TINT)
    paint(lips, -lip - below, below - gap - lip, ends)
    paint(lips * 0.35, -below, below - np.maximum(gap, 0.012), ends)
    paint(WHITE, -below, below - 0.6 * gap, ends + 0.04, opacity=face["Mouth_Slightly_Open"])

    e, v = np.abs(u) - 0.33, y + 0.08  # from the middle of each eye
    eye, iris = _ellipse(e, v, 0.17, 0.11), np.sqrt(e * e + v * v) - 0.09
    paint(DARK, _ellipse(e, v + 0.042 - 0.03 * male, 0.19, 0.12))  # the lashes
    for colour, round_shape in ((WHITE, eye), (face["iris"], iris), (DARK, iris + 0.045)):
        paint(colour, eye, round_shape)
    paint(hair * 0.62, np.abs(v + 0.21 - 1.4 * (e - 0.02) ** 2) - 0.022 - 0.022 * male, np.abs(e) - 0.19)  # the brows
    # Glasses: a faint lens over each eye, its frame, and a bar from ear to ear.
    lens = _ellipse(e, v - 0.02, 0.27, 0.22)
    bar = np.maximum(np.maximum(np.abs(v + 0.02) - 0.025, np.abs(x) - 0.8), -lens)
    paint(WHITE, lens, opacity=0.18 * face["Eyeglasses"])
    paint(DARK, np.minimum(np.abs(lens) - 0.03, bar), opacity=face["Eyeglasses"])

    # Hair: the head a little enlarged, minus an opening for the face; bangs close the opening's top.
    cap = _ellipse(x, y + 0.07, 0.86, 1.1)
    opening = _ellipse(x - 0.5 * face["yaw"], y - 0.45, 0.72 - 0.04 * long_hair, 1.02)
    locks = np.maximum(np.where(long_hair > 0, np.maximum(back, y - 1.3), np.maximum(cap, y - 0.05)), -opening)
    bangs = np.minimum(locks, np.maximum(cap, y + 0.3 + 0.03 * np.cos(12 * x)))
    shine = shade + 0.25 * np.maximum(1 - np.abs(y + 0.75) * 4, 0)
    paint(hair * shine, np.where(face["Bangs"] > 0, bangs, locks))
    return np.ascontiguousarray(np.clip(image + 0.5, 0, 255).astype(np.uint8).transpose(1, 2, 3, 0))
