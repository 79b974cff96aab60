"""Derm7pt: ``release_v0/`` with ``meta/`` and ``images/``; each case has a dermoscopic and a clinical image."""

from collections.abc import Iterator

from kmat.errors import UserError
from kmat.tasks.base import Skipped
from kmat.tasks.datasets.base import Dataset, Download, Folder, Index, Row, read_columns

SPLIT_FILES = {"train": "train_indexes.csv", "val": "valid_indexes.csv", "test": "test_indexes.csv"}


def _matches(folder: Folder) -> bool:
    return {"meta", "images"} <= folder.folders and (folder.path / "meta" / "meta.csv").is_file()


def _read(download: Download) -> Iterator[Row | Skipped]:
    """Images of the column ``derm`` or ``clinic``, in the official split.

    The split files count rows of ``meta.csv`` from zero. Nothing says which cases share a patient.
    """
    images, meta = download.folder / "images", download.folder / "meta"
    index = Index((path.relative_to(images).as_posix(), path) for path in download.files("images"))
    split: dict[str, str] = {}
    for name, file in SPLIT_FILES.items():
        for (position,) in read_columns(meta / file, "indexes"):
            if split.setdefault(position, name) != name:
                raise UserError(f"{meta}: row {position} is in both {split[position]} and {name}")
    for row, (path, diagnosis) in enumerate(read_columns(meta / "meta.csv", download.part, "diagnosis")):
        found = index.find(path)
        if isinstance(found, str):
            yield Skipped(path, found)
        elif str(row) not in split:
            yield Skipped(path, "in no split file")
        else:
            yield Row(download.ref(found), diagnosis, f"case {row + 1}", split[str(row)])


DATASET = Dataset("Derm7pt", "a folder with meta/meta.csv and images/, as release_v0.zip unpacks", _matches, _read)
