"""What a user reads while Numba compiles."""

import logging

from numba.core import event


class Announcement(event.Listener):
    """Say once in a process that loops are being compiled; Numba reports no compilation of what is in its cache."""

    _said = False

    def __init__(self, package: str, purpose: str) -> None:
        self._package, self._purpose = package, purpose

    def on_start(self, event: event.Event) -> None:
        """A function is compiled."""
        if not Announcement._said and event.data["dispatcher"].py_func.__module__.startswith(self._package):
            Announcement._said = True
            logging.getLogger("fgwot").warning(
                "fgwot: Numba compiles the loops for %s, up to half a minute, once on this machine; "
                "`python -m fgwot.warmup` does it beforehand",
                self._purpose,
            )

    def on_end(self, event: event.Event) -> None:
        """It is compiled."""
