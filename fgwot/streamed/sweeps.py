r"""The inner problem by passes: sweeps b <- b + log(s / c) with the column sums c, extrapolated by Anderson's method.

Here s are the column sums that the marginal asks for, q, or where they have a price those that it makes of the present
potential (`fgwot.streamed.prices`; the step is shortened then), or where it bounds them what `fgwot.streamed.bounds`
says. Newton's matrix (m x m) is not built here, and a pass costs far more than anything done with vectors:

    b <- b + r - sum_k theta_k (db_k + dr_k),    r = log(s / c),
    theta = argmin sum_j s_j (r - sum_k theta_k dr_k)_j^2,

with the differences of the last few passes. A pass whose error is much larger than that of the best one is not gone on
from. What sweeps are too slow for is left to Newton's method, whose linear systems conjugate gradients solve.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import isfinite, log

import torch
from torch import Tensor

from fgwot.constants import BACKTRACKS, FURTHEST, LONGEST_STEP
from fgwot.inner.plan import Plan
from fgwot.streamed.passes import Kernel
from fgwot.streamed.reduced import Bases
from fgwot.streamed.sides import Sides, Two, positive
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
    sums: Two
    X: Tensor | None
    parts: Two

    @property
    def potentials(self) -> Two:
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
    sides: Sides
    dtype: torch.dtype
    watch: Watch
    keep: Callable[[Tensor], None]

    def __call__(self, X: Tensor, g: Tensor, tol: Tensor) -> StreamedPlan:
        """Plan for the costs X (1, 1, k) with a column error of `tol` (1,), if rounding allows it.

        `g` (1, m) is a warm start.
        """
        plan, limit = self._levelled(self.at(X[0], g[0]), _FAR), float(tol)
        plan = self._swept(plan, limit)
        return plan if float(plan.error) <= limit or self.watch.over else self._newton(plan, limit)

    def at(self, X: Tensor, b: Tensor) -> StreamedPlan:
        """Plan for the costs X (1, k) with the potentials b (m,), its column error as it is."""
        x, y = parts = self.bases.potentials(X)
        b = -y if self.sides.free else b
        kernel = Kernel(self.bases.U, self.bases.exponent(X), b, *self.sides.rows(x), self.dtype)
        return self.plan(kernel, X, parts)

    def _levelled(self, plan: StreamedPlan, far: float) -> StreamedPlan:
        """Plan of the mass that it should have, if it is farther from that than a factor exp(far)."""
        along = self.sides.shift(plan.potentials, plan.sums)
        return self.moved(plan, plan.kernel.b + along) if abs(along) > far else plan

    def _swept(self, best: StreamedPlan, limit: float) -> StreamedPlan:
        """Sweep until the limit is met, or the last passes show that it is far."""
        plan, history, errors = best, self._history(best), [float(best.error)]
        while float(best.error) > limit and not self.watch.over and not _slow(errors, limit):
            step = self.sides.update(plan.potentials, plan.sums)
            one = self.sides.largest(plan.potentials[1] + step)
            plan = self._moved_by(plan, history.step(plan.kernel.b, step), one)
            error = float(plan.error)
            if not error < _FURTHER * float(best.error) or self._value(plan) < self._value(best) - self._rounding(best):
                plan, history = best, self._history(best)
            elif error < float(best.error):
                best = plan
                self.keep(best.g)
            errors.append(float(best.error))
        return best

    def _history(self, plan: StreamedPlan) -> "_History":
        return _History(self.sides.held(plan.potentials[1]))

    def _moved_by(self, plan: StreamedPlan, step: Tensor, one: Tensor) -> StreamedPlan:
        """Plan after a step of its column potentials, of which some are one."""
        return self.moved(plan, plan.kernel.b + self.sides.within(plan.potentials[1], step, one))

    def _newton(self, plan: StreamedPlan, limit: float) -> StreamedPlan:
        """Newton's method on the semi-dual, with a line search."""
        for _ in range(_NEWTON_STEPS):
            if self.sides.levels:
                plan = self._levelled(plan, 0.1 * limit)
            error = float(plan.error)
            if not error > limit or self.watch.over:
                break
            step = newton_step(plan, self.sides, self.watch)
            at = plan.potentials, plan.sums
            ascent, one = self.sides.ascent(*at), self.sides.one(*at)
            enough = self._value(plan) - self._rounding(plan)
            size = min(1.0, LONGEST_STEP / float(step.abs().max().clamp_min(1)))
            for _ in range(BACKTRACKS):
                new = self._moved_by(plan, size * step, one)
                gain = ascent @ (new.kernel.b - plan.kernel.b)
                if self.watch.over or bool(self._value(new) >= enough + 1e-4 * gain.clamp(min=0)):
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

    def _value(self, plan: StreamedPlan) -> Tensor:
        """Semi-dual; sweeps never lower it."""
        return self.sides.terms(plan.potentials).sum() - plan.sums[0].sum()

    def _rounding(self, plan: StreamedPlan) -> Tensor:
        eps = 8 * torch.finfo(self.dtype).eps
        return eps * (plan.sums[0].sum() + self.sides.terms(plan.potentials).abs().sum())

    def plan(self, kernel: Kernel, X: Tensor | None, parts: tuple[Tensor, Tensor]) -> StreamedPlan:
        """Describe the plan of a kernel, whose costs in the bases are X if they are in these."""
        done = self.watch.one_pass(kernel, self.bases.Q[:, 1:])
        a, sums = kernel.a(done.normaliser), (kernel.sums(done.normaliser), done.columns)
        T = self.bases.plan(self.bases.core_of(done.products, *sums), *sums)[None]
        plan = StreamedPlan(T, kernel.b[None], torch.zeros_like(T[:, 0, 0]), kernel, a, sums, X, parts)
        if X is None:
            missed = self.sides.violated(sums)
        else:
            missed = torch.linalg.vector_norm(self.sides.ascent(plan.potentials, sums), 1)
        plan.error = missed[None] / sums[0].sum()
        return plan


def _slow(errors: list[float], limit: float) -> bool:
    """Whether the last passes show that sweeps need too many more, or none are left to make."""
    if not isfinite(errors[-1]):
        return True
    if len(errors) <= _LOOK:
        return False
    rate = (errors[-1] / errors[-1 - _LOOK]) ** (1 / _LOOK)
    return rate >= 1 or log(limit / errors[-1]) < _WORTH * log(rate)


def newton_step(plan: StreamedPlan, sides: Sides, watch: Watch) -> Tensor:
    """Step of the potentials by Newton's method on the dual, by conjugate gradients: two passes a product.

    In the scaling that makes the diagonal of minus the Hessian about one, as `fgwot.inner.sinkhorn` does it.
    """
    at = plan.potentials, plan.sums
    kernel, (diagonal, part) = plan.kernel, sides.curvature(*at)
    turned = kernel.turned(plan.a, positive(plan.sums[1]))
    shares, root = kernel.with_rows(torch.ones_like(kernel.s)), diagonal.sqrt()

    def product(y: Tensor) -> Tensor:
        inside = part * watch.one_pass(shares, (y / root)[:, None]).products[:, 0]
        return sides.along(y - watch.one_pass(turned, inside[:, None]).products[:, 0] / root, root, *at)

    residual = sides.ascent(*at) / root  # is along
    if sides.flat(plan.potentials):  # the root spans the null space
        residual = residual - root * (root @ residual) / diagonal.sum()
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
