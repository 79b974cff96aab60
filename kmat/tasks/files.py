"""What a file is, by its name or its first bytes, and the images in it.

A file of one image is referred to by its path. The images of a DICOM file of several frames, and of a NIfTI volume, are
its slices: ``PATH#1``, ``PATH#2`` and so on.
"""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePath
from typing import Literal, NamedTuple

from kmat.console import note
from kmat.tasks import dicom, nifti
from kmat.tasks.base import Skipped

SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})
DICOM_SUFFIXES = frozenset({".dcm", ".dicom"})
NIFTI_SUFFIXES = (".nii", ".nii.gz")

NOT_AN_IMAGE = "not an image file"

_SLICE = re.compile(r"(.+)#([0-9]{1,6})", re.DOTALL)


class Images(NamedTuple):
    """What :func:`images_in` found.

    Attributes
    ----------
    refs : tuple of str
    header : Header, optional
        Of a DICOM file.
    """

    refs: tuple[str, ...]
    header: dicom.Header | None = None


def split_ref(ref: str) -> tuple[str, int | None]:
    """Split a reference into its path and the number of the slice, if it has one.

    Examples
    --------
    >>> split_ref("a/b.nii.gz#12"), split_ref("a/b.png")
    (('a/b.nii.gz', 12), ('a/b.png', None))
    """
    match = _SLICE.fullmatch(ref)
    return (match[1], int(match[2])) if match else (ref, None)


def kind(path: Path) -> Literal["picture", "dicom", "nifti", ""]:
    """Say what a file is, "" if it is no image.

    Names of DICOM files often end in nothing, or in numbers: whatever begins with the preamble of one is one.
    """
    name = path.name.lower()
    suffix = PurePath(name).suffix
    if suffix in SUFFIXES:
        return "picture"
    if name.endswith(NIFTI_SUFFIXES):
        return "nifti"
    if suffix in DICOM_SUFFIXES:
        return "dicom"
    try:
        if path.is_file():  # not a pipe, which would never end
            with path.open("rb") as file:
                return "dicom" if file.read(132)[128:] == b"DICM" else ""
    except (OSError, ValueError):
        pass
    return ""


def images_in(path: Path, ref: str) -> Images:
    """List the images of a file, or the one that ``ref`` names, as references.

    Parameters
    ----------
    path : Path
        Of the file.
    ref : str
        That path as the user wrote it, with or without a slice's number.

    Raises
    ------
    UnreadableImageError
        If the file's header, which says how many there are, cannot be read.
    """
    name, number = split_ref(ref)
    what = kind(path)
    header = dicom.read_header(path) if what == "dicom" else None
    count = header.frames if header else nifti.count_slices(path) if what == "nifti" else 1
    if number is not None:
        return Images((ref,), header)
    if what == "nifti" or count > 1:
        return Images(tuple(f"{name}#{index}" for index in range(1, count + 1)), header)
    return Images((name,), header)


def ignored(skipped: Iterable[Skipped]) -> str | None:
    """Count, by suffix, the files that are of no kind that is read; None if there are none.

    Examples
    --------
    >>> ignored([Skipped("a.jp2", NOT_AN_IMAGE), Skipped("b.mha", NOT_AN_IMAGE), Skipped("c.JP2", NOT_AN_IMAGE)])
    '3 files ignored: .jp2 (2), .mha (1); kmat reads none of these: convert what are images to PNG'
    """
    names = [PurePath(item.ref).suffix.lower() or "no suffix" for item in skipped if item.reason == NOT_AN_IMAGE]
    if not names:
        return None
    listed = ", ".join(f"{name} ({count})" for name, count in Counter(sorted(names)).most_common())
    return f"{len(names)} files ignored: {listed}; kmat reads none of these: convert what are images to PNG"


def say_skipped(skipped: Sequence[Skipped], listed_in: Path | None = None) -> None:
    """Tell how many files were left out, by reason, with the first few, and how many are no images."""
    if strange := ignored(skipped):
        note(strange)
    skipped = [item for item in skipped if item.reason != NOT_AN_IMAGE]
    if skipped:
        reasons = Counter(item.reason.split(":")[0] for item in skipped)
        where = f", listed in {listed_in}" if listed_in else ""
        note(f"{len(skipped)} files skipped ({', '.join(f'{n} {why}' for why, n in reasons.items())}){where}")
        for item in skipped[:3]:
            note(f"  {item.ref}: {item.reason}")
