"""What a reader of a downloaded dataset gets and gives."""

import csv
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import openpyxl

from kmat.console import note
from kmat.errors import UserError
from kmat.tasks.base import Skipped
from kmat.tasks.tree import walk

DEPTH = 3  # folders between --root and a download


class Row(NamedTuple):
    """One image of a dataset.

    Attributes
    ----------
    ref : str
        Path below ``--root``.
    label : str
        As the dataset writes it.
    patient : str
        Images that share it belong in one split.
    split : str
        The dataset's own, if it has one.
    """

    ref: str
    label: str
    patient: str
    split: str = ""


class Folder(NamedTuple):
    """A folder with the names of what it holds."""

    path: Path
    folders: frozenset[str]
    files: frozenset[str]


@dataclass(frozen=True)
class Download:
    """A dataset found below ``--root``.

    Attributes
    ----------
    root, folder : Path
        ``--root``, and the folder in it that carries the dataset's signature.
    upper : tuple of Folder
        The upper levels of the root, where lists that belong to a dataset may lie beside it.
    part : str
        What of it is wanted, where it has images of several modalities.
    slices : int
        How many slices of a CT scan are wanted.
    follow_links : bool
        Whether links may lead out of the root.
    left_out : dict
        Links and folders that :meth:`walk` could not enter, with the reason.
    """

    root: Path
    folder: Path
    upper: tuple[Folder, ...]
    part: str
    slices: int
    follow_links: bool = False
    left_out: dict[Path, str] = field(default_factory=dict, hash=False)

    def walk(self, *below: str) -> Iterator[tuple[Path, list[str]]]:
        """Folders of the dataset, or those below some of its folders, with their files."""
        for start in below or ("",):
            for level in walk(self.folder / start, self.root, follow=self.follow_links):
                level.folders[:] = _visible(level.folders)
                self.left_out.update(level.left_out)
                yield level.path, _visible(level.files)

    def files(self, *below: str) -> Iterator[Path]:
        """All files of the dataset, or of some of its folders."""
        return (folder / name for folder, names in self.walk(*below) for name in names)

    def ref(self, path: Path) -> str:
        """Path below the root."""
        return path.relative_to(self.root).as_posix()

    def beside(self, *names: str) -> Path | None:
        """Find a list that belongs to the dataset anywhere in the upper levels of the root.

        Raises
        ------
        UserError
            If there are two.
        """
        found = [folder.path / name for folder in self.upper for name in names if name in folder.files]
        if len(found) > 1:
            raise UserError(f"both {found[0]} and {found[1]}: keep the one to be used")
        return found[0] if found else None

    def table(self, *names: str) -> Path:
        """Return that of the dataset's lists which is there, the first of several."""
        paths = [self.folder / name for name in names]
        return next((path for path in paths if path.is_file()), paths[0])

    @cached_property
    def by_name(self) -> "Index":
        """Files by lower-case name."""
        return Index((path.name, path) for path in self.files())


class Index:
    """Files by a name that a table gives for them, in whatever case."""

    def __init__(self, items: Iterable[tuple[str, Path]]) -> None:
        self._found: dict[str, list[Path]] = defaultdict(list)
        for name, path in items:
            self._found[name.lower()].append(path)

    @property
    def names(self) -> frozenset[str]:
        """All names, in lower case."""
        return frozenset(self._found)

    def find(self, *names: str) -> Path | str:
        """Return the file that has the first of the names that any has, or why there is none."""
        for name in names:
            found = self._found.get(name.lower(), [])
            if len(found) == 1:
                return found[0]
            if found:
                return f"ambiguous: {len(found)} files have that name"
        return "no such file"


@dataclass(frozen=True)
class Dataset:
    """How to find and read one dataset.

    Attributes
    ----------
    title : str
    signature : str
        What the finder looks for, for people.
    matches : callable
        Whether a folder is the dataset's.
    read : callable
        Its images, and what had to be left out.
    """

    title: str
    signature: str
    matches: Callable[[Folder], bool]
    read: Callable[[Download], Iterator[Row | Skipped]]

    def find(self, root: Path, upper: tuple[Folder, ...]) -> Path:
        """Find the dataset by its signature.

        Raises
        ------
        UserError
            If it is not there, or there twice.
        """
        found: list[Path] = []
        for folder in upper:  # parents come first: a match inside a match is the same download
            if self.matches(folder) and not any(folder.path.is_relative_to(path) for path in found):
                found.append(folder.path)
        if not found:
            raise UserError(f"--root {root}: no {self.title} in it or up to {DEPTH} folders down: {self.signature}")
        if len(found) > 1:
            raise UserError(
                f"--root {root}: {self.title} is in both {found[0]} and {found[1]}; --root takes one of them"
            )
        return found[0]


def upper_levels(root: Path, *, follow: bool = False) -> tuple[Folder, ...]:
    """List the folders down to :data:`DEPTH`, but not those with numbers for names, which are patients and scans."""
    found: list[Folder] = []
    for level in walk(root, root, follow=follow):
        for path, reason in level.left_out:
            note(f"{path}: {reason}")
        found.append(Folder(level.path, frozenset(level.folders), frozenset(level.files)))
        deep = len(level.path.relative_to(root).parts) >= DEPTH
        level.folders[:] = [] if deep else [name for name in _visible(level.folders) if not name.isdigit()]
    return tuple(found)


def _visible(names: Iterable[str]) -> list[str]:
    """Sort names, without those that macOS puts beside each file, into archives too."""
    return sorted(name for name in names if not name.startswith(".") and name != "__MACOSX")


def read_sheet(path: Path) -> Iterator[tuple[str, ...]]:
    """Rows of a CSV file or of the first sheet of an Excel file, every cell as text.

    Raises
    ------
    UserError
        If the file cannot be read.
    """
    try:
        if path.suffix.lower() == ".xlsx":
            book = openpyxl.load_workbook(path, read_only=True, data_only=True)
            try:
                for row in book.worksheets[0].iter_rows(values_only=True):
                    yield tuple(map(_text, row))
            finally:
                book.close()
        else:
            with path.open(newline="", encoding="utf-8-sig") as file:
                for line in csv.reader(file):
                    yield tuple(map(_text, line))
    except Exception as error:  # openpyxl, zipfile and the XML parser each have their own
        raise UserError(f"cannot read {path}: {error}") from error


def read_columns(path: Path, *columns: str) -> Iterator[tuple[str, ...]]:
    """Those columns of a table whose first row names them.

    Raises
    ------
    UserError
        If the file cannot be read or lacks a column.
    """
    rows = read_sheet(path)
    header = next(rows, ())
    if missing := [name for name in columns if name not in header]:
        raise UserError(f"{path} lacks the columns {', '.join(missing)}")
    places = [header.index(name) for name in columns]
    for row in rows:
        if any(row):
            yield tuple(row[place] if place < len(row) else "" for place in places)


def _text(cell: Any) -> str:
    """Write a cell as text: whole numbers without the point that pandas and Excel give them, NaN as nothing."""
    text = "" if cell is None else str(cell).strip()
    if text.endswith(".0") and text[:-2].isdigit():
        return text[:-2]
    return "" if text.lower() == "nan" else text
