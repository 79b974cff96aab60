r"""Undamped and extrapolated steps with as few operations as possible: all that most problems need.

A step solves the inner problem for costs X, which gives T+ = exp(f (+) g - X). Undamped, X = G(T), the linearisation
at the present plan; once steps are short, X is extrapolated from two of them by Anderson's method,

    X = G_k - theta (G_k - G_{k-1}),    theta = <R_k, R_k - R_{k-1}> / |R_k - R_{k-1}|^2,    R_k = G_k - X_k.

With delta = T+ - T, G+ = G(T+) and any X the objective changes by exactly

    (J(T+) - J(T)) / epsilon = <(G + G+) / 2 - X, delta> - KL(T || T+),    KL(T || T+) >= |delta|_1^2 / 2,

so one inner product tells that a step descends, and J itself is never computed. An extrapolation that may have risen
is taken back; a problem whose undamped steps may, or that needs too many, is left to the guarded iteration of
`fgwot.solver`.
"""

from dataclasses import dataclass, fields, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fgwot.chord import Chord, Plan
from fgwot.linearisation import Linearisation
from fgwot.problem import inner, take
from fgwot.result import COARSEST, Result, Start, Tolerance
from fgwot.sinkhorn import Marginals

MAX_STEPS = 200
_SHORT = 0.3  # change from which steps may be extrapolated
_HORIZON = 8  # undamped steps to go, by their present rate, from which they are
_FURTHEST = 20.0  # extrapolation, in steps


class _Limits(NamedTuple):
    """Numbers (B,) that say when."""

    tol: Tensor  # residual + marginal error of a solved problem
    status: Tensor  # of a problem that meets it
    rounding: Tensor  # of the entries of G
    finest: Tensor  # inner tolerance near the answer

    @staticmethod
    def at(G: Tensor, T: Tensor, tol: float | None) -> "_Limits":
        tolerance = Tolerance.at(G, T, tol)
        noise, allowed, _ = tolerance
        # A column sum is a sum of exponentials of numbers as large as G: it has that much rounding. But what the inner
        # problem may leave must be well below what the outer one may.
        finest = torch.maximum(0.05 * allowed, torch.minimum(8 * noise, 0.3 * allowed))
        return _Limits(allowed, tolerance.status, 4 * noise, finest)

    def select(self, at: Tensor) -> "_Limits":
        return _Limits(*(t[at] for t in self))


@dataclass(frozen=True)
class _Open:
    """Where the problems stand that go on; `index` (B,) is their place in the whole batch.

    X are the costs of the next plan, and `warm` a guess of its g: G, the linearisation at the present plan, where the
    next step is `plain`, and otherwise extrapolated. R is G minus the costs of the present plan, None of the first.
    """

    index: Tensor
    linearise: Linearisation
    chord: Chord
    limits: _Limits
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

    @staticmethod
    def begin(linearise: Linearisation, marginals: Marginals, start: Start, tol: float | None) -> "_Open":
        chord = Chord(marginals)
        zero = torch.zeros_like(marginals.p[:, 0])
        if start.product:
            T = marginals.p[:, :, None] * marginals.q[:, None, :]
            plan, G = Plan(T, start.g, zero), linearise.product(marginals)
        else:
            plan = chord(start.X, start.g, zero + 1e-6)
            G = linearise(plan.T)
        index = torch.arange(len(zero), device=zero.device)
        change = zero + start.change
        return _Open(
            index,
            linearise,
            chord,
            _Limits.at(G, plan.T, tol),
            plan=plan,
            change=change,
            expected=change,
            drift=zero,
            G=G,
            X=G,
            warm=start.warm,
            plain=index >= 0,
            slow=index < 0,
        )

    def select(self, at: Tensor) -> "_Open":
        """Return the state of some problems, given by ascending positions."""
        if len(at) == len(self.index):
            return self
        parts: dict[str, Any] = {part.name: getattr(self, part.name) for part in fields(self)}
        for name, part in parts.items():
            if part is not None:
                parts[name] = part[at] if isinstance(part, Tensor) else part.select(at)
        return _Open(**parts)

    def couple(self) -> Plan:
        """Plan for the costs X; loose while the steps are long."""
        finest = self.limits.finest
        return self.chord(self.X, self.warm, torch.maximum(0.02 * self.expected, finest).clamp(max=COARSEST))

    def advance(self, following: Plan, delta: Tensor, change: Tensor) -> "tuple[_Open, Tensor]":
        """State at the next plan, and whether the step there may have risen (B,)."""
        step, drift = self.linearise.follow(self.G, following.T, delta, change, self.drift, self.limits.tol)
        G = self.G + step
        R, slope = step, inner(delta, step) / 2
        if self.X is not self.G:
            R = G - self.X
            slope = inner(delta, R) - slope
        limits = self.limits
        # KL is at least half the square of its L1 distance (Pinsker). What is not a number has risen, too.
        risen = ~(slope <= change.square() / 2)
        if risen.any():
            info = torch.finfo(G.dtype)
            T = self.plan.T.clamp_min(info.tiny)
            # The clamp is for entries that underflow; it makes KL smaller, never larger.
            divergence = (delta - T * (delta / T).clamp_min(info.eps - 1).log1p()).sum((-2, -1))
            risen = ~(slope <= divergence + limits.rounding * change)
        rate = (change / self.change.clamp_min(torch.finfo(G.dtype).tiny)).clamp(0.1, 1)
        expected = change * rate
        slow = self.slow | ((change < _SHORT) & (expected * rate**_HORIZON > limits.tol))
        X, warm, plain = G, following.g, self.index >= 0
        if self.R is not None:
            turn = R - self.R
            theta = inner(R, turn) / inner(turn, turn)
            # An undamped step comes first again where it may certify the residual.
            useful = slow & (expected > 0.5 * limits.tol)
            theta = torch.where(useful, theta.nan_to_num(0.0, 0.0, 0.0).clamp(-_FURTHEST, 0.75), 0)
            plain = theta == 0
            X = torch.addcmul(G, theta[:, None, None], step, value=-1)
            warm = torch.addcmul(warm, theta[:, None], warm - self.plan.g, value=-1)
        return (
            replace(
                self,
                plan=following,
                change=change,
                expected=expected,
                drift=drift,
                G=G,
                X=X,
                warm=warm,
                plain=plain,
                slow=slow,
                R=R if slow.any() else None,
            ),
            risen,
        )

    def put(self, undone: Tensor, before: "_Open") -> "_Open":
        """Self with some problems (B,) back where they were `before`, about to make an undamped step."""

        def mixed(old: Tensor, new: Tensor) -> Tensor:
            return torch.where(undone.view(-1, *[1] * (old.ndim - 1)), old, new)

        R = self.R if before.R is None or self.R is None else mixed(before.R, self.R)
        return replace(
            self,
            plan=Plan(*(mixed(old, new) for old, new in zip(before.plan, self.plan, strict=True))),
            change=mixed(before.change, self.change),
            expected=mixed(before.expected, self.expected),
            drift=mixed(before.drift, self.drift),
            G=mixed(before.G, self.G),
            X=mixed(before.G, self.X),
            warm=mixed(before.plan.g, self.warm),
            plain=self.plain | undone,
            R=R,
        )

    def result(self, following: Plan, change: Tensor, n_iter: int) -> Result:
        """Describe plans that are solved; `following` are the plans of one undamped step more, at distance `change`."""
        f = self.chord.row_potential(self.X, following.g)
        return Result.of(
            self.linearise,
            self.chord.marginals,
            self.plan.T,
            (f, following.g),
            status=self.limits.status,
            residual=change + following.error + self.drift,
            error=self.plan.error,
            n_iter=n_iter,
            value_quad=self.linearise.quadratic(self.G, self.plan.T),
        )


def undamped(
    linearise: Linearisation, marginals: Marginals, start: Start, tol: float | None, max_iter: int
) -> tuple[list[tuple[Tensor, Result]], list[tuple[Tensor, Plan]], int]:
    """Step until each problem is solved or given up, at most `max_iter` times.

    Parameters
    ----------
    tol : float, optional
        Bound on residual + marginal error of a solved problem.

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
    for n_iter in range(1, min(max_iter, MAX_STEPS) + 1):
        following = now.couple()
        if n_iter == 1:  # p q' may have mass where costs forbid it, its successor has not
            now = replace(now, limits=_Limits.at(now.G, following.T, tol))
        delta = following.T - now.plan.T
        change = torch.linalg.vector_norm(delta, 1, (-2, -1))
        # The change made by an undamped step is the residual of the plan it left.
        done = now.plain & (change + (now.plan.error + following.error + now.drift) <= now.limits.tol)
        if done.any():
            at, rest = done.nonzero()[:, 0], (~done).nonzero()[:, 0]
            solved.append((now.index[at], now.select(at).result(following.select(at), take(change, at), n_iter)))
            if not len(rest):
                return solved, left, n_iter
            now, following, delta, change = now.select(rest), following.select(rest), delta[rest], change[rest]
        after, risen = now.advance(following, delta, change)
        if risen.any():
            at, rest = (risen & now.plain).nonzero()[:, 0], (~(risen & now.plain)).nonzero()[:, 0]
            if len(at):
                left.append((now.index[at], now.plan.select(at)))
                if not len(rest):
                    return solved, left, n_iter
                now, after, risen = now.select(rest), after.select(rest), risen[rest]
            if risen.any():
                after = after.put(risen, now)
        now = after
    return solved, [*left, (now.index, now.plan)], n_iter
