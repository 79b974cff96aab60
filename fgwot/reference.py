r"""Fused Gromov-Wasserstein mathematics in float64 NumPy, written straight from the formulas.

This is the specification that every implementation is tested against. It is unbatched, slow (O(n^2 m^2)
time and memory) and uses nothing of the rest of the package. Notation, for C1 (n, n), C2 (m, m), M and T (n, m):

- (L (x) T)_ij = sum_kl L(C1_ik, C2_jl) T_kl
- E(T) = (1 - alpha) <M, T> + alpha <L (x) T, T>
- H(T) = -sum_ij T_ij (log T_ij - 1)
- J(T) = E(T) - epsilon H(T), minimised over couplings of p and q
"""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from numpy import logaddexp

Array = npt.NDArray[np.float64]
Loss = Callable[[Array, Array], Array]

_SHIFT = 1e-15


def square(a: Array, b: Array) -> Array:
    """(a - b)^2."""
    return (a - b) ** 2


def kl(a: Array, b: Array) -> Array:
    """Divergence a log(a / b) - a + b, with a shift of 1e-15 inside the logarithms."""
    return a * np.log(a + _SHIFT) - a * np.log(b + _SHIFT) - a + b


def absolute(a: Array, b: Array) -> Array:
    """``|a - b|``."""
    return np.abs(a - b)


def huber(a: Array, b: Array) -> Array:
    """Huber loss with threshold 1."""
    d = np.abs(a - b)
    return np.where(d <= 1, d**2 / 2, d - 0.5)


LOSSES: dict[str, Loss] = {"square": square, "kl": kl, "abs": absolute, "huber": huber}


def tensor_term(C1: Array, C2: Array, T: Array, loss: str = "square") -> Array:
    """Four nested sums: (L (x) T)_ij = sum_kl L(C1_ik, C2_jl) T_kl.

    Examples
    --------
    >>> C = np.array([[0.0, 1.0], [1.0, 0.0]])
    >>> tensor_term(C, C, np.eye(2) / 2).tolist()
    [[0.0, 1.0], [1.0, 0.0]]
    """
    compared = LOSSES[loss](C1[:, None, :, None], C2[None, :, None, :])  # axes i, j, k, l
    result: Array = np.einsum("ijkl,kl->ij", compared, T)
    return result


def energy(M: Array, C1: Array, C2: Array, T: Array, alpha: float, loss: str = "square") -> float:
    """E(T) = (1 - alpha) <M, T> + alpha <L (x) T, T>."""
    return float((1 - alpha) * (M * T).sum() + alpha * (tensor_term(C1, C2, T, loss) * T).sum())


def gradient(M: Array, C1: Array, C2: Array, T: Array, alpha: float, loss: str = "square") -> Array:
    """Gradient of E: (1 - alpha) M + alpha (L (x) T + L' (x) T), L' with transposed C1 and C2."""
    return (1 - alpha) * M + alpha * (tensor_term(C1, C2, T, loss) + tensor_term(C1.T, C2.T, T, loss))


def entropy(T: Array) -> float:
    """H(T) = -sum T (log T - 1), with 0 log 0 = 0."""
    positive = T[T > 0]
    return float(-(positive * (np.log(positive) - 1)).sum())


def objective(M: Array, C1: Array, C2: Array, T: Array, alpha: float, epsilon: float, loss: str = "square") -> float:
    """J(T) = E(T) - epsilon H(T)."""
    return energy(M, C1, C2, T, alpha, loss) - epsilon * entropy(T)


def sinkhorn(cost: Array, p: Array, q: Array, epsilon: float, tol: float = 1e-12) -> Array:
    """Entropic plan of a linear cost: argmin <cost, T> - epsilon H(T) over couplings of p and q.

    Maximises the semi-dual D(g) = <q, g> - <p, logsumexp_j(g - cost/epsilon)>, whose plan has exact rows, until the
    column sums c meet q. Sinkhorn sweeps g += log q - log c alternate with Newton steps, halved until D rises; epsilon
    falls in steps of four from a value where the problem is easy.

    Raises
    ------
    RuntimeError
        If the columns are not met to `tol` (L1).

    Examples
    --------
    >>> sinkhorn(np.zeros((2, 2)), np.array([0.5, 0.5]), np.array([0.25, 0.75]), 1.0)
    array([[0.125, 0.375],
           [0.125, 0.375]])
    """
    support = np.ix_(p > 0, q > 0)
    C, p_, q_ = cost[support], p[p > 0], q[q > 0]

    def plan(g: Array, temperature: float) -> Array:
        logits = g - C / temperature
        result: Array = np.exp(logits - logaddexp.reduce(logits, axis=1, keepdims=True)) * p_[:, None]
        return result

    def dual(g: Array, temperature: float) -> float:
        return float(q_ @ g - p_ @ logaddexp.reduce(g - C / temperature, axis=1))

    temperature = max(epsilon, float(np.ptp(C)) / 5)
    g = np.log(q_)
    while True:
        for _ in range(200):
            f = np.log(p_) - logaddexp.reduce(g - C / temperature, axis=1)
            g = np.log(q_) - logaddexp.reduce(f[:, None] - C / temperature, axis=0)
            T = plan(g, temperature)
            gap = q_ - T.sum(0)
            if np.abs(gap).sum() <= tol:
                break
            hessian = np.diag(T.sum(0)) * (1 + 1e-14) - T.T @ (T / p_[:, None]) + T.sum() / len(q_) ** 2
            step = np.linalg.solve(hessian, gap)
            while np.abs(step).max() > 1e-12 and dual(g + step, temperature) < dual(g, temperature):
                step = step / 2
            g = g + step
        if temperature == epsilon:
            break
        cooler = max(epsilon, temperature / 4)
        g, temperature = g * temperature / cooler, cooler
    if np.abs(gap).sum() > tol:
        raise RuntimeError(f"reference Sinkhorn stopped at a column error of {np.abs(gap).sum():.1e}, above {tol:.1e}")
    result = np.zeros_like(cost)
    result[support] = T
    return result


def marginal_error(T: Array, p: Array, q: Array) -> float:
    """``|T 1 - p|_1 + |T' 1 - q|_1``."""
    return float(np.abs(T.sum(1) - p).sum() + np.abs(T.sum(0) - q).sum())


def residual(
    M: Array,
    C1: Array,
    C2: Array,
    T: Array,
    p: Array,
    q: Array,
    alpha: float,
    epsilon: float,
    loss: str = "square",
) -> float:
    """``|T - Sinkhorn(gradient of E at T)|_1``: zero exactly at stationary points of J."""
    return float(np.abs(T - sinkhorn(gradient(M, C1, C2, T, alpha, loss), p, q, epsilon)).sum())
