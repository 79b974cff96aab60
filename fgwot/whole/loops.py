r"""The undamped iteration of small problems, and its gradients, as Numba compiles them for `fgwot.whole.compiled`.

The iteration is that of `fgwot.iteration.undamped`, and its inner problems those of `fgwot.inner.chord`. All are in one
file, and constants of theirs stand here again (`tests/fgwot/test_compiled.py` compares them), because Numba renews the
compiled form of a function that it has cached when that function's own file changes.
"""

# Numba's types are not Python's: compiled functions carry no annotations.
# mypy: allow-untyped-defs, allow-incomplete-defs, no-check-untyped-defs

from collections.abc import Callable, Collection
from functools import partial
from math import exp, inf, isfinite, log, log1p, nan, sqrt
from typing import Any

import numpy as np
from numba import njit, types  # type: ignore[attr-defined, unused-ignore]

from fgwot.solution import Status

_COARSEST = 1e-3  # inner tolerance far from an answer
_SHORT = 0.3  # change from which steps may be extrapolated
_HORIZON = 8  # undamped steps to go, by their present rate, from which they are
_FURTHEST = 20.0  # extrapolation, in steps
_POOR = 0.3  # contraction of the error by a chord step that calls for a fresh matrix
_FAILED = 0.9  # contraction that says that a step did nothing
_LONGEST = 3.0  # chord step of a potential
_FAR = 1e13  # factor of a column from which P, computed for 1, is too inexact
_ROUNDINGS = 8  # that a residual has, as in fgwot.constants
_REST = 10  # sweeps after a matrix that failed
_EVALUATIONS = 400
_TINY = np.finfo(np.float64).tiny
_EPS = np.finfo(np.float64).eps
_UNFINISHED, _INVALID = int(Status.MAX_ITER), int(Status.NUMERICAL)
_LOG_2 = log(2)
_LOG_2_HIGH, _LOG_2_LOW = 6.93147180369123816490e-01, 1.90821492927058770002e-10  # their products with k are exact
_ROUNDER = 1.5 * 2.0**52
_SHIFT = 1e-15  # of logarithms in the kl loss, as in fgwot.losses


def _compile(
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
_reordered = partial(_compile, freedoms=("contract", "reassoc", "nsz", "arcp"))
_NUMBER, _COUNT, _FLAG = types.float64, types.int64, types.boolean
_LINE, _TABLE, _CUBE = (types.Array(types.float64, dimensions, "C") for dimensions in (1, 2, 3))


@_reordered
def _add_product(A, B, result):
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


@_reordered
def _add_sandwich(A, T, B, half, result):
    """Add A T B to the result, by way of half."""
    half[:] = 0
    _add_product(A, T, half)
    _add_product(half, B, result)


@_reordered
def _quadratic(h1, h2, turned1, turned2, symmetric, T, half, D):
    """D = h1 T h2' + h1' T h2, with the transposes of h1 and h2."""
    D[:] = 0
    _add_sandwich(h1, T, turned2, half, D)
    if symmetric:
        D *= 2
    else:
        _add_sandwich(turned1, T, h2, half, D)


@_compile
def _exponentials(x, power, result):
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


@_reordered
def _softmax(X, g, P, normaliser):
    """P = softmax_j(g - X), whose logarithmic normaliser is kept."""
    logits, power = np.empty(len(g)), np.empty(len(g))
    for i in range(len(X)):
        top = -inf
        for j in range(len(g)):
            logits[j] = g[j] - X[i, j]
            top = max(top, logits[j])
        logits -= top
        _exponentials(logits, power, P[i])
        total = P[i].sum()
        for j in range(len(g)):
            P[i, j] /= total
        normaliser[i] = top + log(total)


@_reordered
def _skewness(C):
    """Largest entry of the skew part over the largest entry; zero of a zero matrix."""
    skew = largest = 0.0
    for i in range(len(C)):
        for k in range(len(C)):
            skew = max(skew, abs(C[i, k] - C[k, i]))
            largest = max(largest, abs(C[i, k]))
    return skew / (2 * max(largest, _TINY))


@_reordered
def _factor(P, u, v, root, p, S):
    """Cholesky factor of S = diag(c) - T' diag(1/p) T for T = diag(u) P diag(v), scaled by root = sqrt(c).

    S is singular along `root` in that scaling: there it is given the value 1. Return whether it succeeded.
    """
    m = len(v)
    total = (root * root).sum()
    for a in range(m):
        for b in range(m):
            S[a, b] = root[a] * root[b] / total
        S[a, a] += 1 + 64 * _EPS
    half, turned = np.empty(P.shape), np.empty((m, len(u)))
    for i in range(len(u)):
        weight = u[i] / sqrt(p[i])
        for a in range(m):
            half[i, a] = weight * P[i, a] * v[a] / root[a]
            turned[a, i] = -half[i, a]
    _add_product(turned, half, S)
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


@_reordered
def _newton_step(S, root, gap, d):
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


@_reordered
def _couple(X, p, q, tol, f, g, T, S, root):
    """Plan T = exp(f (+) g - X), from potentials g and the factor S of an earlier plan; they are updated.

    `root[0]` is zero where there is no factor. Return the error of the columns; the rows are exact.
    """
    n, m = X.shape
    u, v, c, gap, d = p.copy(), np.ones(m), np.empty(m), np.empty(m), np.empty(m)
    worth = 4 + m / 16  # price of a factor, in sweeps
    _softmax(X, g, T, f)
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
            renew = rate >= _POOR
            if fresh and rate >= _FAILED:
                renew, root[0], rest = False, 0.0, k + _REST
        elif k > rest:
            renew = not (rate < 1 and log(error / tol) <= -worth * log(rate))
        if renew:
            root[:] = np.sqrt(c)
            fresh = _factor(T, u, v, root, p, S)
            if not fresh:
                root[0], rest = 0.0, k + _REST
        if root[0] > 0:
            _newton_step(S, root, gap, d)
            for j in range(m):
                v[j] *= exp(min(max(d[j], -_LONGEST), _LONGEST))
        else:
            for j in range(m):
                v[j] *= q[j] / c[j]
        far = False
        for j in range(m):
            far |= not 1 / _FAR < v[j] < _FAR
        if far:
            for j in range(m):
                g[j] += log(v[j])
                v[j] = 1
            _softmax(X, g, T, f)
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


@_reordered
def _distance(T, before):
    """Sum of absolute differences."""
    distance = 0.0
    for i in range(len(T)):
        for j in range(T.shape[1]):
            distance += abs(T[i, j] - before[i, j])
    return distance


@_reordered
def _slope(T, before, costs, L, D, D_before, weight):
    """<delta, R> - <delta, change of G> / 2 for the change delta of the plan and R = G(T) - costs."""
    slope = 0.0
    for i in range(len(T)):
        for j in range(T.shape[1]):
            middle = L[i, j] - weight * (D[i, j] + D_before[i, j]) / 2
            slope += (T[i, j] - before[i, j]) * (middle - costs[i, j])
    return slope


@_reordered
def _divergence(before, T):
    """KL(before || T), but smaller where entries underflow."""
    divergence = 0.0
    for i in range(len(T)):
        for j in range(T.shape[1]):
            delta, old = T[i, j] - before[i, j], max(before[i, j], _TINY)
            divergence += delta - old * log1p(max(delta / old, _EPS - 1))
    return divergence


@_reordered
def _limits(T, X, tol, base, eps):
    """Attainable and allowed residual + marginal error near T, inner tolerance there, and rounding in these loops.

    log T is a difference of numbers as large as X: so much of it is rounding, to `eps` in the plan that is returned.
    """
    size = 1.0
    for i in range(len(T)):
        for j in range(T.shape[1]):
            size += T[i, j] * abs(X[i, j])
    attainable, noise = base + _ROUNDINGS * eps * size, _EPS * size
    allowed = tol if tol > 0 else attainable
    return attainable, allowed, max(0.05 * allowed, min(8 * noise, 0.3 * allowed)), noise


@_reordered
def _iterate(L, h1, h2, p, q, weight, f, g, T, given, tol, base, eps, largest, max_iter):
    """Solve one problem from the plan T, or if none is `given` from p q'; f and g are updated.

    `L` is (1 - alpha) M / epsilon, and `weight` alpha / epsilon times the mass. ``tol=0`` is `base` and what rounding
    to `eps` adds, and problems where that exceeds `largest` are left open. h1 and h2 are made symmetric where that
    changes nothing. Return the plan, D = h1 T h2' + h1' T h2, status, steps, residual and error of the marginals.
    """
    n, m = L.shape
    symmetric = _skewness(h1) * _skewness(h2) <= 4 * _EPS
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
                X[i, j] = g[j] - log(max(T[i, j], _TINY))
        error, change = _couple(X, p, q, 1e-6, f, g, T, S, root), 0.0
    else:
        for i in range(n):
            for j in range(m):
                T[i, j] = p[i] * q[j]
    _quadratic(h1, h2, turned1, turned2, symmetric, T, half, D)
    for i in range(n):
        for j in range(m):
            X[i, j] = L[i, j] - weight * D[i, j]
    plain, expected, warm = True, change, g.copy()
    attainable, allowed, finest, noise = _limits(T, X, tol, base, eps)
    for step in range(1, max_iter + 1):
        g_next[:] = warm
        error_next = _couple(X, p, q, min(max(0.02 * expected, finest), _COARSEST), f_next, g_next, T_next, S, root)
        moved = _distance(T_next, T)
        if step == 1:  # p q' may have mass where costs forbid it, its successor has not
            attainable, allowed, finest, noise = _limits(T_next, X, tol, base, eps)
            if attainable > max(largest, tol):
                return T, D, _UNFINISHED, 1, moved + error_next, error
        # The change made by an undamped step is the residual of the plan it left.
        if plain and moved + error + error_next <= allowed:
            f[:], g[:] = f_next, g_next
            return T, D, 0, step, moved + error_next, error
        _quadratic(h1, h2, turned1, turned2, symmetric, T_next, half, D_next)
        slope = _slope(T_next, T, X, L, D_next, D, weight)
        # KL is at least half the square of its L1 distance (Pinsker).
        risen = not (slope <= 0.5 * moved**2 or slope <= _divergence(T, T_next) + 4 * noise * moved)
        if risen and plain:
            return T, D, _UNFINISHED, step, moved + error_next, error
        if risen:
            # Back to an undamped step.
            plain, warm[:] = True, g
            for i in range(n):
                for j in range(m):
                    X[i, j] = L[i, j] - weight * D[i, j]
            continue
        rate = min(max(moved / max(change, _TINY), 0.1), 1.0)
        change, expected = moved, moved * rate
        slow |= change < _SHORT and expected * rate**_HORIZON > allowed
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
            theta = min(max(across / norm, -_FURTHEST), 0.75)
        plain, remembers = theta == 0, slow
        for i in range(n):
            for j in range(m):
                X[i, j] = L[i, j] - weight * (D_next[i, j] - theta * (D_next[i, j] - D[i, j]))
        for j in range(m):
            warm[j] = g_next[j] - theta * (g_next[j] - g[j])
        R, R_before = R_before, R
        T, T_next, D, D_next = T_next, T, D_next, D
        f[:], g[:], error = f_next, g_next, error_next
    return T, D, _UNFINISHED, max_iter, change, error


@_reordered
def _marginal(given, size, mass):
    """Points with mass, their masses made to sum to 1, the mass, and whether all that is valid."""
    if len(given) == 0:
        return np.arange(size), np.full(size, 1 / size), mass, True
    valid, mass = True, given.sum()
    for x in given:
        valid &= x >= 0
    points = np.nonzero(given > 0)[0]
    return points, given[points] / mass, mass, valid and 0 < mass < inf


@_reordered
def _is_plan(T):
    """Whether all entries are finite and none is negative."""
    valid = True
    for t in T.flat:
        valid &= 0 <= t < inf
    return valid


@_reordered
def _structure(C, points, weights, kl, second):
    """h(C) between some points, (f(C) + f(C)') times their weights, and whether all of C is valid."""
    total = C.sum()
    valid = isfinite(total)
    size = len(points)
    h, shift = np.empty((size, size)), np.zeros(size)
    if kl:
        for c in C.flat:
            valid &= c >= 0
    for i in range(size):
        for k in range(size):
            c = C[points[i], points[k]]
            if not kl:
                f, h[i, k] = c * c, (2 * c if second else c)
            elif second:
                f, h[i, k] = c, log(max(c, 0.0) + _SHIFT)
            else:
                f, h[i, k] = c * log(max(c, 0.0) + _SHIFT) - c, c
            shift[i] += f * weights[k]
            shift[k] += f * weights[i]
    return h, shift, valid


@partial(
    _reordered,
    types=types.void(
        _CUBE, _CUBE, _CUBE, _TABLE, _TABLE, _LINE, _LINE, _CUBE, _TABLE,
        _FLAG, _NUMBER, _NUMBER, _NUMBER, _NUMBER, _COUNT, _NUMBER, _COUNT, _COUNT,
        _CUBE, _TABLE, _TABLE, _TABLE,
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
        rows, weights1, mass, valid1 = _marginal(given_p, n, given_q.sum() if len(q) > 0 else 1.0)
        columns, weights2, mass2, valid2 = _marginal(given_q, m, mass)
        h1, shift1, finite1 = _structure(C1[b % len(C1)], rows, weights1, kl, False)
        h2, shift2, finite2 = _structure(C2[b % len(C2)], columns, weights2, kl, True)
        valid = valid1 and valid2 and finite1 and finite2 and abs(mass - mass2) <= allowed * mass
        valid = valid and 0 <= alpha <= 1 and 0 < epsilon < inf
        valid = valid and (len(M) == 0 or isfinite(M[b % len(M)].sum()))
        valid = valid and (len(plans) == 0 or _is_plan(plans[b % len(plans)]))
        plan[b], f[b], g[b], numbers[b] = 0, 0, 0, nan
        numbers[b, 7], numbers[b, 8] = _INVALID, 0
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
                entropy += t - t * log(max(t, _TINY))
                # With column sums s = q + e, <f2(C2), s s'> is <2 s - q, (f2(C2) + f2(C2)') q> / 2 up to e^2.
                quad += t * (shift1[i] + shift2[j] - D[i, j]) / 2 * mass
                if len(M) > 0:
                    linear += M[b % len(M), rows[i], columns[j]] * t
        for j in range(len(columns)):
            g[b, columns[j]] = epsilon * own_g[j] + alpha * mass * shift2[j]
            quad += mass**2 * (T[:, j].sum() - weights2[j]) * shift2[j] / 2
        if not isfinite(total):
            status = _INVALID
        cost = (1 - alpha) * linear + alpha * quad
        value = cost - epsilon * entropy
        numbers[b] = np.array([value, cost, linear, quad, entropy, residual, error, status, steps])


@partial(
    _reordered,
    types=types.void(
        _CUBE, _CUBE, _CUBE, _TABLE, _TABLE, _TABLE, _LINE, _FLAG,
        _CUBE, _CUBE, _CUBE, _TABLE, _TABLE, _COUNT, _COUNT,
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
            r, product = T.sum(1), np.zeros((n, n))
            h2 = np.log(B + _SHIFT) if kl else 2 * B
            _add_sandwich(T, h2, turned, half, product)
            for i in range(n):
                for k in range(n):
                    a = A[i, k]
                    df = log(a + _SHIFT) + a / (a + _SHIFT) - 1 if kl else 2 * a
                    dC1[b, i, k] = w * (df * r[i] * r[k] - product[i, k])
        if len(dC2) > 0:
            s, product = T.sum(0), np.zeros((m, m))
            half = np.empty((m, n))
            _add_sandwich(turned, A, T, half, product)
            for j in range(m):
                for k in range(m):
                    c = B[j, k]
                    df, dh = (1.0, 1 / (c + _SHIFT)) if kl else (2 * c, 2.0)
                    dC2[b, j, k] = w * (df * s[j] * s[k] - dh * product[j, k])
