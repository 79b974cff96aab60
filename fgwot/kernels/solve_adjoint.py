r"""The gradients of the values of small problems, all in one kernel."""

# Triton's types are not Python's: kernels carry no annotations.
# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators

from collections.abc import Sequence

import triton
import triton.language as tl
from torch import Tensor

from fgwot.kernels.common import batch_stride, check_device
from fgwot.kernels.pack import df1, df2, dh2, h2, of_problem, pad, sandwich, shared
from fgwot.kernels.shapes import pack_for

_PLAN, _TURNED, _FACTOR, _HALF, _SUMS = map(tl.constexpr, range(5))
SLOTS = tl.constexpr(5)
_DISTANCES = [f"{x}_batch" for x in ("C1", "C2", "dvalue", "dcost", "dlinear", "dquad")]


@triton.jit(do_not_specialize=["n", "m", *_DISTANCES])
def solve_adjoint_kernel(
    plan,
    C1,
    C2,
    f,
    g,
    dvalue,
    dcost,
    dlinear,
    dquad,
    alphas,
    scratch,
    dM,
    dC1,
    dC2,
    dp,
    dq,
    n,
    m,
    C1_batch,
    C2_batch,
    dvalue_batch,
    dcost_batch,
    dlinear_batch,
    dquad_batch,
    alpha: tl.float64,
    LOSS: tl.constexpr,
    SIDE: tl.constexpr,
    ROWS: tl.constexpr,
):
    r"""Gradients with the plan T held fixed, for the cotangents of value, cost, <M, T> and <L (x) T, T>.

    dM = c T and, with w the weight of <L (x) T, T>, r = T 1 and s = T' 1,

    - dC1 = w (f1'(C1) * r r' - h1'(C1) * T h2(C2) T')
    - dC2 = w (f2'(C2) * s s' - h2'(C2) * T' h1(C1) T)

    dp = f and dq = g, times the cotangent of the value. Absent cotangents and unwanted gradients are None.

    Tiles
        As in `solve_kernel`: a problem in a program, padded copies in `scratch`, a few rows or terms at a time.
    Cost
        4 n m (n + m) multiplications and additions; from memory, the inputs and outputs once.

    References
    ----------
    The envelope theorem; Peyré, Cuturi and Solomon (ICML 2016) for the factors.
    """
    DTYPE: tl.constexpr = C1.dtype.element_ty
    area: tl.constexpr = SIDE * SIDE
    problem = tl.program_id(0).to(tl.int64)
    i, j, k = tl.arange(0, SIDE)[:, None], tl.arange(0, SIDE)[None, :], tl.arange(0, ROWS)[:, None]
    scratch += problem * (SLOTS * area)
    T, turned, factor = scratch + _PLAN * area, scratch + _TURNED * area, scratch + _FACTOR * area
    half, sums = scratch + _HALF * area, scratch + _SUMS * area

    a = of_problem(alphas, alpha, problem, DTYPE)
    none = a * 0
    value_, cost_, linear_, quad_ = none, none, none, none
    if dvalue is not None:
        value_ = tl.load(dvalue + problem * dvalue_batch)
    if dcost is not None:
        cost_ = tl.load(dcost + problem * dcost_batch)
    if dlinear is not None:
        linear_ = tl.load(dlinear + problem * dlinear_batch)
    if dquad is not None:
        quad_ = tl.load(dquad + problem * dquad_batch)
    weight = a * (value_ + cost_) + quad_

    if dp is not None:
        inside = i < n
        f_ = tl.load(f + problem * n + i, mask=inside, other=0)
        tl.store(dp + problem * n + i, value_ * f_, mask=inside)
    if dq is not None:
        inside = j < m
        g_ = tl.load(g + problem * m + j, mask=inside, other=0)
        tl.store(dq + problem * m + j, value_ * g_, mask=inside)
    known = n > 0
    pad(plan + problem * n * m, n, m, known, T, ROWS, SIDE)
    if dM is not None:
        scale = (1 - a) * (value_ + cost_) + linear_
        for start in range(0, SIDE, ROWS):
            at, mask = start + k, (start + k < n) & (j < m)
            tl.store(dM + problem * n * m + at * m + j, scale * tl.load(T + at * SIDE + j), mask=mask)
    entries = tl.load(T + j * SIDE + i)
    tl.store(turned + i * SIDE + j, entries)
    tl.store(sums + j, tl.sum(entries, 0, keep_dims=True))
    tl.store(sums + SIDE + i, tl.sum(entries, 1, keep_dims=True))
    tl.debug_barrier()

    zero = tl.zeros([SIDE, SIDE], DTYPE)
    if dC1 is not None:
        pad(C2 + problem * C2_batch, m, m, known, factor, ROWS, SIDE)
        for start in range(0, SIDE, ROWS):
            at = (start + k) * SIDE + j
            h = tl.where((start + k < m) & (j < m), h2(tl.load(factor + at), LOSS), 0)
            tl.store(factor + at, h)
        tl.debug_barrier()
        tl.store(half + i * SIDE + j, sandwich(T, factor, turned, m, m, half, zero, SIDE))
        tl.debug_barrier()
        for start in range(0, SIDE, ROWS):
            at, mask = start + k, (start + k < n) & (j < n)
            c = tl.load(C1 + problem * C1_batch + at * n + j, mask=mask, other=0)
            r = tl.load(sums + at) * tl.load(sums + j)
            result = weight * (df1(c, LOSS) * r - tl.load(half + at * SIDE + j))
            tl.store(dC1 + problem * n * n + at * n + j, result, mask=mask)
        tl.debug_barrier()
    if dC2 is not None:
        pad(C1 + problem * C1_batch, n, n, known, factor, ROWS, SIDE)
        tl.store(half + i * SIDE + j, sandwich(turned, factor, T, n, n, half, zero, SIDE))
        tl.debug_barrier()
        for start in range(0, SIDE, ROWS):
            at, mask = start + k, (start + k < m) & (j < m)
            c = tl.load(C2 + problem * C2_batch + at * m + j, mask=mask, other=0)
            r = tl.load(sums + SIDE + at) * tl.load(sums + SIDE + j)
            result = weight * (df2(c, LOSS) * r - dh2(c, LOSS) * tl.load(half + at * SIDE + j))
            tl.store(dC2 + problem * m * m + at * m + j, result, mask=mask)


def solve_adjoint(
    plan: Tensor,
    C1: Tensor,
    C2: Tensor,
    f: Tensor,
    g: Tensor,
    cotangents: Sequence[Tensor | None],
    alphas: Tensor | None,
    alpha: float,
    loss: str,
    wanted: Sequence[bool],
) -> list[Tensor]:
    """Launch `solve_adjoint_kernel` for what `solve` returned and the cotangents (B,) of its four values.

    Return those gradients in M, C1, C2, p and q that are `wanted`.
    """
    check_device(C1)
    batch, n, m = plan.shape
    pack = pack_for(n, m, C1.dtype)
    if pack is None:
        raise ValueError(f"no pack holds problems of {n} and {m} points in {C1.dtype}")
    C1, C2 = shared(C1), shared(C2)
    scratch = C1.new_empty(batch * SLOTS.value * pack.side**2)
    shapes = ((n, m), (n, n), (m, m), (n,), (m,))
    gradients = [C1.new_empty(batch, *shape) if asked else None for shape, asked in zip(shapes, wanted, strict=True)]
    solve_adjoint_kernel[(batch,)](
        plan,
        C1,
        C2,
        f,
        g,
        *cotangents,
        None if alphas is None else alphas.contiguous(),
        scratch,
        *gradients,
        n,
        m,
        batch_stride(C1),
        batch_stride(C2),
        *(0 if x is None else x.stride(0) for x in cotangents),
        alpha,
        LOSS=loss,
        SIDE=pack.side,
        ROWS=pack.rows,
        **pack.options,
    )
    return [x for x in gradients if x is not None]
