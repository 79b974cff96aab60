"""What a user reads while Numba compiles."""

import logging

from numba.core import event


class Announcement(event.Listener):
    """Say once that the loops of a module are being compiled; Numba reports no compilation of what is in its cache."""

    def __init__(self, module: str, purpose: str) -> None:
        self._module, self._purpose, self._said = module, purpose, False

    def on_start(self, event: event.Event) -> None:
        """A function is compiled."""
        if not self._said and event.data["dispatcher"].py_func.__module__ == self._module:
            self._said = True
            logging.getLogger("fgwot").warning(
                "fgwot: Numba compiles the loops for %s, some ten seconds, once on this machine; "
                "`python -m fgwot.warmup` does it beforehand",
                self._purpose,
            )

    def on_end(self, event: event.Event) -> None:
        """It is compiled."""
