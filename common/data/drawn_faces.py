"""Cartoon faces drawn from known factors, for when no photographs are there and for tests.

Each face is a stack of shapes. A shape is given by its signed distance, negative inside; with the distance in
pixels, it covers clip(1/2 - distance, 0, 1) of a pixel, so edges are smooth without drawing anything larger.
"""

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

BLOCK = 32  # faces drawn together: what they take fits into a core's cache
SCALE = (0.67, 0.76)  # half the height of a head, in halves of the picture
SHIFT = 0.04  # how far it may be from the middle, in the same unit
ROLL = 0.2  # the largest tilt of a head, in radians

# RGB: single colours as (3, 1, 1, 1), to be painted as they are, and tables (colours, 3) to choose from.
DARK = np.array([30, 26, 30], np.float32).reshape(3, 1, 1, 1)
TEETH = np.array([250, 248, 240], np.float32).reshape(3, 1, 1, 1)
BLUSH = np.array([225, 90, 90], np.float32).reshape(3, 1, 1, 1)
LIPSTICK = np.array([196, 30, 62], np.float32).reshape(3, 1, 1, 1)
LIP_TINT = np.array([62, 22, 26], np.float32).reshape(3, 1, 1, 1)
HAIR_COLOURS = np.array([[25, 20, 22], [98, 58, 32], [225, 188, 105], [176, 176, 180]], np.float32)
SKIN_COLOURS = np.array([[92, 58, 40], [158, 106, 74], [214, 160, 124], [252, 226, 208]], np.float32)
IRIS_COLOURS = np.array([[62, 40, 24], [70, 110, 170], [80, 120, 70]], np.float32)
HAT_COLOURS = np.array([[170, 40, 44], [40, 70, 130], [52, 52, 56], [60, 112, 80]], np.float32)
SHIRT_COLOURS = np.array([[60, 80, 140], [150, 50, 60], [235, 235, 230], [50, 50, 55], [80, 130, 95]], np.float32)


@dataclass(frozen=True)
class DrawnFaces:
    """images: (N, S, S, 3) uint8 RGB. attributes: (N, A) bool, named by attribute_names (CelebA's names).

    factors: the continuous ones that each face is drawn from, (N,) float32: skin, 0 dark to 1 pale; smile, -1
    to 1; mouth_open, eye_open and jaw, 0 to 1; yaw and light, -1 (left) to 1 (right); roll, in radians;
    background, a hue from 0 to 1.
    """

    images: np.ndarray
    attributes: np.ndarray
    attribute_names: tuple[str, ...]
    factors: dict[str, np.ndarray]


def draw_faces(count: int, size: int = 64, seed: int = 0) -> DrawnFaces:
    """Draws `count` faces (at least 1) of `size` x `size` pixels, each determined by `seed` and its index.

    So the same seed gives the same bits on any number of cores, and a longer draw begins with a shorter one.
    """

    def draw(block: int) -> tuple[np.ndarray, dict[str, np.ndarray], dict[str, np.ndarray]]:
        attributes, factors, style = _sample(np.random.default_rng([seed, block]))
        return _draw(attributes, factors, style, size), attributes, factors

    def joined(blocks: tuple[dict[str, np.ndarray], ...]) -> dict[str, np.ndarray]:
        return {name: np.concatenate([block[name] for block in blocks])[:count] for name in blocks[0]}

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        images, attributes, factors = zip(*pool.map(draw, range(-(-count // BLOCK))), strict=True)
    labels = joined(attributes)
    return DrawnFaces(
        images=np.concatenate(images)[:count],
        attributes=np.stack(list(labels.values()), axis=1),
        attribute_names=tuple(labels),
        factors=joined(factors),
    )


def _sample(
    rng: np.random.Generator,
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Attributes, continuous factors and the remaining choices of one block of faces."""

    def between(low, high):
        return rng.uniform(low, high, BLOCK).astype(np.float32)

    def chance(probability):
        return rng.random(BLOCK) < probability

    male = chance(0.45)
    young = chance(0.65)
    hat = chance(0.08)
    bald = male & chance(np.where(young, 0.06, 0.3)) & ~hat
    gray = ~bald & chance(np.where(young, 0.02, 0.65))
    kind = np.where(gray, 3, rng.integers(0, 3, BLOCK))
    long_hair = ~bald & chance(np.where(male, 0.06, 0.85))
    smiling = chance(0.5)
    smile = np.where(smiling, between(0.5, 1), between(-0.45, 0.1)).astype(np.float32)
    opened = chance(np.where(smiling, 0.6, 0.25))
    beard = male & chance(0.3)
    skin = rng.beta(2.2, 1.3, BLOCK).astype(np.float32)
    narrow = chance(0.15)
    attributes = {
        "Bald": bald,
        "Bangs": ~bald & ~hat & chance(np.where(male, 0.15, 0.35)),
        "Black_Hair": ~bald & (kind == 0),
        "Blond_Hair": ~bald & (kind == 2),
        "Brown_Hair": ~bald & (kind == 1),
        "Eyeglasses": chance(0.2),
        "Gray_Hair": gray,
        "Male": male,
        "Mouth_Slightly_Open": opened,
        "Mustache": male & (beard & chance(0.7) | chance(0.12)),
        "Narrow_Eyes": narrow,
        "No_Beard": ~beard,
        "Pale_Skin": skin > 0.88,
        "Rosy_Cheeks": chance(np.where(male, 0.05, 0.3)),
        "Smiling": smiling,
        "Wavy_Hair": ~bald & chance(0.35),
        "Wearing_Hat": hat,
        "Wearing_Lipstick": ~male & chance(0.6),
        "Young": young,
    }
    factors = {
        "skin": skin,
        "smile": smile,
        "mouth_open": np.where(opened, between(0.5, 1), 0).astype(np.float32),
        "eye_open": np.where(narrow, between(0.3, 0.45), between(0.75, 1)).astype(np.float32),
        "jaw": np.where(male, between(0.5, 1), between(0, 0.5)).astype(np.float32),
        "yaw": np.clip(rng.normal(0, 0.45, BLOCK), -1, 1).astype(np.float32),
        "roll": np.clip(rng.normal(0, 0.08, BLOCK), -ROLL, ROLL).astype(np.float32),
        "light": between(-1, 1),
        "background": between(0, 1),
    }
    style = {
        "long_hair": long_hair,
        "hair": HAIR_COLOURS[kind] * between(0.85, 1.12)[:, None],
        "iris": IRIS_COLOURS[rng.integers(0, len(IRIS_COLOURS), BLOCK)],
        "hat": HAT_COLOURS[rng.integers(0, len(HAT_COLOURS), BLOCK)],
        "shirt": SHIRT_COLOURS[rng.integers(0, len(SHIRT_COLOURS), BLOCK)],
        "glow": between(0.55, 1),
        "right": between(-SHIFT, SHIFT),
        "down": between(-SHIFT, SHIFT),
        "scale": between(*SCALE),
        "wave": between(0, 2 * np.pi),
    }
    return attributes, factors, style


@dataclass(frozen=True)
class _Canvas:
    """Images (3, B, H, W) in [0, 255], or a window of them, with the place of each pixel on the face.

    u runs to the right and v down, (B, H, W) each, from the middle of the head, which reaches from v = -1 to
    1; unit is the length of 1 in pixels, (B, 1, 1).
    """

    image: np.ndarray
    u: np.ndarray
    v: np.ndarray
    unit: np.ndarray
    window: tuple = (...,)

    def part(self, top: float, bottom: float, half_width: float) -> "_Canvas":
        """The rows and columns in which |u| < half_width and top < v < bottom, wherever the faces look."""
        size = self.image.shape[-1]
        slack = SHIFT + SCALE[1] * ROLL * half_width
        rows = [min(scale * top for scale in SCALE) - slack, max(scale * bottom for scale in SCALE) + slack]
        column = SHIFT + SCALE[1] * (half_width + ROLL * max(abs(top), abs(bottom)))
        r0, r1, c0, c1 = (int(np.clip((at + 1) / 2 * size, 0, size)) for at in (*rows, -column, column))
        window = (..., slice(r0, r1 + 1), slice(c0, c1 + 1))
        return _Canvas(self.image[window], self.u[window], self.v[window], self.unit, window)

    def paint(self, distance: np.ndarray, colour: np.ndarray, opacity: np.ndarray | float = 1) -> None:
        """Paints a shape, given by its signed distance in face units, in a colour (3, B, 1, 1) or a field."""
        coverage = np.clip(0.5 - distance * self.unit, 0, 1) * opacity
        image = self.image
        image += coverage * (colour - image)


def _ellipse(u: np.ndarray, v: np.ndarray, a: np.ndarray | float, b: np.ndarray | float) -> np.ndarray:
    """Signed distance to an ellipse of half axes a and b, exact to first order at its edge."""
    x, y = u / a, v / b
    radius = np.sqrt(x * x + y * y)
    return (radius - 1) * radius / np.sqrt((x / a) ** 2 + (y / b) ** 2 + 1e-6)


def _draw(
    attributes: dict[str, np.ndarray], factors: dict[str, np.ndarray], style: dict[str, np.ndarray], size: int
) -> np.ndarray:
    """The pictures of one block, (BLOCK, S, S, 3) uint8, painted from back to front."""
    has = {name: flag.astype(np.float32)[:, None, None] for name, flag in attributes.items()}
    f = {name: value[:, None, None] for name, value in factors.items()}
    colour = {name: value.T[:, :, None, None] for name, value in style.items() if value.ndim == 2}
    long_hair = style["long_hair"].astype(np.float32)[:, None, None]
    tone = f["skin"] * (len(SKIN_COLOURS) - 1)
    skin = sum(
        np.maximum(1 - np.abs(tone - index), 0) * SKIN_COLOURS[index][:, None, None, None]
        for index in range(len(SKIN_COLOURS))
    )
    hair = colour["hair"]

    axis = (np.arange(size, dtype=np.float32) + 0.5) / size * 2 - 1
    y, x = axis[:, None], axis
    scale, roll = style["scale"][:, None, None], f["roll"]
    dx, dy = x - style["right"][:, None, None], y - style["down"][:, None, None]
    u = (dx * np.cos(roll) + dy * np.sin(roll)) / scale
    v = (dy * np.cos(roll) - dx * np.sin(roll)) / scale
    canvas = _Canvas(np.empty((3, *u.shape), np.float32), u, v, scale * (size / 2))

    third = np.arange(3, dtype=np.float32)[:, None, None, None] / 3
    canvas.image[:] = (150 + 42 * np.cos(2 * np.pi * (f["background"] + third))) * (1 - 0.2 * y)

    # Long hair behind the head, below its widest place as straight down as it can.
    waves = 0.06 * has["Wavy_Hair"] * np.sin(9 * v + style["wave"][:, None, None])
    back = _ellipse(u, np.minimum(v, 0), 0.97 + waves, 1.12)
    canvas.paint(np.maximum(back, v - 1.45), hair * 0.72, long_hair)

    low = canvas.part(0.4, 1.7, 1.5)
    low.paint(np.maximum(np.abs(low.u) - 0.34, 0.5 - low.v), skin * 0.78)
    low.paint(_ellipse(low.u, low.v - 1.95, 1.4, 0.72), colour["shirt"])
    ears = canvas.part(-0.2, 0.4, 1.0)
    ears.paint(_ellipse(np.abs(ears.u) - 0.79, ears.v - 0.08, 0.12, 0.2), skin * 0.86)

    # The head: below its middle the jaw makes it wider or narrower.
    jaw = u / (1 + (f["jaw"] - 0.55) * 0.3 * np.maximum(v, 0))
    head = _ellipse(jaw, v, 0.78, 1)
    side = f["light"] * u
    canvas.paint(head, skin * (1 + 0.22 * side - 0.16 * np.maximum(head + 0.3, 0) / 0.3))

    yaw = 0.2 * f["yaw"]
    face = canvas.part(-0.75, 1.05, 1.0)
    face_u, face_v = face.u - yaw, face.v
    cheeks = _ellipse(np.abs(face_u) - 0.44, face_v - 0.3, 0.22, 0.22)
    blush = np.clip(-cheeks / 0.16, 0, 1)
    face.paint(cheeks, BLUSH, 0.55 * has["Rosy_Cheeks"] * blush)

    old = 1 - has["Young"]
    furrows = np.abs(np.abs(face_v + 0.55) - 0.05) - 0.012
    face.paint(np.maximum(furrows, np.abs(face_u) - 0.3), skin * 0.68, old)
    folds = np.abs(_ellipse(face_u, face_v - 0.55, 0.42, 0.34)) - 0.014
    face.paint(np.maximum(folds, np.abs(face_v - 0.5) - 0.22), skin * 0.68, old)

    # The beard covers the head up to an ellipse around the nose and leaves the lips, painted later, free.
    chin = np.maximum(head[face.window], -_ellipse(face_u, face_v + 0.05, 0.62, 0.5))
    face.paint(np.maximum(chin, 0.1 - face_v), hair * 0.9, 1 - has["No_Beard"])
    _paint_nose_and_mouth(canvas.part(0.1, 0.95, 0.65), has, f, skin, hair)
    _paint_eyes(canvas.part(-0.5, 0.2, 0.8), has, f, hair, colour["iris"])

    # Hair: the head a little enlarged, without an opening for the face; a fringe closes the opening's top.
    hair_light = hair * (1 + 0.22 * side + 0.25 * np.maximum(1 - np.abs(v + 0.75) * 4, 0))
    cap = _ellipse(u, v + 0.07, 0.86, 1.1) - waves * 0.8
    opening = _ellipse(u - 0.1 * f["yaw"], v - 0.45, 0.72 - 0.04 * long_hair, 1.02)
    locks = np.where(long_hair > 0, np.maximum(back, v - 1.3), np.maximum(cap, v - 0.05))
    fringe = np.maximum(cap, v + 0.3 + 0.03 * np.cos(12 * u))
    shape = np.maximum(locks, -opening)
    shape = np.where(has["Bangs"] > 0, np.minimum(shape, fringe), shape)
    canvas.paint(shape, hair_light, 1 - has["Bald"])

    _paint_glasses(canvas.part(-0.4, 0.3, 1.0), f, has["Eyeglasses"])
    hat = canvas.part(-1.3, -0.3, 1.2)
    crown = np.maximum(_ellipse(hat.u, hat.v + 0.55, 0.92, 0.72), hat.v + 0.5)
    brim = np.maximum(np.abs(hat.v + 0.5) - 0.07, np.abs(hat.u) - 1.1)
    hat.paint(crown, colour["hat"], has["Wearing_Hat"])
    hat.paint(brim, colour["hat"] * 0.75, has["Wearing_Hat"])

    image = canvas.image * style["glow"][:, None, None]
    return np.clip(image + 0.5, 0, 255).astype(np.uint8).transpose(1, 2, 3, 0)


def _paint_nose_and_mouth(part: _Canvas, has: dict, f: dict, skin: np.ndarray, hair: np.ndarray) -> None:
    u, v = part.u - 0.26 * f["yaw"], part.v
    part.paint(_ellipse(u, v - 0.28, 0.13, 0.085), skin * 0.66)
    part.paint(_ellipse(u, v - 0.25, 0.12, 0.085), skin * 1.02)

    u = part.u - 0.2 * f["yaw"]
    part.paint(_ellipse(np.abs(u) - 0.13, v - 0.43, 0.17, 0.06), hair * 0.85, has["Mustache"])

    width = 0.28 + 0.09 * f["smile"]
    across = np.minimum((u / width) ** 2, 1.0)
    middle = 0.6 + f["smile"] * (0.06 - 0.22 * across)
    lip = (0.04 + 0.03 * (1 - has["Male"]) + 0.015 * has["Wearing_Lipstick"]) * (1 - across)
    gap = 0.17 * f["mouth_open"] * (1 - across)
    top, bottom, ends = middle - lip - 0.015, middle + gap + lip + 0.015, np.abs(u) - width
    natural = 0.55 * skin + LIP_TINT
    lips = natural + has["Wearing_Lipstick"] * (LIPSTICK - natural)
    part.paint(np.maximum(np.maximum(top - v, v - bottom), ends), lips)
    # Closed lips meet in a dark line, open ones show teeth.
    part.paint(np.maximum(np.maximum(middle - v, v - middle - np.maximum(gap, 0.012)), ends), lips * 0.35)
    teeth = np.maximum(np.maximum(middle - v, v - middle - 0.6 * gap), ends + 0.04)
    part.paint(teeth, TEETH, f["mouth_open"])


def _paint_eyes(part: _Canvas, has: dict, f: dict, hair: np.ndarray, iris: np.ndarray) -> None:
    u, v = np.abs(part.u - 0.2 * f["yaw"]) - 0.33, part.v + 0.08
    height = 0.12 * f["eye_open"]
    part.paint(_ellipse(u, v + 0.03 * (1 - has["Male"]) + 0.012, 0.19, height + 0.012), DARK)
    white = _ellipse(u, v, 0.17, height)
    part.paint(white, np.float32(245))
    part.paint(np.maximum(white, np.sqrt(u * u + v * v) - 0.09), iris)
    part.paint(np.maximum(white, np.sqrt(u * u + v * v) - 0.045), DARK)
    arch = np.abs(v + 0.21 - 1.4 * (u - 0.02) ** 2) - 0.022 - 0.022 * has["Male"]
    part.paint(np.maximum(arch, np.abs(u) - 0.19), hair * 0.62)


def _paint_glasses(part: _Canvas, f: dict, worn: np.ndarray) -> None:
    u, v = part.u - 0.2 * f["yaw"], part.v + 0.06
    lens = _ellipse(np.abs(u) - 0.33, v, 0.27, 0.22)
    part.paint(lens, np.float32(235), 0.18 * worn)
    bars = np.maximum(np.abs(v + 0.04) - 0.025, np.abs(part.u) - 0.8)
    frame = np.minimum(np.abs(lens) - 0.03, np.maximum(bars, -lens))
    part.paint(frame, DARK, worn)
