"""What a person sees: notices and progress bars on stderr, results on stdout."""

import multiprocessing
from collections.abc import Iterable, Iterator
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

T = TypeVar("T")

# The console looks sys.stdout and sys.stderr up at each use, so redirection (tests, pipes) works.
out = Console(soft_wrap=True)
err = Console(stderr=True, soft_wrap=True)


def note(message: str) -> None:
    """Say something the user should know but need not act on."""
    err.print(message, style="yellow", markup=False, highlight=False)


def show_banner(banner: str, console: Console = out) -> None:
    """Say what numbers on synthetic data are worth, on the stream that the numbers go to if they are for reading."""
    if banner:
        console.print(banner, style="bold yellow", markup=False, highlight=False)


def plain_table(title: str) -> Table:
    """Return an empty table without lines, one space between columns."""
    return Table(title=title, title_justify="left", title_style="bold", box=None, padding=(0, 0, 0, 1), pad_edge=False)


def progress() -> Progress:
    """Return a progress display that leaves nothing behind.

    It stays silent when stderr is no terminal, and in a worker process, whose parent has one.
    """
    return Progress(
        TextColumn("{task.description}"),
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
