"""Which driver solves a call, and why the others do not: their reasons to decline are the conditions."""

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fgwot.adjoint import Adjoint, Envelope
from fgwot.arrays import any_array
from fgwot.backend import forced, uses_triton
from fgwot.batch import broadcast, flatten
from fgwot.iteration.initial import Init, MultiInit
from fgwot.losses import BY_NAME, GroundLoss
from fgwot.operations import transformed
from fgwot.problem import Problem, Weight, computed_in
from fgwot.solution import WarmStart
from fgwot.solvers import MirrorDescent, Solver
from fgwot.streamed.lazy import Lazy
from fgwot.streamed.passes import uses_loops
from fgwot.streamed.plan import stored
from fgwot.structure import LowRank, Structure, refuse_sparse

_log = logging.getLogger("fgwot")
LARGEST = 200  # points of a side that the loops take; above, torch's matrix products and threads win
# Entries of a plan from which it is not stored, and with or without prices those from which not storing it before it
# is solved takes less time (python -m benchmarks.clouds), where costs are of low rank.
SMALLEST_LAZY, SMALLEST_PRICED, SMALLEST_STREAMED = 2**24, 2**16, 10**6
_SMALLEST_BATCHED = 8  # points of a side up to which batches are not the kernel's
_LOOP_DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
_REFUSED = "the check will refuse the arguments"


@dataclass(eq=False)
class Call:
    """Arguments of `fgwot.fused_gromov_wasserstein`."""

    M: Tensor | None
    C1: Structure
    C2: Structure
    p: Tensor | None
    q: Tensor | None
    alpha: Weight
    epsilon: Weight
    loss: str | GroundLoss
    solver: Solver
    adjoint: str | Adjoint
    init: Init
    max_iter: int
    tol: float | None
    plan: str | Lazy | None = None
    rho: tuple[Weight, Weight] | None = None
    mass: Weight | None = None
    low_rank: LowRank | None = None  # M where it is none; then `M` is None until it is `built`

    @staticmethod
    def of(
        M: Structure | None,
        C1: Structure,
        C2: Structure,
        p: Tensor | None = None,
        q: Tensor | None = None,
        alpha: Weight | None = None,
        epsilon: Weight = 0.05,
        loss: str | GroundLoss = "square",
        solver: Solver | None = None,
        adjoint: str | Adjoint = "envelope",
        init: Init = None,
        max_iter: int = 1000,
        tol: float | None = None,
        plan: str | Lazy | None = None,
        rho: Weight | tuple[Weight, Weight] | None = None,
        mass: Weight | None = None,
    ) -> "Call":
        """Fill in the defaults and check the numbers of the iteration.

        Raises
        ------
        TypeError, ValueError
            If the solver, its limits, or what is asked of the marginals are bad. The tensors are looked at by
            `fgwot.problem.Problem`.
        """
        if alpha is None:
            alpha = 1.0 if M is None else 0.5
        solver = MirrorDescent() if solver is None else solver
        if not isinstance(solver, Solver):
            raise TypeError(f"solver must be a fgwot.MirrorDescent or fgwot.ProximalPoint, got {type(solver).__name__}")
        if max_iter < 1:
            raise ValueError(f"max_iter must be at least 1, got {max_iter}")
        if tol is not None and not tol > 0:
            raise ValueError(f"tol must be positive, got {tol}")
        plan = Lazy() if isinstance(plan, str) and plan == "lazy" else plan
        if not isinstance(plan, Lazy) and plan not in (None, "dense"):
            raise ValueError(f"plan must be 'dense', 'lazy', a fgwot.Lazy or None, got {plan!r}")
        refuse_sparse(M=M, C1=C1, C2=C2)
        low_rank = None
        if isinstance(M, LowRank):
            low_rank, M = _checked(M), None
        prices = _prices(rho)
        if prices is not None and mass is not None:
            raise ValueError("rho pays for marginals, mass bounds them: give one of them")
        rest = (alpha, epsilon, loss, solver, adjoint, init, max_iter, tol, plan, prices, mass, low_rank)
        return Call(M, C1, C2, p, q, *rest)

    def problem(self) -> Problem:
        """Check types and shapes of the tensors, and give them one batch dimension."""
        c = self
        return Problem.build(c.M, c.C1, c.C2, c.p, c.q, c.alpha, c.epsilon, c.loss, c.rho, c.mass)

    @property
    def moving(self) -> bool:
        """Whether plans may have other marginals than p and q."""
        return self.rho is not None or self.mass is not None

    @property
    def weights(self) -> tuple[Weight | None, ...]:
        """alpha, epsilon, rho of either side, and the mass; None where marginals are not paid for or bounded."""
        return self.alpha, self.epsilon, *(self.rho or (None, None)), self.mass

    @property
    def lazy(self) -> bool:
        """Whether a plan that is streamed is not to be built either."""
        return isinstance(self.plan, Lazy) or self.entries >= SMALLEST_LAZY

    @property
    def entries(self) -> int:
        """Entries of a plan."""
        return self.C1.shape[-1] * self.C2.shape[-1]

    def built(self) -> "Call":
        """The same call with M, and a plan to start with, as tensors."""
        call, init = self, self.init
        if call.low_rank is not None:
            call = replace(call, M=call.low_rank.to_dense(), low_rank=None)
        if isinstance(init, WarmStart) and (plan := stored(init.plan)) is not init.plan:
            call = replace(call, init=replace(init, plan=plan))
        return call

    @cached_property
    def flat(self) -> "FlatCall | None":
        """The tensors with one batch dimension; None if they do not fit together."""
        n, m = self.C1.shape[-1], self.C2.shape[-1]
        # (tensor, shape of one problem)
        parts: list[tuple[Any, tuple[int, ...]]] = [
            (self.M, (n, m)),
            (self.C1, (n, n)),
            (self.C2, (m, m)),
            (self.p, (n,)),
            (self.q, (m,)),
            *((weight, ()) for weight in self.weights),
        ]
        given = [(t, own) for t, own in parts if isinstance(t, Tensor)]
        if min(n, m) < 1 or any(t.shape[t.ndim - len(own) :] != own for t, own in given):
            return None
        try:
            batch = broadcast(t.shape[: t.ndim - len(own)] for t, own in given)
            start = self._start(batch, n, m)
        except (RuntimeError, TypeError):
            return None
        if batch.numel() == 0:
            return None
        tensors = (flatten(t, len(own), batch) if isinstance(t, Tensor) else None for t, own in parts)
        return FlatCall(batch, (*tensors, *start))

    def _start(self, batch: torch.Size, n: int, m: int) -> tuple[Tensor | None, Tensor | None]:
        """First plan (B, n, m), and potentials (B, m) to go on with."""
        init = self.init
        if init is None or isinstance(init, MultiInit):
            return None, None
        plan = init.plan if isinstance(init, WarmStart) else init
        if (
            not isinstance(plan, Tensor)
            or plan.dtype not in (self.C1.dtype, computed_in(self.C1.dtype))
            or plan.device != self.C1.device
        ):
            raise TypeError
        plan = flatten(plan.detach().expand(*batch, n, m), 2, batch)
        potential = None
        if isinstance(init, WarmStart):
            potential = flatten(init.potentials[1].detach().to(plan.dtype).expand(*batch, m), 1, batch)
        return plan, potential


def _prices(rho: Weight | tuple[Weight, Weight] | None) -> tuple[Weight, Weight] | None:
    """One price per side; None if both are known to be exact."""
    if rho is None:
        return None
    sides = rho if isinstance(rho, tuple) else (rho, rho)
    if len(sides) != 2:
        raise ValueError(f"rho must be a number, a tensor or a pair of them, got {len(sides)} values")
    exact = all(not isinstance(side, Tensor) and side == float("inf") for side in sides)
    return None if exact else sides


def _checked(M: LowRank) -> LowRank:
    """M, if its factors fit together."""
    factors = (M.A, M.B)
    if not all(isinstance(t, Tensor) and t.ndim >= 2 and t.is_floating_point() for t in factors):
        raise TypeError("M = A B' needs floating point tensors A (..., n, r) and B (..., m, r)")
    if M.A.shape[-1] != M.B.shape[-1] or M.A.dtype != M.B.dtype or M.A.device != M.B.device:
        got = " and ".join(f"{tuple(t.shape)} of {t.dtype} on {t.device}" for t in factors)
        raise ValueError(f"M = A B' needs A (..., n, r) and B (..., m, r) of one dtype on one device, got {got}")
    return M


class FlatCall(NamedTuple):
    """Batch shape, and M, C1, C2, p, q, the weights, first plan and potential with one batch dimension."""

    batch: torch.Size
    tensors: tuple[Tensor | None, ...]


class Explanation(NamedTuple):
    """The driver that solves a call, and why those that would have come first do not.

    Attributes
    ----------
    driver : str
        "numba" or "triton", which solve small problems as a whole, "streamed", which solves large ones without storing
        plans, or "torch", which solves the rest.
    declined : dict of str
        A reason by driver.
    """

    driver: str
    declined: dict[str, str]

    def __str__(self) -> str:
        return "\n".join([self.driver, *(f"  {name}: {reason}" for name, reason in self.declined.items())])


@any_array
def explain(
    M: Structure | None,
    C1: Structure,
    C2: Structure,
    p: Tensor | None = None,
    q: Tensor | None = None,
    *,
    validate: bool = True,  # noqa: ARG001 - no part in it
    **options: Any,
) -> Explanation:
    """Say which driver `fused_gromov_wasserstein` would use for these arguments, and why no faster one.

    The log "fgwot" has the same at level DEBUG for every call. Problems that a driver leaves open go on in torch.

    Parameters
    ----------
    M, C1, C2, p, q, validate, **options
        Those of `fgwot.fused_gromov_wasserstein`.

    Returns
    -------
    Explanation
        ``driver`` and ``declined``, a reason by driver; ``print`` shows both.

    Examples
    --------
    >>> import torch
    >>> C = torch.rand(300, 300)
    >>> print(explain(C, C, C, epsilon=0.1))
    torch
      triton: the tensors are on cpu
      numba: 300 points; the loops take at most 200
    """
    return choose(Call.of(M, C1, C2, p, q, **options))


def choose(call: Call) -> Explanation:
    """Ask the drivers in turn.

    Raises
    ------
    ImportError
        If the one that was asked for would take the call, but cannot be imported.
    """
    declined: dict[str, str] = {}
    chosen = "torch"
    reason = against_streaming(call)
    if reason is None:
        chosen = "streamed"
    elif call.low_rank is not None:
        declined["streamed"] = reason
        call = call.built()
    for driver in _WHOLE if reason is not None else ():
        reason = driver.declines(call)
        if reason is None:
            chosen = driver.name
            break
        declined[driver.name] = reason
    if _log.isEnabledFor(logging.DEBUG):
        _log.debug("solved by %s; declined: %s", chosen, declined)
    return Explanation(chosen, declined)


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
    return _against_streaming_unasked(call) if reason is None and not call.lazy else reason


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


@dataclass(frozen=True)
class _Whole:
    """A driver that solves small problems in one piece; its functions give a reason against something, or None."""

    name: str
    against_device: Callable[[torch.device], str | None]
    against_options: Callable[[Call], str | None]
    against_size: Callable[[int, int, torch.dtype], str | None]
    against_rest: Callable[[Call, int], str | None]

    def declines(self, call: Call) -> str | None:
        """Give the first reason, in ascending order of the time to find it; None if there is none."""
        if forced() not in (None, self.name):
            return f"fgwot.backend({forced()!r}) is in force"
        C1, C2 = call.C1, call.C2
        if not (isinstance(C1, Tensor) and isinstance(C2, Tensor)):
            return "the structures are no dense tensors"
        reason = self.against_device(C1.device) or self.against_options(call)
        if reason is not None:
            return reason
        tensors = [t for t in (call.M, C2, call.p, call.q, *call.weights) if isinstance(t, Tensor)]
        if min(C1.ndim, C2.ndim) < 2 or any(t.dtype != C1.dtype or t.device != C1.device for t in tensors):
            return _REFUSED
        reason = self.against_size(C1.shape[-1], C2.shape[-1], C1.dtype)
        if reason is not None:
            return reason
        return _REFUSED if call.flat is None else self.against_rest(call, call.flat.batch.numel())


def _not_in_kernels(call: Call) -> str | None:
    if call.solver != MirrorDescent():
        return f"{call.solver}; it knows MirrorDescent()"
    if call.moving:
        return "rho or mass; it knows exact marginals"
    if isinstance(call.init, MultiInit):
        return "a MultiInit; it starts once"
    return _not_in_loops(call)


def _not_in_loops(call: Call) -> str | None:
    loss, alpha = call.loss, call.alpha
    name = loss if isinstance(loss, str) else getattr(loss, "name", None)
    if name not in ("square", "kl") or loss not in (name, BY_NAME[name]):
        return f"the {name} loss; it knows square and kl"
    if call.max_iter == 1:
        return "max_iter=1; its last step is torch's"
    if call.M is None and isinstance(alpha, Tensor):
        return "a tensor alpha without M; it would have to be looked at"
    known = isinstance(alpha, Tensor) or (alpha == 1 if call.M is None else 0 <= alpha <= 1)
    known = known and all(_positive(weight) for weight in (call.epsilon, call.mass))
    return None if known else _REFUSED


def _positive(weight: Weight | None) -> bool:
    """Whether that is so, or not known."""
    return weight is None or isinstance(weight, Tensor) or 0 < weight < float("inf")


def _not_for_kernels(device: torch.device) -> str | None:
    if uses_triton(device, "whole"):
        return None
    return "Triton is not installed" if device.type == "cuda" else f"the tensors are on {device.type}"


def _too_large_for_kernels(n: int, m: int, dtype: torch.dtype) -> str | None:
    from fgwot.kernels.shapes import pack_for

    return None if pack_for(n, m, dtype) else f"{max(n, m)} points in {dtype}; the kernel takes fewer"


def _slower_in_batches(call: Call, batch: int) -> str | None:
    """On an H100 batches of so small problems took longer than on one thread of a CPU; not measured since 26f0a5c."""
    from fgwot.kernels.shapes import pack_for

    pack = pack_for(call.C1.shape[-1], call.C2.shape[-1], call.C1.dtype)
    if forced() is None and batch > 1 and pack is not None and pack.side <= _SMALLEST_BATCHED:
        return f"a batch of problems of at most {pack.side} points; on an H100 one thread of a CPU was faster"
    return None


def _not_for_loops(device: torch.device) -> str | None:
    return None if device.type == "cpu" else f"the tensors are on {device.type}"


def _too_large_for_loops(n: int, m: int, dtype: torch.dtype) -> str | None:
    if dtype not in _LOOP_DTYPES:
        return f"{dtype}"
    return None if max(n, m) <= LARGEST else f"{max(n, m)} points; the loops take at most {LARGEST}"


def _without_loops(_call: Call, _batch: int) -> str | None:
    reason = failure_of_loops()
    if reason is not None and forced() == "numba":
        raise ImportError(f"fgwot.backend('numba') needs Numba (pip install numba): {reason}")
    return reason


@cache
def failure_of_loops() -> str | None:
    """Import the loops; say why if that fails."""
    try:
        import fgwot.whole.compiled  # noqa: F401
    # Numba raises all of these: no Numba, one for another NumPy, no library, no folder to keep compiled loops in.
    except (ImportError, OSError, RuntimeError, SystemError) as error:
        return str(error).partition("\n")[0]
    return None


_WHOLE = (
    _Whole("triton", _not_for_kernels, _not_in_kernels, _too_large_for_kernels, _slower_in_batches),
    _Whole("numba", _not_for_loops, _not_in_loops, _too_large_for_loops, _without_loops),
)
