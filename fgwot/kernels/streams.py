r"""Passes over a plan that is never stored, T = exp(a (+) b - U V): what `fgwot.streamed.passes` asks of CUDA."""

# Triton's types are not Python's: kernels carry no annotations.
# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators

from math import log2
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.nn.functional import pad

from fgwot.kernels.common import check_device
from fgwot.kernels.shapes import STREAM_KINDS, STREAM_SIDE, RowTile, splits, stream_tile_for

FLOOR = tl.constexpr(-1e30)  # is below all exponents, but no -inf


@triton.jit
def exponents(U, V, b, i, j, n, m, rank):
    """log2 of exp(b - U V) for rows i and columns j, as sums over the rank in one order for all kernels."""
    x = tl.load(b + j)[None, :] - tl.load(U + i)[:, None] * tl.load(V + j)[None, :]
    for k in range(1, rank):
        x -= tl.load(U + k * n + i)[:, None] * tl.load(V + k * m + j)[None, :]
    return x


@triton.jit
def stream_rows_kernel(
    U,
    V,
    b,
    Z,
    top,
    totals,
    products,
    n,
    m,
    rank,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    KINDS: tl.constexpr,
):
    r"""top_i = max_j x_ij,   totals_i = sum_j 2^(x_ij - top_i),   products_ik = sum_j 2^(x_ij - top_i) Z_jk.

    x are the exponents b - U V to base 2, with U (rank, n), V (rank, m) and Z (m, KINDS).

    Tiles
        A program owns ROWS rows and goes over all columns, COLUMNS at a time: x is made of its factors in registers,
        and sums are scaled whenever the largest exponent so far grows. Sums over one tile have the type of the entries,
        all others are float64. Sizes are padded to whole tiles, b with -inf: nothing is masked.
    Cost
        rank + KINDS multiplications and one exponential an entry; (rank + 1 + KINDS) m values are read by each program,
        most of them from the L2 cache, and nothing of the plan's size is written.

    References
    ----------
    The running maximum of a softmax is that of Milakov and Gimelshein, "Online normalizer calculation for softmax"
    (2018); going over a matrix that is never stored is FlashAttention's (Dao et al. 2022).
    """
    i, step, kinds = tl.program_id(0) * ROWS + tl.arange(0, ROWS), tl.arange(0, COLUMNS), tl.arange(0, KINDS)
    highest = tl.full([ROWS], FLOOR, b.dtype.element_ty)
    total, found = tl.zeros([ROWS], tl.float64), tl.zeros([ROWS, KINDS], tl.float64)
    for start in range(0, m, COLUMNS):
        j = start + step
        x = exponents(U, V, b, i, j, n, m, rank)
        higher = tl.maximum(highest, tl.max(x, 1))
        entries = tl.exp2(x - higher[:, None])
        shrink = tl.exp2((highest - higher).to(tl.float64))
        total = total * shrink + tl.sum(entries, 1).to(tl.float64)
        z = tl.load(Z + j[:, None] * KINDS + kinds[None, :])
        some = tl.dot(entries, z, input_precision="ieee", out_dtype=entries.dtype)
        found = found * shrink[:, None] + some.to(tl.float64)
        highest = higher
    tl.store(top + i, highest)
    tl.store(totals + i, total)
    tl.store(products + i[:, None] * KINDS + kinds[None, :], found)


@triton.jit
def stream_columns_kernel(
    U, V, b, top, weight, sums, n, m, rank, parts, length, ROWS: tl.constexpr, COLUMNS: tl.constexpr
):
    r"""sums_j = sum_i weight_i 2^(x_ij - top_i), over `length` rows for each of the parts.

    Tiles
        A program owns COLUMNS columns of one part and goes over its rows, ROWS at a time, in their order. The parts are
        added in theirs: every run gives the same bits.
    Cost
        rank multiplications and one exponential an entry, as in `stream_rows_kernel`: that they are computed twice
        costs less than an array of the plan's size.
    """
    part, step = tl.program_id(0) % parts, tl.arange(0, ROWS)
    j = tl.program_id(0) // parts * COLUMNS + tl.arange(0, COLUMNS)
    total = tl.zeros([COLUMNS], tl.float64)
    for start in range(part * length, tl.minimum(n, (part + 1) * length), ROWS):
        i = start + step
        x = exponents(U, V, b, i, j, n, m, rank)
        entries = tl.exp2(x - tl.load(top + i)[:, None]) * tl.load(weight + i)[:, None]
        total += tl.sum(entries, 0).to(tl.float64)
    tl.store(sums + part * m + j, total)


@triton.jit
def stream_difference_kernel(
    U,
    V,
    b,
    top,
    weight,
    other_U,
    other_V,
    other_b,
    other_top,
    other_weight,
    sums,
    n,
    m,
    rank,
    other_rank,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    r"""sums_i = sum_j |T_ij - T'_ij| of two plans, T_ij = weight_i 2^(x_ij - top_i).

    Tiles
        Those of `stream_rows_kernel`.
    Cost
        The ranks of both in multiplications and two exponentials an entry.
    """
    i, step = tl.program_id(0) * ROWS + tl.arange(0, ROWS), tl.arange(0, COLUMNS)
    highest, mass = tl.load(top + i), tl.load(weight + i)
    other_highest, other_mass = tl.load(other_top + i), tl.load(other_weight + i)
    total = tl.zeros([ROWS], tl.float64)
    for start in range(0, m, COLUMNS):
        j = start + step
        one = tl.exp2(exponents(U, V, b, i, j, n, m, rank) - highest[:, None]) * mass[:, None]
        x = exponents(other_U, other_V, other_b, i, j, n, m, other_rank)
        other = tl.exp2(x - other_highest[:, None]) * other_mass[:, None]
        total += tl.sum(tl.abs(one - other), 1).to(tl.float64)
    tl.store(sums + i, total)


class Factors(NamedTuple):
    """U (rank, n') and V (rank, m'), b (m'), padded, of exponents to base 2; n and m."""

    U: Tensor
    V: Tensor
    b: Tensor
    n: int
    m: int

    @staticmethod
    def of(U: Tensor, V: Tensor, b: Tensor, dtype: torch.dtype) -> "Factors":
        """Factors of exponents b - U V to base e, in float64 with U (n, rank), for entries of a type."""
        check_device(b)
        n, m = len(U), len(b)
        rows, columns = -n % STREAM_SIDE, -m % STREAM_SIDE
        one = max(1 - U.shape[1], 0)  # without factors one of zeros
        left = _padded((U.T * log2(torch.e)).to(dtype), (0, rows, 0, one))
        right = _padded(V.to(dtype), (0, columns, 0, one))
        return Factors(left, right, _padded((b * log2(torch.e)).to(dtype), (0, columns), value=-torch.inf), n, m)

    @property
    def sizes(self) -> tuple[int, int, int]:
        """What kernels are told."""
        return self.U.shape[1], self.V.shape[1], len(self.U)


def row_sums(factors: Factors, Z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Largest exponents (n,), and sums (n,) and products (n, k) of 2^(x - top) in float64, for Z (m, k)."""
    U, V, b, n, m = factors
    tile = stream_tile_for("stream_rows", b.dtype)
    top, total = b.new_empty(U.shape[1]), b.new_empty(U.shape[1], dtype=torch.float64)
    found = []
    for some in Z.to(b.dtype).split(STREAM_KINDS, 1):
        z = _padded(some, (0, STREAM_KINDS - some.shape[1], 0, len(b) - m))
        products = total.new_empty(len(total), STREAM_KINDS)
        out = top, total, products
        _launch(
            stream_rows_kernel, (len(total) // tile.rows,), tile, U, V, b, z, *out, *factors.sizes, KINDS=STREAM_KINDS
        )
        found.append(products[:n, : some.shape[1]])
    return top[:n], total[:n], torch.cat(found, 1)


def column_sums(factors: Factors, top: Tensor, weight: Tensor) -> Tensor:
    """Column sums (m,) in float64 of weight (n,) times 2^(x - top)."""
    U, V, b, _, m = factors
    tile = stream_tile_for("stream_columns", b.dtype)
    blocks = len(b) // tile.columns
    parts, length = splits(U.shape[1] // tile.rows, blocks)
    sums = torch.empty(parts, len(b), dtype=torch.float64, device=b.device)
    rows = _rows(factors, top, weight)
    arguments = *rows, sums, *factors.sizes, parts, length * tile.rows
    _launch(stream_columns_kernel, (blocks * parts,), tile, U, V, b, *arguments)
    return sums.sum(0)[:m]


def distances(
    one: Factors, top: Tensor, weight: Tensor, other: Factors, other_top: Tensor, other_weight: Tensor
) -> Tensor:
    """L1 distances (n,) in float64 of the rows of two plans as above."""
    tile = stream_tile_for("stream_difference", one.b.dtype)
    n, m, rank = one.sizes
    sums = torch.empty(n, dtype=torch.float64, device=one.b.device)
    first, second = (
        (*f[:3], *_rows(f, *rows)) for f, rows in ((one, (top, weight)), (other, (other_top, other_weight)))
    )
    arguments = *first, *second, sums, n, m, rank, len(other.U)
    _launch(stream_difference_kernel, (n // tile.rows,), tile, *arguments)
    return sums[: one.n]


def _rows(factors: Factors, top: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Largest exponents and weights of the rows, padded by rows without weight."""
    more = factors.U.shape[1] - factors.n
    return _padded(top, (0, more)), _padded(weight.to(factors.b.dtype), (0, more))


def _padded(x: Tensor, more: tuple[int, ...], value: float = 0.0) -> Tensor:
    return pad(x, more, value=value).contiguous()


def _launch(kernel, grid, tile: RowTile, *arguments, **constants) -> None:
    kernel[grid](*arguments, ROWS=tile.rows, COLUMNS=tile.columns, **constants, **tile.options)
