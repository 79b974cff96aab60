r"""The inner problem by passes: sweeps b <- b + log(q / c) with the column sums c, extrapolated by Anderson's method.

Newton's matrix (m x m) is not built here, and a pass costs far more than anything done with vectors:

    b <- b + r - sum_k theta_k (db_k + dr_k),    r = log(q / c),
    theta = argmin sum_j q_j (r - sum_k theta_k dr_k)_j^2,

with the differences of the last few passes. A pass whose error is much larger than that of the best one is not gone on
from. What sweeps are too slow for is left to Newton's method, whose linear systems conjugate gradients solve.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import isfinite, log

import torch
from torch import Tensor

from fgwot.constants import BACKTRACKS, FURTHEST, LONGEST_STEP
from fgwot.inner.plan import Marginals, Plan
from fgwot.streamed.passes import Kernel
from fgwot.streamed.reduced import Bases
from fgwot.streamed.watch import Watch

_MEMORY = 6
_RIDGE = 1e-10
_FURTHER = 1.5  # growth of the error after which a sweep starts again from the best
_LOOK = 8  # passes by which their rate is judged
_WORTH = 200  # further passes for which Newton's method is not tried: a step of it takes some 50
_NEWTON_STEPS = 60
_SETTLED, _SHORT = 0.9, 1e-2  # contraction of small errors that says that rounding hides further progress
_PRODUCTS = 60  # of a Newton step's linear solve
_ACCURACY = 0.1  # of that solve


@dataclass
class StreamedPlan(Plan):
    """A plan that is not stored: T is its core (1, r1 + 1, r2 + 1), g (1, m) the potential b of its kernel.

    Attributes
    ----------
    kernel : Kernel
    a : Tensor (n,)
        Row potentials.
    columns : Tensor (m,)
        Column sums.
    X : Tensor (r1 + 1, r2 + 1), optional
        Its costs in the present bases, if they are in these.
    """

    kernel: Kernel
    a: Tensor
    columns: Tensor
    X: Tensor | None


@dataclass(frozen=True)
class Sweeps:
    """Solves inner problems in some bases, computing entries in `dtype`.

    Once the watch says that time is over, the best plan so far is returned; `keep` is given better potentials (1, m).
    """

    bases: Bases
    marginals: Marginals
    dtype: torch.dtype
    watch: Watch
    keep: Callable[[Tensor], None]

    def __call__(self, X: Tensor, g: Tensor, tol: Tensor) -> StreamedPlan:
        """Plan for the costs P X Q^T, X (1, r1 + 1, r2 + 1), with a column error of `tol` (1,), if rounding allows it.

        `g` (1, m) is a warm start.
        """
        plan, limit = self.at(X[0], g[0]), float(tol)
        plan = self._swept(plan, limit)
        return plan if float(plan.error) <= limit or self.watch.over else self._newton(plan, limit)

    def at(self, X: Tensor, b: Tensor) -> StreamedPlan:
        """Plan for the costs X (r1 + 1, r2 + 1) with the potentials b (m,), its column error as it is."""
        return self.plan(Kernel(self.bases.U, self.bases.exponent(X), b, self.marginals.p[0], self.dtype), X)

    def _swept(self, best: StreamedPlan, limit: float) -> StreamedPlan:
        """Sweep until the limit is met, or the last passes show that it is far."""
        q, b = self.marginals.q[0], best.g[0]
        history, errors = _History(q), [float(best.error)]
        step = history.step(b, (q / best.columns).log())
        while float(best.error) > limit and not self.watch.over and not _slow(errors, limit):
            plan = self.plan(best.kernel.at(b := b + step), best.X)
            error = float(plan.error)
            if not error < _FURTHER * float(best.error) or self._value(plan) < self._value(best) - self._rounding(best):
                history, b, plan = _History(q), best.g[0], best
            elif error < float(best.error):
                best = plan
                self.keep(best.g)
            errors.append(float(best.error))
            step = history.step(b, (q / plan.columns).log())
        return best

    def _newton(self, plan: StreamedPlan, limit: float) -> StreamedPlan:
        """Newton's method on the semi-dual <q, b> - <p, log sum exp(b - U V)>, with a line search."""
        q = self.marginals.q[0]
        for _ in range(_NEWTON_STEPS):
            error = float(plan.error)
            if not error > limit:
                break
            step = newton_step(plan, q, self.watch)
            slope, enough = step @ (q - plan.columns), self._value(plan) - self._rounding(plan)
            size = min(1.0, LONGEST_STEP / float(step.abs().max().clamp_min(1)))
            for _ in range(BACKTRACKS):
                new = self.plan(plan.kernel.at(plan.g[0] + size * step), plan.X)
                if self.watch.over or bool(self._value(new) >= enough + 1e-4 * size * slope):
                    break
                size /= 3
            if self.watch.over or (not float(new.error) < _SETTLED * error and error < _SHORT):
                break
            plan = new
            self.keep(plan.g)
        return plan

    def _value(self, plan: StreamedPlan) -> Tensor:
        """Semi-dual; sweeps never lower it."""
        return self.marginals.q[0] @ plan.g[0] + self.marginals.p[0] @ plan.a

    def _rounding(self, plan: StreamedPlan) -> Tensor:
        terms = self.marginals.q[0] @ plan.g[0].abs() + self.marginals.p[0] @ plan.a.abs()
        return 8 * torch.finfo(self.dtype).eps * (1 + terms)

    def plan(self, kernel: Kernel, X: Tensor | None) -> StreamedPlan:
        """Describe the plan of a kernel, whose costs in the bases are X if they are in these."""
        done = self.watch.one_pass(kernel, self.bases.Q[:, 1:])
        K = self.bases.core(done.products, kernel.p, done.columns)
        error = torch.linalg.vector_norm(self.marginals.q[0] - done.columns, 1)[None]
        return StreamedPlan(K[None], kernel.b[None], error, kernel, done.a, done.columns, X)


def _slow(errors: list[float], limit: float) -> bool:
    """Whether the last passes show that sweeps need too many more, or none are left to make."""
    if not isfinite(errors[-1]):
        return True
    if len(errors) <= _LOOK:
        return False
    rate = (errors[-1] / errors[-1 - _LOOK]) ** (1 / _LOOK)
    return rate >= 1 or log(limit / errors[-1]) < _WORTH * log(rate)


def newton_step(plan: StreamedPlan, q: Tensor, watch: Watch) -> Tensor:
    """Solve S d = q - c by conjugate gradients, S = diag(c) - T' diag(1/p) T: two passes for a product.

    In the scaling that makes the diagonal about one, as `fgwot.inner.sinkhorn` does it; sqrt(c) spans the null space.
    """
    kernel, c = plan.kernel, plan.columns.clamp_min(torch.finfo(q.dtype).tiny)
    turned = Kernel(kernel.V.T.contiguous(), kernel.U.T.contiguous(), plan.a, c, kernel.dtype)
    root = c.sqrt()

    def product(y: Tensor) -> Tensor:
        inside = watch.one_pass(kernel, (y / root)[:, None]).products
        return y - watch.one_pass(turned, inside / kernel.p[:, None]).products[:, 0] / root

    residual = (q - plan.columns) / root
    residual = residual - root * (root @ residual) / c.sum()
    y, direction, norm = torch.zeros_like(q), residual, residual @ residual
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
