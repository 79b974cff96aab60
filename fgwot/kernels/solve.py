r"""The whole solve of small problems: outer and inner iteration, stopping test and values in one kernel."""

# Triton's types are not Python's: kernels carry no annotations.
# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators

import torch
import triton
import triton.language as tl
from torch import Tensor

from fgwot import constants
from fgwot.kernels import solve_memory as at
from fgwot.kernels.common import batch_stride, check_device
from fgwot.kernels.pack import of_problem, pad, read, shared
from fgwot.kernels.shapes import pack_for
from fgwot.kernels.solve_phases import advance, compare, limit, multiply, prepare, solve_inner
from fgwot.problem import allowed_imbalance

_HORIZON, _SHORT, _FURTHEST = map(tl.constexpr, (constants.HORIZON, constants.SHORT, constants.FURTHEST))
_PATIENCE, _SMALLEST_THETA = tl.constexpr(constants.PATIENCE), tl.constexpr(constants.SMALLEST_THETA)
_MAX_STEPS, _COARSEST = tl.constexpr(constants.MAX_STEPS), tl.constexpr(constants.COARSEST)
_LARGEST = tl.constexpr(constants.LARGEST_TOLERANCE)
_TIGHT = tl.constexpr(0.05)  # inner tolerance as a part of the outer one, once an answer is near
_TIGHTEST = tl.constexpr(1e-3)  # the same where steps are refused
_OPEN, _MAX_ITER, _STALLED, _NUMERICAL = map(tl.constexpr, (-1, 1, 2, 3))  # fgwot.solution.Status

# `if x is None` is decided when a kernel is compiled, where a branch not taken must stay inside its else.


# A launch compiles nothing but what is tested: sizes and distances are not specialised on.
@triton.jit(do_not_specialize=["n", "m", "max_iter", *(f"{x}_batch" for x in ("M", "C1", "C2", "p", "q"))])
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
    SIDE: tl.constexpr,
    ROWS: tl.constexpr,
):
    r"""Stationary points of J(T) = E(T) - epsilon H(T), each problem by a program.

    Let T = Sinkhorn(X) be a plan with the costs X, and G(T) = grad E(T) / epsilon without the terms that only shift the
    potentials. A step is T+ = Sinkhorn(X+), as in `fgwot.iteration.undamped` with X+ = G or, where that is slow,
    X+ = G - theta (G - G of the plan before). Once such a step without extrapolation may have raised J, steps are
    X+ = X + theta (G - X), where theta follows the curvature along the last step and is halved if J may have risen. The
    change of J is that of `undamped`. A plan is returned as converged only when an undamped step from it has moved it,
    and its marginals are off, by less than the tolerance together.

    Tiles
        Padded to SIDE x SIDE. A program has one problem and ends with it, whatever the others take: on an H100 packs of
        eight 8-point problems took 34 times as long as 16-point problems alone in their programs, when the slowest
        problem held up its pack. What one in a program takes has not been measured since. The Sinkhorn kernel
        K = exp(g - X - rowmax), its scalings u, v and a Newton matrix stay in registers while an inner problem is
        solved. All else, padded and with constant strides, waits in `scratch`: a step is a row of phases, each of which
        loads what it needs, so that registers hold the largest phase and not the sum. Products take a term of their
        sums at a time, other phases ROWS rows.
    Cost
        An evaluation of an inner problem is 4 n m multiplications and additions, from registers, a chord step 2 m^2, a
        Newton matrix 2 m^2 (n + m); a step 4 n m (n + m), twice that if both structures are asymmetric. From memory,
        the inputs and outputs once, and SLOTS SIDE^2 values of scratch.

    References
    ----------
    Mirror descent: Peyré, Cuturi and Solomon (ICML 2016). Absorption of potentials into the kernel: Schmitzer,
    "Stabilized sparse scaling algorithms for entropy regularized transport problems", 2019. Extrapolation: Anderson,
    "Iterative procedures for nonlinear integral equations", 1965.
    """
    DTYPE: tl.constexpr = C1.dtype.element_ty
    area: tl.constexpr = SIDE * SIDE
    # One wide address for the program; offsets from it stay 32 bits wide.
    problem = tl.program_id(0).to(tl.int64)
    scratch += problem * (at.SLOTS * area)
    i, j = tl.arange(0, SIDE)[:, None], tl.arange(0, SIDE)[None, :]
    tile, vectors = i * SIDE + j, scratch + at.VECTORS * area

    a = of_problem(alphas, alpha, problem, DTYPE)
    eps = of_problem(epsilons, epsilon, problem, DTYPE)
    valid = (a >= 0) & (a <= 1) & (eps > 0) & (eps < float("inf"))
    eps = tl.where(valid, eps, 1)

    # Marginals: uniform, of the other one's mass, where none is given. Below, plans have mass 1.
    if p is not None:
        rows, valid = read(p, valid, problem * p_batch + i, i < n)
        mass = tl.sum(rows)
    if q is not None:
        columns, valid = read(q, valid, problem * q_batch + j, j < m)
        column_mass = tl.sum(columns)
        if p is None:
            mass = column_mass
    else:
        if p is None:
            mass = eps * 0 + 1
        column_mass = mass
        columns = tl.where(j < m, mass / tl.full([], m, DTYPE), 0)
    if p is None:
        rows = tl.where(i < n, mass / tl.full([], n, DTYPE), 0)
    valid = valid & (tl.min(rows) >= 0) & (tl.min(columns) >= 0) & (mass > 0)
    valid = valid & (tl.abs(mass - column_mass) <= tl.full([], allowed, DTYPE) * mass)
    mass = tl.where(valid, mass, 1)
    columns = columns / tl.where(valid, column_mass, 1)
    tl.store(vectors + at.ROW_MASS * SIDE + i, rows / mass)
    tl.store(vectors + at.COLUMN_MASS * SIDE + j, columns)
    tl.debug_barrier()

    # Structures.
    slot = scratch + at.TRIAL * area
    valid, lowest1 = pad(C1 + problem * C1_batch, n, n, valid, slot, ROWS, SIDE)
    asymmetric = prepare(
        slot, n, vectors + at.ROW_MASS * SIDE, vectors + at.SHIFT1 * SIDE,
        scratch + at.SYMMETRIC1 * area, scratch + at.SKEW1 * area, EPS, LOSS, False, ROWS, SIDE,
    )  # fmt: skip
    valid, lowest2 = pad(C2 + problem * C2_batch, m, m, valid, slot, ROWS, SIDE)
    asymmetric &= prepare(
        slot, m, vectors + at.COLUMN_MASS * SIDE, vectors + at.SHIFT2 * SIDE,
        scratch + at.SYMMETRIC2 * area, scratch + at.SKEW2 * area, EPS, LOSS, True, ROWS, SIDE,
    )  # fmt: skip
    if LOSS == "kl":
        valid = valid & (lowest1 >= 0) & (lowest2 >= 0)
    sides = 1 + asymmetric.to(tl.int32)  # without the other, one skew part is nothing

    # Linear cost, and the X and g of the first plan.
    zero = tl.zeros([SIDE, SIDE], DTYPE)
    linear_slot, x_slot = scratch + at.LINEAR * area, scratch + at.TRIAL_X * area
    if M is None:
        tl.store(linear_slot + tile, zero)
    else:
        valid, lowest = pad(M + problem * M_batch, n, m, valid, linear_slot, ROWS, SIDE)
        tl.store(linear_slot + tile, (1 - a) / eps * tl.load(linear_slot + tile))
    if start is None:
        tl.store(x_slot + tile, zero)
        tl.store(vectors + at.WARM * SIDE + j, tl.where(columns > 0, tl.log(tl.maximum(columns, TINY)), 0))
    else:
        valid, lowest = pad(start + problem * n * m, n, m, valid, x_slot, ROWS, SIDE)
        valid = valid & (lowest >= 0)
        tl.store(x_slot + tile, -tl.log(tl.maximum(tl.load(x_slot + tile), TINY)))
        tl.store(vectors + at.WARM * SIDE + j, tl.zeros([1, SIDE], DTYPE))
    if start_g is not None:
        warm, valid = read(start_g, valid, problem * m + j, j < m)
        warm = (warm - a * mass * tl.load(vectors + at.SHIFT2 * SIDE + j)) / eps
    tl.store(scratch + at.PLAN * area + tile, zero)
    tl.store(scratch + at.PRODUCT * area + tile, zero)
    tl.store(scratch + at.RESIDUAL * area + tile, zero)
    tl.store(scratch + at.NEWTON * area + tile, zero)
    tl.store(vectors + at.PRESENT_G * SIDE + j, tl.zeros([1, SIDE], DTYPE))
    tl.debug_barrier()

    weight, none, given_tol = a * mass / eps, eps * 0, tl.full([], tol, DTYPE)
    # Of the present plan: how far it is from its marginals, the last change and the next one.
    error, change, expected = none, none + 1, none + (1 if start is None else 0)
    noise, residual_, best, theta, extrapolation = none, none, none + 1e30, none + 1, none
    slow, guarded, known = False, False, False
    zero = tl.full([], 0, tl.int32)
    steps, idle, ending = zero, zero, zero
    settling = True  # a step that only meets the marginals, as the first one does
    result = tl.where(valid, _OPEN, _NUMERICAL)
    while result == _OPEN:
        steps += tl.where(settling, 0, 1)
        reached = limit(given_tol, noise, EPS)
        # Inner accuracy follows the residual; a step that was refused may have been so for that of the last ones.
        inner = tl.maximum(tl.minimum(0.02 * expected, _COARSEST), reached * _TIGHT)
        tightest = tl.maximum(reached * _TIGHTEST, 8 * EPS)  # sums of columns are rounded
        inner = tl.maximum(tl.where(settling | (idle > 0), tightest, inner), tightest)
        trial_error, known = solve_inner(scratch, n, m, tl.where(steps > 0, inner, 1e-6), known, EPS, TINY, SIDE)
        multiply(scratch, n, m, sides, DTYPE, SIDE)
        moved, divergence, slope, turn, steepest, across, bend = compare(scratch, weight, TINY, DTYPE, ROWS, SIDE)
        # log T is a difference of numbers as large as G: so much of it is rounding.
        noise = tl.where(steps > 0, noise, EPS * (1 + steepest))
        reached = limit(given_tol, noise, EPS)

        plain = (theta == 1) & (extrapolation == 0) & (settling == 0)
        # Where rounding alone moves plans by more, that one did not move says nothing.
        resolved = 8 * noise <= tl.maximum(given_tol, _LARGEST)
        certified = plain & (moved + trial_error + error <= reached) & resolved
        broken = ((tl.abs(slope) < 1e30) & (moved < 1e30)) == 0
        # The change made by an undamped step is the residual of the plan it left.
        residual_ = moved + trial_error
        result = tl.where(ending > 0, ending, _OPEN)
        result = tl.where(certified, 0, tl.where(broken, _NUMERICAL, result))
        if result == _OPEN:
            descends = slope <= divergence + 4 * noise * moved
            accept = settling | descends
            taken, refused = descends & (settling == 0), (accept == 0)
            estimate = moved / tl.maximum(theta, TINY)
            # Along the last step an undamped one multiplies the error by -ratio.
            ratio = turn / tl.maximum(2 * divergence, TINY)
            stable = tl.minimum(tl.where(ratio > 0.5, 1 / (1 + tl.maximum(ratio, 0)), 1), 2 * theta)
            stable = tl.where(estimate <= 0.5 * reached, 1, stable)  # close to the end an undamped step certifies
            progress = (estimate < 0.9 * best) | (divergence - slope > 16 * noise)
            idle = tl.where(guarded & (refused | (taken & (progress == 0))), idle + 1, tl.where(taken, 0, idle))
            best = tl.where(guarded & taken, tl.minimum(best, estimate), best)

            rate = tl.minimum(tl.maximum(moved / tl.maximum(change, TINY), 0.1), 1)
            change = tl.where(taken, moved, change)
            expected = tl.where(taken, tl.where(guarded, estimate, moved * rate), expected)
            ahead = tl.exp(tl.log(rate) * _HORIZON) * expected
            slow = slow | (taken & (change < _SHORT) & (ahead > reached))
            useful = taken & slow & (guarded == 0) & (steps > 1) & (bend > 0) & (expected > 0.5 * reached)
            extrapolation = tl.where(
                useful, tl.minimum(tl.maximum(across / tl.maximum(bend, TINY), -_FURTHEST), 0.75), 0
            )

            settling = refused & (plain | guarded) & (error > 2 * tightest)
            theta = tl.where(guarded & taken, stable, theta)
            theta = tl.where(refused & (plain | guarded) & (settling == 0), theta / 2, theta)
            guarded = guarded | (refused & plain) | (steps >= _MAX_STEPS)
            error = tl.where(accept, trial_error, error)
            ending = tl.where((idle >= _PATIENCE) | (theta < _SMALLEST_THETA), _STALLED, 0)
            ending = tl.where(settling, 0, tl.where(steps + 1 == max_iter, _MAX_ITER, ending))
            theta = tl.where(ending > 0, 1, theta)
            extrapolation = tl.where(ending > 0, 0, extrapolation)
            advance(scratch, weight, accept, tl.where(settling, 0, theta), extrapolation, ROWS, SIDE)
            if start_g is not None:
                tl.store(vectors + at.WARM * SIDE + j, warm, mask=(steps == 0) & (j < m))
                tl.debug_barrier()

    nan = none + float("nan")
    tl.store(residual + problem, tl.where(valid, residual_, nan))
    tl.store(marginal_error + problem, tl.where(valid, error, nan))
    tl.store(status + problem, result.to(tl.int64))
    tl.store(n_iter + problem, steps.to(tl.int64))
    rows, columns = tl.load(vectors + at.ROW_MASS * SIDE + i), tl.load(vectors + at.COLUMN_MASS * SIDE + j)
    shift1, shift2 = tl.load(vectors + at.SHIFT1 * SIDE + i), tl.load(vectors + at.SHIFT2 * SIDE + j)
    f_ = tl.load(vectors + at.F * SIDE + i) + tl.log(mass)
    f_ = tl.where(rows > 0, eps * f_ + a * mass * shift1, 0)
    g_ = tl.where(columns > 0, eps * tl.load(vectors + at.G * SIDE + j) + a * mass * shift2, 0)
    tl.store(f + problem * n + i, tl.where(valid, f_, nan), mask=i < n)
    tl.store(g + problem * m + j, tl.where(valid, g_, nan), mask=j < m)
    T = tl.load(scratch + at.PLAN * area + tile)
    # With row sums r = p + e, <f1(C1), r r'> is <2 r - p, (f1(C1) + f1(C1)') p> / 2 up to e^2; columns likewise.
    quad_ = tl.sum((2 * tl.sum(T, 1, keep_dims=True) - rows) * shift1)
    quad_ += tl.sum((2 * tl.sum(T, 0, keep_dims=True) - columns) * shift2)
    quad_ = mass * mass * (quad_ - tl.sum(tl.load(scratch + at.PRODUCT * area + tile) * T)) / 2
    T = mass * T
    inside = (i < n) & (j < m)
    tl.store(plan + problem * n * m + i * m + j, tl.where(valid, T, nan), mask=inside)
    entropy_ = tl.sum(T) - tl.sum(T * tl.log(tl.maximum(T, TINY)))
    tl.store(quad + problem, tl.where(valid, quad_, nan))
    tl.store(entropy + problem, tl.where(valid, entropy_, nan))
    linear_ = none
    if M is not None:
        linear_ = tl.sum(tl.load(M + problem * M_batch + i * m + j, mask=inside, other=0) * T)
    cost_ = (1 - a) * linear_ + a * quad_
    tl.store(linear + problem, tl.where(valid, linear_, nan))
    tl.store(cost + problem, tl.where(valid, cost_, nan))
    tl.store(value + problem, tl.where(valid, cost_ - eps * entropy_, nan))


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
    C1, C2 = shared(C1), shared(C2)
    M, p, q = (None if x is None else shared(x) for x in (M, p, q))
    scratch = C1.new_empty(batch * at.SLOTS.value * pack.side**2)
    outputs = [C1.new_empty(batch, *shape) for shape in ((n, m), (n,), (m,), *[()] * 7)]
    outputs += [C1.new_empty(batch, dtype=torch.int64) for _ in range(2)]
    solve_kernel[(batch,)](
        M,
        C1,
        C2,
        p,
        q,
        *(None if x is None else x.contiguous() for x in (start, start_g, alphas, epsilons)),
        scratch,
        *outputs,
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
        SIDE=pack.side,
        ROWS=pack.rows,
        **pack.options,
    )
    return outputs
