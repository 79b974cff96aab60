r"""The whole solve of small problems: outer and inner iteration, stopping test and values in one kernel."""

# Triton's types are not Python's: kernels carry no annotations.
# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators

import torch
import triton
import triton.language as tl
from torch import Tensor

from fgwot.kernels.common import batch_stride, check_device
from fgwot.kernels.pack import (
    CHUNK,
    f1,
    f2,
    h1,
    h2,
    largest,
    locate_pack,
    of_problem,
    pad,
    put,
    read,
    sandwich,
    shared,
    total,
)
from fgwot.kernels.shapes import SWEEPS, pack_for
from fgwot.problem import allowed_imbalance

# What a problem keeps in memory between the phases of a step, SIDE x SIDE values each. Caches hold it: what is live
# across a phase that does not need it would cost registers, and with them programs on a multiprocessor.
_SYMMETRIC1, _SKEW1, _SYMMETRIC2, _SKEW2, _LINEAR, _PLAN, _PRODUCT, _X, _TRIAL, _TRIAL_X, _HALF, _VECTORS, _NUMBERS = (
    map(tl.constexpr, range(13))
)
SLOTS = tl.constexpr(13)
# Rows of _VECTORS: marginals, what only shifts the potentials, potentials of the step after a plan and of a warm
# start, and the g where the next sweeps begin.
_ROW_MASS, _COLUMN_MASS, _SHIFT1, _SHIFT2, _F, _G, _WARM, _POTENTIAL = map(tl.constexpr, range(8))
# Entries of _NUMBERS. Of the problem:
_WEIGHT, _MASS, _VALID = map(tl.constexpr, range(3))
# of the present plan and the search for the next one (settle: that step only meets the marginals):
_ACTIVE, _STATUS, _STEPS, _ERROR, _MOVED, _OBJECTIVE, _NOISE, _THETA, _CHANGE, _BEST, _IDLE, _SETTLE = map(
    tl.constexpr, range(3, 15)
)
# and of the step being made.
_SIZE, _INNER, _ENDING, _TRIAL_ERROR, _DUAL = map(tl.constexpr, range(15, 20))

_SWEEPS = tl.constexpr(SWEEPS - 1)  # whole Sinkhorn sweeps before one that measures the error
_LOOKS = tl.constexpr(400)  # looks before an inner problem is left to a method better than sweeps
_PATIENCE = tl.constexpr(20)  # steps without progress before a problem counts as stalled
_SMALLEST_THETA = tl.constexpr(2.0**-12)
_TIGHT = tl.constexpr(0.05)  # inner tolerance as a part of the outer one, once an answer is near
_TIGHTEST = tl.constexpr(1e-3)  # the same where objectives of nearly equal plans are compared
_NEVER = tl.constexpr(-1e30)  # logarithm of a kernel entry without mass
_MAX_ITER, _STALLED, _NUMERICAL = tl.constexpr(1), tl.constexpr(2), tl.constexpr(3)  # fgwot.solution.Status

# `if x is None` is decided when a kernel is compiled, where a branch not taken must stay inside its else.


@triton.jit
def _prepare(
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
def _aim(scratch, base, max_iter, begun, tol, EPS: tl.constexpr, SIDE: tl.constexpr):
    """Size of the next step, its inner tolerance, and the status of a problem for which it is the last one."""
    area: tl.constexpr = SIDE * SIDE
    numbers = scratch + _NUMBERS * area + base
    settling = tl.load(numbers + _SETTLE) == 1
    idle, theta = tl.load(numbers + _IDLE), tl.load(numbers + _THETA)
    steps = tl.load(numbers + _STEPS)
    steps += tl.where((tl.load(numbers + _ACTIVE) == 1) & (settling == 0), 1, 0)
    ending = tl.where((idle >= _PATIENCE) | (theta < _SMALLEST_THETA), _STALLED, 0)
    ending = tl.where(settling, 0, tl.where(steps == max_iter, _MAX_ITER, ending))
    # Inner accuracy follows the residual; rejected steps compare objectives that loose plans do not resolve.
    reached = _limit(tol, tl.load(numbers + _NOISE), EPS)
    inner = tl.maximum(tl.minimum(0.02 * tl.load(numbers + _CHANGE), 1e-3), reached * _TIGHT)
    inner = tl.where(settling | (idle > 0), reached * _TIGHTEST, inner)
    inner = tl.where(begun == 1, inner, 1e-6)
    g = tl.load(scratch + _VECTORS * area + base + _POTENTIAL * SIDE + tl.arange(0, SIDE)[None, :, None])
    tl.debug_barrier()
    tl.store(numbers + _INNER, tl.maximum(inner, EPS * (8 + 2 * largest(tl.abs(g)))))
    tl.store(numbers + _SIZE, tl.where(settling, 0.0, tl.where(ending > 0, 1.0, theta)))
    tl.store(numbers + _ENDING, ending)
    tl.store(numbers + _STEPS, steps)
    tl.debug_barrier()


@triton.jit
def _limit(tol, noise, EPS: tl.constexpr):
    """Residual and marginal error that a converged plan may have together."""
    given = tl.full([1, 1, 1], tol, noise.dtype)
    return tl.where(given > 0, given, (1e-5 if EPS > 1e-10 else 1e-7) + 2 * noise)


@triton.jit
def _couple(scratch, base, TINY: tl.constexpr, SIDE: tl.constexpr):
    """The trial plan Sinkhorn(X + size (G - X)), its potentials, their error, and <f, p> + <g, q>."""
    area: tl.constexpr = SIDE * SIDE
    i, j = tl.arange(0, SIDE)[:, None, None], tl.arange(0, SIDE)[None, :, None]
    tile = base + i * SIDE + j
    vectors, numbers = scratch + _VECTORS * area + base, scratch + _NUMBERS * area + base
    x = tl.load(scratch + _X * area + tile)
    G = tl.load(scratch + _LINEAR * area + tile)
    G -= tl.load(numbers + _WEIGHT) * tl.load(scratch + _PRODUCT * area + tile)
    x += tl.load(numbers + _SIZE) * (G - x)
    tl.store(scratch + _TRIAL_X * area + tile, x)
    # Read as whole tiles, vectors take the tiles' layout, and so do the sweeps: fewer of their sums cross threads.
    across = tl.zeros([SIDE, SIDE, 1], tl.int32)
    rows = tl.max(tl.load(vectors + _ROW_MASS * SIDE + i + across), 1, keep_dims=True)
    columns = tl.max(tl.load(vectors + _COLUMN_MASS * SIDE + j + across), 0, keep_dims=True)
    potential = tl.max(tl.load(vectors + _POTENTIAL * SIDE + j + across), 0, keep_dims=True)
    logits = tl.where(columns > 0, potential - x, _NEVER)
    top = tl.max(logits, 1, keep_dims=True)
    K = tl.exp(logits - top)
    inner = tl.load(numbers + _INNER)
    v = tl.where(columns > 0, 1.0, 0.0).to(K.dtype)
    active = tl.load(numbers + _ACTIVE) == 1
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
    tl.store(scratch + _TRIAL * area + tile, T)
    # The potentials of an undamped step are those of the plan it left.
    tl.store(vectors + _F * SIDE + i, f, mask=active)
    tl.store(vectors + _G * SIDE + j, g, mask=active)
    tl.store(numbers + _TRIAL_ERROR, error)
    tl.store(numbers + _DUAL, tl.sum(f * rows, 0, keep_dims=True) + tl.sum(g * columns, 1, keep_dims=True))
    tl.debug_barrier()


@triton.jit
def _product(scratch, sides, DTYPE: tl.constexpr, PACK: tl.constexpr, SIDE: tl.constexpr):
    """C1 T C2' + C1' T C2 = 2 (S1 T S2' + K1 T K2'), with symmetric parts S and skew parts K, of the trial plan."""
    area: tl.constexpr = SIDE * SIDE
    trial, half = scratch + _TRIAL * area, scratch + _HALF * area
    result = tl.zeros([PACK, SIDE, SIDE], DTYPE)
    for side in range(sides):
        left, right = scratch + (_SYMMETRIC1 + side) * area, scratch + (_SYMMETRIC2 + side) * area
        result = sandwich(left, trial, right, half, result, SLOTS * area, SIDE)
    put(2 * result, half, SLOTS * area, SIDE)


@triton.jit
def _compare(
    scratch, base, TINY: tl.constexpr, DTYPE: tl.constexpr, ROWS: tl.constexpr, PACK: tl.constexpr, SIDE: tl.constexpr
):
    """Compare the trial plan with the present one.

    |delta|_1, <delta, delta / T>, -<delta, change of G> / weight; then the trial's <(L + G) / 2 - X, T> and max |G|.
    """
    area: tl.constexpr = SIDE * SIDE
    weight = tl.load(scratch + _NUMBERS * area + base + _WEIGHT)
    k, j = tl.arange(0, ROWS)[:, None, None], tl.arange(0, SIDE)[None, :, None]
    moved = tl.zeros([ROWS, SIDE, PACK], DTYPE)
    metric, turn, energy, steepest = moved, moved, moved, moved
    for start in range(0, SIDE, ROWS):
        at = base + (start + k) * SIDE + j
        T, before = tl.load(scratch + _TRIAL * area + at), tl.load(scratch + _PLAN * area + at)
        product = tl.load(scratch + _HALF * area + at)
        delta = T - before
        moved += tl.abs(delta)
        metric += 2 * delta * delta / tl.maximum(T + before, TINY)
        turn += delta * (tl.load(scratch + _PRODUCT * area + at) - product)
        linear = tl.load(scratch + _LINEAR * area + at)
        energy += (linear - weight / 2 * product - tl.load(scratch + _TRIAL_X * area + at)) * T
        steepest = tl.maximum(steepest, tl.abs(linear - weight * product))
    return total(moved), total(metric), total(turn), total(energy), largest(steepest)


@triton.jit
def _judge(
    scratch, base, begun, tol, EPS: tl.constexpr, TINY: tl.constexpr,
    DTYPE: tl.constexpr, ROWS: tl.constexpr, PACK: tl.constexpr, SIDE: tl.constexpr,
):  # fmt: skip
    """Take the trial plan or not, choose the length of the next step, and end what is certified or cannot go on.

    Return which problems take it and how many go on.
    """
    numbers = scratch + _NUMBERS * SIDE * SIDE + base
    moved, metric, turn, energy, steepest = _compare(scratch, base, TINY, DTYPE, ROWS, PACK, SIDE)
    ratio = tl.load(numbers + _WEIGHT) * turn / tl.maximum(metric, TINY)
    # J / epsilon up to a constant: log T = f (+) g - X, with <g, q> for <g, T' 1>, as in the Lagrangian.
    trial_objective = tl.load(numbers + _DUAL) + energy
    # log T is a difference of numbers as large as G: so much of it is rounding.
    noise = tl.where(begun == 1, tl.load(numbers + _NOISE), EPS * (1 + steepest))
    reached = _limit(tol, noise, EPS)
    size, ending, error = tl.load(numbers + _SIZE), tl.load(numbers + _ENDING), tl.load(numbers + _ERROR)
    trial_error = tl.load(numbers + _TRIAL_ERROR)

    active = tl.load(numbers + _ACTIVE) == 1
    broken = ((tl.abs(trial_objective) < 1e30) & (moved < 1e30)) == 0
    certified = (size == 1) & (moved + trial_error + error <= reached)
    stop = active & (certified | (ending > 0) | broken)
    status = tl.where(certified, 0, tl.where(broken, _NUMERICAL, ending))
    active = active & (stop == 0)

    objective, theta, idle = tl.load(numbers + _OBJECTIVE), tl.load(numbers + _THETA), tl.load(numbers + _IDLE)
    best, settling = tl.load(numbers + _BEST), tl.load(numbers + _SETTLE) == 1
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
    tl.store(numbers + _MOVED, moved + trial_error, mask=stop)
    tl.store(numbers + _STATUS, status, mask=stop)
    tl.store(numbers + _ACTIVE, active)
    tl.store(numbers + _THETA, tl.where(advanced, stable, tl.where(held & (rough == 0), theta / 2, theta)))
    tl.store(numbers + _IDLE, idle)
    tl.store(numbers + _BEST, tl.minimum(best, estimate), mask=advanced)
    tl.store(numbers + _CHANGE, estimate, mask=advanced)
    tl.store(numbers + _SETTLE, held & rough)
    tl.store(numbers + _ERROR, trial_error, mask=accept)
    tl.store(numbers + _OBJECTIVE, trial_objective, mask=accept)
    tl.store(numbers + _NOISE, noise)
    return accept, tl.sum(active.to(tl.int32))


@triton.jit
def _keep(scratch, base, accept, potential, ROWS: tl.constexpr, SIDE: tl.constexpr):
    """Make the accepted trial plans the present ones; sweeps then begin at `potential`, a row of _VECTORS."""
    area: tl.constexpr = SIDE * SIDE
    k, j = tl.arange(0, ROWS)[:, None, None], tl.arange(0, SIDE)[None, :, None]
    vectors = scratch + _VECTORS * area + base + j
    tl.store(vectors + _POTENTIAL * SIDE, tl.load(vectors + potential * SIDE), mask=accept)
    for start in range(0, SIDE, ROWS):
        at = base + (start + k) * SIDE + j
        tl.store(scratch + _PRODUCT * area + at, tl.load(scratch + _HALF * area + at), mask=accept)
        tl.store(scratch + _X * area + at, tl.load(scratch + _TRIAL_X * area + at), mask=accept)
        tl.store(scratch + _PLAN * area + at, tl.load(scratch + _TRIAL * area + at), mask=accept)
    tl.debug_barrier()


@triton.jit(do_not_specialize=["batch", "n", "m", "max_iter"])
def solve_kernel(
    M,
    C1,
    C2,
    p,
    q,
    start,
    start_g,
    alphas,
    epsilons,
    scratch,
    plan,
    f,
    g,
    value,
    cost,
    linear,
    quad,
    entropy,
    residual,
    marginal_error,
    status,
    n_iter,
    batch,
    n,
    m,
    M_batch,
    C1_batch,
    C2_batch,
    p_batch,
    q_batch,
    max_iter,
    alpha: tl.float64,
    epsilon: tl.float64,
    tol: tl.float64,
    allowed: tl.float64,
    EPS: tl.constexpr,
    TINY: tl.constexpr,
    LOSS: tl.constexpr,
    PACK: tl.constexpr,
    SIDE: tl.constexpr,
):
    r"""Stationary points of J(T) = E(T) - epsilon H(T) for `batch` problems, by the iteration of `fgwot.solver`.

    With X the negative log-kernel of the plan and G(T) = grad E(T) / epsilon without the terms that only shift the
    potentials, a step is X+ = X + theta (G - X), T+ = Sinkhorn(X+). It is taken where J does not rise, and else
    halved; theta follows the curvature along the last step. A plan is returned as converged only when an undamped step
    from it has moved it, and its marginals are off, by less than the tolerance together.

    Tiles
        A program owns PACK problems padded to SIDE x SIDE. The Sinkhorn kernel K = exp(g - X - rowmax) and its scalings
        u, v stay in registers for all inner sweeps u = p / (K v), v = q / (K' u). All else, padded and with constant
        strides, waits in `scratch`, also the numbers that steer the iteration: a step is a row of phases, each of which
        loads what it needs, so that registers hold the largest phase and not the sum. Products run over CHUNK columns
        at a time. Potentials move to g after every step. A problem that has ended is not touched by the others of its
        pack.
    Cost
        Per inner sweep 4 n m multiplications and additions, from registers; per step 4 n m (n + m), twice that for
        asymmetric structures; from memory, the inputs and outputs once, and SLOTS SIDE^2 values of scratch.

    References
    ----------
    Mirror descent: Peyré, Cuturi and Solomon (ICML 2016). Absorption of potentials into the kernel: Schmitzer,
    "Stabilized sparse scaling algorithms for entropy regularized transport problems", 2019.
    """
    DTYPE: tl.constexpr = C1.dtype.element_ty
    ROWS: tl.constexpr = CHUNK if PACK == 1 else 2
    area: tl.constexpr = SIDE * SIDE
    problem, exists = locate_pack(batch, PACK)
    i, j = tl.arange(0, SIDE)[:, None, None], tl.arange(0, SIDE)[None, :, None]
    # One wide address for the program; offsets from it stay 32 bits wide.
    scratch += tl.program_id(0).to(tl.int64) * (PACK * SLOTS * area)
    base = tl.arange(0, PACK)[None, None, :] * (SLOTS * area)
    tile = base + i * SIDE + j
    vectors, numbers = scratch + _VECTORS * area + base, scratch + _NUMBERS * area + base

    a = of_problem(alphas, alpha, problem, DTYPE, PACK)
    eps = of_problem(epsilons, epsilon, problem, DTYPE, PACK)
    valid = (a >= 0) & (a <= 1) & (eps > 0) & (eps < float("inf"))
    eps = tl.where(valid, eps, 1)

    # Marginals: uniform, of the other one's mass, where none is given. Below, plans have mass 1.
    if p is not None:
        rows, valid = read(p, valid, problem * p_batch + i, i < n)
        mass = tl.sum(rows, 0, keep_dims=True)
    if q is not None:
        columns, valid = read(q, valid, problem * q_batch + j, j < m)
        column_mass = tl.sum(columns, 1, keep_dims=True)
        if p is None:
            mass = column_mass
    else:
        if p is None:
            mass = tl.full([1, 1, PACK], 1, DTYPE)
        column_mass = mass
        columns = tl.where(j < m, mass / m.to(DTYPE), 0)
    if p is None:
        rows = tl.where(i < n, mass / n.to(DTYPE), 0)
    valid = valid & (largest(-rows) <= 0) & (largest(-columns) <= 0) & (mass > 0)
    valid = valid & (tl.abs(mass - column_mass) <= tl.full([1, 1, 1], allowed, DTYPE) * mass)
    mass = tl.where(valid, mass, 1)
    columns = columns / tl.where(valid, column_mass, 1)
    tl.store(vectors + _ROW_MASS * SIDE + i, rows / mass)
    tl.store(vectors + _COLUMN_MASS * SIDE + j, columns)
    tl.debug_barrier()

    # Structures.
    slot = scratch + _TRIAL * area
    valid, lowest1 = pad(C1 + problem * C1_batch, n, n, valid, slot, base, ROWS, PACK, SIDE)
    asymmetric = _prepare(
        slot, n, scratch + _VECTORS * area + _ROW_MASS * SIDE, scratch + _VECTORS * area + _SHIFT1 * SIDE,
        scratch + _SYMMETRIC1 * area, scratch + _SKEW1 * area, base, EPS, LOSS, False, ROWS, PACK, SIDE,
    )  # fmt: skip
    valid, lowest2 = pad(C2 + problem * C2_batch, m, m, valid, slot, base, ROWS, PACK, SIDE)
    asymmetric &= _prepare(
        slot, m, scratch + _VECTORS * area + _COLUMN_MASS * SIDE, scratch + _VECTORS * area + _SHIFT2 * SIDE,
        scratch + _SYMMETRIC2 * area, scratch + _SKEW2 * area, base, EPS, LOSS, True, ROWS, PACK, SIDE,
    )  # fmt: skip
    if LOSS == "kl":
        valid = valid & (lowest1 >= 0) & (lowest2 >= 0)
    # Without the other, one skew part is nothing: it may be there for another problem of the pack.
    zero = tl.zeros([SIDE, SIDE, PACK], DTYPE)
    tl.store(scratch + _SKEW1 * area + tile, zero, mask=asymmetric == 0)
    sides = 1 + tl.max(asymmetric.to(tl.int32))

    # Linear cost, and the first plan Sinkhorn(X).
    linear_slot, x_slot = scratch + _LINEAR * area, scratch + _X * area
    if M is None:
        tl.store(linear_slot + tile, zero)
    else:
        valid, lowest = pad(M + problem * M_batch, n, m, valid, linear_slot, base, ROWS, PACK, SIDE)
        tl.store(linear_slot + tile, (1 - a) / eps * tl.load(linear_slot + tile))
    if start is None:
        tl.store(x_slot + tile, zero)
        tl.store(vectors + _POTENTIAL * SIDE + j, tl.where(columns > 0, tl.log(tl.maximum(columns, TINY)), 0))
    else:
        valid, lowest = pad(start + problem * n * m, n, m, valid, x_slot, base, ROWS, PACK, SIDE)
        valid = valid & (lowest >= 0)
        tl.store(x_slot + tile, -tl.log(tl.maximum(tl.load(x_slot + tile), TINY)))
        tl.store(vectors + _POTENTIAL * SIDE + j, tl.zeros([1, SIDE, PACK], DTYPE))
    if start_g is not None:
        warm, valid = read(start_g, valid, problem * m + j, j < m)
        warm = (warm - a * mass * tl.load(vectors + _SHIFT2 * SIDE + j)) / eps
        tl.store(vectors + _WARM * SIDE + j, warm)
    tl.store(scratch + _PLAN * area + tile, zero)
    tl.store(scratch + _PRODUCT * area + tile, zero)

    active = valid & exists
    nought = tl.zeros([1, 1, PACK], DTYPE)
    tl.store(numbers + _WEIGHT, a * mass / eps)
    tl.store(numbers + _MASS, mass)
    tl.store(numbers + _VALID, valid)
    tl.store(numbers + _ACTIVE, active)
    tl.store(numbers + _STATUS, tl.where(valid, 0, _NUMERICAL))
    tl.store(numbers + _STEPS, nought)
    tl.store(numbers + _ERROR, nought)
    tl.store(numbers + _MOVED, nought)
    tl.store(numbers + _OBJECTIVE, nought + 1e30)
    tl.store(numbers + _NOISE, nought)
    tl.store(numbers + _THETA, nought + 1)
    tl.store(numbers + _CHANGE, nought + (1 if start is None else 0))
    tl.store(numbers + _BEST, nought + 1e30)
    tl.store(numbers + _IDLE, nought)
    tl.store(numbers + _SETTLE, nought + 1)
    tl.debug_barrier()

    open_ = tl.sum(active.to(tl.int32))
    begun = 0
    while open_ > 0:
        _aim(scratch, base, max_iter, begun, tol, EPS, SIDE)
        _couple(scratch, base, TINY, SIDE)
        _product(scratch, sides, DTYPE, PACK, SIDE)
        accept, open_ = _judge(scratch, base, begun, tol, EPS, TINY, DTYPE, ROWS, PACK, SIDE)
        if start_g is None:
            _keep(scratch, base, accept, _G, ROWS, SIDE)
        else:
            _keep(scratch, base, accept, tl.where(begun == 1, _G, _WARM), ROWS, SIDE)
        begun = 1

    a = of_problem(alphas, alpha, problem, DTYPE, PACK)
    eps = of_problem(epsilons, epsilon, problem, DTYPE, PACK)
    mass, valid = tl.load(numbers + _MASS), tl.load(numbers + _VALID) == 1
    nan = tl.full([1, 1, PACK], float("nan"), DTYPE)
    tl.store(residual + problem, tl.where(valid, tl.load(numbers + _MOVED), nan), mask=exists)
    tl.store(marginal_error + problem, tl.where(valid, tl.load(numbers + _ERROR), nan), mask=exists)
    tl.store(status + problem, tl.load(numbers + _STATUS).to(tl.int64), mask=exists)
    tl.store(n_iter + problem, tl.load(numbers + _STEPS).to(tl.int64), mask=exists)
    rows, columns = tl.load(vectors + _ROW_MASS * SIDE + i), tl.load(vectors + _COLUMN_MASS * SIDE + j)
    shift1, shift2 = tl.load(vectors + _SHIFT1 * SIDE + i), tl.load(vectors + _SHIFT2 * SIDE + j)
    f_ = tl.load(vectors + _F * SIDE + i) + tl.log(mass)
    f_ = tl.where(rows > 0, eps * f_ + a * mass * shift1, 0)
    g_ = tl.where(columns > 0, eps * tl.load(vectors + _G * SIDE + j) + a * mass * shift2, 0)
    tl.store(f + problem * n + i, tl.where(valid, f_, nan), mask=exists & (i < n))
    tl.store(g + problem * m + j, tl.where(valid, g_, nan), mask=exists & (j < m))
    T = tl.load(scratch + _PLAN * area + tile)
    # With row sums r = p + e, <f1(C1), r r'> is <2 r - p, (f1(C1) + f1(C1)') p> / 2 up to e^2; columns likewise.
    quad_ = tl.sum((2 * tl.sum(T, 1, keep_dims=True) - rows) * shift1, 0, keep_dims=True)
    quad_ += tl.sum((2 * tl.sum(T, 0, keep_dims=True) - columns) * shift2, 1, keep_dims=True)
    quad_ = mass * mass * (quad_ - total(tl.load(scratch + _PRODUCT * area + tile) * T)) / 2
    T = mass * T
    inside = exists & (i < n) & (j < m)
    tl.store(plan + problem * n * m + i * m + j, tl.where(valid, T, nan), mask=inside)
    entropy_ = total(T) - total(T * tl.log(tl.maximum(T, TINY)))
    tl.store(quad + problem, tl.where(valid, quad_, nan), mask=exists)
    tl.store(entropy + problem, tl.where(valid, entropy_, nan), mask=exists)
    if M is None:
        linear_ = tl.zeros([1, 1, PACK], DTYPE)
    else:
        linear_ = total(tl.load(M + problem * M_batch + i * m + j, mask=inside, other=0) * T)
    cost_ = (1 - a) * linear_ + a * quad_
    tl.store(linear + problem, tl.where(valid, linear_, nan), mask=exists)
    tl.store(cost + problem, tl.where(valid, cost_, nan), mask=exists)
    tl.store(value + problem, tl.where(valid, cost_ - eps * entropy_, nan), mask=exists)


def solve(
    M: Tensor | None,
    C1: Tensor,
    C2: Tensor,
    p: Tensor | None,
    q: Tensor | None,
    alphas: Tensor | None,
    epsilons: Tensor | None,
    start: Tensor | None,
    start_g: Tensor | None,
    alpha: float,
    epsilon: float,
    loss: str,
    tol: float,
    max_iter: int,
) -> list[Tensor]:
    """Launch `solve_kernel` for M (B, n, m), C1 (B, n, n), C2 (B, m, m), p (B, n) and q (B, m).

    `alphas` and `epsilons` (B,) take the place of the numbers where they are given; ``tol=0`` is the solver's own
    tolerance. Return plan, f, g, value, cost, linear, quad, entropy, residual, marginal error, status and n_iter.
    """
    check_device(C1)
    batch, n, m = len(C1), C1.shape[-1], C2.shape[-1]
    pack = pack_for(n, m, C1.dtype)
    if pack is None:
        raise ValueError(f"no pack holds problems of {n} and {m} points in {C1.dtype}")
    programs = triton.cdiv(batch, pack.problems)
    C1, C2 = shared(C1), shared(C2)
    M, p, q = (None if x is None else shared(x) for x in (M, p, q))
    scratch = C1.new_empty(programs * pack.problems * SLOTS.value * pack.side**2)
    outputs = [C1.new_empty(batch, *shape) for shape in ((n, m), (n,), (m,), *[()] * 7)]
    outputs += [C1.new_empty(batch, dtype=torch.int64) for _ in range(2)]
    solve_kernel[(programs,)](
        M,
        C1,
        C2,
        p,
        q,
        *(None if x is None else x.contiguous() for x in (start, start_g, alphas, epsilons)),
        scratch,
        *outputs,
        batch,
        n,
        m,
        *(0 if x is None else batch_stride(x) for x in (M, C1, C2, p, q)),
        max_iter,
        alpha,
        epsilon,
        tol,
        allowed_imbalance(C1.dtype),
        EPS=torch.finfo(C1.dtype).eps,
        TINY=1e-200 if C1.dtype == torch.float64 else 1e-30,
        LOSS=loss,
        PACK=pack.problems,
        SIDE=pack.side,
        **pack.options,
    )
    return outputs
