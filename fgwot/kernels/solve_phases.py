"""The phases of a step of the whole solve, which meet in memory."""

# Triton's types are not Python's: kernels carry no annotations.
# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators

import triton
import triton.language as tl

from fgwot import constants
from fgwot.kernels import solve_memory as at
from fgwot.kernels.pack import f1, f2, h1, h2, sandwich

_POOR, _FAILED, _LONGEST = map(tl.constexpr, (constants.POOR, constants.FAILED, constants.LONGEST))
_FAR = tl.constexpr(1e13)  # factor of a column from which the kernel, computed for 1, is too inexact
_REST = tl.constexpr(10)  # sweeps after a Newton matrix that failed
_EVALUATIONS = tl.constexpr(400)  # of an inner problem
_WORTH = tl.constexpr(1.0)  # price of a Newton matrix, in sweeps for each column
_LARGEST = tl.constexpr(constants.LARGEST_TOLERANCE)
_NEVER = tl.constexpr(-1e30)  # logarithm of a kernel entry without mass


@triton.jit
def prepare(
    C, size, marginal, shift, symmetric, skew,
    EPS: tl.constexpr, LOSS: tl.constexpr, SECOND: tl.constexpr, ROWS: tl.constexpr, SIDE: tl.constexpr,
):  # fmt: skip
    """From a structure C: (f(C) + f(C)') p, (h(C) + h(C)') / 2 and (h(C) - h(C)') / 2, and whether that is not zero.

    The skew part of the second structure comes transposed.
    """
    k, j = tl.arange(0, ROWS)[:, None], tl.arange(0, SIDE)[None, :]
    weights = tl.load(marginal + j)
    scale = tl.zeros([ROWS, SIDE], C.dtype.element_ty)
    asymmetry = scale
    for start in range(0, SIDE, ROWS):
        i = start + k
        c, ct = tl.load(C + i * SIDE + j), tl.load(C + j * SIDE + i)
        mask = (i < size) & (j < size)
        if SECOND:
            f, h, ht = f2(c, LOSS) + f2(ct, LOSS), h2(ct, LOSS), h2(c, LOSS)
        else:
            f, h, ht = f1(c, LOSS) + f1(ct, LOSS), h1(c, LOSS), h1(ct, LOSS)
        h, ht = tl.where(mask, h, 0), tl.where(mask, ht, 0)
        tl.store(shift + i, tl.sum(tl.where(mask, f, 0) * weights, 1, keep_dims=True))
        tl.store(symmetric + i * SIDE + j, (h + ht) / 2)
        tl.store(skew + i * SIDE + j, (h - ht) / 2)
        scale = tl.maximum(scale, tl.abs(h))
        asymmetry = tl.maximum(asymmetry, tl.abs(h - ht))
    tl.debug_barrier()
    return tl.max(asymmetry) > 8 * EPS * tl.max(scale)  # what is less is rounding


@triton.jit
def limit(tol, noise, EPS: tl.constexpr):
    """Residual and marginal error that a converged plan may have together."""
    attainable = tl.minimum((1e-5 if EPS > 1e-10 else 1e-7) + 2 * noise, _LARGEST)
    return tl.where(tol > 0, tol, attainable)


@triton.jit
def newton_matrix(scratch, T, n, m, c, EPS: tl.constexpr, TINY: tl.constexpr, SIDE: tl.constexpr):
    """Inverse of S = diag(c) - T' diag(1/p) T, the Jacobian of the column sums c in g; whether it is to be had.

    It is scaled to a diagonal of about one, in which the null space of S is that of sqrt(c), where one is added. By
    Gauss-Jordan elimination in place, without exchanges: S is positive definite.
    """
    i, j = tl.arange(0, SIDE)[:, None], tl.arange(0, SIDE)[None, :]
    half, matrix = scratch + at.TRIAL_PRODUCT * SIDE * SIDE, scratch + at.NEWTON * SIDE * SIDE
    rows = tl.load(scratch + at.VECTORS * SIDE * SIDE + at.ROW_MASS * SIDE + i)
    root = tl.where(c > 0, tl.sqrt(tl.maximum(c, TINY)), 1)
    null = tl.where(c > 0, root, 0) / tl.sqrt(tl.sum(c))
    tl.store(half + i * SIDE + j, T / (tl.sqrt(tl.maximum(rows, TINY)) * root))
    tl.debug_barrier()
    S = tl.trans(null) * null
    S = tl.where(i == j, S + (1 + 64 * EPS), S)
    for k in range(n):
        S -= tl.load(half + k * SIDE + i) * tl.load(half + k * SIDE + j)
    tl.store(matrix + i * SIDE + j, S)
    tl.debug_barrier()
    definite = n > 0
    for k in range(m):
        pivot = tl.load(matrix + k * SIDE + k)
        row, column = tl.load(matrix + k * SIDE + j) / pivot, tl.load(matrix + i * SIDE + k)
        rest = tl.where(i == k, row, tl.where(j == k, -column / pivot, tl.load(matrix + i * SIDE + j) - column * row))
        definite &= pivot > 0
        tl.debug_barrier()
        tl.store(matrix + i * SIDE + j, tl.where((i == k) & (j == k), 1 / pivot, rest))
        tl.debug_barrier()
    tl.store(matrix + i * SIDE + j, tl.load(matrix + i * SIDE + j) / (tl.trans(root) * root))
    tl.debug_barrier()
    return definite


@triton.jit
def evaluate(K, v, rows, TINY: tl.constexpr):
    """The u for which diag(u) K diag(v) has these row sums, and its column sums."""
    u = rows / tl.maximum(tl.sum(K * v, 1, keep_dims=True), TINY)
    return u, v * tl.sum(K * u, 0, keep_dims=True)


@triton.jit
def solve_inner(scratch, n, m, tol, known, EPS: tl.constexpr, TINY: tl.constexpr, SIDE: tl.constexpr):
    """The plan T = exp(f (+) g - X) on trial, for its X and a first g; whether there is a Newton matrix to begin with.

    As `fgwot.inner.chord`: sweeps v <- v q / c with the column sums c, and where many would be needed chord steps
    log v <- log v + S^-1 (q - c), which keep S^-1 from plan to plan while it contracts. The rows are exact. Return the
    error of the columns and whether there is a Newton matrix now.
    """
    area: tl.constexpr = SIDE * SIDE
    i, j = tl.arange(0, SIDE)[:, None], tl.arange(0, SIDE)[None, :]
    tile, vectors = i * SIDE + j, scratch + at.VECTORS * area
    x = tl.load(scratch + at.TRIAL_X * area + tile)
    # Read as whole tiles, vectors take the tiles' layout, and so do the sweeps: fewer of their sums cross threads.
    across = tl.zeros([SIDE, SIDE], tl.int32)
    rows = tl.max(tl.load(vectors + at.ROW_MASS * SIDE + i + across), 1, keep_dims=True)
    columns = tl.max(tl.load(vectors + at.COLUMN_MASS * SIDE + j + across), 0, keep_dims=True)
    g = tl.max(tl.load(vectors + at.WARM * SIDE + j + across), 0, keep_dims=True)
    ones = tl.where(columns > 0, 1.0, 0.0).to(x.dtype)
    matrix = tl.load(scratch + at.NEWTON * area + tile)
    K, u, v, top = x, rows, ones, rows
    error = tol * 0 + 1e30
    k, rest, fresh = 0, 0, False
    unsolved = error > tol
    while unsolved:
        # What has gone far moves from v to g.
        logits = tl.where(columns > 0, g - x, _NEVER)
        top = tl.max(logits, 1, keep_dims=True)
        K = tl.exp(logits - top)
        v = ones
        near = True
        while unsolved & near:
            u, c = evaluate(K, v, rows, TINY)
            before = error
            error = tl.sum(tl.abs(columns - c))
            k += 1
            unsolved = (error > tol) & (error < 1e30) & (k < _EVALUATIONS)
            if unsolved:
                rate = error / before
                # Sweeps that would cost more than a matrix, or steps with one that has become poor.
                swept = (k > rest + 1) & ((rate < 1) & (tl.log(error / tol) <= tl.log(rate) * m * -_WORTH) == 0)
                failed = known & fresh & (rate >= _FAILED)
                renew = tl.where(known, (rate >= _POOR) & (failed == 0), swept)
                known = known & (failed == 0)
                if renew:
                    known = newton_matrix(scratch, u * K * v, n, m, c, EPS, TINY, SIDE)
                    matrix = tl.load(scratch + at.NEWTON * area + tile)
                    fresh = True
                rest = tl.where(failed | (renew & (known == 0)), k + _REST, rest)
                if known:
                    step = tl.sum(tl.trans(columns - c) * matrix, 0, keep_dims=True)
                    v *= tl.exp(tl.minimum(tl.maximum(step, -_LONGEST), _LONGEST))
                else:
                    v *= columns / tl.maximum(c, TINY)
                near = tl.sum(((columns > 0) & ((v > _FAR) | (v < 1 / _FAR))).to(tl.int32)) == 0
        g += tl.where(columns > 0, tl.log(tl.maximum(v, TINY)), 0)

    tl.store(scratch + at.TRIAL * area + tile, u * K * v)
    tl.store(vectors + at.F * SIDE + i, tl.where(rows > 0, tl.log(tl.maximum(u, TINY)) - top, 0))
    tl.store(vectors + at.G * SIDE + j, tl.where(columns > 0, g, 0))
    tl.debug_barrier()
    return error, known


@triton.jit
def multiply(scratch, n, m, sides, DTYPE: tl.constexpr, SIDE: tl.constexpr):
    """C1 T C2' + C1' T C2 = 2 (S1 T S2' + K1 T K2'), with symmetric parts S and skew parts K, of the plan on trial."""
    area: tl.constexpr = SIDE * SIDE
    product = scratch + at.TRIAL_PRODUCT * area
    result = tl.zeros([SIDE, SIDE], DTYPE)
    for side in range(sides):
        left, right = scratch + (at.SYMMETRIC1 + side) * area, scratch + (at.SYMMETRIC2 + side) * area
        result = sandwich(left, scratch + at.TRIAL * area, right, n, m, product, result, SIDE)
    tl.store(product + tl.arange(0, SIDE)[:, None] * SIDE + tl.arange(0, SIDE)[None, :], 2 * result)
    tl.debug_barrier()


@triton.jit
def compare(scratch, weight, TINY: tl.constexpr, DTYPE: tl.constexpr, ROWS: tl.constexpr, SIDE: tl.constexpr):
    """Compare the plan on trial T+, with its X+, with the present one T; delta = T+ - T.

    Return |delta|_1, a bound of KL(T || T+), (J(T+) - J(T)) / epsilon without it, <delta, G+ - G>, max |G+|, and
    what Anderson's extrapolation needs: <R+, R+ - R> and |R+ - R|^2 with R = G - X.
    """
    area: tl.constexpr = SIDE * SIDE
    k, j = tl.arange(0, ROWS)[:, None], tl.arange(0, SIDE)[None, :]
    moved = tl.zeros([ROWS, SIDE], DTYPE)
    divergence, slope, turn, steepest, across, bend = moved, moved, moved, moved, moved, moved
    for start in range(0, SIDE, ROWS):
        entry = scratch + (start + k) * SIDE + j
        T, before = tl.load(entry + at.TRIAL * area), tl.load(entry + at.PLAN * area)
        G = tl.load(entry + at.LINEAR * area) - weight * tl.load(entry + at.TRIAL_PRODUCT * area)
        turned = weight * (tl.load(entry + at.PRODUCT * area) - tl.load(entry + at.TRIAL_PRODUCT * area))
        residual = G - tl.load(entry + at.TRIAL_X * area)
        delta = T - before
        moved += tl.abs(delta)
        # x - log(1 + x) >= 3 x^2 / (6 + 4 x), with equality to third order, for x = delta / T.
        divergence += 1.5 * delta * delta / tl.maximum(before + 2 * T, TINY)
        slope += delta * (residual - turned / 2)
        turn += delta * turned
        steepest = tl.maximum(steepest, tl.abs(G))
        change = residual - tl.load(entry + at.RESIDUAL * area)
        across += residual * change
        bend += change * change
    return (
        tl.sum(moved), tl.sum(divergence), tl.sum(slope), tl.sum(turn), tl.max(steepest), tl.sum(across), tl.sum(bend),
    )  # fmt: skip


@triton.jit
def advance(scratch, weight, accept, theta, extrapolation, ROWS: tl.constexpr, SIDE: tl.constexpr):
    """Make the plan on trial the present one if it is accepted, and write the costs and first g of the next trial.

    They are X + theta (G - X) - extrapolation (G - G of the plan before), where that was accepted.
    """
    area: tl.constexpr = SIDE * SIDE
    k, j = tl.arange(0, ROWS)[:, None], tl.arange(0, SIDE)[None, :]
    vectors = scratch + at.VECTORS * area + j
    before = tl.load(vectors + at.PRESENT_G * SIDE)
    g = tl.where(accept, tl.load(vectors + at.G * SIDE), before)
    tl.debug_barrier()
    tl.store(vectors + at.PRESENT_G * SIDE, g)
    tl.store(vectors + at.WARM * SIDE, g - extrapolation * (g - before))
    for start in range(0, SIDE, ROWS):
        entry = scratch + (start + k) * SIDE + j
        X, D = tl.load(entry + at.X * area), tl.load(entry + at.PRODUCT * area)
        D_before = D
        if accept:
            X, D = tl.load(entry + at.TRIAL_X * area), tl.load(entry + at.TRIAL_PRODUCT * area)
            tl.store(entry + at.X * area, X)
            tl.store(entry + at.PRODUCT * area, D)
            tl.store(entry + at.PLAN * area, tl.load(entry + at.TRIAL * area))
        residual = tl.load(entry + at.LINEAR * area) - weight * D - X
        tl.store(entry + at.RESIDUAL * area, residual)
        tl.store(entry + at.TRIAL_X * area, X + theta * residual + extrapolation * weight * (D - D_before))
    tl.debug_barrier()
