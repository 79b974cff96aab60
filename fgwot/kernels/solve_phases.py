r"""The phases of a step of the whole solve, which meet in memory."""

# Triton's types are not Python's: kernels carry no annotations.
# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators

import triton
import triton.language as tl

from fgwot import constants
from fgwot.kernels import solve_memory as at
from fgwot.kernels.pack import f1, f2, h1, h2, largest, put, sandwich, total
from fgwot.kernels.shapes import SWEEPS

_SWEEPS = tl.constexpr(SWEEPS - 1)  # whole Sinkhorn sweeps before one that measures the error
_LOOKS = tl.constexpr(400)  # looks before an inner problem is left to a method better than sweeps
_PATIENCE, _SMALLEST_THETA = tl.constexpr(constants.PATIENCE), tl.constexpr(constants.SMALLEST_THETA)
_LARGEST, _COARSEST = tl.constexpr(constants.LARGEST_TOLERANCE), tl.constexpr(constants.COARSEST)
_TIGHT = tl.constexpr(0.05)  # inner tolerance as a part of the outer one, once an answer is near
_TIGHTEST = tl.constexpr(1e-3)  # the same where objectives of nearly equal plans are compared
_NEVER = tl.constexpr(-1e30)  # logarithm of a kernel entry without mass
_MAX_ITER, _STALLED, NUMERICAL = tl.constexpr(1), tl.constexpr(2), tl.constexpr(3)  # fgwot.solution.Status


@triton.jit
def prepare(
    C, size, marginal, shift, symmetric, skew, base,
    EPS: tl.constexpr, LOSS: tl.constexpr, SECOND: tl.constexpr,
    ROWS: tl.constexpr, PACK: tl.constexpr, SIDE: tl.constexpr,
):  # fmt: skip
    """From a structure C: (f(C) + f(C)') p, (h(C) + h(C)') / 2 and (h(C) - h(C)') / 2, and whether that is not zero.

    The skew part of the second structure comes transposed.
    """
    k = tl.arange(0, ROWS)[:, None, None]
    j = tl.arange(0, SIDE)[None, :, None]
    weights = tl.load(marginal + base + j)
    scale = tl.zeros([1, 1, PACK], C.dtype.element_ty)
    asymmetry = scale
    for start in range(0, SIDE, ROWS):
        i = start + k
        c, ct = tl.load(C + base + i * SIDE + j), tl.load(C + base + j * SIDE + i)
        mask = (i < size) & (j < size)
        if SECOND:
            f, h, ht = f2(c, LOSS) + f2(ct, LOSS), h2(ct, LOSS), h2(c, LOSS)
        else:
            f, h, ht = f1(c, LOSS) + f1(ct, LOSS), h1(c, LOSS), h1(ct, LOSS)
        h, ht = tl.where(mask, h, 0), tl.where(mask, ht, 0)
        tl.store(shift + base + i, tl.sum(tl.where(mask, f, 0) * weights, 1, keep_dims=True))
        tl.store(symmetric + base + i * SIDE + j, (h + ht) / 2)
        tl.store(skew + base + i * SIDE + j, (h - ht) / 2)
        scale = tl.maximum(scale, largest(tl.abs(h)))
        asymmetry = tl.maximum(asymmetry, largest(tl.abs(h - ht)))
    tl.debug_barrier()
    return asymmetry > 8 * EPS * scale  # what is less is rounding


@triton.jit
def aim(scratch, base, max_iter, begun, tol, EPS: tl.constexpr, SIDE: tl.constexpr):
    """Size of the next step, its inner tolerance, and the status of a problem for which it is the last one."""
    area: tl.constexpr = SIDE * SIDE
    numbers = scratch + at.NUMBERS * area + base
    settling = tl.load(numbers + at.SETTLE) == 1
    idle, theta = tl.load(numbers + at.IDLE), tl.load(numbers + at.THETA)
    steps = tl.load(numbers + at.STEPS)
    steps += tl.where((tl.load(numbers + at.ACTIVE) == 1) & (settling == 0), 1, 0)
    ending = tl.where((idle >= _PATIENCE) | (theta < _SMALLEST_THETA), _STALLED, 0)
    ending = tl.where(settling, 0, tl.where(steps == max_iter, _MAX_ITER, ending))
    # Inner accuracy follows the residual; rejected steps compare objectives that loose plans do not resolve.
    reached = _limit(tol, tl.load(numbers + at.NOISE), EPS)
    inner = tl.maximum(tl.minimum(0.02 * tl.load(numbers + at.CHANGE), _COARSEST), reached * _TIGHT)
    inner = tl.where(settling | (idle > 0), reached * _TIGHTEST, inner)
    inner = tl.where(begun == 1, inner, 1e-6)
    g = tl.load(scratch + at.VECTORS * area + base + at.POTENTIAL * SIDE + tl.arange(0, SIDE)[None, :, None])
    tl.debug_barrier()
    tl.store(numbers + at.INNER, tl.maximum(inner, EPS * (8 + 2 * largest(tl.abs(g)))))
    tl.store(numbers + at.SIZE, tl.where(settling, 0.0, tl.where(ending > 0, 1.0, theta)))
    tl.store(numbers + at.ENDING, ending)
    tl.store(numbers + at.STEPS, steps)
    tl.debug_barrier()


@triton.jit
def _limit(tol, noise, EPS: tl.constexpr):
    """Residual and marginal error that a converged plan may have together."""
    given = tl.full([1, 1, 1], tol, noise.dtype)
    attainable = tl.minimum((1e-5 if EPS > 1e-10 else 1e-7) + 2 * noise, _LARGEST)
    return tl.where(given > 0, given, attainable)


@triton.jit
def couple(scratch, base, TINY: tl.constexpr, SIDE: tl.constexpr):
    """The trial plan Sinkhorn(X + size (G - X)), its potentials, their error, and <f, p> + <g, q>."""
    area: tl.constexpr = SIDE * SIDE
    i, j = tl.arange(0, SIDE)[:, None, None], tl.arange(0, SIDE)[None, :, None]
    tile = base + i * SIDE + j
    vectors, numbers = scratch + at.VECTORS * area + base, scratch + at.NUMBERS * area + base
    x = tl.load(scratch + at.X * area + tile)
    G = tl.load(scratch + at.LINEAR * area + tile)
    G -= tl.load(numbers + at.WEIGHT) * tl.load(scratch + at.PRODUCT * area + tile)
    x += tl.load(numbers + at.SIZE) * (G - x)
    tl.store(scratch + at.TRIAL_X * area + tile, x)
    # Read as whole tiles, vectors take the tiles' layout, and so do the sweeps: fewer of their sums cross threads.
    across = tl.zeros([SIDE, SIDE, 1], tl.int32)
    rows = tl.max(tl.load(vectors + at.ROW_MASS * SIDE + i + across), 1, keep_dims=True)
    columns = tl.max(tl.load(vectors + at.COLUMN_MASS * SIDE + j + across), 0, keep_dims=True)
    potential = tl.max(tl.load(vectors + at.POTENTIAL * SIDE + j + across), 0, keep_dims=True)
    logits = tl.where(columns > 0, potential - x, _NEVER)
    top = tl.max(logits, 1, keep_dims=True)
    K = tl.exp(logits - top)
    inner = tl.load(numbers + at.INNER)
    v = tl.where(columns > 0, 1.0, 0.0).to(K.dtype)
    active = tl.load(numbers + at.ACTIVE) == 1
    open_ = active
    looks = 0
    while (looks < _LOOKS) & (tl.max(open_.to(tl.int32)) > 0):
        w = v
        for _ in tl.static_range(_SWEEPS):
            u = rows / tl.maximum(tl.sum(K * w, 1, keep_dims=True), TINY)
            w = columns / tl.maximum(tl.sum(K * u, 0, keep_dims=True), TINY)
        u = rows / tl.maximum(tl.sum(K * w, 1, keep_dims=True), TINY)
        s = tl.maximum(tl.sum(K * u, 0, keep_dims=True), TINY)
        close = tl.sum(tl.abs(w * s - columns), 1, keep_dims=True) <= inner
        v = tl.where(open_, tl.where(close, w, columns / s), v)
        open_ = open_ & (close == 0)
        looks += 1

    u = rows / tl.maximum(tl.sum(K * v, 1, keep_dims=True), TINY)
    T = u * K * v
    error = tl.sum(tl.abs(tl.sum(T, 1, keep_dims=True) - rows), 0, keep_dims=True)
    error += tl.sum(tl.abs(tl.sum(T, 0, keep_dims=True) - columns), 1, keep_dims=True)
    g = tl.where(columns > 0, potential + tl.log(tl.maximum(v, TINY)), 0)
    f = tl.where(rows > 0, tl.log(tl.maximum(u, TINY)) - top, 0)
    tl.store(scratch + at.TRIAL * area + tile, T)
    # The potentials of an undamped step are those of the plan it left.
    tl.store(vectors + at.F * SIDE + i, f, mask=active)
    tl.store(vectors + at.G * SIDE + j, g, mask=active)
    tl.store(numbers + at.TRIAL_ERROR, error)
    tl.store(numbers + at.DUAL, tl.sum(f * rows, 0, keep_dims=True) + tl.sum(g * columns, 1, keep_dims=True))
    tl.debug_barrier()


@triton.jit
def product(scratch, sides, DTYPE: tl.constexpr, PACK: tl.constexpr, SIDE: tl.constexpr):
    """C1 T C2' + C1' T C2 = 2 (S1 T S2' + K1 T K2'), with symmetric parts S and skew parts K, of the trial plan."""
    area: tl.constexpr = SIDE * SIDE
    trial, half = scratch + at.TRIAL * area, scratch + at.HALF * area
    result = tl.zeros([PACK, SIDE, SIDE], DTYPE)
    for side in range(sides):
        left, right = scratch + (at.SYMMETRIC1 + side) * area, scratch + (at.SYMMETRIC2 + side) * area
        result = sandwich(left, trial, right, half, result, at.SLOTS * area, SIDE)
    put(2 * result, half, at.SLOTS * area, SIDE)


@triton.jit
def _compare(
    scratch, base, TINY: tl.constexpr, DTYPE: tl.constexpr, ROWS: tl.constexpr, PACK: tl.constexpr, SIDE: tl.constexpr
):
    """Compare the trial plan with the present one.

    |delta|_1, <delta, delta / T>, -<delta, change of G> / weight; then the trial's <(L + G) / 2 - X, T> and max |G|.
    """
    area: tl.constexpr = SIDE * SIDE
    weight = tl.load(scratch + at.NUMBERS * area + base + at.WEIGHT)
    k, j = tl.arange(0, ROWS)[:, None, None], tl.arange(0, SIDE)[None, :, None]
    moved = tl.zeros([ROWS, SIDE, PACK], DTYPE)
    metric, turn, energy, steepest = moved, moved, moved, moved
    for start in range(0, SIDE, ROWS):
        entry = base + (start + k) * SIDE + j
        T, before = tl.load(scratch + at.TRIAL * area + entry), tl.load(scratch + at.PLAN * area + entry)
        product = tl.load(scratch + at.HALF * area + entry)
        delta = T - before
        moved += tl.abs(delta)
        metric += 2 * delta * delta / tl.maximum(T + before, TINY)
        turn += delta * (tl.load(scratch + at.PRODUCT * area + entry) - product)
        linear = tl.load(scratch + at.LINEAR * area + entry)
        energy += (linear - weight / 2 * product - tl.load(scratch + at.TRIAL_X * area + entry)) * T
        steepest = tl.maximum(steepest, tl.abs(linear - weight * product))
    return total(moved), total(metric), total(turn), total(energy), largest(steepest)


@triton.jit
def judge(
    scratch, base, begun, tol, EPS: tl.constexpr, TINY: tl.constexpr,
    DTYPE: tl.constexpr, ROWS: tl.constexpr, PACK: tl.constexpr, SIDE: tl.constexpr,
):  # fmt: skip
    """Take the trial plan or not, choose the length of the next step, and end what is certified or cannot go on.

    Return which problems take it and how many go on.
    """
    numbers = scratch + at.NUMBERS * SIDE * SIDE + base
    moved, metric, turn, energy, steepest = _compare(scratch, base, TINY, DTYPE, ROWS, PACK, SIDE)
    ratio = tl.load(numbers + at.WEIGHT) * turn / tl.maximum(metric, TINY)
    # J / epsilon up to a constant: log T = f (+) g - X, with <g, q> for <g, T' 1>, as in the Lagrangian.
    trial_objective = tl.load(numbers + at.DUAL) + energy
    # log T is a difference of numbers as large as G: so much of it is rounding.
    noise = tl.where(begun == 1, tl.load(numbers + at.NOISE), EPS * (1 + steepest))
    reached = _limit(tol, noise, EPS)
    size, ending, error = tl.load(numbers + at.SIZE), tl.load(numbers + at.ENDING), tl.load(numbers + at.ERROR)
    trial_error = tl.load(numbers + at.TRIAL_ERROR)

    active = tl.load(numbers + at.ACTIVE) == 1
    broken = ((tl.abs(trial_objective) < 1e30) & (moved < 1e30)) == 0
    # Where rounding alone moves plans by more, that one did not move says nothing.
    resolved = 8 * noise <= tl.maximum(tol, _LARGEST)
    certified = (size == 1) & (moved + trial_error + error <= reached) & resolved
    stop = active & (certified | (ending > 0) | broken)
    status = tl.where(certified, 0, tl.where(broken, NUMERICAL, ending))
    active = active & (stop == 0)

    objective, theta, idle = tl.load(numbers + at.OBJECTIVE), tl.load(numbers + at.THETA), tl.load(numbers + at.IDLE)
    best, settling = tl.load(numbers + at.BEST), tl.load(numbers + at.SETTLE) == 1
    accept = active & (settling | (trial_objective <= objective + 16 * noise))
    held = active & (accept == 0)
    advanced = accept & (settling == 0)
    estimate = moved / tl.maximum(size, TINY)
    progress = (estimate < 0.9 * best) | (trial_objective < objective - 16 * noise)
    stable = tl.minimum(tl.where(ratio > 0.5, 1 / (1 + tl.maximum(ratio, 0)), 1), 2 * theta)
    stable = tl.where(estimate <= 0.5 * reached, 1, stable)  # close to the end an undamped step certifies
    rough = error > reached * (2 * _TIGHTEST)
    idle = tl.where(held | (advanced & (progress == 0)), idle + 1, tl.where(advanced, 0, idle))
    tl.debug_barrier()
    # The change made by an undamped step is the residual of the plan it left.
    tl.store(numbers + at.MOVED, moved + trial_error, mask=stop)
    tl.store(numbers + at.STATUS, status, mask=stop)
    tl.store(numbers + at.ACTIVE, active)
    tl.store(numbers + at.THETA, tl.where(advanced, stable, tl.where(held & (rough == 0), theta / 2, theta)))
    tl.store(numbers + at.IDLE, idle)
    tl.store(numbers + at.BEST, tl.minimum(best, estimate), mask=advanced)
    tl.store(numbers + at.CHANGE, estimate, mask=advanced)
    tl.store(numbers + at.SETTLE, held & rough)
    tl.store(numbers + at.ERROR, trial_error, mask=accept)
    tl.store(numbers + at.OBJECTIVE, trial_objective, mask=accept)
    tl.store(numbers + at.NOISE, noise)
    return accept, tl.sum(active.to(tl.int32))


@triton.jit
def keep(scratch, base, accept, potential, ROWS: tl.constexpr, SIDE: tl.constexpr):
    """Make the accepted trial plans the present ones; sweeps then begin at `potential`, a row of VECTORS."""
    area: tl.constexpr = SIDE * SIDE
    k, j = tl.arange(0, ROWS)[:, None, None], tl.arange(0, SIDE)[None, :, None]
    vectors = scratch + at.VECTORS * area + base + j
    tl.store(vectors + at.POTENTIAL * SIDE, tl.load(vectors + potential * SIDE), mask=accept)
    for start in range(0, SIDE, ROWS):
        entry = base + (start + k) * SIDE + j
        tl.store(scratch + at.PRODUCT * area + entry, tl.load(scratch + at.HALF * area + entry), mask=accept)
        tl.store(scratch + at.X * area + entry, tl.load(scratch + at.TRIAL_X * area + entry), mask=accept)
        tl.store(scratch + at.PLAN * area + entry, tl.load(scratch + at.TRIAL * area + entry), mask=accept)
    tl.debug_barrier()
