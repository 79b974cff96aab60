"""How to solve for a plan that is not stored: who is told, how long it may take, where its state is kept, who helps."""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from math import inf, log
from os import PathLike
from typing import Any

import torch.distributed as dist

from fgwot.solution import Status

_LOG_SECONDS, _TERMINAL_SECONDS = 30.0, 0.1  # between two lines
_WIDTH = 20  # of the bar
_FARTHEST = 2.0  # L1 distance of two plans of mass one


@dataclass(frozen=True)
class Progress:
    """Where a solve stands.

    Attributes
    ----------
    step : int
        Outer steps that are finished.
    passes : int
        Passes over the n x m entries of a plan; one that compares two plans counts 2.
    seconds : float
        Since the solve began.
    residual : float
        How far the last step went, with the marginal errors: what `Solution.residual` and `Solution.marginal_error`
        would add up to, estimated. Infinite before the first step.
    tol : float
        What it has to come down to.
    status : Status, optional
        How the solve ended; None until then.
    """

    step: int
    passes: int
    seconds: float
    residual: float
    tol: float
    status: Status | None = None


class ProgressLine:
    """Shows the progress of a solve on stderr: one line that is rewritten on a terminal, one every 30 s elsewhere.

    The bar grows with the logarithm of the residual.

    Examples
    --------
    >>> import torch, fgwot
    >>> C = fgwot.LowRank.squared_distances(torch.rand(50, 2))
    >>> lazy = fgwot.Lazy(progress=fgwot.ProgressLine())
    >>> solution = fgwot.gromov_wasserstein(C, C, epsilon=0.1, plan=lazy)
    """

    def __init__(self) -> None:
        self._shown = -inf

    def __call__(self, progress: Progress) -> None:
        """Show it, if the last line is old enough."""
        terminal = sys.stderr.isatty()
        pause = _TERMINAL_SECONDS if terminal else _LOG_SECONDS
        ended = progress.status is not None
        if not ended and 0 <= progress.seconds - self._shown < pause:
            return
        self._shown = -inf if ended else progress.seconds
        text = _line(progress)
        sys.stderr.write(f"\r{text}\x1b[K" + "\n" * ended if terminal else f"{text}\n")
        sys.stderr.flush()


def _line(progress: Progress) -> str:
    left = log(_FARTHEST / max(progress.residual, progress.tol)) if progress.residual < _FARTHEST else 0.0
    filled = round(_WIDTH * left / log(_FARTHEST / progress.tol)) if progress.tol < _FARTHEST else _WIDTH
    ended = "" if progress.status is None else f", {progress.status.sentence}"
    return (
        f"[{'#' * filled:.<{_WIDTH}}] step {progress.step}, pass {progress.passes}, residual {progress.residual:.1e} "
        f"to {progress.tol:.1e}, {progress.seconds:.0f} s{ended}"
    )


@dataclass(frozen=True)
class Lazy:
    """``plan=Lazy(...)`` is ``plan="lazy"`` with wishes for a long solve.

    Parameters
    ----------
    progress : callable, optional
        Called with a `Progress` after each pass, and at the end; `ProgressLine` is a ready one.
    time_limit : float, optional
        Seconds after which the solve ends with the status TIME_LIMIT, two or three passes later. The plan is that of
        the last finished step; its residual is measured by as much of the next step as there is, whose marginal error
        it includes.
    checkpoint : str or path, optional
        A file to keep the state in while the solve runs: column potentials and a matrix of the core's size, some
        hundred kilobytes. If it is there already, the solve goes on from it: whoever was interrupted calls again.
    group : torch.distributed.ProcessGroup, optional
        Processes that share the work: each makes the same call and computes its part of the rows; all get the whole
        solution. `progress` and `checkpoint` are rank 0's. What one raises ends the call on all. Gradients of the
        solution's values are shared work, too: all ranks have to ask for them.

    Examples
    --------
    >>> import torch, fgwot
    >>> C = fgwot.LowRank.squared_distances(torch.rand(50, 2))
    >>> seen = []
    >>> solution = fgwot.gromov_wasserstein(C, C, epsilon=0.1, plan=fgwot.Lazy(progress=seen.append, time_limit=60))
    >>> seen[-1].status.name, seen[-1].step == solution.n_iter
    ('CONVERGED', tensor(True))
    """

    progress: Callable[[Progress], object] | None = None
    time_limit: float | None = None
    checkpoint: str | PathLike[str] | None = None
    group: Any = None

    def __post_init__(self) -> None:
        if self.progress is not None and not callable(self.progress):
            raise TypeError(f"progress must be a function of a fgwot.Progress, got {type(self.progress).__name__}")
        if self.time_limit is not None and not self.time_limit > 0:
            raise ValueError(f"time_limit must be positive, in seconds, got {self.time_limit}")
        if self.checkpoint is not None and not isinstance(self.checkpoint, str | PathLike):
            raise TypeError(f"checkpoint must be a path, got {type(self.checkpoint).__name__}")
        if self.group is not None and not (dist.is_available() and isinstance(self.group, dist.ProcessGroup)):
            raise TypeError(
                f"group must be a torch.distributed.ProcessGroup of which this process is a rank, got {self.group!r}"
            )
