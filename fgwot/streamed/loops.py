r"""Passes over a plan that is never stored, as Numba compiles them for `fgwot.streamed.passes`.

Four rows at a time go through the columns in chunks: entries stay in the first caches, and what is read of the columns
is read once for four rows. Entries have the inputs' precision, sums over more than a chunk are float64.
"""

# Numba's types are not Python's: compiled functions carry no annotations.
# mypy: allow-untyped-defs, allow-incomplete-defs, no-check-untyped-defs

from collections.abc import Callable
from math import exp, log
from typing import Any

import numpy as np
from numba import njit, types  # type: ignore[attr-defined, unused-ignore]
from numba.extending import overload

_ROWS = 4
_CHUNK = 512  # columns
_LOG_2_HIGH, _LOG_2_LOW = 6.93147180369123816490e-01, 1.90821492927058770002e-10  # their products with k are exact
_SINGLE_HIGH, _SINGLE_LOW = np.float32(0.693359375), np.float32(-2.12194440e-4)
_PER_LOG_2, _SINGLE_PER_LOG_2 = 1 / np.log(2), np.float32(1 / np.log(2))
# Added to a number they round it to an integer, which they leave in its lowest bits.
_ROUNDER, _SINGLE_ROUNDER = 1.5 * 2.0**52, np.float32(1.5 * 2.0**23)
# Smaller logarithms count as these: products with weights stay normal numbers, which others take much longer than.
_LOWEST, _SINGLE_LOWEST = -600.0, np.float32(-60.0)
_ONE = np.float32(1)


def _compile(signatures: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Compile for some types at once; sums may be reordered, into vectors."""
    freedoms = {"contract", "reassoc", "nsz", "arcp"}
    decorate: Callable[..., Any] = njit(signatures, cache=True, nogil=True, error_model="numpy", fastmath=freedoms)
    return decorate


def _exponentials(x, power):
    """Replace x <= 0 by exp(x), as `fgwot.whole.arithmetic` does it, to about an ulp of its type."""


@overload(_exponentials, jit_options={"fastmath": {"contract"}, "error_model": "numpy"})
def _of_type(x, power):  # noqa: ARG001 - Numba's names
    return _exponentials_single if x.dtype == types.float32 else _exponentials_double


def _exponentials_double(x, power):
    for j in range(len(x)):
        bounded = max(x[j], _LOWEST)
        power[j] = bounded * _PER_LOG_2 + _ROUNDER
        k = power[j] - _ROUNDER
        r = bounded - k * _LOG_2_HIGH - k * _LOG_2_LOW
        s = r / 12 + 1
        for order in (11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1):
            s = s * r * (1 / order) + 1
        x[j] = s
    bits = power.view(np.int64)
    for j in range(len(x)):
        bits[j] = (bits[j] + 1023) << 52
    for j in range(len(x)):
        x[j] *= power[j]


def _exponentials_single(x, power):
    for j in range(len(x)):
        bounded = max(x[j], _SINGLE_LOWEST)
        power[j] = bounded * _SINGLE_PER_LOG_2 + _SINGLE_ROUNDER
        k = power[j] - _SINGLE_ROUNDER
        r = bounded - k * _SINGLE_HIGH - k * _SINGLE_LOW
        s = r * np.float32(1 / 7) + _ONE
        s = s * r * np.float32(1 / 6) + _ONE
        s = s * r * np.float32(1 / 5) + _ONE
        s = s * r * np.float32(1 / 4) + _ONE
        s = s * r * np.float32(1 / 3) + _ONE
        s = s * r * np.float32(1 / 2) + _ONE
        x[j] = s * r + _ONE
    bits = power.view(np.int32)
    for j in range(len(x)):
        bits[j] = (bits[j] + np.int32(127)) << np.int32(23)
    for j in range(len(x)):
        x[j] *= power[j]


def _array(kind: Any, dimensions: int) -> Any:
    return types.Array(kind, dimensions, "C")


def _signatures(*shapes: int) -> Any:
    """Signatures of arrays, of the entries' type where a number of dimensions is given, float64 where -1 times it.

    Without dimensions it is a number in float64.
    """

    def of(kind: Any, d: int) -> Any:
        return _array(kind, d) if d > 0 else _array(types.float64, -d) if d < 0 else types.float64

    return [
        types.void(*(of(kind, d) for d in shapes), types.int64, types.int64) for kind in (types.float32, types.float64)
    ]


@njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract", "reassoc", "nsz", "arcp"})
def _largest(x, scratch):
    """Largest number, by halves: a maximum over one loop would not be vectorised."""
    half = (len(x) + 1) // 2
    for j in range(half):
        scratch[j] = max(x[j], x[len(x) - half + j])
    while half > 1:
        size, half = half, (half + 1) // 2
        for j in range(half):
            scratch[j] = max(scratch[j], scratch[size - half + j])
    return scratch[0]


@njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract", "reassoc", "nsz", "arcp"})
def _row(u, b, v, first, last, x, power):
    """Write exp(b - u v - top) for a chunk of columns; return top, their largest logarithm, and the sum."""
    b = b[first:last]
    rank = len(v)
    whole = rank - rank % 4
    if whole:
        u0, u1, u2, u3 = u[0], u[1], u[2], u[3]
        v0, v1, v2, v3 = v[0, first:last], v[1, first:last], v[2, first:last], v[3, first:last]
        for j in range(len(x)):
            x[j] = b[j] - (u0 * v0[j] + u1 * v1[j] + u2 * v2[j] + u3 * v3[j])
    else:
        for j in range(len(x)):
            x[j] = b[j]
    for k in range(4, whole, 4):
        u0, u1, u2, u3 = u[k], u[k + 1], u[k + 2], u[k + 3]
        v0, v1 = v[k, first:last], v[k + 1, first:last]
        v2, v3 = v[k + 2, first:last], v[k + 3, first:last]
        for j in range(len(x)):
            x[j] -= u0 * v0[j] + u1 * v1[j] + u2 * v2[j] + u3 * v3[j]
    for k in range(whole, rank):
        u0, v0 = u[k], v[k, first:last]
        for j in range(len(x)):
            x[j] -= u0 * v0[j]
    top = _largest(x, power)
    for j in range(len(x)):
        x[j] -= top
    _exponentials(x, power[: len(x)])
    total = x[0] - x[0]
    for j in range(len(x)):
        total += x[j]
    return top, total


@njit(cache=True, nogil=True, error_model="numpy")
def _row_sum(s, tau, most, normaliser):
    return exp(min(s + (1 - tau) * normaliser, most + normaliser))


@_compile(_signatures(2, 1, 2, -1, 0, -1, 2, -1, -1, -2))
def rows(u, b, v, s, tau, most, z, normaliser, columns, products, first, last):
    """Rows from first to before last of T = exp(a (+) b - u v), a = min(s - tau log sum exp(b - u v), most).

    Writes these logarithms to `normaliser`, adds the column sums to `columns`, and writes T z' to `products`.
    """
    m, kinds = len(b), len(z)
    count = (m + _CHUNK - 1) // _CHUNK
    E, power = np.empty((_ROWS, m), b.dtype), np.empty(_CHUNK, b.dtype)
    tops, totals, weight = np.empty((_ROWS, count)), np.empty((_ROWS, count)), np.empty((count, _ROWS), b.dtype)
    for start in range(first, last, _ROWS):
        for c in range(count):
            low, high = c * _CHUNK, min(m, (c + 1) * _CHUNK)
            for r in range(_ROWS):
                i = min(start + r, last - 1)
                tops[r, c], totals[r, c] = _row(u[i], b, v, low, high, E[r, low:high], power)
        for r in range(_ROWS):
            i = min(start + r, last - 1)
            top, total = tops[r].max(), 0.0
            for c in range(count):
                total += totals[r, c] * exp(tops[r, c] - top)
            normaliser[i] = top + log(total)
            # Of the last rows one may stand in for missing ones, without weight.
            mass = _row_sum(s[i], tau, most[i], normaliser[i]) / total if start + r < last else 0.0
            for c in range(count):
                weight[c, r] = mass * exp(tops[r, c] - top)
        for i in range(start, min(start + _ROWS, last)):
            products[i] = 0
        for c in range(count):
            low, high = c * _CHUNK, min(m, (c + 1) * _CHUNK)
            w0, w1, w2, w3 = weight[c, 0], weight[c, 1], weight[c, 2], weight[c, 3]
            e0, e1, e2, e3 = E[0, low:high], E[1, low:high], E[2, low:high], E[3, low:high]
            some = columns[low:high]
            for j in range(len(some)):
                some[j] += w0 * e0[j] + w1 * e1[j] + w2 * e2[j] + w3 * e3[j]
            for k in range(kinds):
                s0 = s1 = s2 = s3 = w0 - w0
                y = z[k, low:high]
                for j in range(len(y)):
                    s0 += e0[j] * y[j]
                    s1 += e1[j] * y[j]
                    s2 += e2[j] * y[j]
                    s3 += e3[j] * y[j]
                sums = (s0 * w0, s1 * w1, s2 * w2, s3 * w3)
                for r in range(min(_ROWS, last - start)):
                    products[start + r, k] += sums[r]


@_compile(_signatures(2, 1, 2, -1, 0, -1, 2, 1, 2, -1, 0, -1, -1))
def difference(u, b, v, s, tau, most, other_u, other_b, other_v, other_s, other_tau, other_most, sums, first, last):
    """Write the sums over j of |T - T'| for rows of two plans as above."""
    m = len(b)
    count = (m + _CHUNK - 1) // _CHUNK
    E, F, power = np.empty(m, b.dtype), np.empty(m, b.dtype), np.empty(_CHUNK, b.dtype)
    numbers = np.empty((4, count))
    for i in range(first, last):
        for c in range(count):
            low, high = c * _CHUNK, min(m, (c + 1) * _CHUNK)
            numbers[0, c], numbers[1, c] = _row(u[i], b, v, low, high, E[low:high], power)
            numbers[2, c], numbers[3, c] = _row(other_u[i], other_b, other_v, low, high, F[low:high], power)
        total = other_total = 0.0
        top, other_top = numbers[0].max(), numbers[2].max()
        for c in range(count):
            total += numbers[1, c] * exp(numbers[0, c] - top)
            other_total += numbers[3, c] * exp(numbers[2, c] - other_top)
        mass = _row_sum(s[i], tau, most[i], top + log(total)) / total
        other_mass = _row_sum(other_s[i], other_tau, other_most[i], other_top + log(other_total)) / other_total
        sums[i] = 0
        for c in range(count):
            w0, w1 = b[:1].copy(), b[:1].copy()
            w0[0] = mass * exp(numbers[0, c] - top)
            w1[0] = other_mass * exp(numbers[2, c] - other_top)
            weight, other = w0[0], w1[0]
            some = weight - weight
            e, f = E[c * _CHUNK : (c + 1) * _CHUNK], F[c * _CHUNK : (c + 1) * _CHUNK]
            for j in range(len(e)):
                some += abs(weight * e[j] - other * f[j])
            sums[i] += some
