"""Where a task's images come from: a folder, or an array in memory."""

import io
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from kmat.tasks.base import UnreadableImageError

SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})


def decode(content: bytes) -> Image.Image:
    """Decode an image file to RGB.

    Images of more than 8 bits per channel, which Pillow would clip, are stretched from their own range to 0..255.

    Raises
    ------
    UnreadableImageError
    """
    try:
        image: Image.Image = Image.open(io.BytesIO(content))
        image.load()
    except UnidentifiedImageError as error:  # its text names a memory address
        raise UnreadableImageError("unreadable: not an image") from error
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UnreadableImageError(f"unreadable: {error}".replace("\n", " ")) from error
    if image.mode.startswith(("I", "F")):
        values = np.asarray(image, dtype=np.float64)
        span = float(np.ptp(values)) or 1.0
        image = Image.fromarray(np.uint8(255 * (values - values.min()) / span))
    return image.convert("RGB")


def resolve_inside(root: Path, ref: str) -> Path | None:
    """Return the file that ``ref`` names below ``root``; ``None`` if it leads out, by ``..``, absolutely or by a link.

    Examples
    --------
    >>> resolve_inside(Path("/data"), "../etc/passwd") is None
    True
    """
    if not ref or "\0" in ref or Path(ref).is_absolute() or ".." in ref.replace("\\", "/").split("/"):
        return None
    path = (root / ref).resolve()
    return path if path.is_relative_to(root.resolve()) else None


class LooseImages:
    """Image files anywhere, by path as the user typed it."""

    def content(self, ref: str) -> bytes:
        """Return the file's bytes."""
        try:
            return Path(ref).read_bytes()
        except OSError as error:
            raise UnreadableImageError(f"unreadable: {error.strerror}") from error

    def read(self, ref: str) -> Image.Image:
        """Decode the file."""
        return decode(self.content(ref))


class FolderImages(LooseImages):
    """Image files below one folder, by relative path."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def content(self, ref: str) -> bytes:
        """Return the file's bytes, unless ``ref`` leads out of the folder."""
        path = resolve_inside(self._root, ref)
        if path is None:
            raise UnreadableImageError("path leads out of the image folder")
        return super().content(str(path))


class ArrayImages:
    """Grey images (N, H, W) uint8 in memory, by index."""

    def __init__(self, images: NDArray[np.uint8]) -> None:
        self._images = images

    def content(self, ref: str) -> bytes:
        """Return the pixels and their shape."""
        image = self._images[int(ref)]
        pixels: bytes = image.tobytes()
        return repr(image.shape).encode() + pixels

    def read(self, ref: str) -> Image.Image:
        """Return the image as RGB."""
        return Image.fromarray(self._images[int(ref)]).convert("RGB")
