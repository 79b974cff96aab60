"""What a plan's certificate is checked by: float64 NumPy code that no driver shares."""

import numpy as np
import torch

from benchmarks.accuracy import sinkhorn
from fgwot import reference

_EPS = np.finfo(float).eps


def stationarity(M, C1, C2, p, q, T, alpha, epsilon, loss="square"):
    """|T - Sinkhorn(grad E(T))|_1 + |T 1 - p|_1 + |T' 1 - q|_1, relative to the mass; NaN where it is not to be had.

    The inner problem is solved at mass one and epsilon one, by the reference or, where that stops short, by the referee
    of the benchmarks or by as many sweeps as it takes.
    """
    mass = p.sum()
    X = reference.gradient(M, C1, C2, T, alpha, loss) / epsilon
    # The columns of the inner problem are met to 1e-10, or to what costs of that size leave to rounding.
    tol = 1e-10 + 8 * _EPS * float((T * np.abs(X)).sum()) / mass
    following = _inner(X, p / mass, q / q.sum(), tol)
    return float(np.abs(T / mass - following).sum()) + reference.marginal_error(T, p, q) / mass


def paid(sums, side, rho):
    """rho KL(sums | side) by its formula; nothing for a side that is exact or free."""
    if rho in (0.0, np.inf):
        return 0.0
    massive = sums > 0
    return rho * (sums[massive] @ np.log(sums[massive] / side[massive]) + side.sum() - sums.sum())


def moving_stationarity(M, C1, C2, p, q, T, f, g, alpha, epsilon, loss="square", rho=None, mass=None):
    """|T - T+|_1 for T+ = exp((f (+) g - grad E(T)) / epsilon), and what T+ and its potentials miss of what is asked.

    That is, with prices, sums a = p exp(-f / rho); with a mass, that mass, sums up to p and q, and equal to them where
    the multipliers f and g - max g, which are not positive, are not zero. Relative to the mass of T.
    """
    X = reference.gradient(M, C1, C2, T, alpha, loss) / epsilon
    f, g = f / epsilon, g / epsilon
    rows, columns = ((side > 0) | (np.asarray(price) == 0) for side, price in zip((p, q), rho or (1, 1), strict=True))
    following = np.exp(np.where(rows[:, None] & columns, f[:, None] + g - X, -np.inf))
    missed = np.abs(T - following).sum()
    sides = [(following.sum(1), p, f), (following.sum(0), q, g)]
    if mass is not None:
        missed += abs(following.sum() - mass)
        sides[1] = (following.sum(0), q, np.where(q > 0, g - g[q > 0].max(), 0))
    for k, (sums, side, potential) in enumerate(sides):
        if mass is not None:
            assert (potential <= 1e-12).all()
            gap = sums - side
            missed += np.where(potential < 0, np.abs(gap), gap.clip(0)).sum()
        elif rho[k] == 0:
            assert not potential.any()
        else:
            with np.errstate(divide="ignore"):
                meant = np.exp(np.log(side) - (0 if rho[k] == np.inf else potential * epsilon / rho[k]))
            missed += np.abs(sums - meant).sum()
    return float(missed / T.sum())


def _inner(X, p, q, tol):
    try:
        return reference.sinkhorn(X, p, q, 1.0, tol=tol)
    except (RuntimeError, np.linalg.LinAlgError):
        rows, columns = p > 0, q > 0
        some, p, q = X[np.ix_(rows, columns)], p[rows], q[columns]
        costs = (torch.from_numpy(a[None]) for a in (some, p, q, some.min(0)))
        found = sinkhorn(*costs)[0].numpy()
        following = np.zeros_like(X)
        following[np.ix_(rows, columns)] = found if np.isfinite(found).all() else _swept(some, p, q, tol)
        return following


def _swept(X, p, q, tol):
    """Sinkhorn's sweeps in the log domain; NaN where 100,000 of them do not suffice."""
    g = np.log(q)
    for _ in range(100_000):
        f = np.log(p) - np.logaddexp.reduce(g - X, axis=1)
        T = np.exp(f[:, None] + g - X)
        if np.abs(T.sum(0) - q).sum() <= tol:
            return T
        g = np.log(q) - np.logaddexp.reduce(f[:, None] - X, axis=0)
    return np.full(X.shape, np.nan)
