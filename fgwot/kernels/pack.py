"""What the kernels that hold whole problems share: padded matrices, their products, and losses that factor."""

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
def of_problem(values, default, problem, DTYPE: tl.constexpr):
    """One number of a problem: from an array (B,), or the same for all."""
    if values is None:
        return tl.full([], default, DTYPE)
    else:
        return tl.load(values + problem)


@triton.jit
def read(x, valid, offsets, mask):
    """Entries of an input, zero outside; one that is not finite is replaced, and the problem marked."""
    entries = tl.load(x + offsets, mask=mask, other=0)
    # NaN < inf is false.
    good = tl.abs(entries) < float("inf")
    return tl.where(good, entries, 0), valid & (tl.sum((good == 0).to(tl.int32)) == 0)


@triton.jit
def pad(x, rows, columns, valid, slot, ROWS: tl.constexpr, SIDE: tl.constexpr):
    """Pad a matrix (rows, columns) into its slot; return also its smallest entry, or zero."""
    k, j = tl.arange(0, ROWS)[:, None], tl.arange(0, SIDE)[None, :]
    lowest = tl.zeros([ROWS, SIDE], slot.dtype.element_ty)
    for start in range(0, SIDE, ROWS):
        i = start + k
        entries, valid = read(x, valid, i * columns + j, (i < rows) & (j < columns))
        lowest = tl.minimum(lowest, entries)
        tl.store(slot + i * SIDE + j, entries)
    tl.debug_barrier()
    return valid, tl.min(lowest)


@triton.jit
def sandwich(left, inner, right, rows, columns, half, result, SIDE: tl.constexpr):
    """Add left @ inner @ right to `result`, by way of `half`, which is free; inner has `rows` and `columns`.

    In full precision, one term of a sum at a time: a dot of 8 terms is refused by Triton before 3.7.
    """
    i, j = tl.arange(0, SIDE)[:, None], tl.arange(0, SIDE)[None, :]
    product = tl.zeros_like(result)
    for k in range(rows):
        product += tl.load(left + i * SIDE + k) * tl.load(inner + k * SIDE + j)
    tl.store(half + i * SIDE + j, product)
    tl.debug_barrier()
    for k in range(columns):
        result += tl.load(half + i * SIDE + k) * tl.load(right + k * SIDE + j)
    tl.debug_barrier()
    return result


def shared(x: Tensor) -> Tensor:
    """Return the same values (B, ...), each problem's contiguous; what the batch shares stays shared."""
    if x.stride(0) == 0 and len(x) > 1:
        return x[:1].contiguous().expand(x.shape)
    return x.contiguous()
