r"""What a step of the guarded iteration minimises.

For costs X, divided by epsilon, it is

    min_T <X, T> - H(T) + theta R(T)

R is what the problem asks of the marginals, theta the size of the step. T = exp(f (+) g - X) solves it, with
potentials of the marginals that are met, paid for, or bounded.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from math import log

import torch
from torch import Tensor

from fgwot.batch import Batch
from fgwot.constants import BISECTIONS, LIGHTEST
from fgwot.gradient.linearisation import Gradient
from fgwot.inner.partial import Bounds, bounded, split
from fgwot.inner.plan import FullPlan, Marginals
from fgwot.inner.relaxed import Sides, priced, relaxed
from fgwot.inner.sinkhorn import sinkhorn
from fgwot.problem import Problem


class Inner(Batch, ABC):
    """The inner problems of a batch.

    Attributes
    ----------
    moving : bool
        Whether plans may have other marginals than p and q.
    """

    moving: bool

    @property
    @abstractmethod
    def marginals(self) -> Marginals:
        """The marginals p and q."""

    @abstractmethod
    def solve(self, X: Tensor, theta: Tensor, g: Tensor, tol: Tensor) -> FullPlan:
        """Solve to an error of at most `tol` (B,) as a part of the mass; g (B, m) is a guess."""

    @abstractmethod
    def settle(self, X: Tensor, g: Tensor, tol: Tensor) -> FullPlan:
        """Return the plan nearest to exp(-X), in KL, that meets what must be met."""

    def mass(self, T: Tensor) -> Tensor:
        """Mass of plans (B,) or (1,), which errors are relative to."""
        return _mass(T)

    @abstractmethod
    def objective(self, energy: Tensor, X: Tensor, plan: FullPlan, theta: Tensor, entropic: bool) -> Tensor:
        """<energy, T> - H(T) + R(T) (B,) up to a constant, without H for the proximal point method.

        Errors of marginals enter multiplied by their potentials, as in the Lagrangian, so that an inexact solution has
        a second-order effect only.
        """

    @abstractmethod
    def size(self, objective: Tensor, plan: FullPlan) -> Tensor:
        """What rounding of the objective is relative to."""

    def surplus(self, _linearise: Gradient, _G: Tensor, _T: Tensor, _entropic: bool) -> Tensor | None:
        """Logarithm (B,) of the part by which plans are much too heavy; None where none is."""
        return None

    def potentials(self, plan: FullPlan) -> Tensor | float:
        """Mean size of the potentials where there is mass, as far as it says more than G of rounding."""
        rows, columns = plan.T.sum(-1), plan.T.sum(-2)
        f, g = (potential.nan_to_num(0.0, 0.0, 0.0).abs() for potential in (plan.f, plan.g))
        return ((rows * f).sum(-1) + (columns * g).sum(-1)) / _mass(plan.T)

    def marginal_error(self, _T: Tensor, error: Tensor) -> Tensor:
        """Error of the marginals that must be met, as a part of the mass; `error` is that of the solution."""
        return error


@dataclass(frozen=True)
class Balanced(Inner):
    """Couplings of p and q, of mass one."""

    exact: Marginals
    moving = False

    @property
    def marginals(self) -> Marginals:
        return self.exact

    def solve(self, X: Tensor, theta: Tensor, g: Tensor, tol: Tensor) -> FullPlan:
        return sinkhorn(X, self.exact, g, tol)

    def settle(self, X: Tensor, g: Tensor, tol: Tensor) -> FullPlan:
        return sinkhorn(X, self.exact, g, tol)

    def mass(self, T: Tensor) -> Tensor:
        return T.new_ones(1)

    def objective(self, energy: Tensor, X: Tensor, plan: FullPlan, theta: Tensor, entropic: bool) -> Tensor:
        (p, q), T = (self.exact.p, self.exact.q), plan.T
        if entropic:
            # log T = f (+) g - X, and the Lagrangian term turns <g, T' 1> into <g, q>.
            return ((energy - X) * T).sum((-2, -1)) + (plan.f * p).sum(-1) + (plan.g * q).sum(-1)
        return (energy * T).sum((-2, -1)) - (plan.g * (T.sum(-2) - q)).sum(-1) / theta

    def size(self, objective: Tensor, plan: FullPlan) -> Tensor:
        return (self.exact.p * plan.f.abs()).sum(-1) + (self.exact.q * plan.g.abs()).sum(-1)

    def potentials(self, plan: FullPlan) -> float:
        return 0.0


@dataclass(frozen=True)
class Priced(Inner):
    """R = r1 KL(T 1 | p) + r2 KL(T' 1 | q), with prices r = rho / epsilon that may be zero or infinite."""

    sides: Sides
    moving = True

    @property
    def marginals(self) -> Marginals:
        return Marginals(self.sides.p, self.sides.q)

    def solve(self, X: Tensor, theta: Tensor, g: Tensor, tol: Tensor) -> FullPlan:
        sides = self.sides.map(lambda r: theta[:, None] * r)
        # R counts an error of a side squared, times its price: a step must not be lost in it.
        stiffness = (1 + sides.r2[:, 0].nan_to_num(posinf=0.0)).sqrt()
        return _per_mass(relaxed(X, sides, g, tol / stiffness))

    def settle(self, X: Tensor, g: Tensor, tol: Tensor) -> FullPlan:
        exact = self.sides.map(lambda r: torch.where(r.isinf(), r, 0))
        plan = _per_mass(relaxed(X, exact, g, tol))
        s = self.sides
        rows, columns = ((side == 0) & (r > 0) for side, r in ((s.p, s.r1), (s.q, s.r2)))
        return replace(plan, T=plan.T.masked_fill(rows[:, :, None] | columns[:, None, :], 0))

    def objective(self, energy: Tensor, X: Tensor, plan: FullPlan, theta: Tensor, entropic: bool) -> Tensor:
        T, s = plan.T, self.sides
        paid = priced(s.r1[:, 0], T.sum(-1), s.p) + priced(s.r2[:, 0], T.sum(-2), s.q)
        gap = torch.where(s.r2.isinf() & (s.q > 0), plan.g * (T.sum(-2) - s.q), 0).sum(-1)
        return _free(energy, T, entropic) + paid - gap / theta

    def size(self, objective: Tensor, plan: FullPlan) -> Tensor:
        # A divergence is a small difference of masses, with a large price.
        s, mass = self.sides, _mass(plan.T)
        priced = ((r[:, 0], mass + side.sum(-1)) for r, side in ((s.r1, s.p), (s.r2, s.q)))
        return objective.abs() + sum(torch.where(r.isinf(), 0, r) * masses for r, masses in priced)

    def surplus(self, linearise: Gradient, G: Tensor, T: Tensor, entropic: bool) -> Tensor | None:
        """Where the objective of s T falls until s is below a tenth, -log s at its lowest.

        From a plan that is so heavy a step could lose all of it: costs grow with the mass. Along s T the objective has
        the derivative A + B s + C log s.
        """
        s, rows, columns, linear = self.sides, T.sum(-1), T.sum(-2), linearise.linear
        C = rows.sum(-1) * entropic
        A = (linear * T).sum((-2, -1)) + torch.xlogy(T, T).sum((-2, -1)) * entropic
        for r, sums, side in ((s.r1[:, 0], rows, s.p), (s.r2[:, 0], columns, s.q)):
            paid = torch.where(side > 0, torch.xlogy(sums, sums) - torch.xlogy(sums, side), 0).sum(-1)
            A, C = A + torch.where(r > 0, r, 0).nan_to_num(posinf=0.0) * paid, C + r * sums.sum(-1)
        B = ((G - linear) * T).sum((-2, -1))
        low, high = torch.full_like(A, -LIGHTEST), torch.full_like(A, -log(10))
        heavy = C.isfinite() & (A + B * high.exp() + C * high > 0)
        if not bool(heavy.any()):
            return None
        for _ in range(BISECTIONS):
            middle = (low + high) / 2
            rises = A + B * middle.exp() + C * middle > 0
            low, high = torch.where(rises, low, middle), torch.where(rises, middle, high)
        return torch.where(heavy, -high, 0)

    def marginal_error(self, T: Tensor, error: Tensor) -> Tensor:
        s, zero = self.sides, 0 * error
        rows = torch.where(s.r1[:, 0].isinf(), (T.sum(-1) - s.p).abs().sum(-1), zero)
        columns = torch.where(s.r2[:, 0].isinf(), (T.sum(-2) - s.q).abs().sum(-1), zero)
        return (rows + columns) / _mass(T)


@dataclass(frozen=True)
class Partial(Inner):
    """Plans of a given mass with T 1 <= p and T' 1 <= q."""

    bounds: Bounds
    moving = True

    @property
    def marginals(self) -> Marginals:
        return Marginals(self.bounds.p, self.bounds.q)

    def solve(self, X: Tensor, theta: Tensor, g: Tensor, tol: Tensor) -> FullPlan:
        return _per_mass(bounded(X, self.bounds, g, tol))

    def settle(self, X: Tensor, g: Tensor, tol: Tensor) -> FullPlan:
        return _per_mass(bounded(X, self.bounds, g, tol))

    def objective(self, energy: Tensor, X: Tensor, plan: FullPlan, theta: Tensor, entropic: bool) -> Tensor:
        T, b = plan.T, self.bounds
        g, h = split(plan.g, b.q)
        missed = (g * (T.sum(-2) - b.q)).sum(-1) + h * (T.sum((-2, -1)) - b.mass)
        return _free(energy, T, entropic) - missed / theta

    def size(self, objective: Tensor, plan: FullPlan) -> Tensor:
        return objective.abs() + _mass(plan.T)


def inner_problem(problem: Problem) -> Inner:
    """Return what the problem asks of its marginals; couplings are scaled to mass one."""
    p, q = problem.p, problem.q
    if problem.rho is not None:
        r1, r2 = ((rho / problem.epsilon)[:, None] for rho in problem.rho)
        return Priced(Sides(p, q, r1, r2))
    if problem.mass is not None:
        return Partial(Bounds(p, q, problem.mass))
    return Balanced(Marginals.of(p, q))


def _free(energy: Tensor, T: Tensor, entropic: bool) -> Tensor:
    """<energy, T> - H(T) (B,), the latter if asked for."""
    value = (energy * T).sum((-2, -1))
    return value + torch.xlogy(T, T).sum((-2, -1)) - T.sum((-2, -1)) if entropic else value


def _mass(T: Tensor) -> Tensor:
    return T.sum((-2, -1)).clamp_min(torch.finfo(T.dtype).tiny)


def _per_mass(plan: FullPlan) -> FullPlan:
    return replace(plan, error=plan.error / _mass(plan.T))
