"""Data sets as uint8 tensors, batches drawn from them on the device, and their seeds."""

import dataclasses
import math
import random
from collections.abc import Iterator

import torch
from torch import Tensor


class Part:
    """One part of a data set, as a dataclass: its tensors, among them `images`, have a row per picture; its `name`."""

    def first(self, count: int | None) -> "Part":
        """The first `count` pictures; all of them if it is None."""
        tensors = {name: rows[:count] for name, rows in vars(self).items() if isinstance(rows, Tensor)}
        return dataclasses.replace(self, **tensors)

    @property
    def description(self) -> str:
        """For checkpoints: a resumed run must see the same data."""
        return f"{self.name}, {len(self.images):,} pictures"


def stream_seed(*parts: object) -> int:
    """A 63-bit seed for the random numbers of what `parts` name, so that a resumed epoch draws the same ones."""
    return random.Random(repr(parts)).getrandbits(63)


def to_float(images: Tensor) -> Tensor:
    """uint8 grey levels 0..255 as float32 in [0, 1]."""
    return images.float().div_(255)


def shuffled_batches(count: int, batch_size: int, seed: int, device: torch.device, rank=0, world=1) -> Iterator[Tensor]:
    """Index tensors that visit 0..count-1 once, in an order that depends on `seed` alone.

    The batches are as few as `batch_size`, which counts the images of all processes together, allows, and of nearly
    equal sizes. Of `world` processes, each gets an equal share of every batch; count % world images are left out.
    """
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    share = order[: count - count % world][rank::world].to(device)
    return iter(share.tensor_split(math.ceil(count / batch_size)))


def gather(images: Tensor, index: Tensor) -> Tensor:
    """The `images` (N, ...) at `index` (B,), in the same memory layout."""
    # index_select is three times as fast as indexing, but would lose the channels_last layout.
    return images.index_select(0, index) if images.is_contiguous() else images[index]


def random_flip(images: Tensor) -> Tensor:
    """Mirror each of `images` (B, C, H, W) left to right with probability one half."""
    mirrored = torch.rand(len(images), 1, 1, 1, device=images.device) < 0.5
    return torch.where(mirrored, images.flip(3), images)


def select(images: Tensor, chosen: Tensor) -> Tensor:
    """The `images` (N, ...) where `chosen` (N,) is true; without a copy if they are adjacent."""
    index = chosen.nonzero().flatten()
    if len(index) and index[-1] - index[0] + 1 == len(index):
        return images[index[0] : index[-1] + 1]
    return images[index]


def add_noise(images: Tensor, level: float, generator: torch.Generator | None = None) -> Tensor:
    """`images` in [0, 1] plus Gaussian noise of standard deviation `level` on every pixel, clipped to [0, 1]."""
    return (images + level * torch.randn(images.shape, generator=generator, device=images.device)).clamp_(0, 1)


def binarized(images: Tensor, seed: int) -> Tensor:
    """uint8 `images` with every pixel 0 or 255, drawn once with its grey level as the probability of 255."""
    noise = torch.rand(images.shape, generator=torch.Generator().manual_seed(seed))
    return (noise < to_float(images)).to(torch.uint8) * 255
