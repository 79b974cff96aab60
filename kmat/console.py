"""What a person sees: notices and progress bars on stderr, results on stdout."""

import codecs
import multiprocessing
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from io import TextIOWrapper
from typing import TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
)
from rich.table import Table
from rich.text import Text

T = TypeVar("T")

# The console looks sys.stdout and sys.stderr up at each use, so redirection (tests, pipes) works. Names of classes and
# files are shown as they are: "[/b]" and ":cat:" are no markup.
out = Console(soft_wrap=True, markup=False, emoji=False)
err = Console(stderr=True, soft_wrap=True, markup=False, emoji=False)

SECONDS_BETWEEN_LINES = 30.0  # where there is no terminal to show a bar

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


def tell(message: str) -> None:
    """Say what goes on, in one line."""
    err.print(one_line(message), highlight=False)


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


@contextmanager
def counted(description: str, total: int) -> Iterator[Callable[..., None]]:
    """Show how far something is: yields a function that is told how many more are done, and perhaps what goes on.

    On a terminal that is a bar with the rate and the time left, or what is said to go on instead, which leaves nothing
    behind; elsewhere a line every half minute, so that a log tells what goes on. In a worker process a terminal belongs
    to its parent.
    """
    if not err.is_terminal:
        yield _Lines(description, total)
    elif multiprocessing.parent_process() is not None:
        yield lambda _count, _state="": None
    else:
        columns = TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), _State()
        with Progress(*columns, console=err, transient=True) as bar:
            task = bar.add_task(description, total=total, state="")
            yield lambda count, state="": bar.update(task, advance=count, state=state)


def track(items: Iterable[T], description: str, total: int) -> Iterator[T]:
    """Yield ``items`` and count them."""
    with counted(description, total) as advance:
        for item in items:
            yield item
            advance(1)


class _State(ProgressColumn):
    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        left = task.time_remaining
        rate = f"{speed:.3g}/s" if speed else ""
        return Text(task.fields["state"] or (f"{rate}, {duration(left)} left" if left else rate))


class _Lines:
    """Says how far something is, not too often."""

    def __init__(self, description: str, total: int) -> None:
        self._description, self._total, self._done = description, total, 0
        self._start = self._said = time.monotonic()

    def __call__(self, count: int, _state: str = "") -> None:
        self._done += count
        now = time.monotonic()
        if now - self._said >= SECONDS_BETWEEN_LINES and self._done < self._total:
            self._said = now
            far = f"{self._description}: {self._done} of {self._total}"
            if rate := self._done / (now - self._start):
                far += f", {rate:.3g}/s, {duration((self._total - self._done) / rate)} left"
            tell(far)


def duration(seconds: float) -> str:
    """Say a time in words.

    Examples
    --------
    >>> duration(12.3), duration(200), duration(9000)
    ('12 s', '3 min', '2.5 h')
    """
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
