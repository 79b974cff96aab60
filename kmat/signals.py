"""How a command and its workers end when they are told to, or when the other does."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


class Terminated(KeyboardInterrupt):
    """SIGTERM, which is taken as Ctrl-C is: the command cleans up and says how it goes on."""


@contextmanager
def terminable() -> Iterator[None]:
    """Raise :class:`Terminated` in the main thread at SIGTERM, until the end of the context."""
    with _handled(signal.SIGTERM, _terminate):
        yield


@contextmanager
def deaf_to_ctrl_c() -> Iterator[None]:
    """Ignore Ctrl-C until the end of the context, some milliseconds; processes started within it ignore it for good."""
    with _handled(signal.SIGINT, signal.SIG_IGN):
        yield


@contextmanager
def _handled(
    number: signal.Signals, handler: Callable[[int, FrameType | None], None] | signal.Handlers
) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield  # signals are the main thread's affair
        return
    before = signal.signal(number, handler)
    try:
        yield
    finally:
        signal.signal(number, before)


def end_with_parent() -> None:
    """End this worker process when its parent does, even in the middle of a run: nobody would take the result."""
    parent = multiprocessing.parent_process()
    assert parent is not None  # noqa: S101 (a worker has one)

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _terminate(_number: int, _frame: FrameType | None) -> None:
    raise Terminated
