"""What a person sees: notices and progress bars on stderr, results on stdout."""

import codecs
import multiprocessing
from collections.abc import Iterable, Iterator
from io import TextIOWrapper
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

T = TypeVar("T")

# The console looks sys.stdout and sys.stderr up at each use, so redirection (tests, pipes) works. Names of classes and
# files are shown as they are: "[/b]" and ":cat:" are no markup.
out = Console(soft_wrap=True, markup=False, emoji=False)
err = Console(stderr=True, soft_wrap=True, markup=False, emoji=False)

AS_STORED = "kmat.as-stored"
"""Error handler of encodings: bytes of file names come out as they are, what the encoding lacks as an escape."""


def _as_stored(error: UnicodeError) -> tuple[str | bytes, int]:
    try:
        return codecs.lookup_error("surrogateescape")(error)
    except UnicodeError:
        return codecs.backslashreplace_errors(error)


codecs.register_error(AS_STORED, _as_stored)


def encode_with(errors: str, *streams: object) -> None:
    """Say by what error handler standard output or error takes what its encoding lacks."""
    for stream in streams:
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors=errors)


def is_text(text: str) -> bool:
    """Whether a string can be written in UTF-8: names that hold other bytes cannot."""
    return text.isascii() or not any("\ud800" <= letter <= "\udfff" for letter in text)


def one_line(text: str) -> str:
    """Fold lines into one."""
    return " ".join(text.splitlines())


def note(message: str) -> None:
    """Say something the user should know but need not act on, in one line."""
    err.print(one_line(message), style="yellow", highlight=False)


def show_banner(banner: str, console: Console = out) -> None:
    """Say what numbers on synthetic data are worth, on the stream that the numbers go to if they are for reading."""
    if banner:
        console.print(banner, style="bold yellow", highlight=False)


def plain_table(title: str) -> Table:
    """Return an empty table without lines, one space between columns."""
    return Table(title=title, title_justify="left", title_style="bold", box=None, padding=(0, 0, 0, 1), pad_edge=False)


def progress() -> Progress:
    """Return a progress display that leaves nothing behind.

    It stays silent when stderr is no terminal, and in a worker process, whose parent has one.
    """
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=err,
        transient=True,
        disable=not err.is_terminal or multiprocessing.parent_process() is not None,
    )


def track(items: Iterable[T], description: str, total: int) -> Iterator[T]:
    """Yield ``items`` while a bar counts them."""
    with progress() as bar:
        yield from bar.track(items, total=total, description=description)
