"""Makes the passes of a solve: counts them, tells of them, and looks at the clock."""

from dataclasses import replace
from math import inf
from time import perf_counter

from torch import Tensor

from fgwot.solution import Status
from fgwot.streamed.lazy import Lazy, Progress
from fgwot.streamed.passes import Kernel, Pass, difference, one_pass
from fgwot.streamed.ranks import Ranks


class Watch:
    """Passes of one solve; it is `over` once its time is.

    Parameters
    ----------
    lazy : Lazy
        Who is told, and how long it may take.
    ranks : Ranks, optional
        Who makes the passes, if not this process alone.
    """

    def __init__(self, lazy: Lazy, ranks: Ranks | None) -> None:
        self._lazy, self._ranks, self._began = lazy, ranks, perf_counter()
        self._one_pass, self._difference = (ranks.one_pass, ranks.difference) if ranks else (one_pass, difference)
        self._progress: Progress | None = None
        self._passes, self.over = 0, False

    def one_pass(self, kernel: Kernel, Z: Tensor) -> Pass:
        """Make a pass, see `fgwot.streamed.passes`."""
        found = self._one_pass(kernel, Z)
        self._passed(1)
        return found

    def difference(self, one: Kernel, other: Kernel) -> float:
        """L1 distance of two plans, see `fgwot.streamed.passes`."""
        found = self._difference(one, other)
        self._passed(2)
        return found

    def begin(self, tol: float) -> None:
        """Tell of a solve to this tolerance from now on."""
        self._progress = Progress(step=0, passes=0, seconds=0.0, residual=inf, tol=tol)

    def stepped(self, step: int, residual: float) -> None:
        """Note that a step is finished, after which the residual is about that."""
        if self._progress is not None:
            self._progress = replace(self._progress, step=step, residual=residual)

    def ended(self, status: Status) -> None:
        """Tell how the solve ended."""
        self._tell(status)

    def _passed(self, count: int) -> None:
        self._passes += count
        if self._lazy.time_limit is not None:
            over = perf_counter() - self._began >= self._lazy.time_limit
            self.over = self._ranks.any(over) if self._ranks else over
        self._tell()

    def _tell(self, status: Status | None = None) -> None:
        if self._progress is None or self._lazy.progress is None or (self._ranks and self._ranks.rank > 0):
            return
        seconds = perf_counter() - self._began
        self._lazy.progress(replace(self._progress, passes=self._passes, seconds=seconds, status=status))
