"""MRA-MIDAS: ``release_midas.xlsx`` (or ``.csv``), one row per photograph, with the photographs beside or below it."""

from collections.abc import Iterator
from pathlib import PurePath

from kmat.tasks.base import Skipped
from kmat.tasks.datasets.base import Dataset, Download, Folder, Row, read_columns

TABLES = ("release_midas.xlsx", "release_midas.csv")
COLUMNS = ("midas_record_id", "midas_file_name", "midas_distance", "midas_iscontrol", "midas_path")


def _matches(folder: Folder) -> bool:
    return not folder.files.isdisjoint(TABLES)


def _read(download: Download) -> Iterator[Row | Skipped]:
    """Rows taken at one distance; the patient is the record.

    About one name in fifteen differs from the file's: another extension, or ``_cropped`` after the stem.
    """
    table = download.table(*TABLES)
    for patient, name, distance, control, diagnosis in read_columns(table, *COLUMNS):
        if distance != download.part:
            continue
        stem = PurePath(name).stem
        file = download.by_name.find(name, *(stem + end for end in (".jpg", ".jpeg", "_cropped.jpg", "_cropped.jpeg")))
        if diagnosis in ("", "0"):
            yield Skipped(name, "control site" if control.lower() == "yes" else "no pathology")
        elif control.lower() == "yes":
            yield Skipped(name, f"ambiguous: a control site with pathology {diagnosis!r}")
        elif isinstance(file, str):
            yield Skipped(name, file)
        else:
            yield Row(download.ref(file), diagnosis.replace("- ", "-"), patient)


DATASET = Dataset("MRA-MIDAS", "a folder with release_midas.xlsx", _matches, _read)
