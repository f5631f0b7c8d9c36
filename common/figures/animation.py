"""The training as a moving map, a GIF of the codes of some pictures while a model learns."""

import io
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from common.data.batches import to_float
from common.data.digits import Digits
from common.figures import maps
from common.files import write_atomically
from common.latent import Plane

SIDE = 400  # pixels


class Animation:
    """Of the first 2,000 of `digits`: `watch` adds a frame after some steps, `write` makes the GIF."""

    def __init__(self, digits: Digits):
        self.digits, self.frames = digits.first(2000), []

    @torch.no_grad()
    def watch(self, epoch, model) -> None:
        """To be called after each step: the last one of an epoch makes a frame, and in the first every twelfth."""
        if (done := epoch.step + 1) == epoch.steps or epoch.number == 0 and done % 12 == 0:
            codes = model.encode(to_float(self.digits.images).to(next(model.parameters()).device))
            codes = codes[0] if isinstance(codes, tuple) else codes  # of a Gaussian, the mean
            self.frames.append((epoch.number + done / epoch.steps, codes.cpu()))

    def write(self, path: Path) -> None:
        """Write the GIF, after at least one frame. Raises UserError if it can't be written."""
        epochs, codes = zip(*self.frames, strict=True)
        points = Plane.of(codes[-1]).project(torch.stack(codes)).numpy() * (1, -1)
        low, high = np.quantile(points[-1], (0.005, 0.995), axis=0)
        points = SIDE / 2 + 0.85 * SIDE / max(high - low) * (points - (low + high) / 2)
        names, images, gif, font = self.digits.classes, [], io.BytesIO(), ImageFont.load_default(11)
        count = min(len(names), 250)  # a GIF has 256 colours
        palette = (255 * np.array([*maps.colours(count), (1, 1, 1), (0, 0, 0)])).astype(np.uint8).tobytes()
        for epoch, places in zip(epochs, points.tolist(), strict=True):
            image = Image.new("P", (SIDE, SIDE), count)
            image.putpalette(palette)
            pen = ImageDraw.Draw(image)
            for place, label in zip(places, self.digits.labels.tolist(), strict=True):
                pen.text(place, names[label][:1], label % count, font, anchor="mm")
            pen.text((4, 2), f"epoch {epoch:.1f}", count + 1, font)
            images.append(image)
        images[0].save(gif, "GIF", save_all=True, append_images=images[1:], duration=120, loop=0)
        write_atomically(path, gif.getvalue())
        print(f"wrote {path}", flush=True)
