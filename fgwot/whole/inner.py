r"""Inner problems of the guarded iteration as Numba compiles them: those of `fgwot.inner.relaxed` and `.partial`.

Exact marginals have an infinite price.

A point of an inner problem's dual is a tuple (g, f, u, v, a, c, gap, numbers): potentials, factors of the plan
T = diag(u) P diag(v), its sums a = T 1 and c = T' 1, the dual's gradient, and its error, resolution, value, rounding
and h. Points share an anchor (P, normaliser, g, numbers): P = softmax_j(g - X) for the g of some point, renewed when
another is far from it; it and points count how often.
"""

# Numba's types are not Python's: compiled functions carry no annotations.
# mypy: allow-untyped-defs, allow-incomplete-defs, no-check-untyped-defs

from math import exp, expm1, inf, isfinite, log, log1p, sqrt

import numpy as np

from fgwot.constants import (
    ANNEALED_STEPS,
    BACKTRACKS,
    BOUNDED_STEPS,
    COOLING,
    FIRST_SWEEPS,
    HOTTEST,
    LONGEST_STEP,
    RIDGE,
    ROUGH,
)
from fgwot.whole.arithmetic import (
    EPS,
    FAR,
    TINY,
    cholesky,
    reordered,
    softmax,
    solve_factored,
    unit,
)

_EVALUATIONS = 200  # of a priced problem
_ERROR, _RESOLUTION, _VALUE, _ROUNDING, _H, _VERSION = range(6)


@reordered
def new_point(n, m):
    """A point to be completed, with g = 0."""
    f, u, a = np.zeros(n), np.zeros(n), np.zeros(n)
    g, v, c, gap = np.zeros(m), np.zeros(m), np.zeros(m), np.zeros(m)
    return g, f, u, v, a, c, gap, np.zeros(6)


@reordered
def new_anchor(n, m):
    """An anchor to be set."""
    return np.empty((n, m)), np.empty(n), np.empty(m), np.zeros(1)


@reordered
def _normalise(X, g, anchor, v, sums, lse):
    """Write v = exp(g - anchor's g), P v, and logsumexp_j(g - X); return the version of the anchor."""
    P, normaliser, origin, version = anchor
    n, m = P.shape
    far = version[0] == 0
    for j in range(m):
        v[j] = exp(min(max(g[j] - origin[j], -700.0), 700.0))
        far |= not 1 / FAR < v[j] < FAR
    if far:
        softmax(X, g, P, normaliser)
        origin[:] = g
        v[:] = 1
        version[0] += 1
    for i in range(n):
        s = 0.0
        for j in range(m):
            s += P[i, j] * v[j]
        sums[i] = s
        lse[i] = normaliser[i] + log(s)
    return version[0]


@reordered
def _column_sums(X, point, h, result):
    """Write logsumexp_i(f - X), which the point's column sums say unless they underflow."""
    g, f, _, _, _, c, _, _ = point
    n = len(f)
    for j in range(len(g)):
        if c[j] > 1e-280:
            result[j] = log(c[j]) - g[j] - h
            continue
        top = -inf
        for i in range(n):
            top = max(top, f[i] - X[i, j])
        total = 0.0
        for i in range(n):
            total += exp(f[i] - X[i, j] - top)
        result[j] = top + log(total)


@reordered
def _tau(r):
    """By how much a price shortens an update of its side."""
    return r / (1 + r) if isfinite(r) else 1.0


@reordered
def _paid(potential, r, marginal):
    """Term of a side in the dual."""
    if not isfinite(r):
        return potential * marginal
    return -r * marginal * expm1(-potential / r) if r > 0 else 0.0


@reordered
def _log_meant(potential, r, marginal):
    """Logarithm of the mass that the potentials of a side stand for."""
    if not isfinite(r) or r == 0:
        return log(marginal.sum())
    top = -inf
    for i in range(len(potential)):
        top = max(top, -potential[i] / r)
    total = 0.0
    for i in range(len(potential)):
        total += marginal[i] * exp(-potential[i] / r - top)
    return top + log(total)


@reordered
def _priced_at(X, p, q, r1, r2, anchor, point):
    """Complete a point from its g."""
    g, f, u, v, a, c, gap, of = point
    n, m = X.shape
    of[_VERSION] = _normalise(X, g, anchor, v, u, f)
    P = anchor[0]
    tau = _tau(r1)
    c[:] = 0
    value = rounding = resolution = error = 0.0
    for i in range(n):
        lse = f[i]
        f[i] = tau * (log(max(p[i], TINY)) - lse)
        a[i] = exp(f[i] + lse)
        u[i] = a[i] / u[i]
        paid = _paid(f[i], r1, p[i])
        value += paid - a[i]
        rounding += abs(paid)
        resolution += a[i] * (2 + abs(lse))
        for j in range(m):
            c[j] += u[i] * P[i, j]
    for j in range(m):
        c[j] *= v[j]
        paid = _paid(g[j], r2, q[j])
        value += paid
        rounding += abs(paid)
        resolution += c[j] * abs(g[j])
        if r2 == 0:
            gap[j] = 0.0
        elif isfinite(r2):
            gap[j] = q[j] * exp(-g[j] / r2) - c[j]
        else:
            gap[j] = q[j] - c[j]
        error += abs(gap[j])
    resolution *= 8 * EPS
    of[_ERROR], of[_RESOLUTION], of[_VALUE], of[_H] = error, resolution, value, 0.0
    of[_ROUNDING] = resolution + 8 * EPS * rounding


@reordered
def _priced_sweep(X, p, q, r1, r2, anchor, point, new):
    """One update of each side, and of the number that moves between f and g."""
    g, f = point[0], point[1]
    to = new[0]
    _column_sums(X, point, 0.0, to)
    tau = _tau(r2)
    for j in range(len(g)):
        to[j] = tau * (log(q[j]) - to[j])
    price = r2 if not isfinite(r1) else (r1 if not isfinite(r2) else r1 * r2 / (r1 + r2))
    if isfinite(price) and price > 0:
        to -= price * (_log_meant(f, r1, p) - _log_meant(to, r2, q))
    _priced_at(X, p, q, r1, r2, anchor, new)


@reordered
def _priced_newton(X, p, q, r1, r2, anchor, point, new, S):
    """Newton's step, shortened until the dual rises; whether it does."""
    g, _, u, v, a, c, gap, of = point
    m = len(g)
    root, scale, null, step, none = np.empty(m), np.empty(m), np.zeros(m), np.empty(m), np.zeros(m)
    for j in range(m):
        curvature = c[j] + ((c[j] + gap[j]) / r2 if isfinite(r2) else 0.0)
        root[j] = sqrt(max(curvature, TINY))
        scale[j] = v[j] / root[j]
    if not isfinite(r1) and not isfinite(r2):  # g is determined up to a number
        unit(root, null)
    tau = _tau(r1)
    if not cholesky(anchor[0], np.sqrt(tau / a) * u, scale, none, null, RIDGE * EPS, S):
        return False
    solve_factored(S, root, gap, step)
    slope, largest = 0.0, TINY
    for j in range(m):
        slope += step[j] * gap[j]
        largest = max(largest, abs(step[j]))
    if not (isfinite(slope) and slope > 0):
        return False
    size = min(1.0, LONGEST_STEP / largest)
    for _ in range(BACKTRACKS):
        new[0][:] = g + size * step
        _priced_at(X, p, q, r1, r2, anchor, new)
        if new[7][_VALUE] >= of[_VALUE] - of[_ROUNDING] + 1e-4 * size * slope:
            return True
        size /= 3
    return False


@reordered
def _priced(X, p, q, r1, r2, tol, anchor, point, new, S):
    """Solve from the g of a point; return the solution and the other point."""
    worth, before = 4 + len(q) / 4, inf  # price of a Newton step, in sweeps
    anchor[3][0] = 0  # it was for other costs
    if r2 == 0:
        point[0][:] = 0
    _priced_at(X, p, q, r1, r2, anchor, point)
    newton = False
    for k in range(_EVALUATIONS):
        error, target = point[7][_ERROR], tol * point[4].sum() + point[7][_RESOLUTION]
        if isfinite(error) and error <= target:
            break
        rate = error / before
        newton |= k > 1 and not (rate < 1 and log(error / target) <= -worth * log(rate))
        if not (newton and _priced_newton(X, p, q, r1, r2, anchor, point, new, S)):
            _priced_sweep(X, p, q, r1, r2, anchor, point, new)
        before = error
        point, new = new, point
    return point, new


@reordered
def _cut_off(bounds, sums, mass, result):
    """Multipliers <= 0 of sums, and the scale h with sum_i min(bounds, exp(h) sums) = mass; all logarithms but mass."""
    n = len(bounds)
    order = np.argsort(bounds - sums)
    left = np.empty(n + 1)
    left[n] = -inf
    for k in range(n - 1, -1, -1):
        one, two = max(left[k + 1], sums[order[k]]), min(left[k + 1], sums[order[k]])
        left[k] = one + log1p(exp(two - one))
    cut = 0.0
    for k in range(n):
        i = order[k]
        bound = exp(bounds[i])
        # The last is never said to be cut off: it takes what is left, up to its bound.
        if k == n - 1 or cut + bound + exp(bounds[i] - sums[i] + left[k + 1]) > mass:
            break
        cut += bound
    h = log(max(mass - cut, TINY)) - left[k]
    for i in range(n):
        result[i] = min(bounds[i] - sums[i] - h, 0.0)
    return h


@reordered
def _bounded_at(X, p, q, mass, anchor, point):
    """Complete a point from its g."""
    g, f, u, v, a, c, gap, of = point
    n, m = X.shape
    lse = np.empty(n)
    of[_VERSION] = _normalise(X, g, anchor, v, u, lse)
    P = anchor[0]
    h = _cut_off(np.log(p), lse, mass, f)
    c[:] = 0
    value, rounding, resolution, error = h * mass, abs(h) * mass, mass, 0.0
    for i in range(n):
        a[i] = exp(f[i] + h + lse[i])
        u[i] = a[i] / u[i]
        value += f[i] * p[i] - a[i]
        rounding -= f[i] * p[i]
        resolution += a[i] * (1 + abs(lse[i]))
        for j in range(m):
            c[j] += u[i] * P[i, j]
    for j in range(m):
        c[j] *= v[j]
        gap[j] = q[j] - c[j]
        value += g[j] * q[j]
        rounding -= g[j] * q[j]
        resolution -= c[j] * g[j]
        # A bound that does not bind may be missed by as much as it likes.
        error += abs(gap[j]) if g[j] < 0 else max(-gap[j], 0.0)
    resolution *= 8 * EPS
    of[_ERROR], of[_RESOLUTION], of[_VALUE], of[_H] = error, resolution, value, h
    of[_ROUNDING] = resolution + 8 * EPS * rounding


@reordered
def _bounded_sweep(X, p, q, mass, anchor, point, new):
    """Best g and h for the present f."""
    sums = np.empty(len(q))
    _column_sums(X, point, point[7][_H], sums)
    _cut_off(np.log(q), sums, mass, new[0])
    new[0][:] -= new[0].max()
    _bounded_at(X, p, q, mass, anchor, new)


@reordered
def _bounded_newton(X, p, q, mass, anchor, point, new, S):
    """Newton's step, projected, and shortened until the dual rises; whether it does."""
    g, f, u, v, a, c, gap, of = point
    P = anchor[0]
    n, m = P.shape
    root, scale, w, null = np.ones(m), np.zeros(m), np.empty(m), np.zeros(m)
    gradient, step, binding = np.zeros(m), np.empty(m), np.zeros(n)
    loose, free = 0.0, 0
    w[:] = c
    for i in range(n):
        if f[i] < 0:
            binding[i] = u[i] / sqrt(a[i])
            for j in range(m):
                w[j] -= u[i] * P[i, j] * v[j]
        else:
            loose += a[i]
    for j in range(m):
        if (g[j] < 0 or gap[j] < 0) and c[j] > TINY:
            free += 1
            root[j] = sqrt(c[j])
            scale[j] = v[j] / root[j]
            gradient[j] = gap[j]
            w[j] /= root[j] * sqrt(max(loose, TINY))
        else:
            w[j] = 0
    if free == m:  # g + t changes nothing
        unit(root, null)
    shift = RIDGE * EPS
    # Parts of the plan that exchange no mass: rounding decides about the sign of an eigenvalue.
    if not (cholesky(P, binding, scale, w, null, shift, S) or cholesky(P, binding, scale, w, null, 64 * shift, S)):
        return False
    solve_factored(S, root, gradient, step)
    largest = TINY
    for j in range(m):
        step[j] = step[j] if scale[j] > 0 else 0.0
        largest = max(largest, abs(step[j]))
    if not isfinite(largest):
        return False
    size = min(1.0, LONGEST_STEP / largest)
    for _ in range(BACKTRACKS):
        gain = 0.0
        for j in range(m):
            new[0][j] = min(g[j] + size * step[j], 0.0)
            gain += gradient[j] * (new[0][j] - g[j])
        new[0][:] -= new[0].max()
        _bounded_at(X, p, q, mass, anchor, new)
        if new[7][_VALUE] >= of[_VALUE] - of[_ROUNDING] + 1e-4 * max(gain, 0.0):
            return True
        size /= 3
    return False


@reordered
def _bounded_steps(X, p, q, mass, tol, steps, anchor, point, new, S):
    """Sweeps, then Newton steps; return the last point, the other one, and whether the first is a solution."""
    _bounded_at(X, p, q, mass, anchor, point)
    for k in range(steps + 1):
        error = point[7][_ERROR]
        if isfinite(error) and error <= tol * mass + point[7][_RESOLUTION]:
            return point, new, True
        if k == steps:
            break
        _bounded_sweep(X, p, q, mass, anchor, point, new)
        point, new = new, point
        if k >= FIRST_SWEEPS and _bounded_newton(X, p, q, mass, anchor, point, new, S):
            point, new = new, point
    return point, new, False


@reordered
def _bounded(X, p, q, mass, tol, anchor, point, new, S):
    """Solve from the g + h of a point, or else at scales of the costs that grow to one."""
    point[0][:] -= point[0].max()
    scale, steps = 1.0, BOUNDED_STEPS
    while True:
        limit = tol if scale == 1 else max(tol, ROUGH)
        anchor[3][0] = 0
        point, new, met = _bounded_steps(scale * X, p, q, mass, limit, steps, anchor, point, new, S)
        if scale == 1 and (met or steps == ANNEALED_STEPS):
            return point, new
        if steps == BOUNDED_STEPS:
            steps, cooler = ANNEALED_STEPS, min(1.0, HOTTEST / max(X.max() - X.min(), TINY))
            point[0][:] = 0
        else:
            cooler = min(1.0, scale * COOLING)
            point[0][:] *= cooler / scale
        scale = cooler


@reordered
def solve(X, p, q, r1, r2, mass, tol, anchor, point, new, S, T):
    """Solve an inner problem from the potential of a point, to an error relative to the mass.

    Write the plan; return the point with the potential of the columns, the other one, and the error.
    """
    if mass > 0:
        point, new = _bounded(X, p, q, mass, tol, anchor, point, new, S)
        if point[7][_VERSION] != anchor[3][0]:
            _bounded_at(X, p, q, mass, anchor, point)
        point[0][:] += point[7][_H]
    else:
        # R counts an error of a side squared, times its price: a step must not be lost in it.
        tol /= sqrt(1 + r2) if isfinite(r2) else 1.0
        point, new = _priced(X, p, q, r1, r2, tol, anchor, point, new, S)
    P, (_, _, u, v, a, _, _, of) = anchor[0], point
    for i in range(len(u)):
        for j in range(len(v)):
            T[i, j] = u[i] * P[i, j] * v[j]
    return point, new, of[_ERROR] / max(a.sum(), TINY)
