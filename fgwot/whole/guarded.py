r"""The guarded iteration of small problems, as Numba compiles it for `fgwot.whole.compiled`.

The iteration is that of `fgwot.iteration.guarded`.
"""

# Numba's types are not Python's: compiled functions carry no annotations.
# mypy: allow-untyped-defs, allow-incomplete-defs, no-check-untyped-defs

from functools import partial
from math import exp, inf, isfinite, log, nan, sqrt

import numpy as np
from numba import types  # type: ignore[attr-defined, unused-ignore]

from fgwot.constants import (
    BISECTIONS,
    COARSEST,
    DEEPEST,
    LIGHTEST,
    LONGEST_THETA,
    LOOSE,
    PATIENCE,
    ROUNDINGS,
    SMALLEST_THETA,
    STEADY,
    TIGHT,
    TIGHTEST,
)
from fgwot.whole.arithmetic import (
    COUNT,
    CUBE,
    EPS,
    FLAG,
    INVALID,
    LINE,
    NUMBER,
    TABLE,
    TINY,
    UNFINISHED,
    distance,
    is_plan,
    quadratic,
    reordered,
    skewness,
    structure,
    times,
    with_mass,
)
from fgwot.whole.inner import new_anchor, new_point, solve


@reordered
def _sides(h1, h2, F1, F2):
    """What the gradient needs of structures; they are made symmetric where that changes nothing."""
    symmetric = skewness(h1) * skewness(h2) <= 4 * EPS
    if not symmetric:
        return h1, h2, h1.T.copy(), h2.T.copy(), F1, F2, symmetric
    for h in (h1, h2):
        for i in range(len(h)):
            for k in range(i):
                h[i, k] = h[k, i] = (h[i, k] + h[k, i]) / 2
    return h1, h2, h1, h2, F1, F2, symmetric


@reordered
def _gradient(L, sides, weight, T, half, G):
    """Write the gradient of the energy over epsilon, with all that shifts the potentials."""
    h1, h2, turned1, turned2, F1, F2, symmetric = sides
    n, m = T.shape
    if weight == 0:
        G[:] = L
        return
    quadratic(h1, h2, turned1, turned2, symmetric, T, half, G)
    rows, columns = np.zeros(n), np.zeros(m)
    for i in range(n):
        for j in range(m):
            rows[i] += T[i, j]
            columns[j] += T[i, j]
    shift1, shift2 = times(F1, rows), times(F2, columns)
    for i in range(n):
        for j in range(m):
            G[i, j] = L[i, j] + weight * (shift1[i] + shift2[j] - G[i, j])


@reordered
def _divergence(r, sums, marginal):
    """KL(sums | marginal), which an exact side has none of and a free one does not pay."""
    if not isfinite(r) or r == 0:
        return 0.0
    divergence = 0.0
    for i in range(len(sums)):
        divergence += marginal[i] - sums[i]
        if sums[i] > 0:
            divergence += sums[i] * log(sums[i] / marginal[i])
    return divergence


@reordered
def _objective(L, G, X, T, p, q, r1, r2, mass, theta, entropic, point, multiplier):
    """<energy, T> - H(T) + R(T), with errors of columns times their multiplier, and the size of its rounding."""
    g, f, _, _, a, c, _, _ = point
    n, m = T.shape
    value = 0.0
    for i in range(n):
        for j in range(m):
            inside = (L[i, j] + G[i, j]) / 2
            if entropic:  # log T = f (+) g - X
                inside += f[i] + g[j] - X[i, j] - 1
            value += T[i, j] * inside if T[i, j] > 0 else 0.0
    total = a.sum()
    if mass > 0:
        h = multiplier.max()
        missed = h * (total - mass)
        for j in range(m):
            missed += (multiplier[j] - h) * (c[j] - q[j])
        value -= missed / theta
        return value, abs(value) + total
    size = 0.0
    if isfinite(r1):
        value += r1 * _divergence(r1, a, p)
        size += r1 * (total + p.sum())
    if isfinite(r2):
        value += r2 * _divergence(r2, c, q)
        size += r2 * (total + q.sum())
    if r2 == inf:
        missed = 0.0
        for j in range(m):
            missed += multiplier[j] * (c[j] - q[j])
        value -= missed / theta
    return value, abs(value) + size


@reordered
def _surplus(L, G, X, T, p, q, r1, r2, mass, entropic, point):
    """-log s at the lowest objective of s T, where that is below a tenth, as `fgwot.inner.problems.Priced` says."""
    g, f, _, _, a, c, _, _ = point
    if mass > 0 or not (isfinite(r1) and isfinite(r2)):
        return 0.0
    total = a.sum()
    A = r1 * _divergence(r1, a, p) + r2 * _divergence(r2, c, q)
    A += r1 * (total - p.sum()) + r2 * (total - q.sum())  # sum a log(a / p) is what KL has besides masses
    B, C = 0.0, total * (r1 + r2 + entropic)
    for i in range(len(a)):
        for j in range(len(c)):
            if T[i, j] > 0:
                inside = L[i, j] + (f[i] + g[j] - X[i, j] if entropic else 0.0)
                A += inside * T[i, j]
                B += (G[i, j] - L[i, j]) * T[i, j]
    low, high = -LIGHTEST, -log(10.0)
    if not A + B * exp(high) + C * high > 0:
        return 0.0
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        if A + B * exp(middle) + C * middle > 0:
            high = middle
        else:
            low = middle
    return -high


@reordered
def _sizes(T, G, sides, weight, point):
    """What the rounding of a plan is relative to: 1, G and potentials, where mass is; and what that of G is.

    What shifts the potentials may cancel nearly all of the rest of G.
    """
    g, f, _, _, a, c, _, _ = point
    shift1, shift2 = times(sides[4], a), times(sides[5], c)
    total = shifts = 0.0
    for i in range(len(a)):
        total += a[i] * abs(f[i])
        shifts += a[i] * weight * abs(shift1[i])
        for j in range(len(c)):
            total += T[i, j] * abs(G[i, j])
    for j in range(len(c)):
        total += c[j] * abs(g[j])
        shifts += c[j] * weight * abs(shift2[j])
    mass = max(a.sum(), TINY)
    return 1 + total / mass, 1 + (total + shifts) / mass


@reordered
def _relative(X, point, deepest, result):
    """Write X - f (+) g = -log T."""
    g, f = point[0], point[1]
    for i in range(len(f)):
        for j in range(len(g)):
            result[i, j] = min(X[i, j] - f[i] - g[j], deepest)


@reordered
def _ratio(T, T_next, G, G_next):
    """Curvature of the energy along a step, in the metric of the entropy."""
    bend = metric = 0.0
    for i in range(len(T)):
        for j in range(T.shape[1]):
            delta = T_next[i, j] - T[i, j]
            bend += delta * (G_next[i, j] - G[i, j])
            metric += 2 * delta * delta / (T_next[i, j] + T[i, j] + TINY)
    return bend / max(metric, TINY)


@reordered
def _iterate(
    L, sides, weight, p, q, r1, r2, mass, entropic, damping, X, changing, tol, base, eps, largest, max_iter, half
):  # fmt: skip
    """Solve one problem from the plan exp(-X), which is far from an answer if it is `changing`.

    `L` is (1 - alpha) M / epsilon and `weight` alpha / epsilon; r1 and r2 are prices over epsilon, `mass` is zero where
    none is given, `damping` is theta, or zero where it adapts. Return the plan, -log of it, the potentials of the plan
    that follows, status, steps, residual and error; what cannot be finished is left open. `half` is for products.
    """
    n, m = L.shape
    S = np.empty((m, m))
    X_next, G, G_next, T, T_next = half.copy(), half.copy(), half.copy(), half.copy(), half.copy()
    anchor, point, new = new_anchor(n, m), new_point(n, m), new_point(n, m)
    deepest = -log(TINY) if entropic else DEEPEST
    # The plan nearest to exp(-X) meets what must be met, and no more.
    exact1, exact2 = (inf if r1 == inf else 0.0), (inf if r2 == inf else 0.0)
    point, new, error = solve(X, p, q, exact1, exact2, mass, 1e-6, anchor, point, new, S, T)
    _gradient(L, sides, weight, T, half, G)
    heavy = _surplus(L, G, X, T, p, q, r1, r2, mass, entropic, point)
    if heavy > 0:
        X += heavy
        point[0][:] = 0
        point, new, error = solve(X, p, q, exact1, exact2, mass, 1e-6, anchor, point, new, S, T)
        _gradient(L, sides, weight, T, half, G)
    theta = damping if damping > 0 else 1.0
    objective, rounding = _objective(L, G, X, T, p, q, r1, r2, mass, theta, entropic, point, point[0])
    _relative(X, point, deepest, X)
    (size, of_G), warm = _sizes(T, G, sides, weight, point), np.zeros(m)
    if changing:  # a guess may have mass where costs forbid it, its successor has not
        point[0][:] = 0
        point, new, _ = solve(G, p, q, r1, r2, mass, COARSEST, anchor, point, new, S, T_next)
        size, of_G = _sizes(T_next, G, sides, weight, point)
        if entropic and theta == 1:  # the first step solves the same problem
            warm[:] = point[0]
    noise = EPS * of_G
    attainable = base + ROUNDINGS * max(noise, eps * size)  # the plan is returned rounded to eps
    allowed = tol if tol > 0 else attainable
    # The step of a linear problem ends at its answer.
    change, best, idle = (1.0 if changing and weight > 0 else 0.0), inf, 0
    if attainable > max(largest, tol):  # nothing was done: whoever goes on starts anew
        return T, X, point, INVALID, 0, change, error
    for step in range(1, max_iter + 1):
        for i in range(n):
            for j in range(m):
                X_next[i, j] = X[i, j] + theta * (G[i, j] - X[i, j] if entropic else G[i, j])
        limit = TIGHTEST * allowed if idle > 0 else max(min(LOOSE * change, COARSEST), TIGHT * allowed)
        point[0][:] = warm
        point, new, error_next = solve(X_next, p, q, theta * r1, theta * r2, mass, limit, anchor, point, new, S, T_next)
        moved = distance(T_next, T) / max(point[4].sum(), TINY)
        if theta == 1 and moved + error_next + error <= allowed:
            return T, X, point, 0, step, moved + error_next, error
        _gradient(L, sides, weight, T_next, half, G_next)
        value, rounding_next = _objective(
            L, G_next, X_next, T_next, p, q, r1, r2, mass, theta, entropic, point, point[0]
        )
        if not (isfinite(value) and isfinite(moved)):
            return T, X, point, INVALID, step, moved, error
        slack = 64 * (noise * T.sum() + EPS * rounding)
        if damping > 0 or value <= objective + slack:
            estimate = moved / theta
            nearer = estimate < 0.9 * best
            idle = 0 if nearer or value < objective - slack else idle + 1
            after = damping
            if damping == 0:
                ratio = _ratio(T, T_next, G, G_next)
                if entropic:
                    after = 1 / (1 + ratio) if ratio > 0.5 else 1.0
                else:
                    longest = LONGEST_THETA if estimate <= STEADY else 1.0
                    after = 1 / ratio if ratio * longest > 1 else longest
                after = min(after, 2 * theta)
            # Close to the end, or to rounding, an undamped step is tried: it certifies the residual.
            if estimate <= 0.5 * allowed or moved <= ROUNDINGS * noise:
                after = 1.0
            change, best = estimate, (estimate if nearer else best)
            objective, rounding, error = min(objective, value), rounding_next, error_next
            warm[:] = point[0] * (after / theta)
            theta = after
            _relative(X_next, point, deepest, X)
            T, T_next, G, G_next = T_next, T, G_next, G
        else:
            # The objective of a loosely solved plan is biased low: such a plan is settled before theta is halved.
            loose, multiplier = error, point[0].copy()
            point[0][:] = 0
            limit = TIGHTEST * allowed
            point, new, error = solve(X, p, q, exact1, exact2, mass, limit, anchor, point, new, S, T)
            _gradient(L, sides, weight, T, half, G)
            objective, rounding = _objective(L, G, X, T, p, q, r1, r2, mass, theta, entropic, point, multiplier)
            _relative(X, point, deepest, X)
            if loose <= 2 * max(error, TIGHTEST * allowed):
                theta /= 2
                warm /= 2
            idle += 1
        if idle >= PATIENCE or theta < SMALLEST_THETA:
            return T, X, point, UNFINISHED, step, change, error
    return T, X, point, UNFINISHED, max_iter, change, error


@reordered
def _missed(r, sums, marginal):
    """L1 error of a side if it is exact."""
    error = 0.0
    if r == inf:
        for i in range(len(sums)):
            error += abs(sums[i] - marginal[i])
    return error


@reordered
def _by_marginal(rho, potential, sum_, marginal):
    """Derivative of the minimised objective in one mass of a side."""
    return potential if rho == inf else rho * (1 - sum_ / marginal)


@partial(
    reordered,
    types=types.void(
        CUBE, CUBE, CUBE, TABLE, TABLE, LINE, LINE, LINE, LINE, LINE, CUBE,
        FLAG, FLAG, NUMBER, NUMBER, NUMBER, NUMBER, NUMBER, COUNT, NUMBER, COUNT, COUNT,
        CUBE, TABLE, TABLE, TABLE, TABLE, TABLE,
    ),
)  # fmt: skip
def solve_batch(
    M, C1, C2, p, q, alphas, epsilons, rho1, rho2, masses, plans,
    kl, entropic, damping, tol, base, eps, largest, max_iter, allowed, first, last,
    plan, f, g, numbers, by_p, by_q,
):  # fmt: skip
    """Solve the problems from `first` to before `last`; arguments of length 1 are shared, of length 0 are absent.

    `damping` is negative where it adapts. Write plan, f and g, as `numbers` value, cost, linear, quad, entropy,
    residual, error, status, steps, and derivatives in rho1, rho2 and the mass, and derivatives in p and q.
    """
    n, m = C1.shape[1], C2.shape[1]
    for b in range(first, last):
        alpha, epsilon = alphas[b % len(alphas)], epsilons[b % len(epsilons)]
        price1 = rho1[b % len(rho1)] if len(rho1) > 0 else inf
        price2 = rho2[b % len(rho2)] if len(rho2) > 0 else inf
        asked = masses[b % len(masses)] if len(masses) > 0 else 0.0
        given_p = p[b % len(p)] if len(p) > 0 else np.empty(0)
        given_q = q[b % len(q)] if len(q) > 0 else np.empty(0)
        rows, weights1, mass, valid1 = with_mass(given_p, n, given_q.sum() if len(q) > 0 else 1.0)
        columns, weights2, mass2, valid2 = with_mass(given_q, m, mass)
        if price1 == 0:
            rows, weights1 = np.arange(n), (given_p / mass if len(p) > 0 else weights1)
        if price2 == 0:
            columns, weights2 = np.arange(m), (given_q / mass2 if len(q) > 0 else weights2)
        h1, F1, finite1 = structure(C1[b % len(C1)], rows, kl, False)
        h2, F2, finite2 = structure(C2[b % len(C2)], columns, kl, True)
        valid = valid1 and valid2 and finite1 and finite2 and 0 <= alpha <= 1 and 0 < epsilon < inf
        valid = valid and (len(M) == 0 or isfinite(M[b % len(M)].sum()))
        valid = valid and (len(plans) == 0 or is_plan(plans[b % len(plans)]))
        if len(masses) > 0:
            valid = valid and 0 < asked <= (1 + allowed) * min(mass, mass2)
        elif price1 == inf and price2 == inf:
            valid = valid and abs(mass - mass2) <= allowed * mass
        else:
            valid = valid and price1 >= 0 and price2 >= 0 and price1 + price2 > 0
        plan[b], f[b], g[b], by_p[b], by_q[b], numbers[b] = 0, 0, 0, 0, 0, nan
        numbers[b, 7], numbers[b, 8] = INVALID, 0
        if not valid:
            plan[b], f[b], g[b] = nan, nan, nan
            continue

        exact = len(masses) == 0 and price1 == inf and price2 == inf
        scale = mass if exact else 1.0  # couplings have mass one inside
        weights1 = weights1 * (mass / scale)
        weights2 = weights2 * ((mass if exact else mass2) / scale)
        L, X = np.zeros((len(rows), len(columns))), np.empty((len(rows), len(columns)))
        half = np.empty_like(L)  # fresh pages of such arrays take as long as a product: few are asked for
        spread = sqrt(weights1.sum() * weights2.sum())
        spread = (asked / spread if asked > 0 else 1.0) / spread
        log1, log2 = np.log(np.maximum(spread * weights1, TINY)), np.log(np.maximum(weights2, TINY))
        for i in range(len(rows)):
            for j in range(len(columns)):
                if len(M) > 0:
                    L[i, j] = (1 - alpha) / epsilon * M[b % len(M), rows[i], columns[j]]
                if len(plans) > 0:
                    X[i, j] = -log(max(plans[b % len(plans), rows[i], columns[j]] / scale, TINY))
                else:
                    X[i, j] = -log1[i] - log2[j]
        sides = _sides(h1, h2, F1, F2)
        T, X, point, status, steps, residual, error = _iterate(
            L, sides, alpha * scale / epsilon, weights1, weights2, price1 / epsilon, price2 / epsilon, asked,
            entropic, (epsilon / (epsilon + damping) if damping >= 0 else 0.0),
            X, len(plans) == 0, tol, base, eps, largest, max_iter, half,
        )  # fmt: skip

        T *= scale
        L[:] = 0
        quadratic = np.empty_like(T)
        _gradient(L, sides, 1.0, T, half, quadratic)
        own_g, own_f = point[0], point[1]
        linear = quad = total = entropy = 0.0
        sums1, sums2 = np.zeros(len(rows)), np.zeros(len(columns))
        for i in range(len(rows)):
            f[b, rows[i]] = epsilon * (own_f[i] + log(scale))
            for j in range(len(columns)):
                t = T[i, j]
                plan[b, rows[i], columns[j]] = t
                sums1[i] += t
                sums2[j] += t
                entropy += t * (1 + X[i, j] - log(scale)) if entropic else 0.0
                quad += t * quadratic[i, j] / 2
                if len(M) > 0:
                    linear += M[b % len(M), rows[i], columns[j]] * t
        for j in range(len(columns)):
            g[b, columns[j]] = epsilon * own_g[j]
        weights1, weights2 = weights1 * scale, weights2 * scale
        total, top = sums1.sum(), g[b, columns].max()
        for i in range(len(rows)):
            if weights1[i] > 0:
                by_p[b, rows[i]] = _by_marginal(price1, f[b, rows[i]], sums1[i], weights1[i])
        for j in range(len(columns)):
            potential = g[b, columns[j]] - (top if asked > 0 else 0.0)
            if weights2[j] > 0:
                by_q[b, columns[j]] = _by_marginal(price2, potential, sums2[j], weights2[j])
        by_rho1, by_rho2 = _divergence(price1, sums1, weights1), _divergence(price2, sums2, weights2)
        cost = (1 - alpha) * linear + alpha * quad
        value = cost - epsilon * entropy
        if by_rho1 != 0:
            value += price1 * by_rho1
        if by_rho2 != 0:
            value += price2 * by_rho2
        if asked == 0:
            error = (_missed(price1, sums1, weights1) + _missed(price2, sums2, weights2)) / max(total, TINY)
        if not isfinite(total):
            status = INVALID
        numbers[b] = np.array(
            [value, cost, linear, quad, entropy, residual, error, status, steps,
             by_rho1, by_rho2, top if asked > 0 else 0.0]
        )  # fmt: skip
