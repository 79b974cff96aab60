"""Packages that read what Pillow does not: pydicom and nibabel, imported when a file needs them."""

import logging
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from types import ModuleType

from kmat.tasks.base import UnreadableImageError

_ONE_AT_A_TIME = threading.RLock()  # what is done to warnings concerns all threads
_LOGGERS = tuple(map(logging.getLogger, ("pydicom", "nibabel.global")))


def need(name: str, extra: str) -> ModuleType:
    """Import a package, or one of its modules.

    Raises
    ------
    UnreadableImageError
        That names the extra, if it is not installed.
    """
    try:
        return import_module(name)
    except ImportError as error:
        package = name.partition(".")[0]
        raise UnreadableImageError(f"unreadable: needs {package}: pip install 'fgwot[{extra}]'") from error


@contextmanager
def reading(what: str) -> Iterator[None]:
    """Read a file with one of these packages, which raise anything, in words that may quote what a file says.

    Raises
    ------
    UnreadableImageError
        For whatever goes wrong, in words of ours.
    """
    try:
        with _quiet():
            yield
    except UnreadableImageError:
        raise
    except Exception as error:
        why = getattr(error, "strerror", None) or f"damaged {what} ({type(error).__name__})"
        raise UnreadableImageError(f"unreadable: {why}") from None  # a traceback would quote the file too


@contextmanager
def _quiet() -> Iterator[None]:
    """Let these packages warn and log nothing: what they say may quote a patient's name, and names no file."""
    with _ONE_AT_A_TIME, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        before = [logger.disabled for logger in _LOGGERS]
        for logger in _LOGGERS:
            logger.disabled = True
        try:
            yield
        finally:
            for logger, disabled in zip(_LOGGERS, before, strict=True):
                logger.disabled = disabled
