"""Cartoon faces with some of CelebA's attributes, for tests and for when there are no photographs."""

import numpy as np
from PIL import Image, ImageDraw

ATTRIBUTES = ("Black_Hair", "Blond_Hair", "Brown_Hair", "Gray_Hair", "Eyeglasses", "Male", "No_Beard", "Smiling")
ATTRIBUTES += ("Wearing_Lipstick", "Young")
DETAIL = 3  # drawn so many times larger, then averaged, so edges are smooth
HAIR = np.array([[25, 20, 22], [225, 188, 105], [98, 58, 32], [176, 176, 180]])  # black, blond, brown, gray
SKIN, TAN = np.array([252, 222, 200]), np.array([0.37, 0.26, 0.19])  # the lightest tone, and what the darkest keeps
IRIS = ("#3e2818", "#466eaa", "#507846")
SHIRT = ("#3c508c", "#96323c", "#ebebe6", "#323237", "#50825f")


def draw_faces(count: int, size: int = 64, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Draws `count` faces (at least 1) of `size` x `size` pixels, each determined by `seed` and its index.

    Returns images (N, S, S, 3) uint8 RGB and attributes (N, A) bool: which of `ATTRIBUTES` each face has.
    """
    faces = [_draw(np.random.default_rng([seed, index]), size) for index in range(count)]
    return tuple(map(np.stack, zip(*faces, strict=True)))


def _draw(rng: np.random.Generator, size: int) -> tuple[np.ndarray, list[bool]]:
    """One picture (S, S, 3) uint8 and its attributes."""
    male, young, smiling, glasses = rng.random(4) < (0.45, 0.65, 0.5, 0.2)
    beard, lipstick, long_hair = rng.random(3) < ((0.3, 0, 0.06) if male else (0, 0.6, 0.85))
    hair = 3 if rng.random() < (0.02 if young else 0.65) else rng.integers(3)
    smile = rng.uniform(0.5, 1) if smiling else rng.uniform(-0.45, 0.1)
    skin, strands = SKIN * TAN ** rng.random() ** 1.5, HAIR[hair] * rng.uniform(0.85, 1.12)
    # The head reaches from y = -1 to 1, x runs to the right and y down; the features turn a little to one side.
    scale, turn = size * DETAIL / 2 * rng.uniform(0.67, 0.76), rng.uniform(-0.12, 0.12)
    right, down = (size * DETAIL / 2 * (1 + rng.uniform(-0.04, 0.04)) for _ in range(2))
    background = 150 + 42 * np.cos(2 * np.pi * (rng.random() + np.arange(3) / 3))
    picture = Image.new("RGB", (size * DETAIL, size * DETAIL), _rgb(background))
    pen, line = ImageDraw.Draw(picture), max(1, round(0.05 * scale))

    def box(x: float, y: float, a: float, b: float) -> list[float]:
        """The corners, in pixels, of what reaches by a to the left and right of x, by b above and below y."""
        return [right + scale * (x - a), down + scale * (y - b), right + scale * (x + a), down + scale * (y + b)]

    if long_hair:
        pen.rounded_rectangle(box(0, 0.15, 0.95, 1.3), 0.9 * scale, _rgb(0.72 * strands))
    pen.rectangle(box(0, 1, 0.34, 0.5), _rgb(0.78 * skin))  # the neck
    pen.ellipse(box(0, 2, 1.4, 0.75), SHIRT[rng.integers(len(SHIRT))])
    for side in (-0.79, 0.79):
        pen.ellipse(box(side, 0.08, 0.12, 0.2), _rgb(0.86 * skin))  # an ear
    pen.ellipse(box(0, -0.07, 0.88, 1.07), _rgb(strands))
    head = box(0, 0.06, 0.8 if male else 0.75, 0.94)
    pen.ellipse(head, _rgb(skin))
    if beard:
        pen.chord(head, 10, 170, _rgb(0.9 * strands))
        pen.ellipse(box(turn, 0.2, 0.6, 0.35), _rgb(skin))
    pen.chord(box(0, -0.07, 0.88, 1.07), 205 + 60 * turn, 335 + 60 * turn, _rgb(strands))  # the fringe
    for start in () if young else (-35, 155):
        pen.arc(box(turn, 0.55, 0.42, 0.36), start, start + 60, _rgb(0.55 * skin), line)
    pen.ellipse(box(1.3 * turn, 0.27, 0.12, 0.09), _rgb(0.8 * skin))  # the nose
    lips = _rgb([196, 30, 62] if lipstick else 0.55 * skin + [62, 22, 26])
    width, bend = 0.28 + 0.09 * smile, 0.35 * abs(smile) + 0.02
    if smiling:
        pen.chord(box(turn, 0.52, width, bend), 0, 180, "#faf8f0", lips, line)
    else:
        pen.arc(box(turn, 0.62 + bend / 2, width, bend), 180, 360, lips, 2 * line if lipstick else line)
    iris = IRIS[rng.integers(len(IRIS))]
    for x in (turn - 0.33, turn + 0.33):
        pen.ellipse(box(x, -0.11, 0.19, 0.13), "#1e1a1e")  # the lashes
        pen.ellipse(box(x, -0.08, 0.17, 0.11), "#faf8f0")
        pen.arc(box(x, -0.2, 0.22, 0.14), 200, 340, _rgb(0.62 * strands), 2 * line if male else line)  # the brow
        pen.ellipse(box(x, -0.08, 0.1, 0.1), iris)
        pen.ellipse(box(x, -0.08, 0.05, 0.05), "#1e1a1e")
        if glasses:
            pen.ellipse(box(x, -0.06, 0.28, 0.23), None, "#1e1a1e", line)
            pen.line(box(x + (0.38 if x > turn else -0.38), -0.06, 0.1, 0), "#1e1a1e", line)
    labels = [*(hair == index for index in range(4)), glasses, male, not beard, smiling, lipstick, young]
    return np.asarray(picture.reduce(DETAIL)), labels


def _rgb(colour: np.ndarray) -> tuple[int, ...]:
    return tuple(min(int(level), 255) for level in colour)
