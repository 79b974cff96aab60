"""Which calls are streamed: the reasons against it are the conditions."""

import torch
from torch import Tensor

from fgwot.adjoint import Envelope
from fgwot.call import Call
from fgwot.losses import BY_NAME
from fgwot.operations import transformed
from fgwot.solution import WarmStart
from fgwot.solvers import MirrorDescent
from fgwot.streamed.lazy import Lazy
from fgwot.streamed.passes import uses_loops
from fgwot.structure import LowRank

# Entries of a plan from which it is not stored, and with or without prices those from which not storing it before it
# is solved takes less time (python -m benchmarks.clouds), where costs are of low rank.
SMALLEST_LAZY, SMALLEST_PRICED, SMALLEST_STREAMED = 2**24, 2**16, 10**6


def stays_lazy(call: Call) -> bool:
    """Whether a plan that is streamed is not to be built either."""
    return isinstance(call.plan, Lazy) or call.entries >= SMALLEST_LAZY


def against_streaming(call: Call) -> str | None:
    """Give a reason for a dense plan, or None.

    Raises
    ------
    ValueError
        If a lazy plan was asked for and cannot be had.
    """
    if call.plan == "dense":
        return "plan='dense' was asked for"
    if not isinstance(call.C1, LowRank) and not isinstance(call.C2, LowRank) and call.plan is None:
        return "the structures are dense"
    reason = _against_a_lazy_plan(call)
    if isinstance(call.plan, Lazy) and reason is not None:
        raise ValueError(f"a lazy plan is not for {reason}")
    return _against_streaming_unasked(call) if reason is None and not stays_lazy(call) else reason


def _against_streaming_unasked(call: Call) -> str | None:
    """Give a reason why an array of the plan's size costs less time than passes that store none."""
    smallest = SMALLEST_STREAMED if call.rho is None else SMALLEST_PRICED
    if call.entries < smallest:
        return f"the plan has fewer than {smallest} entries"
    return None if uses_loops(call.C1.device) else "its loops need Numba, and the CPU"


def _against_a_lazy_plan(call: Call) -> str | None:
    C1, C2 = call.C1, call.C2
    if not (isinstance(C1, LowRank) and isinstance(C2, LowRank)):
        return "dense structures: use fgwot.LowRank, for example LowRank.squared_distances(x)"
    if call.M is not None:
        return "a dense M: use fgwot.LowRank, for example LowRank.squared_distances(x, y)"
    loss, adjoint, init = call.loss, call.adjoint, call.init
    if call.mass is not None:
        return "mass: use rho, which pays for marginals, or plan='dense'"
    if loss not in ("square", BY_NAME["square"]):
        return f"the {getattr(loss, 'name', loss)} loss: costs of low rank need the square loss"
    if call.solver != MirrorDescent():
        return f"{call.solver}: use MirrorDescent()"
    if adjoint not in ("envelope", Envelope()):
        return f"adjoint={adjoint!r}: use 'envelope'"
    if init is not None and not (isinstance(init, WarmStart) and not isinstance(init.plan, Tensor)):
        return "an init with a dense plan: use None or a Solution with a lazy plan"
    parts = [C1.A, C1.B, C2.A, C2.B, call.p, call.q, call.alpha, call.epsilon, *(call.rho or (0, 0))]
    own = [2, 2, 2, 2, 1, 1, 0, 0, 0, 0]
    if call.low_rank is not None:
        parts, own = [*parts, call.low_rank.A, call.low_rank.B], [*own, 2, 2]
    if any(isinstance(t, Tensor) and t.ndim > k for t, k in zip(parts, own, strict=True)):
        return "batches: solve one problem after another"
    if C1.dtype not in (torch.float64, torch.float32):
        return f"{C1.dtype}: use float32 or float64"
    return "calls that torch.func transforms" if transformed() else None
