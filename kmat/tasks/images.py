"""Where a task's images come from: a folder, or an array in memory."""

import io
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from kmat.tasks.base import UnreadableImageError
from kmat.tasks.tree import trouble

SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})

MAX_PIXELS = 100_000_000
"""A mammogram has 30 million; whole slides must be cut into tiles."""

# Pillow warns of what it makes do with, without the file's name. What it cannot decode, and how much, is said below.
warnings.filterwarnings("ignore", module=r"PIL\.")


def decode(content: bytes) -> Image.Image:
    """Decode an image file to RGB, turned as its EXIF orientation says.

    Images of more than 8 bits per channel, which Pillow would clip, are stretched from their own range to 0..255.

    Raises
    ------
    UnreadableImageError
        If it is damaged, has more than :data:`MAX_PIXELS`, or holds values that are no numbers.
    """
    try:
        image: Image.Image = Image.open(io.BytesIO(content))
        if image.width * image.height > MAX_PIXELS:
            raise Image.DecompressionBombError
        image.load()
    except UnidentifiedImageError as error:  # its text names a memory address
        raise UnreadableImageError("unreadable: not an image") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise UnreadableImageError(f"unreadable: more than {MAX_PIXELS // 1_000_000} million pixels") from error
    except Exception as error:  # of damaged files Pillow's readers raise anything
        raise UnreadableImageError(f"unreadable: {error}".replace("\n", " ")) from error
    image = _upright(image)
    if image.mode.startswith(("I", "F")):
        values = np.asarray(image, dtype=np.float64)
        if not np.isfinite(values).all():
            raise UnreadableImageError("unreadable: pixels that are NaN or infinite")
        span = float(np.ptp(values)) or 1.0
        image = Image.fromarray(np.uint8(255 * (values - values.min()) / span))
    return image.convert("RGB")


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # damaged EXIF says nothing of the orientation
        return image


class LooseImages:
    """Image files anywhere, by path as the user typed it."""

    def content(self, ref: str) -> bytes:
        """Return the file's bytes."""
        path = Path(ref)
        try:
            if path.exists() and not path.is_file():
                raise UnreadableImageError("unreadable: not a file")  # reading a pipe would never end
            return path.read_bytes()
        except (OSError, ValueError) as error:
            raise UnreadableImageError(f"unreadable: {getattr(error, 'strerror', error)}") from error

    def read(self, ref: str) -> Image.Image:
        """Decode the file."""
        return decode(self.content(ref))


class FolderImages(LooseImages):
    """Image files below one folder, by path.

    Parameters
    ----------
    root : Path
    follow : bool
        Whether links may lead out of the folder.
    """

    def __init__(self, root: Path, *, follow: bool = False) -> None:
        self._root = root
        self._follow = follow

    def content(self, ref: str) -> bytes:
        """Return the file's bytes, unless ``ref`` leads out of the folder."""
        if reason := trouble(self._root, ref, follow=self._follow):
            raise UnreadableImageError(f"unreadable: {reason}")
        return super().content(str(self._root / ref))


class ArrayImages:
    """Images in memory, uint8 and grey (H, W) or RGB (H, W, 3), by index."""

    def __init__(self, images: NDArray[np.uint8] | Sequence[NDArray[np.uint8]]) -> None:
        self._images = images

    def content(self, ref: str) -> bytes:
        """Return the pixels and their shape."""
        image = self._images[int(ref)]
        pixels: bytes = image.tobytes()
        return repr(image.shape).encode() + pixels

    def read(self, ref: str) -> Image.Image:
        """Return the image as RGB."""
        return Image.fromarray(self._images[int(ref)]).convert("RGB")
