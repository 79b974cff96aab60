r"""The outer iteration: linearise the energy, solve the inner problem, damp, set finished problems aside.

Everything is written in X, the negative log-kernel of the plan: T(X) = exp(f (+) g - X) with marginals p and q.
G(T) is the gradient of E divided by epsilon; terms that only shift the potentials are left out of both. One step

    T+ = argmin <grad E(T), T> - epsilon H(T) + lambda KL(T || T_k)

is X+ = X + theta (G(T_k) - X) with theta = epsilon / (epsilon + lambda): KL damping is averaging in X. Without the
entropy (proximal point) it is X+ = X + theta G(T_k), where theta may exceed 1. A step that would raise the objective is
taken back and halved; a theta small enough descends, whatever C1 and C2. Where marginals are paid for or bounded, not
met, X = -log T_k, and their price counts theta times.
"""

from dataclasses import dataclass, replace
from math import log

import torch
from torch import Tensor

from fgwot.batch import Batch
from fgwot.constants import (
    COARSEST,
    DEEPEST,
    LONGEST_THETA,
    LOOSE,
    PATIENCE,
    ROUNDINGS,
    SMALLEST_THETA,
    STEADY,
    TIGHT,
    TIGHTEST,
)
from fgwot.gradient.linearisation import Gradient
from fgwot.inner.plan import FullPlan
from fgwot.inner.problems import Inner
from fgwot.iteration.result import Result, Start, Tolerance
from fgwot.solution import Status
from fgwot.solvers import Solver

_PATIENCE_BLURRED = 5  # where rounding hides progress


@dataclass(frozen=True)
class _State(Batch):
    """Where each unfinished problem stands; every tensor starts with the batch dimension.

    T = exp(f (+) g - X) has marginal error `error`; `warm` is the guess of g for the next plan. `change` is
    |T - T_previous|_1 / theta, an estimate of the residual, relative to the mass as all errors are; `best` is what it
    was when it last fell by a tenth, and `idle` counts the steps since that, or the objective, made progress; `drift`
    bounds the effect on the plan of what float32 increments have added to the rounding of G.
    """

    X: Tensor
    G: Tensor
    T: Tensor
    f: Tensor
    g: Tensor
    warm: Tensor
    error: Tensor
    objective: Tensor
    theta: Tensor
    change: Tensor
    best: Tensor
    idle: Tensor
    drift: Tensor


def guarded(solver: Solver, linearise: Gradient, inner: Inner, start: Start, tol: float | None, steps: range) -> Result:
    """Iterate with a guard on the objective; `steps` numbers the iterations."""
    iteration = _Iteration.begin(solver, linearise, inner, start, tol)
    index = torch.arange(len(start.X), device=start.X.device)
    result = Result.empty(inner.marginals)
    for n_iter in steps:
        iteration, left, ended = iteration.step(n_iter)
        for at, found in ended:
            result.fill(index[at], found)
        index = index[left]
        if not len(index):
            return result
    result.fill(index, iteration.conclude(Status.MAX_ITER, steps.stop - 1))
    return result


@dataclass(frozen=True)
class _Iteration(Batch):
    """The unfinished problems, and one step of their iteration."""

    solver: Solver
    inner: Inner
    linearise: Gradient
    epsilon: Tensor
    tolerance: Tolerance
    state: _State

    @staticmethod
    def begin(solver: Solver, linearise: Gradient, inner: Inner, start: Start, tol: float | None) -> "_Iteration":
        epsilon = linearise.epsilon
        zero = torch.zeros_like(epsilon)
        plan = inner.settle(start.X, start.g, zero + 1e-6)
        G = linearise(plan.T)
        surplus = inner.surplus(linearise, G, plan.T, solver.entropic)
        if surplus is not None:
            start = replace(start, X=start.X + surplus[:, None, None])
            plan = inner.settle(start.X, start.g, zero + 1e-6)
            G = linearise(plan.T)
        # A guess may have mass where costs forbid it, its successor has not.
        typical, warm = plan, start.warm
        if start.change:
            typical = inner.solve(G, zero + 1, start.g, zero + COARSEST)
            if solver.entropic and solver.damping is None:  # the first step solves the same problem
                warm = typical.g
        share = typical.T / inner.mass(typical.T)[:, None, None]
        tolerance = Tolerance.at(linearise.magnitude(G, plan.T), share, tol, inner.potentials(typical))
        state = _State(
            X=start.X,
            G=G,
            T=plan.T,
            f=plan.f,
            g=plan.g,
            warm=warm,
            error=plan.error,
            objective=zero,
            theta=epsilon / (epsilon + (solver.damping or 0.0)),
            change=zero + start.change,
            best=zero + torch.inf,
            idle=zero,
            drift=zero,
        )
        begun = _Iteration(solver, inner, linearise, epsilon, tolerance, state)
        return replace(begun, state=begun._assessed(state, start.X, plan))

    @property
    def tol(self) -> Tensor:
        """Allowed residual + marginal error."""
        return self.tolerance.allowed

    @property
    def slack(self) -> Tensor:
        """A rise of the objective by this much is rounding."""
        s = self.state
        size = self.inner.size(s.objective, FullPlan(s.T, s.g, s.error, s.f))
        return 64 * (self.tolerance.noise * self.inner.mass(s.T) + torch.finfo(s.T.dtype).eps * size)

    @property
    def relative(self) -> bool:
        """Whether steps are relative to the plan, which is then kept as X = -log T."""
        return self.inner.moving or not self.solver.entropic

    def step(self, n_iter: int) -> "tuple[_Iteration, Tensor, list[tuple[Tensor, Result]]]":
        """Advance every problem.

        Return the iteration of those that go on, their positions, and positions and results of those that ended.
        """
        s = self.state
        X, following = self._solve_inner(s.theta, self._inner_tol())
        change = (following.T - s.T).abs().sum((-2, -1)) / self.inner.mass(following.T)
        # The change made by an undamped step is the residual of the plan it left.
        certified = (s.theta == 1) & (change + following.error + s.error + s.drift <= self.tol)
        if not bool(certified.any()):
            return self._continue(X, following, change, n_iter)
        at, left = certified.nonzero()[:, 0], (~certified).nonzero()[:, 0]
        ended = [(at, self.select(at)._result(following.select(at), Status.CONVERGED, n_iter))]
        if not len(left):
            return self, left, ended
        after, going, stopped = self.select(left)._continue(X[left], following.select(left), change[left], n_iter)
        return after, left[going], ended + [(left[where], found) for where, found in stopped]

    def _continue(
        self, X: Tensor, following: FullPlan, change: Tensor, n_iter: int
    ) -> "tuple[_Iteration, Tensor, list[tuple[Tensor, Result]]]":
        """Accept or reject the trial plan of each problem; set those aside that cannot go on."""
        s = self.state
        trial = self._assess(X, following, change)
        broken = ~(trial.objective.isfinite() & change.isfinite())
        accepted = trial.objective <= s.objective + self.slack
        if self.solver.damping is not None:
            accepted = torch.ones_like(accepted)
        state = self._advance(trial, change)
        if not bool(accepted.all()):
            rejected = (~accepted).nonzero()[:, 0]
            state = state.put(rejected, self.select(rejected)._held(following.g[rejected]))
        after = replace(self, state=state)
        patience = torch.where(self.tolerance.blurred, _PATIENCE_BLURRED, PATIENCE)
        stuck = (state.idle >= patience) | (state.theta < SMALLEST_THETA)
        stopped = broken | stuck
        left = (~stopped).nonzero()[:, 0]
        if len(left) == len(stopped):
            return after, left, []
        ended = []
        for mask, status in ((broken, Status.NUMERICAL), (stuck & ~broken, Status.STALLED)):
            at = mask.nonzero()[:, 0]
            if len(at):
                ended.append((at, after.select(at).conclude(status, n_iter)))
        return after.select(left), left, ended

    def conclude(self, status: Status, n_iter: int) -> Result:
        """End without a certificate: meet the marginals, then measure the residual."""
        settled = replace(self, state=self._settled(TIGHT * self.tol, self.state.warm))
        _, following = settled._solve_inner(torch.ones_like(self.tol), TIGHT * self.tol)
        return settled._result(following, status, n_iter)

    def _settled(self, tol: Tensor, multiplier: Tensor) -> _State:
        """The present state with its marginals met to `tol`; a step by theta from it has about the potential given."""
        s = self.state
        plan = self.inner.settle(s.X, s.g, tol)
        settled = replace(s, T=plan.T, G=self.linearise(plan.T), error=plan.error, drift=torch.zeros_like(s.drift))
        # Potentials that settle a plan say nothing of what its marginals are worth.
        return self._assessed(settled, s.X, plan, multiplier if self.relative else plan.g)

    def _held(self, g: Tensor) -> _State:
        """State after a rejected step, whose plan has the potential g.

        The objective of a loosely solved plan is biased low, so such a plan is settled before theta is halved.
        """
        s = self.state
        settled = self._settled(TIGHTEST * self.tol, g)
        loose = s.error > 2 * torch.maximum(settled.error, TIGHTEST * self.tol)
        return replace(self._paced(settled, torch.where(loose, s.theta, s.theta / 2)), idle=s.idle + 1)

    def _result(self, following: FullPlan, status: Status, n_iter: int) -> Result:
        """Describe the present plan; `following` is the plan of one undamped step from it."""
        s = self.state
        change = (following.T - s.T).abs().sum((-2, -1)) / self.inner.mass(following.T)
        residual = change + following.error + s.drift
        missed = residual + s.error > self.tol
        reached = torch.where(missed | ~residual.isfinite(), status, self.tolerance.status)
        return Result.of(
            self.linearise,
            self.inner.marginals,
            s.T,
            (following.f, following.g),
            status=reached.to(torch.int64),
            residual=residual,
            error=self.inner.marginal_error(s.T, s.error),
            n_iter=n_iter,
        )

    def _solve_inner(self, theta: Tensor, tol: Tensor) -> tuple[Tensor, FullPlan]:
        """X and plan of a step by theta from the present state."""
        s = self.state
        direction = s.G - s.X if self.solver.entropic else s.G
        X = torch.addcmul(s.X, theta[:, None, None], direction)
        return X, self.inner.solve(X, theta, s.warm, tol)

    def _assess(self, X: Tensor, plan: FullPlan, change: Tensor) -> _State:
        """The state at a trial plan, as far as it does not depend on the trial's acceptance."""
        s = self.state
        G, _, drift = self.linearise.follow(s.G, plan.T, plan.T - s.T, change, s.drift, self.tol)
        trial = replace(s, T=plan.T, G=G, warm=plan.g, error=plan.error, drift=drift)
        return self._assessed(trial, X, plan)

    def _assessed(self, state: _State, X: Tensor, plan: FullPlan, multiplier: Tensor | None = None) -> _State:
        """State at the plan exp(f (+) g - X), with its objective; the multiplier of its columns is g by default."""
        energy, entropic = (self.linearise.linear + state.G) / 2, self.solver.entropic
        worth = plan if multiplier is None else replace(plan, g=multiplier)
        objective = self.inner.objective(energy, X, worth, state.theta, entropic)
        f, g = plan.f, plan.g
        if self.relative:
            # X = -log T: nothing accumulates over many steps, and g of one step predicts g of the next.
            deepest = -log(torch.finfo(X.dtype).tiny) if entropic else DEEPEST
            X = (X - f[:, :, None] - g[:, None, :]).clamp(max=deepest)
            f, g = torch.zeros_like(f), torch.zeros_like(g)
        return replace(state, X=X, f=f, g=g, objective=objective)

    def _inner_tol(self) -> Tensor:
        """Inner accuracy follows the outer residual.

        Where steps make no progress the objectives may differ by less than loose plans resolve.
        """
        s = self.state
        loose = (LOOSE * s.change).clamp(max=COARSEST)
        return torch.where(s.idle > 0, TIGHTEST * self.tol, torch.maximum(loose, TIGHT * self.tol))

    def _advance(self, trial: _State, change: Tensor) -> _State:
        """State after an accepted step, with the next theta."""
        s = self.state
        estimate = change / s.theta
        nearer = estimate < 0.9 * s.best
        progress = nearer | (trial.objective < s.objective - self.slack)
        if self.solver.damping is None:
            theta = torch.minimum(self._stable_theta(trial, estimate), 2 * s.theta)
        else:
            theta = self.epsilon / (self.epsilon + self.solver.damping)
        # Close to the end, or to rounding, an undamped step is tried: it certifies the residual.
        ending = (estimate <= 0.5 * self.tol) | (change <= ROUNDINGS * self.tolerance.noise)
        theta = torch.where(ending, 1, theta)
        return replace(
            self._paced(trial, theta),
            change=estimate,
            # Rises that pass for rounding do not add up.
            objective=torch.minimum(s.objective, trial.objective),
            best=torch.where(nearer, estimate, s.best),
            idle=torch.where(progress, 0, s.idle + 1),
        )

    def _paced(self, state: _State, theta: Tensor) -> _State:
        """State with another theta; the potential of a step relative to the plan is about in proportion to it."""
        warm = state.warm * (theta / state.theta)[:, None] if self.relative else state.warm
        return replace(state, theta=theta, warm=warm)

    def _stable_theta(self, trial: _State, estimate: Tensor) -> Tensor:
        """Largest step that the curvature of E along the last step allows.

        Along delta = T - T_k an undamped step multiplies the error by -ratio (plus 1 without entropy), with
        ratio = <delta, G - G_k> / <delta, delta / T>; theta is chosen to make a large factor zero.
        """
        s = self.state
        delta = trial.T - s.T
        tiny = torch.finfo(delta.dtype).tiny
        metric = (2 * delta.square() / (trial.T + s.T + tiny)).sum((-2, -1))
        ratio = (delta * (trial.G - s.G)).sum((-2, -1)) / metric.clamp_min(tiny)
        if self.solver.entropic:
            return torch.where(ratio > 0.5, 1 / (1 + ratio), 1)
        # Limits without entropy are sharp, and steps of one length approach them sublinearly.
        longest = torch.where(estimate <= STEADY, LONGEST_THETA, 1)
        return torch.where(ratio * longest > 1, 1 / ratio, longest)
