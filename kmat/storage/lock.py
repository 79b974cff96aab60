"""The lock that keeps two processes from writing to one folder."""

import os
import socket
import sys
from pathlib import Path
from types import TracebackType
from typing import TextIO

from kmat.console import note
from kmat.errors import UserError
from kmat.storage.atomic import make_folder, naming

if sys.platform != "win32":
    import fcntl

NAME = "kmat.lock"


class Lock:
    """A lock of the operating system, on a file in the folder that says who holds it.

    It ends with the process that holds it, however that ends: a file that is left behind locks nothing. Where the
    system has no such locks, on Windows and on some network file systems, nothing is locked, and the latter is said.

    Parameters
    ----------
    folder : Path
        It is made if it does not exist.

    Raises
    ------
    UserError
        On entering, if another process holds the lock.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._file: TextIO | None = None

    def __enter__(self) -> None:
        make_folder(self._folder)
        if sys.platform == "win32":
            return
        path = self._folder / NAME
        with naming(path):
            while True:
                file = path.open("a+", encoding="utf-8")
                self._take(file)
                if _is_at(path, file):
                    break
                file.close()  # its last holder removed it after it was opened
            file.truncate(0)
            file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
            file.flush()
        self._file = file

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file:
            (self._folder / NAME).unlink(missing_ok=True)  # as long as it is ours
            self._file.close()

    def _take(self, file: TextIO) -> None:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            holder = file.read().strip() or "another process"
            file.close()
            raise UserError(
                f"{self._folder} is in use by {holder}; wait for its end, stop it, or choose another --out"
            ) from error
        except OSError as error:
            note(f"{self._folder} cannot be locked ({error.strerror}): let no other command write to it")


def _is_at(path: Path, file: TextIO) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False
