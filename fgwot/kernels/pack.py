"""What the kernels that hold whole problems share: packs of small matrices, and losses that factor.

Arrays have the shape (rows, columns, problems of the pack). The last axis is the first to be spread over the threads:
a thread then works on one problem, and what there is once per problem takes it one register. Matrix products alone want
the problems first.
"""

# Triton's types are not Python's: kernels carry no annotations.
# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators

import triton
import triton.language as tl
from torch import Tensor

from fgwot.kernels.common import SHIFT

# The conditions are constants of the compilation, where a branch not taken must stay inside its else.
# ruff: noqa: RET505


@triton.jit
def h1(a, LOSS: tl.constexpr):
    """First factor of L(a, b) = f1(a) + f2(b) - h1(a) h2(b)."""
    tl.static_assert(LOSS == "square" or LOSS == "kl")
    return a


@triton.jit
def h2(b, LOSS: tl.constexpr):
    """Second factor."""
    if LOSS == "square":
        return 2 * b
    else:
        return tl.log(b + SHIFT)


@triton.jit
def f1(a, LOSS: tl.constexpr):
    """Part in a."""
    if LOSS == "square":
        return a * a
    else:
        return a * tl.log(a + SHIFT) - a


@triton.jit
def f2(b, LOSS: tl.constexpr):
    """Part in b."""
    if LOSS == "square":
        return b * b
    else:
        return b


@triton.jit
def df1(a, LOSS: tl.constexpr):
    """Derivative of f1."""
    if LOSS == "square":
        return 2 * a
    else:
        return tl.log(a + SHIFT) + a / (a + SHIFT) - 1


@triton.jit
def df2(b, LOSS: tl.constexpr):
    """Derivative of f2."""
    if LOSS == "square":
        return 2 * b
    else:
        return b * 0 + 1


@triton.jit
def dh2(b, LOSS: tl.constexpr):
    """Derivative of h2; that of h1 is 1."""
    if LOSS == "square":
        return b * 0 + 2
    else:
        return 1 / (b + SHIFT)


@triton.jit
def total(x):
    """Sum of each matrix of a pack, (1, 1, P)."""
    return tl.sum(tl.sum(x, 0, keep_dims=True), 1, keep_dims=True)


@triton.jit
def largest(x):
    """Largest entry of each matrix of a pack, (1, 1, P)."""
    return tl.max(tl.max(x, 0, keep_dims=True), 1, keep_dims=True)


@triton.jit
def locate_pack(batch, PACK: tl.constexpr):
    """Problems of this program (1, 1, P), int64, and which of them exist; the others repeat the last problem."""
    problem = tl.program_id(0).to(tl.int64) * PACK + tl.arange(0, PACK)[None, None, :]
    return tl.minimum(problem, batch - 1), problem < batch


@triton.jit
def of_problem(values, default, problem, DTYPE: tl.constexpr, PACK: tl.constexpr):
    """One number per problem (1, 1, P): from an array (B,), or the same for all."""
    if values is None:
        return tl.full([1, 1, PACK], default, DTYPE)
    else:
        return tl.load(values + problem)


@triton.jit
def read(x, valid, offsets, mask):
    """Entries of an input, zero outside; where one is not finite it is replaced and its problem marked."""
    entries = tl.load(x + offsets, mask=mask, other=0)
    # NaN < inf is false.
    good = tl.abs(entries) < float("inf")
    return tl.where(good, entries, 0), valid & (largest((good == 0).to(tl.int32)) == 0)


@triton.jit
def pad(x, rows, columns, valid, slot, base, ROWS: tl.constexpr, PACK: tl.constexpr, SIDE: tl.constexpr):
    """Pad a matrix (rows, columns) of each problem into its slot; return also its smallest entry."""
    k, j = tl.arange(0, ROWS)[:, None, None], tl.arange(0, SIDE)[None, :, None]
    lowest = tl.zeros([1, 1, PACK], slot.dtype.element_ty)
    for start in range(0, SIDE, ROWS):
        i = start + k
        entries, valid = read(x, valid, i * columns + j, (i < rows) & (j < columns))
        lowest = tl.minimum(lowest, -largest(-entries))
        tl.store(slot + base + i * SIDE + j, entries)
    tl.debug_barrier()
    return valid, lowest


@triton.jit
def sandwich(left, inner, right, half, result, STRIDE: tl.constexpr, SIDE: tl.constexpr):
    """Add left @ inner @ right to `result` (P, SIDE, SIDE), by way of `half`, which is free; problems lie STRIDE apart.

    In full precision, one term of a sum at a time: a dot of 8 terms is refused by Triton before 3.7.
    """
    base = tl.arange(0, result.shape[0])[:, None, None] * STRIDE
    column, row = base + tl.arange(0, SIDE)[None, :, None] * SIDE, base + tl.arange(0, SIDE)[None, None, :]
    product = tl.zeros_like(result)
    a, b = left + column, inner + row
    for k in range(SIDE):
        product += tl.load(a + k) * tl.load(b + k * SIDE)
    tl.store(half + base + tl.arange(0, SIDE)[None, :, None] * SIDE + tl.arange(0, SIDE)[None, None, :], product)
    tl.debug_barrier()
    a, b = half + column, right + row
    for k in range(SIDE):
        result += tl.load(a + k) * tl.load(b + k * SIDE)
    tl.debug_barrier()
    return result


@triton.jit
def put(result, slot, STRIDE: tl.constexpr, SIDE: tl.constexpr):
    """Store (P, SIDE, SIDE) for kernels that count the problems last."""
    base = tl.arange(0, result.shape[0])[:, None, None] * STRIDE
    tl.store(slot + base + tl.arange(0, SIDE)[None, :, None] * SIDE + tl.arange(0, SIDE)[None, None, :], result)
    tl.debug_barrier()


def shared(x: Tensor) -> Tensor:
    """Return the same values (B, ...), each problem's contiguous; what the batch shares stays shared."""
    if x.stride(0) == 0 and len(x) > 1:
        return x[:1].contiguous().expand(x.shape)
    return x.contiguous()
