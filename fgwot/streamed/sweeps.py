r"""The inner problem by passes: sweeps b <- b + log(s / c) with the column sums c, extrapolated by Anderson's method.

Here s are the column sums that the marginal asks for, q, or where they have a price those that it makes of the present
potential (`fgwot.streamed.sides`; the step is shortened then). Newton's matrix (m x m) is not built here, and a pass
costs far more than anything done with vectors:

    b <- b + r - sum_k theta_k (db_k + dr_k),    r = log(s / c),
    theta = argmin sum_j s_j (r - sum_k theta_k dr_k)_j^2,

with the differences of the last few passes. A pass whose error is much larger than that of the best one is not gone on
from. What sweeps are too slow for is left to Newton's method, whose linear systems conjugate gradients solve.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import isfinite, log

import torch
from torch import Tensor

from fgwot.constants import BACKTRACKS, FURTHEST, LONGEST_STEP
from fgwot.inner.plan import Plan
from fgwot.streamed.passes import Kernel
from fgwot.streamed.reduced import Bases
from fgwot.streamed.sides import Side, shift
from fgwot.streamed.watch import Watch

_MEMORY = 6
_RIDGE = 1e-10
_FURTHER = 1.5  # growth of the error after which a sweep starts again from the best
_FAR = 20.0  # shift of a guess whose sums may be no numbers of the type that they are computed in
_LOOK = 8  # passes by which their rate is judged
_WORTH = 200  # further passes for which Newton's method is not tried: a step of it takes some 50
_NEWTON_STEPS = 60
_SETTLED, _SHORT = 0.9, 1e-2  # contraction of small errors that says that rounding hides further progress
_PRODUCTS = 60  # of a Newton step's linear solve
_ACCURACY = 0.1  # of that solve


@dataclass
class StreamedPlan(Plan):
    """A plan that is not stored: T is its vector (1, 1, k), g (1, m) the potential b of its kernel.

    Its error is relative to its mass.

    Attributes
    ----------
    kernel : Kernel
    a : Tensor (n,)
        Row potentials.
    sums : tuple of Tensor (n,), (m,)
        Of rows and columns.
    X : Tensor (1, k), optional
        Its costs in the present bases, if they are in these.
    parts : tuple of Tensor (n,), (m,)
        Their row and column parts, which a and b are without.
    """

    kernel: Kernel
    a: Tensor
    sums: tuple[Tensor, Tensor]
    X: Tensor | None
    parts: tuple[Tensor, Tensor]

    @property
    def potentials(self) -> tuple[Tensor, Tensor]:
        """The potentials f (n,) and g (m,) of its costs."""
        return self.a + self.parts[0], self.kernel.b + self.parts[1]

    @property
    def mass(self) -> float:
        """Sum of its entries."""
        return float(self.sums[0].sum())


@dataclass(frozen=True)
class Sweeps:
    """Solves inner problems in some bases, computing entries in `dtype`.

    Once the watch says that time is over, the best plan so far is returned; `keep` is given better potentials (1, m).
    """

    bases: Bases
    sides: tuple[Side, Side]
    dtype: torch.dtype
    watch: Watch
    keep: Callable[[Tensor], None]

    def __call__(self, X: Tensor, g: Tensor, tol: Tensor) -> StreamedPlan:
        """Plan for the costs X (1, 1, k) with a column error of `tol` (1,), if rounding allows it.

        `g` (1, m) is a warm start.
        """
        plan, limit = self.at(X[0], g[0]), float(tol)
        if abs(along := self._shift(plan)) > _FAR:
            plan = self.moved(plan, plan.kernel.b + along)
        plan = self._swept(plan, limit)
        return plan if float(plan.error) <= limit or self.watch.over else self._newton(plan, limit)

    def at(self, X: Tensor, b: Tensor) -> StreamedPlan:
        """Plan for the costs X (1, k) with the potentials b (m,), its column error as it is."""
        rows, columns = self.sides
        x, y = parts = self.bases.potentials(X)
        b = b if columns.price else -y
        kernel = Kernel(self.bases.U, self.bases.exponent(X), b, rows.constants(x), rows.tau, self.dtype)
        return self.plan(kernel, X, parts)

    def _swept(self, best: StreamedPlan, limit: float) -> StreamedPlan:
        """Sweep until the limit is met, or the last passes show that it is far."""
        b, history, errors = best.kernel.b, self._history(best), [float(best.error)]
        step = history.step(b, self._sweep(best))
        while float(best.error) > limit and not self.watch.over and not _slow(errors, limit):
            plan = self.moved(best, b := b + step)
            error = float(plan.error)
            if not error < _FURTHER * float(best.error) or self._value(plan) < self._value(best) - self._rounding(best):
                history, b, plan = self._history(best), best.kernel.b, best
            elif error < float(best.error):
                best = plan
                self.keep(best.g)
            errors.append(float(best.error))
            step = history.step(b, self._sweep(plan))
        return best

    def _history(self, plan: StreamedPlan) -> "_History":
        return _History(self.sides[1].meant(plan.potentials[1]))

    def _sweep(self, plan: StreamedPlan) -> Tensor:
        """Step of b by one sweep, from where both sides stand for one mass."""
        (rows, columns), along = self.sides, self._shift(plan)
        # All entries are multiplied by one number there, and no pass is needed to know the sums.
        log_sums = _positive(plan.sums[1]).log() + (1 - rows.tau) * along
        return along + columns.sweep(plan.potentials[1] + along, log_sums)

    def _shift(self, plan: StreamedPlan) -> float:
        return shift(*self.sides, plan.potentials[1], plan.mass)

    def _newton(self, plan: StreamedPlan, limit: float) -> StreamedPlan:
        """Newton's method on the semi-dual, with a line search."""
        for _ in range(_NEWTON_STEPS):
            error = float(plan.error)
            if not error > limit:
                break
            step = newton_step(plan, self.sides, self.watch)
            slope = step @ self.sides[1].missed(plan.potentials[1], plan.sums[1])
            enough = self._value(plan) - self._rounding(plan)
            size = min(1.0, LONGEST_STEP / float(step.abs().max().clamp_min(1)))
            for _ in range(BACKTRACKS):
                new = self.moved(plan, plan.kernel.b + size * step)
                if self.watch.over or bool(self._value(new) >= enough + 1e-4 * size * slope):
                    break
                size /= 3
            if self.watch.over or (not float(new.error) < _SETTLED * error and error < _SHORT):
                break
            plan = new
            self.keep(plan.g)
        return plan

    def moved(self, plan: StreamedPlan, b: Tensor) -> StreamedPlan:
        """Plan for the same costs with other column potentials."""
        return self.plan(plan.kernel.at(b), plan.X, plan.parts)

    def _paid(self, plan: StreamedPlan) -> Tensor:
        both = zip(self.sides, plan.potentials, strict=True)
        return torch.cat([side.paid(potential) for side, potential in both])

    def _value(self, plan: StreamedPlan) -> Tensor:
        """Semi-dual; sweeps never lower it."""
        return self._paid(plan).sum() - plan.sums[0].sum()

    def _rounding(self, plan: StreamedPlan) -> Tensor:
        return 8 * torch.finfo(self.dtype).eps * (plan.sums[0].sum() + self._paid(plan).abs().sum())

    def plan(self, kernel: Kernel, X: Tensor | None, parts: tuple[Tensor, Tensor]) -> StreamedPlan:
        """Describe the plan of a kernel, whose costs in the bases are X if they are in these."""
        done = self.watch.one_pass(kernel, self.bases.Q[:, 1:])
        a, sums = kernel.s - kernel.tau * done.normaliser, (kernel.sums(done.normaliser), done.columns)
        T = self.bases.plan(self.bases.core_of(done.products, *sums), *sums)[None]
        plan = StreamedPlan(T, kernel.b[None], torch.zeros_like(T[:, 0, 0]), kernel, a, sums, X, parts)
        if X is not None or self.sides[1].exact:
            missed = self.sides[1].missed(plan.potentials[1], done.columns)
            plan.error = torch.linalg.vector_norm(missed, 1)[None] / sums[0].sum()
        return plan


def _positive(sums: Tensor) -> Tensor:
    return sums.clamp_min(torch.finfo(sums.dtype).tiny)


def _slow(errors: list[float], limit: float) -> bool:
    """Whether the last passes show that sweeps need too many more, or none are left to make."""
    if not isfinite(errors[-1]):
        return True
    if len(errors) <= _LOOK:
        return False
    rate = (errors[-1] / errors[-1 - _LOOK]) ** (1 / _LOOK)
    return rate >= 1 or log(limit / errors[-1]) < _WORTH * log(rate)


def newton_step(plan: StreamedPlan, sides: tuple[Side, Side], watch: Watch) -> Tensor:
    """Solve S d = s - c by conjugate gradients, S = diag(c + s / r2) - tau1 T' diag(1 / T 1) T: two passes a product.

    In the scaling that makes the diagonal about one, as `fgwot.inner.sinkhorn` does it; sqrt(c) spans the null space of
    exact sides.
    """
    rows, columns = sides
    kernel, c = plan.kernel, _positive(plan.sums[1])
    turned, shares = kernel.turned(plan.a, c), replace(kernel, s=torch.zeros_like(kernel.s), tau=1.0)
    g = plan.potentials[1]
    root = (c if columns.exact else c + columns.meant(g) / columns.price).sqrt()

    def product(y: Tensor) -> Tensor:
        inside = watch.one_pass(shares, (y / root)[:, None]).products
        return y - rows.tau * watch.one_pass(turned, inside).products[:, 0] / root

    residual = columns.missed(g, plan.sums[1]) / root
    if rows.exact and columns.exact:
        residual = residual - root * (root @ residual) / c.sum()
    y, direction, norm = torch.zeros_like(residual), residual, residual @ residual
    enough = _ACCURACY**2 * norm
    for _ in range(_PRODUCTS):
        image = product(direction)
        curvature = direction @ image
        if not curvature > 0:  # rounding
            break
        y = y + norm / curvature * direction
        residual = residual - norm / curvature * image
        before, norm = norm, residual @ residual
        if norm <= enough or watch.over:
            break
        direction = residual + norm / before * direction
    return y / root


class _History:
    """Differences of potentials and residuals, for Anderson's extrapolation."""

    def __init__(self, q: Tensor) -> None:
        self._root = q.sqrt()
        self._last: tuple[Tensor, Tensor] | None = None
        self._steps: list[tuple[Tensor, Tensor]] = []

    def step(self, b: Tensor, r: Tensor) -> Tensor:
        """Step from b, where the residual is r."""
        if self._last is not None:
            self._steps = [*self._steps, (b - self._last[0], r - self._last[1])][-_MEMORY:]
        self._last = b, r
        if not self._steps:
            return r
        db, dr = (torch.stack(differences) for differences in zip(*self._steps, strict=True))
        weighted = dr * self._root
        scale = weighted.norm(dim=1, keepdim=True).clamp_min(torch.finfo(r.dtype).tiny)
        weighted = weighted / scale
        normal = weighted @ weighted.T
        normal.diagonal().add_(_RIDGE)
        theta = torch.linalg.solve(normal, weighted @ (r * self._root)) / scale[:, 0]
        step: Tensor = r - theta @ (db + dr)
        furthest = FURTHEST * r.abs().max()
        return step.clamp(-furthest, furthest)
