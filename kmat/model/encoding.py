"""Images through the image tower, chunk by chunk: threads decode one batch ahead of the model."""

import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict
from itertools import groupby
from typing import Any, NamedTuple

import torch
from torch import Tensor

from kmat.errors import UserError
from kmat.model.backbone import Backbone
from kmat.model.crop import Crop
from kmat.tasks.base import ImageSource, UnreadableImageError

BATCH = 64
"""Images that the model takes at once, on any device: of 224 x 224 pixels 39 MB in float32, twice, as one is ahead."""


class Chunk(NamedTuple):
    """Images, by their places in a list, of which one view each is encoded together.

    Attributes
    ----------
    images : tuple of int
    seed, epoch : int
        Which crops; of no meaning without.
    """

    images: tuple[int, ...]
    seed: int
    epoch: int

    def key(self, backbone: Backbone, contents: Sequence[str], crop: Crop | None) -> dict[str, Any]:
        """All that the features depend on. Crops are drawn by an image's place too."""
        return {
            "what": "images",
            "backbone": backbone.fingerprint,
            "precision": backbone.image_precision,
            "crop": {**asdict(crop), "seed": self.seed, "epoch": self.epoch, "places": self.images} if crop else None,
            "images": [contents[index] for index in self.images],
        }


def parts(contents: Sequence[str]) -> Iterator[tuple[int, ...]]:
    """Group images by the first digits of their hashes, as many digits as make groups of less than a batch."""
    digits = math.ceil(math.log(max(len(contents) / BATCH, 1), 16))
    order = sorted(range(len(contents)), key=lambda index: (contents[index], index))
    for _, part in groupby(order, key=lambda index: contents[index][:digits]):
        yield tuple(part)


def encode(
    backbone: Backbone,
    source: ImageSource,
    refs: Sequence[str],
    chunks: Sequence[Chunk],
    crop: Crop | None,
    advance: Callable[[int], object],
) -> Iterator[tuple[Chunk, dict[str, Tensor]]]:
    """Decode and encode chunks, and yield each when it is done; `kept` are the positions in it that could be read.

    Pillow, zlib and NumPy work without Python's lock, so that threads do for decoding what processes would, and a
    batch is read, cropped and resized while the model has the one before.

    Raises
    ------
    UserError
        If the model gives features that are not finite.
    """

    def view(chunk: Chunk, index: int) -> Tensor | None:
        try:
            image = source.read(refs[index])
        except UnreadableImageError:
            return None
        if crop:
            image = crop.view(image, backbone.image_size, chunk.seed, chunk.epoch, index)
        return backbone.preprocess(image)

    batches = deque((chunk, at) for chunk in chunks for at in range(0, len(chunk.images), BATCH))
    decoders = ThreadPoolExecutor(torch.get_num_threads())

    def begin() -> list[Future[Tensor | None]]:
        chunk, at = batches[0]
        return [decoders.submit(view, chunk, index) for index in chunk.images[at : at + BATCH]]

    try:
        decoding = begin() if batches else []
        features, kept = list[Tensor](), list[int]()
        while batches:
            chunk, at = batches.popleft()
            views = [each.result() for each in decoding]
            decoding = begin() if batches else []
            kept += [at + position for position, each in enumerate(views) if each is not None]
            if batch := [each for each in views if each is not None]:
                features.append(backbone.encode_images(torch.stack(batch)))
                if not features[-1].isfinite().all():
                    upto = refs[chunk.images[at + len(views) - 1]]
                    raise UserError(f"{backbone.name} gives features that are not finite, up to {upto}")
            advance(len(views))
            if at + len(views) == len(chunk.images):
                found = torch.cat(features) if features else torch.zeros(0, 0)
                yield chunk, {"features": found, "kept": torch.tensor(kept, dtype=torch.int64)}
                features, kept = [], []
    finally:
        decoders.shutdown(cancel_futures=True)
