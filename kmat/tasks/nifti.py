"""NIfTI volumes, through nibabel: axial slices, seen from the feet as radiologists do."""

import math
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from kmat.tasks.base import MAX_PIXELS, MAX_SLICES, UnreadableImageError
from kmat.tasks.optional import need, reading
from kmat.tasks.window import Values, Window, ends, grey, usual_ends

EXTRA = "nifti"
MAX_VOXELS = 1_000_000_000


def versions() -> str:
    """Name nibabel, on which the pixels depend.

    Raises
    ------
    UnreadableImageError
        If it is missing.
    """
    return f"nibabel {need('nibabel', EXTRA).__version__}"


def count_slices(path: Path) -> int:
    """Count the axial slices of a volume.

    Raises
    ------
    UnreadableImageError
        If it is damaged or not one volume, or nibabel is missing.
    """
    with reading("NIfTI"):
        return _open(path)[1]


def decode_nifti(path: Path, number: int, window: Window | None = None) -> Image.Image:
    """Show an axial slice, anterior above and the patient's right on the left, in grey.

    Parameters
    ----------
    path : Path
    number : int
        Counted from 1, the lowest.
    window : tuple of float, optional
        What is shown; by default what lies between :data:`kmat.tasks.window.PERCENTILES` of the whole volume, so that
        its slices can be compared.

    Raises
    ------
    UnreadableImageError
        If the volume is damaged or has no such slice, or nibabel is missing.
    """
    with reading("NIfTI"):
        state = path.stat()
        version = state.st_mtime_ns, state.st_size
        values = _volume(path, *version)
        low, high = ends(window) if window else _usual_ends(path, *version)
    if not 1 <= number <= values.shape[2]:
        raise UnreadableImageError(f"unreadable: there is no slice {number}, they are 1 to {values.shape[2]}")
    return Image.fromarray(grey(values[::-1, ::-1, number - 1].T, low, high)).convert("RGB")


def _open(path: Path) -> tuple[Any, int]:
    """Read a header; returns nibabel's image and how many axial slices it has."""
    nibabel = need("nibabel", EXTRA)
    image = nibabel.load(path)
    size = " x ".join(map(str, image.shape))
    if not 0 < math.prod(image.shape) <= MAX_VOXELS:
        raise UnreadableImageError(f"unreadable: {size} voxels, expected 1 to {MAX_VOXELS}")
    if image.get_data_dtype().kind not in "iuf":
        raise UnreadableImageError("unreadable: a volume of colours or complex numbers")
    image = nibabel.squeeze_image(image)
    if len(image.shape) != 3:
        raise UnreadableImageError(f"unreadable: {size} voxels, expected one volume of three dimensions")
    axes = [int(axis) for axis in nibabel.io_orientation(image.affine)[:, 0]]
    slices = int(image.shape[axes.index(2)])
    if slices > MAX_SLICES or math.prod(image.shape) // slices > MAX_PIXELS:
        raise UnreadableImageError(f"unreadable: {size} voxels, too many in a slice, or too many slices")
    return image, slices


@lru_cache(maxsize=2)
def _volume(path: Path, _changed: int, _size: int) -> Values:
    """Read a volume, its axes to the right, to the front and up; the last two are kept for their other slices.

    Of a file that is not compressed only those parts are read that someone looks at.
    """
    image, _ = _open(path)
    values: Values = np.asanyarray(need("nibabel", EXTRA).as_closest_canonical(image).dataobj)
    return values


@lru_cache(maxsize=4096)
def _usual_ends(path: Path, changed: int, size: int) -> tuple[float, float]:
    return usual_ends(_volume(path, changed, size))
