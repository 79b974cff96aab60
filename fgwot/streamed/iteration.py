r"""Drives the undamped step for one problem whose plans are never stored.

The step is that of `fgwot.iteration.undamped`, with vectors of some coordinates in place of plans and gradients
(`fgwot.streamed.reduced`). Two numbers that it needs of plans are known from those: with potentials a and b, sums s and
c, core K and costs X of a plan,

    KL(T || T+) = <a - a+, s> + <b - b+, c> - <X - X+, K> - |T| + |T+|,
    |T+ - T|_1^2 / m <= KL(T || T+) + KL(T+ || T) = <a - a+, s - s+> + <b - b+, c - c+> - <X - X+, K - K+>

with the mean m of both masses. The change itself costs a pass with two exponentials an entry, which is made where the
bound says that it may certify.

Where an undamped step raises the objective, steps go on damped, as KL damping averages costs: X+ = X + theta (G - X);
and undamped again once they are so short that one may certify.

With prices T+ minimises <X, T> - H(T) + R(T), R = r1 KL(T 1 | p) + r2 KL(T' 1 | q), and nothing else changes: averaged
costs damp by the divergence of -H + R instead of that of -H, which is KL, and by which a step without it lowers

    (J(T+) - J(T)) / epsilon = <(G + G+) / 2 - X, T+ - T> - KL(T || T+) - r1 KL(T 1 | T+ 1) - r2 KL(T' 1 | T+' 1),

and with multipliers f+ <= 0 and g+ <= 0, where marginals bound plans, + <f+, p - T 1> + <g+, q - T' 1> in their place.
"""

from dataclasses import dataclass, replace
from math import isfinite, sqrt

import torch

from fgwot.constants import PATIENCE, SMALLEST_THETA
from fgwot.inner.plan import Marginals
from fgwot.iteration.result import Result
from fgwot.iteration.undamped import Limits, State, advance, certified, inner_tolerance, move
from fgwot.solution import Status
from fgwot.streamed.checkpoint import Checkpoint
from fgwot.streamed.reduced import ReducedLinearisation
from fgwot.streamed.sweeps import StreamedPlan, Sweeps

_HOPEFUL = 2.0  # bound on the change, in tolerances, from which it is computed
_LONG = 1e3  # roundings of a potential, from which the divergence is computed as it is defined
_COMPARABLE = 0.1  # column error, in changes, up to which objectives are compared
_GROWTH = 1.2  # of theta after a step that descended


@dataclass(frozen=True)
class Streamed:
    """The problem in its bases, and when to stop."""

    linearise: ReducedLinearisation
    marginals: Marginals
    sweeps: Sweeps
    limits: Limits
    checkpoint: Checkpoint

    def solve(self, now: State, theta: float, max_iter: int) -> tuple[Result, StreamedPlan]:
        """Step until the problem is solved, time is over, or `max_iter` steps are made; return the plan, too."""
        limits, watch, best, idle = self.limits, self.sweeps.watch, torch.inf, 0
        watch.begin(float(limits.tol))
        for n_iter in range(1, max_iter + 1):
            self.checkpoint.step(now, theta)
            following = self._following(now)
            if watch.over:
                return self._stopped(now, following, n_iter)
            change, lowered = self._distance(_plan(now), following)
            if bool(now.plain) and change <= _HOPEFUL * float(limits.tol):
                change = self._change(_plan(now), following)
            if not isfinite(change):
                return self._result(now, following, change, Status.NUMERICAL, n_iter)
            length = torch.full_like(limits.tol, change)
            if certified(now, following, length, limits):
                return self._result(now, following, change, Status(int(limits.status)), n_iter)
            estimate = change / (1.0 if now.plain else theta)
            watch.stepped(n_iter, estimate + float(now.plan.error + following.error))
            moved = move(now, following, following.T - now.plan.T, length, self.linearise, limits)
            slope = float(moved.slope)
            # Objectives of plans that miss their columns by as much as they move cannot be compared.
            comparable = float(now.plan.error + following.error) <= _COMPARABLE * change
            blurred = float(limits.rounding) * change * following.mass
            nearer = estimate < 0.9 * best
            idle = 0 if nearer or (comparable and slope < lowered - blurred) else idle + 1
            best = estimate if nearer else best
            if idle > PATIENCE:
                return self._concluded(now, Status.STALLED, n_iter)
            if comparable and slope > lowered + blurred:
                if theta < 1 or now.plain:
                    # What annihilates the mode that rose, or half of what did not suffice.
                    theta = max(min(theta / 2, lowered / (slope + lowered)), SMALLEST_THETA)
                now = now.undamped() if theta == 1 else _damped(now, theta)
                continue
            now = advance(now, following, moved, limits)
            if theta < 1:
                theta = min(1.0, _GROWTH * theta)
                now = now.undamped() if estimate <= float(limits.tol) else _damped(now, theta)
        return self._concluded(now, Status.MAX_ITER, max_iter)

    def _following(self, now: State) -> StreamedPlan:
        return self.sweeps(now.X, now.warm, inner_tolerance(now, self.limits))

    def _change(self, plan: StreamedPlan, following: StreamedPlan) -> float:
        """|T+ - T|_1 as a part of the mass."""
        return self.sweeps.watch.difference(plan.kernel, following.kernel) / following.mass

    def _distance(self, plan: StreamedPlan, following: StreamedPlan) -> tuple[float, float]:
        """Bound on the change, and by how much the objective falls if the slope is zero."""
        if plan.X is None or following.X is None:  # a plan of another problem, with which this one started
            return self._change(plan, following), torch.inf
        bases, rows, columns = self.linearise.bases, plan.sums[0], plan.sums[1]
        turn, forth, back = plan.X - following.X, plan.a - following.a, plan.kernel.b - following.kernel.b
        gained = rows - following.sums[0], columns - following.sums[1]
        both = float(forth @ gained[0] + back @ gained[1] - bases.along(turn, (plan.T - following.T)[0]))
        mass = (plan.mass + following.mass) / 2
        change = sqrt(max(both * mass, 0.0)) / following.mass if isfinite(both) else both
        lowered = both / 2  # what is left of it near the end is second order, and the mean of both
        if both > _LONG * float(self.limits.rounding) * mass:
            lowered = float(forth @ rows + back @ columns - bases.along(turn, plan.T[0]) - gained[0].sum())
        return change, lowered + self.sweeps.sides.divergence(plan.potentials, following.potentials, plan.sums)

    def _result(
        self, now: State, following: StreamedPlan, change: float, status: Status, n_iter: int
    ) -> tuple[Result, StreamedPlan]:
        self.sweeps.watch.stepped(n_iter, change + float(now.plan.error + following.error))
        self.checkpoint.write()
        f, g = self.sweeps.sides.lowest(following.potentials)
        result = Result.of(
            self.linearise,
            self.marginals,
            now.plan.T,
            (f[None], g[None]),
            status=torch.full_like(now.plan.error, int(status), dtype=torch.int64),
            residual=change + following.error + now.drift,
            error=now.plan.error if self.sweeps.sides.binding else torch.zeros_like(now.plan.error),
            n_iter=n_iter,
        )
        return result, _plan(now)

    def _concluded(self, now: State, status: Status, n_iter: int) -> tuple[Result, StreamedPlan]:
        """Describe a plan that is not solved, by the undamped step from it."""
        now = now.undamped()
        following = self._following(now)
        change = self._change(_plan(now), following)
        return self._result(now, following, change, status, n_iter)

    def _stopped(self, now: State, following: StreamedPlan, n_iter: int) -> tuple[Result, StreamedPlan]:
        """Describe a plan by as much of the undamped step from it as time was left for."""
        if not bool(now.plain):
            now = now.undamped()
            following = self.sweeps.at(now.X[0], following.g[0])
        change = self._change(_plan(now), following)
        solved = certified(now, following, torch.full_like(self.limits.tol, change), self.limits)
        status = Status(int(self.limits.status)) if solved else Status.TIME_LIMIT
        return self._result(now, following, change, status, n_iter)


def _plan(now: State) -> StreamedPlan:
    assert isinstance(now.plan, StreamedPlan)  # noqa: S101 - for mypy
    return now.plan


def _damped(now: State, theta: float) -> State:
    """Return the same state, about to make a damped step."""
    X = _plan(now).X
    X = now.G if X is None else torch.lerp(X[None], now.G, theta)
    return replace(now, X=X, warm=now.plan.g, plain=torch.zeros_like(now.plain), extrapolated=True)
