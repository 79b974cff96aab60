r"""The undamped iteration of small problems, and its gradients, as Numba compiles them for `fgwot.whole.compiled`.

The iteration is that of `fgwot.iteration.undamped`, and its inner problems those of `fgwot.inner.chord`.
"""

# Numba's types are not Python's: compiled functions carry no annotations.
# mypy: allow-untyped-defs, allow-incomplete-defs, no-check-untyped-defs

from functools import partial
from math import exp, inf, isfinite, log, log1p, nan

import numpy as np
from numba import types  # type: ignore[attr-defined, unused-ignore]

from fgwot.constants import (
    COARSEST,
    FAILED,
    FURTHEST,
    HORIZON,
    LONGEST,
    LOOSE,
    POOR,
    RIDGE,
    ROUNDINGS,
    SHIFT,
    SHORT,
    TIGHT,
)
from fgwot.whole.arithmetic import (
    COUNT,
    CUBE,
    EPS,
    FAR,
    FLAG,
    INVALID,
    LINE,
    NUMBER,
    TABLE,
    TINY,
    UNFINISHED,
    add_sandwich,
    cholesky,
    distance,
    is_plan,
    quadratic,
    reordered,
    skewness,
    softmax,
    solve_factored,
    structure,
    times,
    unit,
    with_mass,
)

_REST = 10  # sweeps after a matrix that failed
_EVALUATIONS = 400


@reordered
def _solve_inner(X, p, q, tol, f, g, T, S, root):
    """Plan T = exp(f (+) g - X), from potentials g and the factor S of an earlier plan; they are updated.

    `root[0]` is zero where there is no factor. Return the error of the columns; the rows are exact.
    """
    n, m = X.shape
    u, v, c, gap, d = p.copy(), np.ones(m), np.empty(m), np.empty(m), np.empty(m)
    null, none = np.empty(m), np.zeros(m)
    worth = 4 + m / 16  # price of a factor, in sweeps
    softmax(X, g, T, f)
    before, error, rest, fresh = nan, nan, 0, False
    for k in range(_EVALUATIONS):
        c[:] = 0
        for i in range(n):
            for j in range(m):
                c[j] += u[i] * T[i, j]
        before, error = error, 0.0
        for j in range(m):
            c[j] *= v[j]
            gap[j] = q[j] - c[j]
            error += abs(gap[j])
        if error <= tol or not isfinite(error) or k == _EVALUATIONS - 1:
            break
        rate = error / before
        renew = False
        if k > 0 and root[0] > 0:
            renew = rate >= POOR
            if fresh and rate >= FAILED:
                renew, root[0], rest = False, 0.0, k + _REST
        elif k > rest:
            renew = not (rate < 1 and log(error / tol) <= -worth * log(rate))
        if renew:
            root[:] = np.sqrt(c)
            unit(root, null)  # S is singular along it
            fresh = cholesky(T, u / np.sqrt(p), v / root, none, null, RIDGE * EPS, S)
            if not fresh:
                root[0], rest = 0.0, k + _REST
        if root[0] > 0:
            solve_factored(S, root, gap, d)
            for j in range(m):
                v[j] *= exp(min(max(d[j], -LONGEST), LONGEST))
        else:
            for j in range(m):
                v[j] *= q[j] / c[j]
        far = False
        for j in range(m):
            far |= not 1 / FAR < v[j] < FAR
        if far:
            for j in range(m):
                g[j] += log(v[j])
                v[j] = 1
            softmax(X, g, T, f)
        for i in range(n):
            s = 0.0
            for j in range(m):
                s += T[i, j] * v[j]
            u[i] = p[i] / s
    for i in range(n):
        for j in range(m):
            T[i, j] *= u[i] * v[j]
        f[i] = log(u[i]) - f[i]
    for j in range(m):
        g[j] += log(v[j])
    return error


@reordered
def _slope(T, before, costs, L, D, D_before, weight):
    """<delta, R> - <delta, change of G> / 2 for the change delta of the plan and R = G(T) - costs."""
    slope = 0.0
    for i in range(len(T)):
        for j in range(T.shape[1]):
            middle = L[i, j] - weight * (D[i, j] + D_before[i, j]) / 2
            slope += (T[i, j] - before[i, j]) * (middle - costs[i, j])
    return slope


@reordered
def _divergence(before, T):
    """KL(before || T), but smaller where entries underflow."""
    divergence = 0.0
    for i in range(len(T)):
        for j in range(T.shape[1]):
            delta, old = T[i, j] - before[i, j], max(before[i, j], TINY)
            divergence += delta - old * log1p(max(delta / old, EPS - 1))
    return divergence


@reordered
def _limits(T, X, tol, base, eps):
    """Attainable and allowed residual + marginal error near T, inner tolerance there, and rounding in these loops.

    log T is a difference of numbers as large as X: so much of it is rounding, to `eps` in the plan that is returned.
    """
    size = 1.0
    for i in range(len(T)):
        for j in range(T.shape[1]):
            size += T[i, j] * abs(X[i, j])
    attainable, noise = base + ROUNDINGS * eps * size, EPS * size
    allowed = tol if tol > 0 else attainable
    return attainable, allowed, max(TIGHT * allowed, min(8 * noise, 0.3 * allowed)), noise


@reordered
def _iterate(L, h1, h2, p, q, weight, f, g, T, given, tol, base, eps, largest, max_iter):
    """Solve one problem from the plan T, or if none is `given` from p q'; f and g are updated.

    `L` is (1 - alpha) M / epsilon, and `weight` alpha / epsilon times the mass. ``tol=0`` is `base` and what rounding
    to `eps` adds, and problems where that exceeds `largest` are left open. h1 and h2 are made symmetric where that
    changes nothing. Return the plan, D = h1 T h2' + h1' T h2, status, steps, residual and error of the marginals.
    """
    n, m = L.shape
    symmetric = skewness(h1) * skewness(h2) <= 4 * EPS
    if symmetric:  # with skew parts A, the product is 2 S1 T S2 - 2 A1 T A2
        h1, h2 = (h1 + h1.T) / 2, (h2 + h2.T) / 2
    turned1, turned2 = h1.T.copy(), h2.T.copy()
    half, S, root = np.empty((n, m)), np.empty((m, m)), np.zeros(m)
    D, D_next, X, R, R_before = half.copy(), half.copy(), half.copy(), half.copy(), half.copy()
    T_next, f_next, g_next = half.copy(), f.copy(), g.copy()
    error, change, remembers, slow = 0.0, 1.0, False, False
    if given:
        for i in range(n):
            for j in range(m):
                X[i, j] = g[j] - log(max(T[i, j], TINY))
        error, change = _solve_inner(X, p, q, 1e-6, f, g, T, S, root), 0.0
    else:
        for i in range(n):
            for j in range(m):
                T[i, j] = p[i] * q[j]
    quadratic(h1, h2, turned1, turned2, symmetric, T, half, D)
    for i in range(n):
        for j in range(m):
            X[i, j] = L[i, j] - weight * D[i, j]
    plain, expected, warm = True, change, g.copy()
    attainable, allowed, finest, noise = _limits(T, X, tol, base, eps)
    for step in range(1, max_iter + 1):
        g_next[:] = warm
        error_next = _solve_inner(
            X, p, q, min(max(LOOSE * expected, finest), COARSEST), f_next, g_next, T_next, S, root
        )
        moved = distance(T_next, T)
        if step == 1:  # p q' may have mass where costs forbid it, its successor has not
            attainable, allowed, finest, noise = _limits(T_next, X, tol, base, eps)
            if attainable > max(largest, tol):
                return T, D, UNFINISHED, 1, moved + error_next, error
        # The change made by an undamped step is the residual of the plan it left.
        if plain and moved + error + error_next <= allowed:
            f[:], g[:] = f_next, g_next
            return T, D, 0, step, moved + error_next, error
        quadratic(h1, h2, turned1, turned2, symmetric, T_next, half, D_next)
        slope = _slope(T_next, T, X, L, D_next, D, weight)
        # KL is at least half the square of its L1 distance (Pinsker).
        risen = not (slope <= 0.5 * moved**2 or slope <= _divergence(T, T_next) + 4 * noise * moved)
        if risen and plain:
            return T, D, UNFINISHED, step, moved + error_next, error
        if risen:
            # Back to an undamped step.
            plain, warm[:] = True, g
            for i in range(n):
                for j in range(m):
                    X[i, j] = L[i, j] - weight * D[i, j]
            continue
        rate = min(max(moved / max(change, TINY), 0.1), 1.0)
        change, expected = moved, moved * rate
        slow |= change < SHORT and expected * rate**HORIZON > allowed
        across = norm = theta = 0.0
        if slow:
            for i in range(n):
                for j in range(m):
                    R[i, j] = L[i, j] - weight * D_next[i, j] - X[i, j]
                    turn = R[i, j] - R_before[i, j]
                    across += R[i, j] * turn
                    norm += turn * turn
        # An undamped step comes first again where it may certify the residual.
        if remembers and norm > 0 and expected > 0.5 * allowed:
            theta = min(max(across / norm, -FURTHEST), 0.75)
        plain, remembers = theta == 0, slow
        for i in range(n):
            for j in range(m):
                X[i, j] = L[i, j] - weight * (D_next[i, j] - theta * (D_next[i, j] - D[i, j]))
        for j in range(m):
            warm[j] = g_next[j] - theta * (g_next[j] - g[j])
        R, R_before = R_before, R
        T, T_next, D, D_next = T_next, T, D_next, D
        f[:], g[:], error = f_next, g_next, error_next
    return T, D, UNFINISHED, max_iter, change, error


@partial(
    reordered,
    types=types.void(
        CUBE, CUBE, CUBE, TABLE, TABLE, LINE, LINE, CUBE, TABLE,
        FLAG, NUMBER, NUMBER, NUMBER, NUMBER, COUNT, NUMBER, COUNT, COUNT,
        CUBE, TABLE, TABLE, TABLE,
    ),
)  # fmt: skip
def solve_batch(
    M, C1, C2, p, q, alphas, epsilons, plans, potentials, kl, tol, base, eps, largest, max_iter, allowed, first, last,
    plan, f, g, numbers,
):  # fmt: skip
    """Solve the problems from `first` to before `last`; arguments of length 1 are shared, of length 0 are absent.

    Write plan, f and g, and value, cost, linear, quad, entropy, residual, error, status and steps as `numbers`.
    """
    n, m = C1.shape[1], C2.shape[1]
    for b in range(first, last):
        alpha, epsilon = alphas[b % len(alphas)], epsilons[b % len(epsilons)]
        given_p = p[b % len(p)] if len(p) > 0 else np.empty(0)
        given_q = q[b % len(q)] if len(q) > 0 else np.empty(0)
        rows, weights1, mass, valid1 = with_mass(given_p, n, given_q.sum() if len(q) > 0 else 1.0)
        columns, weights2, mass2, valid2 = with_mass(given_q, m, mass)
        h1, F1, finite1 = structure(C1[b % len(C1)], rows, kl, False)
        h2, F2, finite2 = structure(C2[b % len(C2)], columns, kl, True)
        shift1, shift2 = times(F1, weights1), times(F2, weights2)
        valid = valid1 and valid2 and finite1 and finite2 and abs(mass - mass2) <= allowed * mass
        valid = valid and 0 <= alpha <= 1 and 0 < epsilon < inf
        valid = valid and (len(M) == 0 or isfinite(M[b % len(M)].sum()))
        valid = valid and (len(plans) == 0 or is_plan(plans[b % len(plans)]))
        plan[b], f[b], g[b], numbers[b] = 0, 0, 0, nan
        numbers[b, 7], numbers[b, 8] = INVALID, 0
        if not valid:
            plan[b], f[b], g[b] = nan, nan, nan
            continue

        L, T = np.zeros((len(rows), len(columns))), np.zeros((len(rows), len(columns)))
        own_f, own_g = np.zeros(len(rows)), np.log(weights2)
        for i in range(len(rows)):
            for j in range(len(columns)):
                if len(M) > 0:
                    L[i, j] = (1 - alpha) / epsilon * M[b % len(M), rows[i], columns[j]]
                if len(plans) > 0:
                    T[i, j] = plans[b % len(plans), rows[i], columns[j]] / mass
        if len(potentials) > 0:
            for j in range(len(columns)):
                potential = potentials[b % len(potentials), columns[j]]
                own_g[j] = (potential - alpha * mass * shift2[j]) / epsilon
        weight = alpha * mass / epsilon
        T, D, status, steps, residual, error = _iterate(
            L, h1, h2, weights1, weights2, weight, own_f, own_g, T, len(plans) > 0, tol, base, eps, largest, max_iter
        )

        linear = quad = total = entropy = 0.0
        for i in range(len(rows)):
            f[b, rows[i]] = epsilon * (own_f[i] + log(mass)) + alpha * mass * shift1[i]
            for j in range(len(columns)):
                t = mass * T[i, j]
                plan[b, rows[i], columns[j]] = t
                total += t
                entropy += t - t * log(max(t, TINY))
                # With column sums s = q + e, <f2(C2), s s'> is <2 s - q, (f2(C2) + f2(C2)') q> / 2 up to e^2.
                quad += t * (shift1[i] + shift2[j] - D[i, j]) / 2 * mass
                if len(M) > 0:
                    linear += M[b % len(M), rows[i], columns[j]] * t
        for j in range(len(columns)):
            g[b, columns[j]] = epsilon * own_g[j] + alpha * mass * shift2[j]
            quad += mass**2 * (T[:, j].sum() - weights2[j]) * shift2[j] / 2
        if not isfinite(total):
            status = INVALID
        cost = (1 - alpha) * linear + alpha * quad
        value = cost - epsilon * entropy
        numbers[b] = np.array([value, cost, linear, quad, entropy, residual, error, status, steps])


@partial(
    reordered,
    types=types.void(
        CUBE, CUBE, CUBE, TABLE, TABLE, TABLE, LINE, FLAG,
        CUBE, CUBE, CUBE, TABLE, TABLE, COUNT, COUNT,
    ),
)  # fmt: skip
def adjoint_batch(
    plan, C1, C2, f, g, cotangents, alphas, kl, dM, dC1, dC2, dp, dq, first, last
):  # fmt: skip
    """Gradients of the problems from `first` to before `last`, those of length 0 left out.

    With c the cotangent of <M, T>, w that of <L (x) T, T>, r = T 1 and s = T' 1:

        dM = c T,   dC1 = w (f1'(C1) * r r' - h1'(C1) * T h2(C2) T'),   dC2 = w (f2'(C2) * s s' - h2'(C2) * T' h1(C1) T)

    and dp = f, dq = g times the cotangent of the value.
    """
    n, m = plan.shape[1:]
    for b in range(first, last):
        alpha, T = alphas[b % len(alphas)], plan[b]
        dvalue, dcost, dlinear, dquad = cotangents[b]
        both = dvalue + dcost
        w = alpha * both + dquad
        if len(dM) > 0:
            dM[b] = ((1 - alpha) * both + dlinear) * T
        if len(dp) > 0:
            dp[b] = dvalue * f[b]
        if len(dq) > 0:
            dq[b] = dvalue * g[b]
        turned = T.T.copy()
        half, A, B = np.empty((n, m)), C1[b % len(C1)], C2[b % len(C2)]
        if len(dC1) > 0:
            r, sandwich = T.sum(1), np.zeros((n, n))
            h2 = np.log(B + SHIFT) if kl else 2 * B
            add_sandwich(T, h2, turned, half, sandwich)
            for i in range(n):
                for k in range(n):
                    a = A[i, k]
                    df = log(a + SHIFT) + a / (a + SHIFT) - 1 if kl else 2 * a
                    dC1[b, i, k] = w * (df * r[i] * r[k] - sandwich[i, k])
        if len(dC2) > 0:
            s, sandwich = T.sum(0), np.zeros((m, m))
            half = np.empty((m, n))
            add_sandwich(turned, A, T, half, sandwich)
            for j in range(m):
                for k in range(m):
                    c = B[j, k]
                    df, dh = (1.0, 1 / (c + SHIFT)) if kl else (2 * c, 2.0)
                    dC2[b, j, k] = w * (df * s[j] * s[k] - dh * sandwich[j, k])
