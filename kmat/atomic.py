"""Files that are there whole or not at all, whenever their writer is killed."""

import csv
import io
import secrets
from collections.abc import Iterable, Sequence
from pathlib import Path

PARTIAL = ".partial"
"""End of the name of a file that is not whole; one whose writer was killed can be deleted."""


def write(path: Path, content: str | bytes) -> None:
    """Write a file aside and rename it; of several writers at once, the last one's file stays.

    Text becomes UTF-8, but names of files that are not UTF-8 become the bytes that they are.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     write(Path(folder, "a.txt"), "whole")
    ...     [file.name for file in Path(folder).iterdir()]
    ['a.txt']
    """
    partial = path.with_name(f"{path.name}.{secrets.token_hex(4)}{PARTIAL}")
    try:
        partial.write_bytes(content.encode(errors="surrogateescape") if isinstance(content, str) else content)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Iterable[object]]) -> None:
    """Write a CSV file as :func:`write` does."""
    file = io.StringIO()
    writer = csv.writer(file)
    writer.writerow(header)
    writer.writerows(rows)
    write(path, file.getvalue())
