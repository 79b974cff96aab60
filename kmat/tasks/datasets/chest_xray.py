"""Kaggle prashant268/chest-xray-covid19-pneumonia: ``Data/{train,test}/CLASS/CLASS(n).jpg``."""

from collections.abc import Iterator

from kmat.tasks.base import Skipped
from kmat.tasks.datasets.base import Dataset, Download, Folder, Row
from kmat.tasks.files import NOT_AN_IMAGE, SUFFIXES

PARTS = ("train", "test")
CLASSES = ("COVID19", "NORMAL", "PNEUMONIA")


def _matches(folder: Folder) -> bool:
    return set(PARTS) <= folder.folders and any((folder.path / "train" / name).is_dir() for name in CLASSES)


def _read(download: Download) -> Iterator[Row | Skipped]:
    """All images of both shipped parts, pooled as the paper's counts show; names tell no patients."""
    for path in download.files(*PARTS):
        ref, label = download.ref(path), path.relative_to(download.folder).parts[1:-1]
        if path.suffix.lower() not in SUFFIXES or len(label) != 1:
            yield Skipped(ref, NOT_AN_IMAGE if label else "no label")
        else:
            yield Row(ref, label[0], ref)


DATASET = Dataset(
    "the Kaggle chest X-rays", f"a folder with train/ and test/, each with {', '.join(CLASSES)}", _matches, _read
)
