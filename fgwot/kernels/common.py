"""What the kernels share: the ground losses, the order of the programs, and the buffers."""

# Triton's types are not Python's: kernels carry no annotations.
# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators

import math
import os

import torch
import triton
import triton.language as tl
from torch import Tensor

from fgwot import constants

SHIFT = tl.constexpr(constants.SHIFT)


# The conditions are constants of the compilation, where a branch not taken must stay inside its else.
# ruff: noqa: RET505


@triton.jit
def clip(x, bound):
    """Clip x to [-bound, bound]."""
    if x.dtype == tl.float64:  # which has no instruction for the minimum; the library's takes a dozen
        return tl.where(x > bound, bound, tl.where(x < -bound, -bound, x))
    else:
        return tl.minimum(tl.maximum(x, -bound), bound)


@triton.jit
def value(a, b, delta, LOSS: tl.constexpr):
    """L(a, b)."""
    d = a - b
    if LOSS == "abs":
        return tl.abs(d)
    elif LOSS == "huber":
        r = tl.abs(d)
        clipped = tl.where(r < delta, r, delta) if r.dtype == tl.float64 else tl.minimum(r, delta)
        return clipped * (r - 0.5 * clipped)
    elif LOSS == "square":
        return d * d
    else:
        tl.static_assert(LOSS == "kl")
        return a * (tl.log(a + SHIFT) - tl.log(b + SHIFT)) - d


@triton.jit
def slope(a, b, delta, LOSS: tl.constexpr):
    """dL/da(a, b); for kl_reversed, L(b, a) takes the place of L(a, b)."""
    d = a - b
    if LOSS == "abs":
        return (d > 0).to(d.dtype) - (d < 0).to(d.dtype)
    elif LOSS == "huber":
        return clip(d, delta)
    elif LOSS == "square":
        return 2 * d
    elif LOSS == "kl":
        return tl.log(a + SHIFT) - tl.log(b + SHIFT) + a / (a + SHIFT) - 1
    else:
        tl.static_assert(LOSS == "kl_reversed")
        return 1 - b / (a + SHIFT)


@triton.jit
def locate(tiles_row, tiles_column, parts):
    """Row tile, column tile, part of the outer sum, and problem of this program.

    All of them share one grid axis: the other two end at 65535.
    """
    rest = tl.program_id(0)
    column = rest % tiles_column
    rest = rest // tiles_column
    row = rest % tiles_row
    rest = rest // tiles_row
    return row, column, rest % parts, (rest // parts).to(tl.int64)


def accumulator(dtype: torch.dtype) -> torch.dtype:
    """Type of the sums, and of everything that a kernel loads."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def problems(shape: torch.Size) -> int:
    """Number of matrices in a tensor of this shape."""
    return math.prod(shape[:-2])


def packed(x: Tensor, dtype: torch.dtype) -> Tensor:
    """Return (..., r, c) as contiguous (batch, r, c'), c' >= c a multiple of 16; a shared matrix keeps stride 0.

    With rows of a multiple of 16 values the compiler may load several at once, under the mask column < c'.
    """
    matrices = x.reshape(problems(x.shape), *x.shape[-2:])
    shared = len(matrices) > 1 and matrices.stride(0) == 0
    one_each = torch.nn.functional.pad((matrices[:1] if shared else matrices).to(dtype), (0, -x.shape[-1] % 16))
    return one_each.contiguous().expand(len(matrices), -1, -1)


def partial_sums(batch: int, parts: int, rows: int, columns: int, like: Tensor) -> Tensor:
    """Buffer for one slice of the result per part of the outer sum; a kernel writes all of it."""
    return torch.empty(batch, parts, rows, columns, dtype=like.dtype, device=like.device)


def batch_stride(x: Tensor) -> int:
    """Distance from one problem's matrix to the next one's."""
    return x.stride(0) if len(x) > 1 else 0


def check_device(x: Tensor) -> None:
    """Refuse tensors that Triton cannot reach, before its driver fails less clearly."""
    if x.device.type != "cuda" and os.environ.get("TRITON_INTERPRET") != "1":
        raise RuntimeError(f"Triton kernels need CUDA tensors, or TRITON_INTERPRET=1; got a tensor on {x.device}")


def row_major(x: Tensor) -> Tensor:
    """Return (..., r, c) as (batch, r, c) with contiguous rows; a copy only where the strides do not allow it."""
    matrices = x.reshape(problems(x.shape), *x.shape[-2:])
    return matrices if matrices.stride(-1) == 1 else matrices.contiguous()
