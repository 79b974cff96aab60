"""Where a task's images come from: a folder, or an array in memory."""

import hashlib
import io
import warnings
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, ImageStat, UnidentifiedImageError
from PIL.TiffImagePlugin import PHOTOMETRIC_INTERPRETATION, TiffImageFile

from kmat.tasks import dicom, nifti
from kmat.tasks.base import MAX_PIXELS, UnreadableImageError
from kmat.tasks.dicom import decode_dicom
from kmat.tasks.files import kind, split_ref
from kmat.tasks.nifti import decode_nifti
from kmat.tasks.tree import trouble
from kmat.tasks.window import Window, ends, grey, usual_ends

# Pillow warns of what it makes do with, without the file's name. What it cannot decode, and how much, is said below.
warnings.filterwarnings("ignore", module=r"PIL\.")


def decode(content: bytes, window: Window | None = None) -> Image.Image:
    """Decode an image file to RGB, as :func:`as_rgb` does.

    Raises
    ------
    UnreadableImageError
        If it is damaged, has more than :data:`kmat.tasks.base.MAX_PIXELS`, or holds values that are no numbers.
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
    return as_rgb(image, window)


def as_rgb(image: Image.Image, window: Window | None = None) -> Image.Image:
    """Turn an image as its EXIF orientation says, and show it in RGB.

    Grey values of more than 8 bits, which Pillow would clip, are shown through ``window``, by default between
    :data:`kmat.tasks.window.PERCENTILES`. What is transparent becomes black, or white where what can be seen is dark:
    so a shape that only the transparency draws is there.

    Raises
    ------
    UnreadableImageError
        If it holds values that are no numbers.
    """
    inverted = isinstance(image, TiffImageFile) and image.tag_v2.get(PHOTOMETRIC_INTERPRETATION) == 0  # white is zero
    image = _upright(image)
    if image.mode.startswith(("I", "F")):
        values = np.asarray(image)
        shown = grey(values, *(ends(window) if window else usual_ends(values)))
        return Image.fromarray(255 - shown if inverted else shown).convert("RGB")
    return _opaque(image.convert("RGBA")) if image.has_transparency_data else image.convert("RGB")


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # damaged EXIF says nothing of the orientation
        return image


def _opaque(image: Image.Image) -> Image.Image:
    """Lay an image over black, over white if the mean of what can be seen is below half."""
    alpha = image.getchannel("A")
    visible = ImageStat.Stat(image.convert("L"), mask=alpha.point(lambda value: 255 * (value >= 128)))
    dark = visible.count[0] > 0 and visible.mean[0] < 127.5
    below = Image.new("RGBA", image.size, "white" if dark else "black")
    return Image.alpha_composite(below, image).convert("RGB")


class LooseImages:
    """Image files anywhere, by path as the user typed it.

    Parameters
    ----------
    window : tuple of float, optional
        Level and width for grey values of more than 8 bits, DICOM and NIfTI.
    """

    def __init__(self, window: Window | None = None) -> None:
        self._all = window

    def content(self, ref: str) -> bytes:
        """Return the file's bytes; of DICOM and NIfTI a digest, with what else decides on the pixels."""
        path, number = self._find(ref)
        window = self._window(ref)
        what = kind(path)
        said = b"" if window is None else repr(window).encode()
        if what not in ("dicom", "nifti"):
            return said + _bytes(path)
        versions = dicom.versions() if what == "dicom" else nifti.versions()
        return said + f"{versions} #{number} ".encode() + _digest(path)

    def read(self, ref: str) -> Image.Image:
        """Decode the file, or one slice of it."""
        path, number = self._find(ref)
        window = self._window(ref)
        match kind(path):
            case "dicom":
                return decode_dicom(_bytes(path), number, window)
            case "nifti":
                if number is None:
                    raise UnreadableImageError(f"unreadable: a volume; its slices are {ref}#1 and so on")
                return decode_nifti(path, number, window)
        if number is not None:
            raise UnreadableImageError("unreadable: an image without slices")
        return decode(_bytes(path), window)

    def _find(self, ref: str) -> tuple[Path, int | None]:
        """Return the file's path, and which of its slices is meant."""
        name, number = split_ref(ref)
        return Path(name), number

    def _window(self, ref: str) -> Window | None:  # noqa: ARG002 (a folder's images each have one of their own)
        return self._all


class FolderImages(LooseImages):
    """Image files below one folder, by path.

    Parameters
    ----------
    root : Path
    follow : bool
        Whether links may lead out of the folder.
    windows : mapping, optional
        Level and width by reference, as for :class:`LooseImages`.
    """

    def __init__(self, root: Path, *, follow: bool = False, windows: Mapping[str, Window | None] | None = None) -> None:
        super().__init__()
        self._root = root
        self._follow = follow
        self._windows = windows or {}

    def _find(self, ref: str) -> tuple[Path, int | None]:
        """Return the file's path, unless it leads out of the folder."""
        name, number = split_ref(ref)
        if reason := trouble(self._root, name, follow=self._follow):
            raise UnreadableImageError(f"unreadable: {reason}")
        return self._root / name, number

    def _window(self, ref: str) -> Window | None:
        return self._windows.get(ref)


def _bytes(path: Path) -> bytes:
    try:
        if path.exists() and not path.is_file():
            raise UnreadableImageError("unreadable: not a file")  # reading a pipe would never end
        return path.read_bytes()
    except (OSError, ValueError) as error:
        raise UnreadableImageError(f"unreadable: {getattr(error, 'strerror', error)}") from error


def _digest(path: Path) -> bytes:
    try:
        state = path.stat()
    except OSError as error:
        raise UnreadableImageError(f"unreadable: {error.strerror}") from error
    return _digest_of(path, state.st_mtime_ns, state.st_size)


@lru_cache(maxsize=4096)
def _digest_of(path: Path, _changed: int, _size: int) -> bytes:
    """Hash a file once for all its slices."""
    return hashlib.sha256(_bytes(path)).digest()


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
