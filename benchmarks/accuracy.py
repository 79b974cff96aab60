"""How good a plan is, measured by code that no timed library runs.

r_marg = |T 1 - p|_1 + |T' 1 - q|_1 and r_fix = |T - S|_1, where S is the entropic plan of the linear cost grad E(T):
zero exactly at stationary points. For proximal point methods S solves the cost grad E(T) - epsilon log T, and the
objective is E of the plan rounded to the exact marginals, so that a plan gains nothing by missing them.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from benchmarks.problems import Array, Problem
from fgwot import reference

_STEPS = 60
_TOL = 1e-11
_SMALL = 64  # up to this size the slow reference may take over


@dataclass(frozen=True)
class Accuracy:
    """Residuals and objective of each problem of a batch; `r_fix` is NaN where it could not be computed."""

    r_marg: Array
    r_fix: Array
    objective: Array
    rounded: bool

    @property
    def worst(self) -> float:
        """Largest residual of any problem; infinite where one is unknown."""
        worst = np.maximum(self.r_marg, self.r_fix)
        return float(np.where(np.isfinite(worst), worst, np.inf).max())

    def feasible(self, bound: float) -> npt.NDArray[np.bool_]:
        """Which objectives are those of couplings: of rounded plans, or of plans whose marginals hold to `bound`."""
        return np.isfinite(self.objective) & (self.rounded | (self.r_marg <= bound))

    def share(self, bound: float) -> float:
        """Part of the problems whose residuals are both at most `bound`."""
        return float(((self.r_marg <= bound) & (self.r_fix <= bound)).mean())


def measure(problem: Problem, T: Array, *, proximal: bool = False) -> Accuracy:
    """Measure the plans T (B, n, m) of a batch of problems with the square loss.

    `proximal` leaves the entropy out of the objective and takes epsilon as the proximal step.
    """
    M, C1, C2, p, q = problem.arrays
    linear = (1 - problem.alpha) * M
    quadratic = problem.alpha * _symmetric_term(C1, C2, T)
    logs = np.log(np.maximum(T, np.finfo(float).tiny))
    cost = linear + 2 * quadratic
    if proximal:
        cost = cost - problem.epsilon * logs
        exact = rounded(T, p, q)
        objective = ((linear + problem.alpha * _symmetric_term(C1, C2, exact)) * exact).sum((1, 2))
    else:
        objective = ((linear + quadratic + problem.epsilon * (logs - 1)) * T).sum((1, 2))
    r_marg = np.abs(T.sum(2) - p).sum(1) + np.abs(T.sum(1) - q).sum(1)
    r_fix = np.full(len(T), np.nan)
    usable = np.isfinite(cost).all((1, 2)) & (T >= 0).all((1, 2))
    if usable.any():
        guess = (T[usable] * (logs + cost / problem.epsilon)[usable]).sum(1)
        S = sinkhorn(cost[usable] / problem.epsilon, p[usable], q[usable], guess / q[usable])
        r_fix[usable] = np.abs(T[usable] - S).sum((1, 2))
    return Accuracy(r_marg, r_fix, objective, proximal)


def rounded(T: Array, p: Array, q: Array) -> Array:
    """Couplings of p and q near T: shrink rows and columns that are too heavy, then add what is missing.

    References
    ----------
    Altschuler, Weed and Rigollet, "Near-linear time approximation algorithms for optimal transport", 2017.
    """
    T = T * np.minimum(p / np.maximum(T.sum(2), 1e-300), 1)[:, :, None]
    T = T * np.minimum(q / np.maximum(T.sum(1), 1e-300), 1)[:, None, :]
    rows, columns = p - T.sum(2), q - T.sum(1)
    missing = np.maximum(rows.sum(1), 1e-300)
    result: Array = T + rows[:, :, None] * columns[:, None, :] / missing[:, None, None]
    return result


def sinkhorn(X: Array, p: Array, q: Array, g: Array) -> Array:
    """Entropic plans of the linear costs X (B, n, m) at epsilon 1, by Newton's method on the semi-dual from g.

    Steps are halved until the semi-dual rises. Small problems that Newton leaves open go to `fgwot.reference`; NaN
    marks what is still open then.
    """
    plans = np.full(X.shape, np.nan)
    todo = np.arange(len(X))
    for step in range(_STEPS):
        T = _plan(X[todo], p[todo], g[todo])
        gap = q[todo] - T.sum(1)
        done = np.abs(gap).sum(1) <= _TOL
        plans[todo[done]] = T[done]
        todo, T, gap = todo[~done], T[~done], gap[~done]
        if not len(todo) or step == _STEPS - 1:
            break
        g[todo] = _ascend(X[todo], p[todo], q[todo], g[todo], T, gap)
    for b in todo:
        if X.shape[1] <= _SMALL:
            try:
                plans[b] = reference.sinkhorn(X[b], p[b], q[b], 1.0, tol=_TOL)
            except (RuntimeError, np.linalg.LinAlgError):
                continue
    return plans


def _ascend(X: Array, p: Array, q: Array, g: Array, T: Array, gap: Array) -> Array:
    """One Newton step on the semi-dual, shortened until the semi-dual rises; a Sinkhorn sweep if it cannot."""
    m = q.shape[1]
    c = T.sum(1)
    hessian = -_t(T) @ (T / p[:, :, None]) + 1 / m**2
    hessian[:, np.arange(m), np.arange(m)] += c * (1 + 1e-13) + 1e-300
    sweep = np.log(q) - np.log(np.maximum(c, 1e-300))
    try:
        step = np.linalg.solve(hessian, gap[:, :, None])[:, :, 0]
    except np.linalg.LinAlgError:
        return g + sweep
    now = _dual(X, p, q, g)
    size = np.minimum(1, 30 / np.maximum(np.abs(step).max(1), 1e-300))
    for _ in range(8):
        value = _dual(X, p, q, g + size[:, None] * step)
        short = ~(value >= now - 1e-14 * (1 + np.abs(now)))
        if not short.any():
            return g + size[:, None] * step
        size = np.where(short, size / 3, size)
    return g + np.where(short[:, None], sweep, size[:, None] * step)


def _dual(X: Array, p: Array, q: Array, g: Array) -> Array:
    return (q * g).sum(1) - (p * _logsumexp(g[:, None, :] - X)).sum(1)


def _plan(X: Array, p: Array, g: Array) -> Array:
    logits = g[:, None, :] - X
    logits -= logits.max(2, keepdims=True)
    np.exp(logits, out=logits)
    logits *= (p / logits.sum(2))[:, :, None]
    return logits


def _logsumexp(logits: Array) -> Array:
    top = logits.max(2)
    result: Array = top + np.log(np.exp(logits - top[:, :, None]).sum(2))
    return result


def _tensor_term(C1: Array, C2: Array, T: Array) -> Array:
    """Square loss: (L (x) T)_ij = sum_k C1_ik^2 r_k + sum_l C2_jl^2 c_l - 2 (C1 T C2')_ij; r, c are T's marginals."""
    rows = (C1**2 @ T.sum(2)[:, :, None])[:, :, 0]
    columns = (C2**2 @ T.sum(1)[:, :, None])[:, :, 0]
    return rows[:, :, None] + columns[:, None, :] - 2 * C1 @ T @ _t(C2)


def _symmetric_term(C1: Array, C2: Array, T: Array) -> Array:
    """Mean of L (x) T and L' (x) T, L' with transposed structures: half the gradient of <L (x) T, T>."""
    if np.array_equal(C1, _t(C1)) and np.array_equal(C2, _t(C2)):
        return _tensor_term(C1, C2, T)
    return (_tensor_term(C1, C2, T) + _tensor_term(_t(C1), _t(C2), T)) / 2


def _t(A: Array) -> Array:
    return A.swapaxes(1, 2)
