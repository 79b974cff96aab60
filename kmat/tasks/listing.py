"""What a user's CSV file or folders list, before anyone looks at the images."""

import csv
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import NamedTuple

from kmat.console import is_text, note
from kmat.errors import UserError
from kmat.modalities import LOW
from kmat.tasks.base import Skipped
from kmat.tasks.tree import walk

COLUMNS = ("path", "label", "modality", "split", "patient")
REQUIRED = ("path", "label", "modality")

_ALIASES = {
    "path": ("file", "filename", "image", "image_path"),
    "label": ("class", "diagnosis"),
    "split": ("set", "subset"),
    "patient": ("patient_id", "subject", "subject_id"),
}
_SPLITS = {"training": "train", "valid": "val", "validation": "val", "testing": "test"}
_DELIMITERS = ",;\t|"


class Row(NamedTuple):
    """One file, as the user lists it."""

    path: str
    label: str
    modality: str
    split: str
    patient: str


def csv_rows(source: Path) -> Iterator[Row | Skipped]:
    """Rows of a CSV file in UTF-8; a path may hold other bytes, as file names do.

    Cells are parted by whatever parts the header; its case is of no matter, and some columns have other names too.

    Raises
    ------
    UserError
        If the file cannot be read or lacks a column.
    """
    try:
        with source.open(newline="", encoding="utf-8-sig", errors="surrogateescape") as file:
            read = 0

            def counted() -> Iterator[str]:
                nonlocal read
                for read, line in enumerate(file, start=1):  # noqa: B007 (csv's own count leaves out bad lines)
                    yield line

            lines = counted()
            first = next(lines, "")
            delimiter = _delimiter(first)
            reader = csv.DictReader(chain((first,), lines), delimiter=delimiter)
            columns = _columns(source, reader.fieldnames or ())
            while True:
                try:
                    line = next(reader)
                except csv.Error as error:
                    yield Skipped(f"line {read}", f"unreadable: {error}")
                    continue
                except StopIteration:
                    return
                cells = {column: (line.get(name) or "").strip() for column, name in columns.items()}
                row = Row(*(cells.get(column, "") for column in COLUMNS))
                row = row._replace(split=_SPLITS.get(row.split.lower(), row.split.lower()))
                if any(line.get(None, ())):
                    yield Skipped(row.path, f"more cells than columns: in line {read}")
                elif not row.path:
                    yield Skipped(f"line {read}", "no path")
                else:
                    yield row
    except (OSError, csv.Error) as error:
        raise UserError(f"cannot read {source}: {error}") from error


def _delimiter(header: str) -> str:
    """Find the sign by which a header falls into most of the columns."""

    def known(delimiter: str) -> int:
        return len(_named(next(csv.reader([header], delimiter=delimiter), ())))

    return max(_DELIMITERS, key=known)


def _columns(source: Path, header: Sequence[str]) -> dict[str, str]:
    """Say what the columns are called in a file."""
    if not all(map(is_text, header)):
        raise UserError(f"cannot read {source}: not UTF-8")
    columns = _named(header)
    if missing := [column for column in REQUIRED if column not in columns]:
        raise UserError(
            f"{source} lacks the columns {', '.join(missing)}; expected {', '.join(COLUMNS)}, found "
            f"{', '.join(map(repr, header)) or 'none'}"
        )
    return columns


def _named(header: Iterable[str]) -> dict[str, str]:
    """Map columns to their names in a header; a column's own name goes before others."""
    names = {name.strip().lower(): name for name in header}
    found = {column: (column, *_ALIASES.get(column, ())) for column in COLUMNS}
    return {
        column: next(names[word] for word in words if word in names)
        for column, words in found.items()
        if not names.keys().isdisjoint(words)
    }


def folder_rows(root: Path, high: str, low: str, *, follow: bool) -> Iterator[Row | Skipped]:
    """Files of the folders ``ROOT/MODALITY/CLASS/``.

    Raises
    ------
    UserError
        If there is no folder of that name. Where nobody named the low end, there need not be any.
    """
    for option, modality in (("--high", high), ("--low", low)):
        if not (root / modality).is_dir():
            there = sorted(path.name for path in root.iterdir() if path.is_dir())
            message = (
                f"{root} has no folder {modality!r} for {option}; expected MODALITY/CLASS/, "
                f"found {', '.join(map(repr, there[:10])) or 'no folder'}{', ...' * (len(there) > 10)}"
            )
            if modality != LOW:
                raise UserError(message)
            if there != [high]:
                note(message)
            continue
        for level in walk(root / modality, root, follow=follow):
            yield from (Skipped(path.relative_to(root).as_posix(), reason) for path, reason in level.left_out)
            for name in level.files:
                path = (level.path / name).relative_to(root)
                label = path.parts[1] if len(path.parts) > 2 else ""
                yield Row(path.as_posix(), label, modality, "", "")
