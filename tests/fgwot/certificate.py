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
        guess = np.log(q_) + np.min(X, axis=0)
        following = sinkhorn(X[None], p_[None], q_[None], guess[None])[0]
    return float(np.abs(T / mass - following).sum()) + reference.marginal_error(T, p, q) / mass
