"""What Numba's loops for small problems share: how they are compiled, products, exponentials, factors, marginals."""

# Numba's types are not Python's: compiled functions carry no annotations.
# mypy: allow-untyped-defs, allow-incomplete-defs, no-check-untyped-defs

from collections.abc import Callable, Collection
from functools import partial
from math import inf, isfinite, log, sqrt
from typing import Any

import numpy as np
from numba import njit, types  # type: ignore[attr-defined, unused-ignore]

from fgwot.constants import SHIFT
from fgwot.solution import Status

_LOG_2 = log(2)
_LOG_2_HIGH, _LOG_2_LOW = 6.93147180369123816490e-01, 1.90821492927058770002e-10  # their products with k are exact
_ROUNDER = 1.5 * 2.0**52
FAR = 1e13  # factor of a column from which P, computed for 1, is too inexact
TINY = np.finfo(np.float64).tiny
EPS = np.finfo(np.float64).eps
UNFINISHED, INVALID = int(Status.MAX_ITER), int(Status.NUMERICAL)


def compile_loop(
    function: Callable[..., Any], freedoms: Collection[str] = ("contract",), types: Any = None
) -> Callable[..., Any]:
    """Compile with some freedoms of LLVM's arithmetic; none that would break tests for infinity and NaN.

    For the given types at once, and for no others; without them when it is called.
    """
    compiled: Callable[..., Any] = njit(types, cache=True, nogil=True, error_model="numpy", fastmath=set(freedoms))(
        function
    )
    return compiled


# Sums may be reordered, into vectors.
reordered = partial(compile_loop, freedoms=("contract", "reassoc", "nsz", "arcp"))
NUMBER, COUNT, FLAG = types.float64, types.int64, types.boolean
LINE, TABLE, CUBE = (types.Array(types.float64, dimensions, "C") for dimensions in (1, 2, 3))


@reordered
def add_product(A, B, result):
    """Add A B to the result: two rows share what is read of B, four of its rows what is read of the result."""
    n, inner = A.shape
    whole = inner - inner % 4
    for i in range(0, n - 1, 2):
        for k in range(0, whole, 4):
            a0, a1, a2, a3 = A[i, k], A[i, k + 1], A[i, k + 2], A[i, k + 3]
            b0, b1, b2, b3 = A[i + 1, k], A[i + 1, k + 1], A[i + 1, k + 2], A[i + 1, k + 3]
            for j in range(B.shape[1]):
                c0, c1, c2, c3 = B[k, j], B[k + 1, j], B[k + 2, j], B[k + 3, j]
                result[i, j] += a0 * c0 + a1 * c1 + a2 * c2 + a3 * c3
                result[i + 1, j] += b0 * c0 + b1 * c1 + b2 * c2 + b3 * c3
    for i in range(n):
        for k in range(whole if i < n - n % 2 else 0, inner):
            a = A[i, k]
            for j in range(B.shape[1]):
                result[i, j] += a * B[k, j]


@reordered
def add_sandwich(A, T, B, half, result):
    """Add A T B to the result, by way of half."""
    half[:] = 0
    add_product(A, T, half)
    add_product(half, B, result)


@reordered
def quadratic(h1, h2, turned1, turned2, symmetric, T, half, D):
    """D = h1 T h2' + h1' T h2, with the transposes of h1 and h2."""
    D[:] = 0
    add_sandwich(h1, T, turned2, half, D)
    if symmetric:
        D *= 2
    else:
        add_sandwich(turned1, T, h2, half, D)


@compile_loop
def exponentials(x, power, result):
    """Write exp(x) for x <= 0, to about an ulp; the library's exponential would not be vectorised.

    With k the integer next to x / log 2, exp(x) = 2^k exp(x - k log 2). Adding 1.5 2^52 rounds to an integer and leaves
    it in the lowest bits, from where it is moved to the exponent of `power`.
    """
    for j in range(len(x)):
        bounded = max(x[j], -707.0)
        power[j] = bounded * (1 / _LOG_2) + _ROUNDER
        k = power[j] - _ROUNDER
        r = bounded - k * _LOG_2_HIGH - k * _LOG_2_LOW
        s = r / 12 + 1
        for order in (11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1):
            s = s * r * (1 / order) + 1
        result[j] = s
    bits = power.view(np.int64)
    for j in range(len(x)):
        bits[j] = (bits[j] + 1023) << 52
    for j in range(len(x)):
        result[j] *= power[j]


@reordered
def softmax(X, g, P, normaliser):
    """P = softmax_j(g - X), whose logarithmic normaliser is kept."""
    logits, power = np.empty(len(g)), np.empty(len(g))
    for i in range(len(X)):
        top = -inf
        for j in range(len(g)):
            logits[j] = g[j] - X[i, j]
            top = max(top, logits[j])
        logits -= top
        exponentials(logits, power, P[i])
        total = P[i].sum()
        for j in range(len(g)):
            P[i, j] /= total
        normaliser[i] = top + log(total)


@reordered
def skewness(C):
    """Largest entry of the skew part over the largest entry; zero of a zero matrix."""
    skew = largest = 0.0
    for i in range(len(C)):
        for k in range(len(C)):
            skew = max(skew, abs(C[i, k] - C[k, i]))
            largest = max(largest, abs(C[i, k]))
    return skew / (2 * max(largest, TINY))


@reordered
def cholesky(P, weights, scale, w, null, shift, S):
    """Factor of 1 + shift - H' H - w w' + null null' for H = diag(weights) P diag(scale); whether there is one."""
    n, m = P.shape
    for a in range(m):
        for b in range(m):
            S[a, b] = null[a] * null[b] - w[a] * w[b]
        S[a, a] += 1 + shift
    half, turned = np.empty((n, m)), np.empty((m, n))
    for i in range(n):
        for a in range(m):
            half[i, a] = weights[i] * P[i, a] * scale[a]
            turned[a, i] = -half[i, a]
    add_product(turned, half, S)
    for a in range(m):
        for b in range(a + 1):
            s = S[a, b]
            for k in range(b):
                s -= S[a, k] * S[b, k]
            if b < a:
                S[a, b] = s / S[b, b]
            elif s > 0:
                S[a, a] = sqrt(s)
            else:
                return False
    return True


@reordered
def unit(x, result):
    """Write x / |x|."""
    norm = 0.0
    for t in x:
        norm += t * t
    result[:] = x / sqrt(max(norm, TINY))


@reordered
def solve_factored(S, root, gap, d):
    """Write d = S^-1 gap, by the factor of S, which is scaled by `root`."""
    m = len(gap)
    for a in range(m):
        s = gap[a] / root[a]
        for k in range(a):
            s -= S[a, k] * d[k]
        d[a] = s / S[a, a]
    for a in range(m - 1, -1, -1):
        d[a] /= S[a, a]
        for k in range(a):
            d[k] -= S[a, k] * d[a]
    for a in range(m):
        d[a] /= root[a]


@reordered
def distance(T, before):
    """Sum of absolute differences."""
    distance = 0.0
    for i in range(len(T)):
        for j in range(T.shape[1]):
            distance += abs(T[i, j] - before[i, j])
    return distance


@reordered
def with_mass(given, size, mass):
    """Points with mass, their masses made to sum to 1, the mass, and whether all that is valid."""
    if len(given) == 0:
        return np.arange(size), np.full(size, 1 / size), mass, True
    valid, mass = True, given.sum()
    for x in given:
        valid &= x >= 0
    points = np.nonzero(given > 0)[0]
    return points, given[points] / mass, mass, valid and 0 < mass < inf


@reordered
def is_plan(T):
    """Whether all entries are finite and none is negative."""
    valid = True
    for t in T.flat:
        valid &= 0 <= t < inf
    return valid


@reordered
def structure(C, points, kl, second):
    """h(C) and f(C) + f(C)' between some points, and whether all of C is valid."""
    total = C.sum()
    valid = isfinite(total)
    size = len(points)
    h, F = np.empty((size, size)), np.zeros((size, size))
    if kl:
        for c in C.flat:
            valid &= c >= 0
    for i in range(size):
        for k in range(size):
            c = C[points[i], points[k]]
            if not kl:
                f, h[i, k] = c * c, (2 * c if second else c)
            elif second:
                f, h[i, k] = c, log(max(c, 0.0) + SHIFT)
            else:
                f, h[i, k] = c * log(max(c, 0.0) + SHIFT) - c, c
            F[i, k] += f
            F[k, i] += f
    return h, F, valid


@reordered
def times(F, weights):
    """F weights."""
    result = np.zeros(len(weights))
    for i in range(len(weights)):
        for k in range(len(weights)):
            result[i] += F[i, k] * weights[k]
    return result
