"""Makes the passes of a solve: counts them, tells of them, and looks at the clock."""

from dataclasses import replace
from math import inf, nan
from time import perf_counter

from torch import Tensor

from fgwot.solution import Status
from fgwot.streamed.lazy import Lazy, Progress
from fgwot.streamed.passes import Kernel, Pass, difference, one_pass


class Watch:
    """Passes of one solve; it is `over` once its time is.

    Parameters
    ----------
    lazy : Lazy
        Who is told, and how long it may take.
    """

    def __init__(self, lazy: Lazy) -> None:
        self._lazy, self._began = lazy, perf_counter()
        self._progress = Progress(step=0, passes=0, seconds=0.0, residual=inf, tol=nan)
        self.over = False

    def one_pass(self, kernel: Kernel, Z: Tensor) -> Pass:
        """Make a pass, see `fgwot.streamed.passes`."""
        found = one_pass(kernel, Z)
        self._passed(1)
        return found

    def difference(self, one: Kernel, other: Kernel) -> float:
        """L1 distance of two plans, see `fgwot.streamed.passes`."""
        found = difference(one, other)
        self._passed(2)
        return found

    def begin(self, tol: float) -> None:
        """Start to tell of a solve to this tolerance."""
        self._progress = replace(self._progress, tol=tol)

    def stepped(self, step: int, residual: float) -> None:
        """Note that a step is finished, after which the residual is about that."""
        self._progress = replace(self._progress, step=step, residual=residual)

    def ended(self, status: Status) -> None:
        """Tell how the solve ended."""
        self._progress = replace(self._progress, status=status)
        self._tell()

    def _passed(self, count: int) -> None:
        passes, seconds = self._progress.passes + count, perf_counter() - self._began
        self._progress = replace(self._progress, passes=passes, seconds=seconds)
        self.over = self._lazy.time_limit is not None and seconds >= self._lazy.time_limit
        self._tell()

    def _tell(self) -> None:
        started = self._progress.tol == self._progress.tol
        if started and self._lazy.progress is not None:
            self._lazy.progress(self._progress)
