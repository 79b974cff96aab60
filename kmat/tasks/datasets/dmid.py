"""DMID: ``Metadata.xlsx``, one row per abnormality, and ``TIFF Images/IMGnnn.tif``."""

import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from kmat.errors import UserError
from kmat.tasks.base import Skipped
from kmat.tasks.datasets.base import Dataset, Download, Folder, Index, Row, read_sheet

TABLES = ("Metadata.xlsx", "Metadata.csv")
IMAGE = re.compile(r"(img\d+)(\.tiff?)?", re.IGNORECASE)
SEVEREST_FIRST = ("M", "B", "N")


def _matches(folder: Folder) -> bool:
    return not folder.files.isdisjoint(TABLES)


def _read(download: Download) -> Iterator[Row | Skipped]:
    """One row per image, of the severest class of its abnormalities; nothing tells the patients.

    Rows of the table are those with an image's name in the first cell: a legend of 31 rows, or a header, stands above.
    """
    images = Index((path.stem, path) for path in download.files() if _is_image(download, path))
    table = download.table(*TABLES)
    classes: dict[str, set[str]] = defaultdict(set)
    for row in read_sheet(table):
        if row and (match := IMAGE.fullmatch(row[0])):
            _, _, _, abnormality, label = (*row, "", "", "", "")[:5]
            unlabelled = "N" if abnormality.upper() in ("", "NORM") else ""
            classes[match[1].upper()].add(label.upper() or unlabelled)
    if not classes:
        raise UserError(f"{table} has no row that begins with an image's name such as IMG001")
    if not any(isinstance(images.find(name), Path) for name in classes):
        raise UserError(f"{download.folder} holds none of the images IMGnnn.tif; the DICOM files are not read")
    for name in sorted(images.names.difference(map(str.lower, classes))):
        yield Skipped(name, f"not in {table.name}")
    for name, found in classes.items():
        image = images.find(name)
        odd = found.difference(SEVEREST_FIRST)
        if isinstance(image, str):
            yield Skipped(name, image)
        elif odd:
            yield Skipped(download.ref(image), f"ambiguous: class {' and '.join(map(repr, sorted(odd)))}")
        else:
            yield Row(download.ref(image), next(label for label in SEVEREST_FIRST if label in found), name)


def _is_image(download: Download, path: Path) -> bool:
    """Masks have the names of their images; they lie in other folders."""
    folders = path.relative_to(download.folder).parent.parts
    return path.suffix.lower() in (".tif", ".tiff") and not any("mask" in name.lower() for name in folders)


DATASET = Dataset("DMID", "a folder with Metadata.xlsx and TIFF Images/", _matches, _read)
