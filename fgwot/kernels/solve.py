r"""The whole solve of small problems: outer and inner iteration, stopping test and values in one kernel."""

# Triton's types are not Python's: kernels carry no annotations.
# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators

import torch
import triton
import triton.language as tl
from torch import Tensor

from fgwot.kernels import solve_memory as at
from fgwot.kernels.common import batch_stride, check_device
from fgwot.kernels.pack import largest, locate_pack, of_problem, pad, read, shared, total
from fgwot.kernels.shapes import pack_for
from fgwot.kernels.solve_phases import NUMERICAL, aim, couple, judge, keep, prepare, product
from fgwot.problem import allowed_imbalance

# `if x is None` is decided when a kernel is compiled, where a branch not taken must stay inside its else.


# A launch compiles nothing but what is tested: sizes and distances are not specialised on.
@triton.jit(do_not_specialize=["batch", "n", "m", "max_iter", *(f"{x}_batch" for x in ("M", "C1", "C2", "p", "q"))])
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
    ROWS: tl.constexpr,
):
    r"""Stationary points of J(T) = E(T) - epsilon H(T) for `batch` problems, by the guarded iteration.

    With X the negative log-kernel of the plan and G(T) = grad E(T) / epsilon without the terms that only shift the
    potentials, a step is X+ = X + theta (G - X), T+ = Sinkhorn(X+). It is taken where J does not rise, and else
    halved; theta follows the curvature along the last step. A plan is returned as converged only when an undamped step
    from it has moved it, and its marginals are off, by less than the tolerance together.

    Tiles
        A program owns PACK problems padded to SIDE x SIDE. The Sinkhorn kernel K = exp(g - X - rowmax) and its scalings
        u, v stay in registers for all inner sweeps u = p / (K v), v = q / (K' u). All else, padded and with constant
        strides, waits in `scratch`, also the numbers that steer the iteration: a step is a row of phases, each of which
        loads what it needs, so that registers hold the largest phase and not the sum. Products take a few terms of
        their sums at a time, the other phases ROWS rows. Potentials move to g after every step. A problem that has
        ended is not touched by the others of its pack.
    Cost
        Per inner sweep 4 n m multiplications and additions, from registers; per step 4 n m (n + m), twice that for
        asymmetric structures; from memory, the inputs and outputs once, and SLOTS SIDE^2 values of scratch.

    References
    ----------
    Mirror descent: Peyré, Cuturi and Solomon (ICML 2016). Absorption of potentials into the kernel: Schmitzer,
    "Stabilized sparse scaling algorithms for entropy regularized transport problems", 2019.
    """
    DTYPE: tl.constexpr = C1.dtype.element_ty
    area: tl.constexpr = SIDE * SIDE
    problem, exists = locate_pack(batch, PACK)
    i, j = tl.arange(0, SIDE)[:, None, None], tl.arange(0, SIDE)[None, :, None]
    # One wide address for the program; offsets from it stay 32 bits wide.
    scratch += tl.program_id(0).to(tl.int64) * (PACK * at.SLOTS * area)
    base = tl.arange(0, PACK)[None, None, :] * (at.SLOTS * area)
    tile = base + i * SIDE + j
    vectors, numbers = scratch + at.VECTORS * area + base, scratch + at.NUMBERS * area + base

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
    tl.store(vectors + at.ROW_MASS * SIDE + i, rows / mass)
    tl.store(vectors + at.COLUMN_MASS * SIDE + j, columns)
    tl.debug_barrier()

    # Structures.
    slot = scratch + at.TRIAL * area
    valid, lowest1 = pad(C1 + problem * C1_batch, n, n, valid, slot, base, ROWS, PACK, SIDE)
    asymmetric = prepare(
        slot, n, scratch + at.VECTORS * area + at.ROW_MASS * SIDE, scratch + at.VECTORS * area + at.SHIFT1 * SIDE,
        scratch + at.SYMMETRIC1 * area, scratch + at.SKEW1 * area, base, EPS, LOSS, False, ROWS, PACK, SIDE,
    )  # fmt: skip
    valid, lowest2 = pad(C2 + problem * C2_batch, m, m, valid, slot, base, ROWS, PACK, SIDE)
    asymmetric &= prepare(
        slot, m, scratch + at.VECTORS * area + at.COLUMN_MASS * SIDE, scratch + at.VECTORS * area + at.SHIFT2 * SIDE,
        scratch + at.SYMMETRIC2 * area, scratch + at.SKEW2 * area, base, EPS, LOSS, True, ROWS, PACK, SIDE,
    )  # fmt: skip
    if LOSS == "kl":
        valid = valid & (lowest1 >= 0) & (lowest2 >= 0)
    # Without the other, one skew part is nothing: it may be there for another problem of the pack.
    zero = tl.zeros([SIDE, SIDE, PACK], DTYPE)
    tl.store(scratch + at.SKEW1 * area + tile, zero, mask=asymmetric == 0)
    sides = 1 + tl.max(asymmetric.to(tl.int32))

    # Linear cost, and the first plan Sinkhorn(X).
    linear_slot, x_slot = scratch + at.LINEAR * area, scratch + at.X * area
    if M is None:
        tl.store(linear_slot + tile, zero)
    else:
        valid, lowest = pad(M + problem * M_batch, n, m, valid, linear_slot, base, ROWS, PACK, SIDE)
        tl.store(linear_slot + tile, (1 - a) / eps * tl.load(linear_slot + tile))
    if start is None:
        tl.store(x_slot + tile, zero)
        tl.store(vectors + at.POTENTIAL * SIDE + j, tl.where(columns > 0, tl.log(tl.maximum(columns, TINY)), 0))
    else:
        valid, lowest = pad(start + problem * n * m, n, m, valid, x_slot, base, ROWS, PACK, SIDE)
        valid = valid & (lowest >= 0)
        tl.store(x_slot + tile, -tl.log(tl.maximum(tl.load(x_slot + tile), TINY)))
        tl.store(vectors + at.POTENTIAL * SIDE + j, tl.zeros([1, SIDE, PACK], DTYPE))
    if start_g is not None:
        warm, valid = read(start_g, valid, problem * m + j, j < m)
        warm = (warm - a * mass * tl.load(vectors + at.SHIFT2 * SIDE + j)) / eps
        tl.store(vectors + at.WARM * SIDE + j, warm)
    tl.store(scratch + at.PLAN * area + tile, zero)
    tl.store(scratch + at.PRODUCT * area + tile, zero)

    active = valid & exists
    nought = tl.zeros([1, 1, PACK], DTYPE)
    tl.store(numbers + at.WEIGHT, a * mass / eps)
    tl.store(numbers + at.MASS, mass)
    tl.store(numbers + at.VALID, valid)
    tl.store(numbers + at.ACTIVE, active)
    tl.store(numbers + at.STATUS, tl.where(valid, 0, NUMERICAL))
    tl.store(numbers + at.STEPS, nought)
    tl.store(numbers + at.ERROR, nought)
    tl.store(numbers + at.MOVED, nought)
    tl.store(numbers + at.OBJECTIVE, nought + 1e30)
    tl.store(numbers + at.NOISE, nought)
    tl.store(numbers + at.THETA, nought + 1)
    tl.store(numbers + at.CHANGE, nought + (1 if start is None else 0))
    tl.store(numbers + at.BEST, nought + 1e30)
    tl.store(numbers + at.IDLE, nought)
    tl.store(numbers + at.SETTLE, nought + 1)
    tl.debug_barrier()

    open_ = tl.sum(active.to(tl.int32))
    begun = 0
    while open_ > 0:
        aim(scratch, base, max_iter, begun, tol, EPS, SIDE)
        couple(scratch, base, TINY, SIDE)
        product(scratch, sides, DTYPE, PACK, SIDE)
        accept, open_ = judge(scratch, base, begun, tol, EPS, TINY, DTYPE, ROWS, PACK, SIDE)
        if start_g is None:
            keep(scratch, base, accept, at.G, ROWS, SIDE)
        else:
            keep(scratch, base, accept, tl.where(begun == 1, at.G, at.WARM), ROWS, SIDE)
        begun = 1

    a = of_problem(alphas, alpha, problem, DTYPE, PACK)
    eps = of_problem(epsilons, epsilon, problem, DTYPE, PACK)
    mass, valid = tl.load(numbers + at.MASS), tl.load(numbers + at.VALID) == 1
    nan = tl.full([1, 1, PACK], float("nan"), DTYPE)
    tl.store(residual + problem, tl.where(valid, tl.load(numbers + at.MOVED), nan), mask=exists)
    tl.store(marginal_error + problem, tl.where(valid, tl.load(numbers + at.ERROR), nan), mask=exists)
    tl.store(status + problem, tl.load(numbers + at.STATUS).to(tl.int64), mask=exists)
    tl.store(n_iter + problem, tl.load(numbers + at.STEPS).to(tl.int64), mask=exists)
    rows, columns = tl.load(vectors + at.ROW_MASS * SIDE + i), tl.load(vectors + at.COLUMN_MASS * SIDE + j)
    shift1, shift2 = tl.load(vectors + at.SHIFT1 * SIDE + i), tl.load(vectors + at.SHIFT2 * SIDE + j)
    f_ = tl.load(vectors + at.F * SIDE + i) + tl.log(mass)
    f_ = tl.where(rows > 0, eps * f_ + a * mass * shift1, 0)
    g_ = tl.where(columns > 0, eps * tl.load(vectors + at.G * SIDE + j) + a * mass * shift2, 0)
    tl.store(f + problem * n + i, tl.where(valid, f_, nan), mask=exists & (i < n))
    tl.store(g + problem * m + j, tl.where(valid, g_, nan), mask=exists & (j < m))
    T = tl.load(scratch + at.PLAN * area + tile)
    # With row sums r = p + e, <f1(C1), r r'> is <2 r - p, (f1(C1) + f1(C1)') p> / 2 up to e^2; columns likewise.
    quad_ = tl.sum((2 * tl.sum(T, 1, keep_dims=True) - rows) * shift1, 0, keep_dims=True)
    quad_ += tl.sum((2 * tl.sum(T, 0, keep_dims=True) - columns) * shift2, 1, keep_dims=True)
    quad_ = mass * mass * (quad_ - total(tl.load(scratch + at.PRODUCT * area + tile) * T)) / 2
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
    scratch = C1.new_empty(programs * pack.problems * at.SLOTS.value * pack.side**2)
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
        ROWS=pack.rows,
        **pack.options,
    )
    return outputs
