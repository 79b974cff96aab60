"""Drives the undamped step on the CPU: looks at every error, and sets problems aside once they end."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fgwot.batch import Batch, take
from fgwot.constants import MAX_STEPS
from fgwot.gradient.linearisation import Linearisation
from fgwot.inner.chord import Chord
from fgwot.inner.plan import Marginals, Plan, row_potential
from fgwot.iteration.result import Result, Start
from fgwot.iteration.undamped import Limits, Move, State, advance, begin, certified, describe, inner_tolerance, move


@dataclass(frozen=True)
class _Open(Batch):
    """The problems that go on; `index` (B,) is their place in the whole batch."""

    index: Tensor
    linearise: Linearisation
    chord: Chord
    limits: Limits
    state: State

    @staticmethod
    def begin(linearise: Linearisation, marginals: Marginals, start: Start, tol: float | None) -> "_Open":
        chord = Chord(marginals)
        loose = torch.full_like(marginals.p[:, 0], 1e-6)
        state = begin(linearise, marginals, start, lambda X, g: chord(X, g, loose))
        index = torch.arange(len(loose), device=loose.device)
        return _Open(index, linearise, chord, Limits.at(state.G, state.plan.T, tol), state)

    def select(self, at: Tensor) -> "_Open":
        return self if len(at) == len(self.index) else super().select(at)

    def solve_inner(self) -> Plan:
        return self.chord(self.state.X, self.state.warm, inner_tolerance(self.state, self.limits))

    def move(self, following: Plan, delta: Tensor, change: Tensor) -> Move:
        return move(self.state, following, delta, change, self.linearise, self.limits)

    def advance(self, following: Plan, moved: Move) -> "_Open":
        after = advance(self.state, following, moved, self.limits)
        if not after.slow.any():  # no need of its memory
            after = replace(after, R=None)
        return replace(self, state=after)

    def undone(self, problems: Tensor, before: "_Open") -> "_Open":
        """Some problems (B,) back where they were before, about to make an undamped step."""
        back, now = before.state.undamped(), self.state
        R = now.R if back.R is None or now.R is None else back.R
        back = replace(back, R=R, extrapolated=now.extrapolated)
        return replace(self, state=back.where(problems, now))

    def result(self, following: Plan, change: Tensor, n_iter: int) -> Result:
        f = row_potential(self.state.X, self.chord.marginals, following.g)
        return describe(self.state, following, f, change, self.linearise, self.chord.marginals, self.limits, n_iter)


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
        following = now.solve_inner()
        if n_iter == 1:  # p q' may have mass where costs forbid it, its successor has not
            now = replace(now, limits=Limits.at(now.state.G, following.T, tol))
        delta = following.T - now.state.plan.T
        change = torch.linalg.vector_norm(delta, 1, (-2, -1))
        done = certified(now.state, following, change, now.limits)
        if done.any():
            at, rest = done.nonzero()[:, 0], (~done).nonzero()[:, 0]
            solved.append((now.index[at], now.select(at).result(following.select(at), take(change, at), n_iter)))
            if not len(rest):
                return solved, left, n_iter
            now, following, delta, change = now.select(rest), following.select(rest), delta[rest], change[rest]
        moved = now.move(following, delta, change)
        risen = ~moved.clearly_falls
        if risen.any():
            risen = ~moved.falls(now.state.plan.T, now.limits)
        after = now.advance(following, moved)
        if risen.any():
            given_up = risen & now.state.plain
            at, rest = given_up.nonzero()[:, 0], (~given_up).nonzero()[:, 0]
            if len(at):
                left.append((now.index[at], now.state.plan.select(at)))
                if not len(rest):
                    return solved, left, n_iter
                now, after, risen = now.select(rest), after.select(rest), risen[rest]
            if risen.any():
                after = after.undone(risen, now)
        now = after
        del delta, moved  # their memory, before the next plan's
    return solved, [*left, (now.index, now.state.plan)], n_iter
