"""What a person sees: notices and progress bars on stderr, results on stdout."""

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


def plain_table(title: str) -> Table:
    """Return an empty table without lines, one space between columns."""
    return Table(title=title, title_justify="left", title_style="bold", box=None, padding=(0, 0, 0, 1), pad_edge=False)


def progress() -> Progress:
    """Return a progress display that leaves nothing behind and stays silent when stderr is no terminal."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=err,
        transient=True,
        disable=not err.is_terminal,
    )


def track(items: Iterable[T], description: str, total: int) -> Iterator[T]:
    """Yield ``items`` while a bar counts them."""
    with progress() as bar:
        yield from bar.track(items, total=total, description=description)
