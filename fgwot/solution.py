"""What a solve returns."""

from collections import Counter
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import Any

from torch import Tensor


class Status(IntEnum):
    """How the iteration of one problem ended."""

    CONVERGED = 0
    MAX_ITER = 1
    STALLED = 2
    NUMERICAL = 3
    TIME_LIMIT = 4

    @property
    def sentence(self) -> str:
        """The status in words.

        Examples
        --------
        >>> Status.MAX_ITER.sentence
        'reached max_iter before the tolerance'
        """
        return {
            Status.CONVERGED: "converged to the tolerance",
            Status.MAX_ITER: "reached max_iter before the tolerance",
            Status.STALLED: "stalled where rounding of this dtype hides further progress",
            Status.NUMERICAL: "met a value that is not finite",
            Status.TIME_LIMIT: "reached the time limit before the tolerance",
        }[self]


class ConvergenceWarning(UserWarning):
    """At least one problem of a call did not converge."""


@dataclass(frozen=True)
class WarmStart:
    """What another solve can start from: what it needs of a `Solution`, which is one.

    Attributes
    ----------
    plan : Tensor (..., n, m)
    potentials : tuple of Tensor (..., n), (..., m)
    """

    plan: Tensor
    potentials: tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Solution(WarmStart):
    r"""The stationary point that was found, with the caller's batch shape (written ... below).

    Tensors, or arrays of another library if the caller's were.

    Attributes
    ----------
    plan : Tensor (..., n, m)
        The coupling T. Detached under ``adjoint="envelope"``. A `fgwot.LazyPlan` where it is not stored.
    potentials : tuple of Tensor (..., n), (..., m)
        (f, g) with grad E(T) + epsilon log T = f (+) g; they are dJ/dp and dJ/dq up to one constant.
        Detached.
    value : Tensor (...)
        J(T) = cost - epsilon H(T), the minimised objective (E(T) under ProximalPoint).
    cost : Tensor (...)
        E(T) = (1 - alpha) value_linear + alpha value_quad.
    value_linear, value_quad : Tensor (...)
        <M, T> and <L (x) T, T>.
    status : Tensor (...), int64
        A `Status` for each problem.
    residual : Tensor (...)
        ``|T - T+|_1``, T+ being the plan that one undamped step makes of T, divided by the mass.
    marginal_error : Tensor (...)
        ``|T 1 - p|_1 + |T' 1 - q|_1``, divided by the mass.
    n_iter : Tensor (...), int64
        Outer iterations.
    """

    value: Tensor
    cost: Tensor
    value_linear: Tensor
    value_quad: Tensor
    status: Tensor
    residual: Tensor
    marginal_error: Tensor
    n_iter: Tensor

    @property
    def converged(self) -> Tensor:
        """Bool tensor (...): which problems converged."""
        return self.status == Status.CONVERGED

    def detach(self) -> "Solution":
        """Return the same solution without gradients."""
        live = ("plan", "value", "cost", "value_linear", "value_quad")
        tensors: dict[str, Any] = {name: t for name in live if isinstance(t := getattr(self, name), Tensor)}
        return replace(self, **{name: t.detach() for name, t in tensors.items()})

    def __repr__(self) -> str:
        batch = tuple(self.status.shape)
        counts = Counter(self.status.reshape(-1).tolist())
        ended = ", ".join(f"{counts[status]} {status.name}" for status in Status if counts[status])
        n, m = self.plan.shape[-2:]
        return f"Solution({n} x {m}, batch {batch}: {ended})"
