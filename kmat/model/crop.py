"""Random crops of training images."""

import math
import random
from dataclasses import dataclass

from PIL import Image

from kmat.options import check


@dataclass(frozen=True)
class Crop:
    """Random resized crop before the backbone's own preprocessing; no flip, as in BiomedCoOp's configurations."""

    crop_scale: tuple[float, float] = (0.08, 1.0)
    """Area of the crop, relative to the image; torchvision's default, which CoOp's family uses."""
    crop_ratio: tuple[float, float] = (0.75, 4 / 3)
    """Its aspect ratio; torchvision's default."""

    def __post_init__(self) -> None:
        check(1e-6, 1, crop_scale=self.crop_scale[0])
        check(self.crop_scale[0], 1, crop_scale=self.crop_scale[1])
        check(1e-3, 1e3, crop_ratio=self.crop_ratio[0])
        check(self.crop_ratio[0], 1e3, crop_ratio=self.crop_ratio[1])

    def view(self, image: Image.Image, size: tuple[int, int], *key: int) -> Image.Image:
        """Draw the crop that belongs to ``key``, by torchvision's rule, and resize it to (height, width) ``size``."""
        rng = random.Random(repr(key))  # noqa: S311
        width, height = image.size
        for _ in range(10):
            area = width * height * rng.uniform(*self.crop_scale)
            ratio = math.exp(rng.uniform(*map(math.log, self.crop_ratio)))
            w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
            if 0 < w <= width and 0 < h <= height:
                left, top = rng.randint(0, width - w), rng.randint(0, height - h)
                break
        else:  # a very long image: the largest allowed crop, from its centre
            ratio = min(max(width / height, self.crop_ratio[0]), self.crop_ratio[1])
            w, h = min(width, round(height * ratio)), min(height, round(width / ratio))
            left, top = (width - w) // 2, (height - h) // 2
        return image.resize(size[::-1], Image.Resampling.BICUBIC, box=(left, top, left + w, top + h))
