"""Residuals of plans whose marginals need not be met, by code that no timed library runs.

A plan of a problem with prices or a mass is stationary if it is the entropic plan of the linear problem whose cost is
the gradient of the energy there, with the same prices or mass. With X = cost / epsilon that plan is
T = exp(f (+) g + l - X), where for a side with marginal p, sums r and price rho

- prices:  f = -(rho / epsilon) log(r / p), which is 0 on a free side, and r = p on an exact one; l = 0
- a mass:  f <= 0, r <= p, and f (r - p) = 0; l such that T has that mass

Maximising the dual in one block of f, g, l after the other is Sinkhorn's method (Chizat, Peyre, Schmitzer and Vialard,
"Scaling algorithms for unbalanced transport problems", 2018).
"""

from collections.abc import Callable
from functools import partial

import numpy as np

from benchmarks.problems import Array, Problem

_SETTLED = 1e-13
_CHUNKS, _SWEEPS = 400, 100
_TINY = np.finfo(float).tiny


def missed(problem: Problem, T: Array) -> float:
    """By how much a plan (n, m) misses what is asked of it: exact sums, or its mass and sums of at most p and q."""
    _, _, _, p, q = problem.first
    gaps = T.sum(1) - p, T.sum(0) - q
    if problem.mass is not None:
        return float(sum(gap.clip(0).sum() for gap in gaps) + abs(T.sum() - problem.mass))
    return float(sum(np.abs(gap).sum() for gap, price in zip(gaps, problem.rho, strict=True) if price == np.inf))


def paid(problem: Problem, T: Array) -> float:
    """Prices times divergences of a plan's sums from p and q."""
    _, _, _, p, q = problem.first
    sides = zip((T.sum(1), T.sum(0)), (p, q), problem.rho, strict=True)
    return sum(
        price * float((sums * np.log((sums / side).clip(_TINY)) - sums + side).sum())
        for sums, side, price in sides
        if 0 < price < np.inf
    )


def rounded(problem: Problem, T: Array) -> Array:
    """Return a plan near T (n, m) that has what is asked of it."""
    _, _, _, p, q = problem.first
    if problem.mass is None:
        return T * (p / T.sum(1).clip(_TINY))[:, None]
    T = T * (p / T.sum(1).clip(_TINY)).clip(max=1)[:, None]
    T = T * (q / T.sum(0).clip(_TINY)).clip(max=1)
    if T.sum() >= problem.mass:
        return T * (problem.mass / T.sum())
    rows, columns = p - T.sum(1), q - T.sum(0)  # of equal sums, and at least what is missing
    result: Array = T + (problem.mass - T.sum()) * np.outer(rows / rows.sum(), columns / columns.sum())
    return result


def following(problem: Problem, X: Array, T: Array) -> Array:
    """Entropic plan (n, m) of the linear cost X at epsilon 1, from the potentials that T has; NaN without an end."""
    _, _, _, p, q = problem.first
    logs = np.log(T.clip(_TINY)) + X
    if problem.mass is None:
        first, second = (_shrunk(price / problem.epsilon) for price in problem.rho)
        level, rows = 0.0, _means(logs, T)
    else:
        first = second = partial(np.minimum, 0.0)
        level = float(logs[1e-9 * T.max() < T].max())
        rows = np.minimum(_means(logs, T) - level, 0.0)
    columns = second(_means(logs.T - level - rows, T.T))
    for _ in range(_CHUNKS):
        kernel = np.exp(rows[:, None] + columns + level - X)
        a, b, c = np.ones(len(p)), np.ones(len(q)), 1.0
        f, g, total = rows, columns, level
        for _ in range(_SWEEPS):
            before = f, g, total
            f = first(rows + np.log(p) - np.log((c * (kernel @ b)).clip(_TINY)))
            a = np.exp(f - rows)
            g = second(columns + np.log(q) - np.log((c * (a @ kernel)).clip(_TINY)))
            b = np.exp(g - columns)
            if problem.mass is not None:
                c = problem.mass / float(a @ kernel @ b)
                total = level + float(np.log(c))
            moved = max(np.abs(new - old).max() for new, old in zip((f, g, total), before, strict=True))
            if moved <= _SETTLED * (1 + np.abs(X).max()):
                result: Array = c * a[:, None] * kernel * b
                return result
        rows, columns, level = f, g, total
    return np.full_like(X, np.nan)


def _shrunk(ratio: float) -> Callable[[Array], Array]:
    """What the divergence with this price over epsilon makes of a potential that would meet the marginal."""
    factor = 1.0 if ratio == np.inf else ratio / (1 + ratio)
    return lambda potential: factor * potential


def _means(logs: Array, T: Array) -> Array:
    """Averages of rows under T."""
    result: Array = (logs * T).sum(1) / T.sum(1).clip(_TINY)
    return result
