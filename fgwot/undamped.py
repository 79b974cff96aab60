r"""Undamped steps with as few operations as possible: all that most problems need.

A step linearises E at the plan T and solves the inner problem for X = G(T), which gives T+ = exp(f (+) g - X).
With delta = T+ - T the objective changes by

    (J(T+) - J(T)) / epsilon = <delta, G(T+) - G(T)> / 2 - KL(T || T+),    KL(T || T+) >= |delta|_1^2 / (2 mass),

so a glance at the curvature <delta, G(T+) - G(T)> tells that a step descends, and J itself is never computed.
Problems that bend too much, or need too many steps, are left to the guarded iteration of `fgwot.solver`.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from fgwot.chord import Chord, Plan
from fgwot.linearisation import Linearisation
from fgwot.result import Result, Start, tolerance
from fgwot.sinkhorn import Marginals
from fgwot.solution import Status

_MAX_STEPS = 200
_STEEPEST = 0.5  # curvature, as a part of the metric of KL, from which a step is distrusted; below 1 it descends


@dataclass
class _Open:
    """Where the problems stand that go on; `index` (B,) is their place in the whole batch."""

    index: Tensor
    linearise: Linearisation
    chord: Chord
    tol: Tensor
    finest: Tensor  # inner tolerance near the answer
    coarsest: Tensor  # the same far away: loose first steps could change the basin
    X: Tensor
    plan: Plan
    change: Tensor
    drift: Tensor

    @staticmethod
    def begin(linearise: Linearisation, marginals: Marginals, start: Start, tol: float | None) -> "_Open":
        chord, mass = Chord(marginals), marginals.mass
        if start.product:
            T = marginals.p[:, :, None] * (marginals.q / mass[:, None])[:, None, :]
            plan, X = Plan(T, start.warm, torch.zeros_like(mass)), linearise.product(marginals)
        else:
            plan = chord(start.X, start.g, 1e-6 * mass)
            X = linearise(plan.T)
            plan = plan._replace(g=start.warm)
        index = torch.arange(len(mass), device=mass.device)
        noise, allowed = tolerance(X, mass, tol)
        # A column sum is a sum of exponentials of numbers as large as X: it has that much rounding.
        finest = torch.maximum(0.05 * allowed, 8 * noise * mass)
        change, drift = start.change * mass, torch.zeros_like(mass)
        return _Open(index, linearise, chord, allowed, finest, 1e-3 * mass, X, plan, change, drift)

    def select(self, at: Tensor) -> "_Open":
        """Return the state of some problems, given by ascending positions."""
        if len(at) == len(self.index):
            return self
        names = (self.tol, self.finest, self.coarsest, self.X, self.plan, self.change, self.drift)
        tensors = (t.select(at) if isinstance(t, Plan) else t[at] for t in names)
        return _Open(self.index[at], self.linearise.select(at), self.chord.select(at), *tensors)

    def couple(self) -> Plan:
        """Plan for the costs X; loose while the steps are long."""
        return self.chord(self.X, self.plan.g, torch.clamp(0.02 * self.change, self.finest, self.coarsest))

    def advance(self, following: Plan, delta: Tensor) -> Tensor:
        """Move to the next plan; tells which problems (B,) bent so much that they may have risen."""
        X, self.drift = self.linearise.follow(self.X, following.T, delta, self.change, self.drift, self.tol)
        curvature = (delta * (X - self.X)).sum((-2, -1))
        steep = curvature > _STEEPEST * self.change.square() / self.chord.marginals.mass
        if bool(steep.any()):
            metric = 2 * delta.square() / (self.plan.T + following.T).clamp_min(torch.finfo(X.dtype).tiny)
            steep = curvature > _STEEPEST * metric.sum((-2, -1))
        self.X = X
        return steep

    def result(self, following: Plan, n_iter: int) -> Result:
        """Describe plans that are solved; `following` are the plans of one more step."""
        f = self.chord.row_potential(self.X, following.g)
        residual = self.change + following.error + self.drift
        return Result.of(
            self.linearise,
            self.chord.marginals,
            self.plan.T,
            (f, following.g),
            status=torch.full_like(self.index, Status.CONVERGED),
            residual=residual,
            error=self.plan.error,
            n_iter=n_iter,
        )


def undamped(
    linearise: Linearisation, marginals: Marginals, start: Start, tol: float | None, max_iter: int
) -> tuple[list[tuple[Tensor, Result]], list[tuple[Tensor, Plan]], int]:
    """Step until each problem is solved or given up, at most `max_iter` times.

    Parameters
    ----------
    tol : float, optional
        Bound on residual + marginal error of a solved problem, relative to the mass.

    Returns
    -------
    solved, open : list of pairs
        Ascending positions in the batch, and their results, or the plans that they are given up at.
    n_iter : int
        Steps that were made.
    """
    solved: list[tuple[Tensor, Result]] = []
    left: list[tuple[Tensor, Plan]] = []
    now = _Open.begin(linearise, marginals, start, tol)
    n_iter = 0
    for n_iter in range(1, min(max_iter, _MAX_STEPS) + 1):
        following = now.couple()
        delta = following.T - now.plan.T
        now.change = torch.linalg.vector_norm(delta, 1, (-2, -1))
        # The change made by an undamped step is the residual of the plan it left.
        done = now.change + (now.plan.error + following.error + now.drift) <= now.tol
        if bool(done.any()):
            at, rest = done.nonzero()[:, 0], (~done).nonzero()[:, 0]
            solved.append((now.index[at], now.select(at).result(following.select(at), n_iter)))
            if not len(rest):
                return solved, left, n_iter
            now, following, delta = now.select(rest), following.select(rest), delta[rest]
        steep = now.advance(following, delta)
        if bool(steep.any()):
            at, rest = steep.nonzero()[:, 0], (~steep).nonzero()[:, 0]
            left.append((now.index[at], now.plan.select(at)))
            if not len(rest):
                return solved, left, n_iter
            now, following = now.select(rest), following.select(rest)
        now.plan = following
    return solved, [*left, (now.index, now.plan)], n_iter
