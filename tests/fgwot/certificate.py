"""What a plan's certificate is checked by: float64 NumPy code that no driver shares."""

import numpy as np

from benchmarks.accuracy import sinkhorn
from fgwot import reference


def stationarity(M, C1, C2, p, q, T, alpha, epsilon, loss="square"):
    """|T - Sinkhorn(grad E(T))|_1 + |T 1 - p|_1 + |T' 1 - q|_1, relative to the mass; NaN where it is not to be had.

    The inner problem is solved at mass one and epsilon one, by the reference or, where that stops short, by the referee
    of the benchmarks.
    """
    mass = p.sum()
    X = reference.gradient(M, C1, C2, T, alpha, loss) / epsilon
    p_, q_ = p / mass, q / q.sum()
    try:
        following = reference.sinkhorn(X, p_, q_, 1.0, tol=1e-10)
    except (RuntimeError, np.linalg.LinAlgError):
        rows, columns = p_ > 0, q_ > 0
        some = X[np.ix_(rows, columns)]
        following = np.zeros_like(X)
        with np.errstate(all="ignore"):
            found = sinkhorn(some[None], p_[None, rows], q_[None, columns], some.min(0)[None])[0]
        following[np.ix_(rows, columns)] = found
    return float(np.abs(T / mass - following).sum()) + reference.marginal_error(T, p, q) / mass
