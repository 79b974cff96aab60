"""The arguments of a call, before a driver takes them."""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fgwot.adjoint import Adjoint
from fgwot.batch import broadcast, flatten
from fgwot.iteration.initial import Init, MultiInit
from fgwot.losses import GroundLoss
from fgwot.problem import Problem, Weight, computed_in
from fgwot.solution import WarmStart
from fgwot.solvers import MirrorDescent, Solver
from fgwot.streamed.lazy import Lazy
from fgwot.streamed.plan import stored
from fgwot.structure import LowRank, Structure, refuse_sparse


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
    def weights(self) -> tuple[Weight | None, ...]:
        """alpha, epsilon, rho of either side, and the mass; None where marginals are not paid for or bounded."""
        return self.alpha, self.epsilon, *(self.rho or (None, None)), self.mass

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
