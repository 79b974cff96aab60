"""BUSI: ``Dataset_BUSI_with_GT/{benign,malignant,normal}/``, images and masks together; BiomedCoOp's copy and split."""

from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from kmat.errors import UserError
from kmat.storage.schema import read_json
from kmat.tasks.base import SPLITS, Skipped
from kmat.tasks.datasets.base import Dataset, Download, Folder, Row
from kmat.tasks.files import NOT_AN_IMAGE, SUFFIXES

TREES = (("benign", "malignant", "normal"), ("benign_tumor", "malignant_tumor", "normal_scan"))
SPLIT_FILE = "split_BUSI.json"


def _matches(folder: Folder) -> bool:
    return any(folder.folders.issuperset(tree) for tree in TREES)


def _read(download: Download) -> Iterator[Row | Skipped]:
    """Images without their masks, in BiomedCoOp's split if its file is there; names tell no patients.

    The split names files as in BiomedCoOp's own tree, whose file names are the original's.
    """
    listed = download.beside(SPLIT_FILE)
    split = _read_split(listed) if listed else None
    tree = next(tree for tree in TREES if all((download.folder / name).is_dir() for name in tree))
    for path in download.files(*tree):
        ref = download.ref(path)
        if "_mask" in path.stem:
            continue
        if path.suffix.lower() not in SUFFIXES:
            yield Skipped(ref, NOT_AN_IMAGE)
        elif split is None:
            yield Row(ref, path.parent.name, ref)
        elif path.name not in split:
            yield Skipped(ref, f"not in {SPLIT_FILE}")
        else:
            yield Row(ref, path.parent.name, ref, split.pop(path.name))
    for name in split or ():
        yield Skipped(name, "no such file")


def _read_split(path: Path) -> dict[str, str]:
    """Split by file name, of Dassl's ``{"train": [[path, label, class name], ...], "val": ..., "test": ...}``."""
    try:
        table = read_json(path)
        entries = [(PurePosixPath(entry[0]).name, split) for split in SPLITS for entry in table[split]]
    except (KeyError, TypeError, IndexError) as error:
        raise UserError(f"{path} is not a split file of BiomedCoOp: {error!r}") from error
    if len(dict(entries)) < len(entries):
        raise UserError(f"{path} lists a file twice")
    return dict(entries)


DATASET = Dataset("BUSI", "a folder with benign/, malignant/ and normal/", _matches, _read)
