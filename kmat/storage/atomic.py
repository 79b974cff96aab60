"""Files that are there whole or not at all, whenever their writer is killed."""

import csv
import io
import os
import secrets
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from kmat.console import AS_STORED
from kmat.errors import WriteError, explain

PARTIAL = ".partial"
"""End of the name of a file that is not whole; one whose writer was killed can be deleted."""


def write(path: Path, content: str | bytes) -> None:
    """Write a file aside and rename it; of several writers at once, the last one's file stays.

    A link stays, and what it leads to is replaced; a device or pipe is written to. Text becomes UTF-8, but names of
    files that are not UTF-8 become the bytes that they are.

    Raises
    ------
    WriteError
        If it cannot be written; what had that name is then still there.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     write(Path(folder, "a.txt"), "whole")
    ...     [file.name for file in Path(folder).iterdir()]
    ['a.txt']
    """
    data = content.encode(errors=AS_STORED) if isinstance(content, str) else content
    with naming(path):
        if path.exists() and not path.is_file():
            path.write_bytes(data)
            return
        target = Path(os.path.realpath(path))
        partial = target.with_name(f"{secrets.token_hex(8)}{PARTIAL}")
        try:
            partial.write_bytes(data)
            partial.replace(target)
        finally:
            partial.unlink(missing_ok=True)


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Iterable[object]]) -> None:
    """Write a CSV file as :func:`write` does."""
    write(path, csv_text(header, rows))


def csv_text(header: Sequence[str], rows: Iterable[Iterable[object]]) -> str:
    """Return the text of a CSV file."""
    file = io.StringIO()
    writer = csv.writer(file)
    writer.writerow(header)
    writer.writerows(rows)
    return file.getvalue()


def append(path: Path, line: str) -> None:
    """Add a line to a file; not atomic, a line that was cut off is the reader's to drop.

    Raises
    ------
    WriteError
        If it cannot be written.
    """
    with naming(path), path.open("a", encoding="utf-8") as file:
        file.write(line)


def make_folder(path: Path) -> None:
    """Make a folder and those above it, where there are none.

    Raises
    ------
    WriteError
        If that cannot be done.
    """
    with naming(path):
        path.mkdir(parents=True, exist_ok=True)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Turn the operating system's errors into a :class:`WriteError` that names the file."""
    try:
        yield
    except OSError as error:
        raise WriteError(f"cannot write {explain(OSError(error.errno, error.strerror, str(path)))}") from error
