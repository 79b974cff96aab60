"""CC-CCII and Clean-CC-CCII: CT slices in ``CLASS/.../PATIENT/SCAN/SLICE``, however the archives were unpacked."""

import re
from collections.abc import Iterator, Sequence
from pathlib import PurePath, PurePosixPath
from typing import TypeVar

from kmat.tasks.base import Skipped
from kmat.tasks.datasets.base import Dataset, Download, Folder, Row, read_columns
from kmat.tasks.files import SUFFIXES

T = TypeVar("T")

# NCP, NCP-12, COVID19-12: an archive is COVID19-k on the server and NCP-k in the lists.
CLASS_FOLDER = re.compile(r"(NCP|COVID19|CP|Normal)(-\d+)?")
LESIONS = ("lesions_slices.csv", "lesion_slices.csv")
SCANS = "unzip_filenames.csv"


def _matches(folder: Folder) -> bool:
    """Folders named Normal, or COVID19 without a number, are other datasets' too."""
    return any(_label(name) in ("NCP", "CP") and name != "COVID19" for name in folder.folders)


def _read(download: Download) -> Iterator[Row | Skipped]:
    """A few slices of every scan. The patient is the number of the folder, whatever the class.

    Of a scan with slices in ``lesions_slices.csv`` they are taken from these, of another from its middle third, evenly.
    """
    listed = download.beside(*LESIONS)
    lesions = {_slice(PurePosixPath(path)) for (path,) in read_columns(listed, "imgpath")} if listed else set()
    seen: set[tuple[str, str, str]] = set()
    for folder, names in download.walk(*sorted(path.name for path in download.folder.iterdir() if _label(path.name))):
        ref = download.ref(folder)
        label, patient, scan = key = _scan(folder)
        images = sorted((name for name in names if PurePath(name).suffix.lower() in SUFFIXES), key=_number)
        if not (patient.isdigit() and scan.isdigit()):
            yield from (Skipped(f"{ref}/{name}", "not in PATIENT/SCAN/") for name in images)
        elif images:
            seen.add(key)
            with_lesions = [name for name in images if _slice(folder / name) in lesions]
            start, stop = len(images) // 3, max(2 * len(images) // 3, len(images) // 3 + 1)
            chosen = evenly(with_lesions or images[start:stop], download.slices)
            yield from (Row(f"{ref}/{name}", label, patient) for name in chosen)
    if scans := download.beside(SCANS):
        for archive, label, patient, scan in read_columns(scans, "zip_file", "label", "patient_id", "scan_id"):
            if (_label(label), patient, scan) not in seen:
                yield Skipped(f"{label}/{patient}/{scan}", f"no such scan: {archive}")


def evenly(items: Sequence[T], count: int) -> list[T]:
    """At most ``count`` items, those at the centres of as many equal parts.

    Examples
    --------
    >>> evenly(range(12), 3), evenly(range(2), 4)
    ([2, 6, 10], [0, 1])
    """
    if len(items) <= count:
        return list(items)
    return [items[(2 * part + 1) * len(items) // (2 * count)] for part in range(count)]


def _scan(folder: PurePath) -> tuple[str, str, str]:
    """Class, patient and scan of a scan's folder; the class is that of the nearest folder named for one."""
    *above, patient, scan = ("", "", *folder.parts)
    return next((label for name in reversed(above) if (label := _label(name))), ""), patient, scan


def _slice(path: PurePath) -> tuple[str, ...]:
    return *_scan(path.parent), path.stem


def _label(folder: str) -> str:
    match = CLASS_FOLDER.fullmatch(folder)
    return match[1].replace("COVID19", "NCP") if match else ""


def _number(name: str) -> tuple[bool, int, str]:
    """Sort by number, and what has none behind."""
    stem = PurePath(name).stem
    return not stem.isdigit(), int(stem) if stem.isdigit() else 0, name


DATASET = Dataset("CC-CCII", "a folder with NCP/, CP/ and Normal/, or NCP-1/ and so on", _matches, _read)
