r"""Undamped and extrapolated steps with as few operations as possible: all that most problems need.

A step solves the inner problem for costs X, which gives T+ = exp(f (+) g - X). Undamped, X = G(T), the linearisation
at the present plan; once steps are short, X is extrapolated from two of them by Anderson's method,

    X = G_k - theta (G_k - G_{k-1}),    theta = <R_k, R_k - R_{k-1}> / |R_k - R_{k-1}|^2,    R_k = G_k - X_k.

With delta = T+ - T, G+ = G(T+) and any X the objective changes by exactly

    (J(T+) - J(T)) / epsilon = <(G + G+) / 2 - X, delta> - KL(T || T+),    KL(T || T+) >= |delta|_1^2 / 2,

so one inner product tells that a step descends, and J itself is never computed. An extrapolation that may have risen
is taken back; a problem whose undamped steps may, or that needs too many, is left to `fgwot.iteration.guarded`.

Here is the step: functions of tensors that look at no value. `fgwot.iteration.eager` and `fgwot.iteration.captured`
drive it.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fgwot.batch import Batch, inner
from fgwot.constants import COARSEST, FURTHEST, HORIZON, LOOSE, SHORT, TIGHT
from fgwot.gradient.linearisation import Linearisation
from fgwot.inner.plan import Marginals, Plan
from fgwot.iteration.result import Result, Start, Tolerance


@dataclass(frozen=True)
class Limits(Batch):
    """Numbers (B,) that say when."""

    tol: Tensor  # residual + marginal error of a solved problem
    status: Tensor  # of a problem that meets it
    rounding: Tensor  # of the entries of G
    finest: Tensor  # inner tolerance near the answer

    @staticmethod
    def at(G: Tensor, T: Tensor, tol: float | None) -> "Limits":
        """Limits near a plan T with the linearisation G."""
        return Limits.within(Tolerance.at(G.abs(), T, tol))

    @staticmethod
    def within(tolerance: Tolerance) -> "Limits":
        """Limits that go with a tolerance."""
        noise, allowed = tolerance.noise, tolerance.allowed
        # A column sum is a sum of exponentials of numbers as large as G: it has that much rounding. But what the inner
        # problem may leave must be well below what the outer one may.
        finest = torch.maximum(TIGHT * allowed, torch.minimum(8 * noise, 0.3 * allowed))
        return Limits(allowed, tolerance.status, 4 * noise, finest)


@dataclass(frozen=True)
class State(Batch):
    """Where problems stand.

    X are the costs of the next plan, and `warm` a guess of its g: G, the linearisation at the present plan, where the
    next step is `plain`, and otherwise extrapolated. R is G minus the costs of the present plan, None of the first and
    where nothing will be extrapolated. Where no problem is `extrapolated`, X is G.
    """

    plan: Plan
    change: Tensor
    expected: Tensor  # change by the next step
    drift: Tensor
    G: Tensor
    X: Tensor
    warm: Tensor
    plain: Tensor
    slow: Tensor
    R: Tensor | None = None
    extrapolated: bool = False

    @staticmethod
    def at(plan: Plan, G: Tensor, start: Start) -> "State":
        """Before the first step, from a plan with the linearisation G."""
        change = torch.full_like(plan.error, start.change)
        yes = torch.ones_like(change, dtype=torch.bool)
        return State(plan, change, change, torch.zeros_like(change), G, G, start.warm, yes, ~yes)

    def undamped(self) -> "State":
        """Return the same state, about to make an undamped step."""
        return replace(self, X=self.G, warm=self.plan.g, plain=torch.ones_like(self.plain))


def begin(
    linearise: Linearisation, marginals: Marginals, start: Start, solve_inner: Callable[[Tensor, Tensor], Plan]
) -> State:
    """State before the first step; `solve_inner` gives the plan of the start's X and g, unless the first is p q'."""
    if start.independent:
        T = marginals.p[:, :, None] * marginals.q[:, None, :]
        return State.at(Plan(T, start.g, torch.zeros_like(T[:, 0, 0])), linearise.at_independent(marginals), start)
    plan = solve_inner(start.X, start.g)
    return State.at(plan, linearise(plan.T), start)


@dataclass(frozen=True)
class Move(Batch):
    """A step from one plan to the next: the change of the plan and its L1 norm, and what it does to G."""

    delta: Tensor
    change: Tensor
    G: Tensor  # at the next plan
    turn: Tensor  # from G at the last plan
    drift: Tensor
    R: Tensor  # G minus the costs of the next plan
    slope: Tensor  # of the objective, KL left out

    @property
    def clearly_falls(self) -> Tensor:
        """Whether the objective falls (B,) by Pinsker's inequality. What is not a number does not fall."""
        return self.slope <= self.change.square() / 2

    def falls(self, T: Tensor, limits: Limits) -> Tensor:
        """Whether it falls (B,), up to rounding, by the divergence from the last plan T itself."""
        info = torch.finfo(T.dtype)
        T = T.clamp_min(info.tiny)
        # The clamp is for entries that underflow; it makes KL smaller, never larger.
        ratio = (self.delta / T).clamp_min_(info.eps - 1).log1p_()
        divergence = torch.addcmul(self.delta, T, ratio, value=-1).sum((-2, -1))
        return self.slope <= torch.addcmul(divergence, limits.rounding, self.change)


def inner_tolerance(now: State, limits: Limits) -> Tensor:
    """Column error (B,) of the next plan; loose while the steps are long."""
    return torch.maximum(LOOSE * now.expected, limits.finest).clamp(max=COARSEST)


def residual(now: State, following: Plan, change: Tensor) -> Tensor:
    """Residual (B,) of the present plan: the change that an undamped step makes, up to what is inexact in it."""
    return change + (following.error + now.drift)


def certified(now: State, following: Plan, change: Tensor, limits: Limits) -> Tensor:
    """Whether problems (B,) are solved, if the step is undamped."""
    return now.plain & (residual(now, following, change) + now.plan.error <= limits.tol)


def move(now: State, following: Plan, delta: Tensor, change: Tensor, linearise: Linearisation, limits: Limits) -> Move:
    """Linearise at the next plan."""
    G, turn, drift = linearise.follow(now.G, following.T, delta, change, now.drift, limits.tol)
    if now.extrapolated:
        R = G - now.X
        slope = inner(delta, torch.add(R, turn, alpha=-0.5))
    else:
        R, slope = turn, inner(delta, turn) / 2
    return Move(delta, change, G, turn, drift, R, slope)


def advance(now: State, following: Plan, moved: Move, limits: Limits) -> State:
    """State at the next plan."""
    change, G, R = moved.change, moved.G, moved.R
    rate = (change / now.change.clamp_min(torch.finfo(G.dtype).tiny)).clamp(0.1, 1)
    expected = change * rate
    slow = now.slow | ((change < SHORT) & (expected * rate**HORIZON > limits.tol))
    if now.R is None:
        X, warm, plain = G, following.g, torch.ones_like(now.plain)
    else:
        bend = R - now.R
        theta = inner(R, bend) / inner(bend, bend)
        # An undamped step comes first again where it may certify the residual.
        useful = slow & (expected > 0.5 * limits.tol)
        theta = theta.nan_to_num_(0.0, 0.0, 0.0).clamp_(-FURTHEST, 0.75).mul_(useful)
        plain = theta == 0
        X = torch.addcmul(G, theta[:, None, None], moved.turn, value=-1)
        warm = torch.lerp(following.g, now.plan.g, theta[:, None])
    return State(
        plan=following,
        change=change,
        expected=expected,
        drift=moved.drift,
        G=G,
        X=X,
        warm=warm,
        plain=plain,
        slow=slow,
        R=R,
        extrapolated=now.R is not None,
    )


def describe(
    now: State,
    following: Plan,
    f: Tensor,
    change: Tensor,
    linearise: Linearisation,
    marginals: Marginals,
    limits: Limits,
    n_iter: int,
) -> Result:
    """Describe plans that are solved; `following`, with row potentials f, come one undamped step later."""
    return Result.of(
        linearise,
        marginals,
        now.plan.T,
        (f, following.g),
        status=limits.status,
        residual=residual(now, following, change),
        error=now.plan.error,
        n_iter=n_iter,
        value_quad=linearise.quadratic(now.G, now.plan.T),
    )
