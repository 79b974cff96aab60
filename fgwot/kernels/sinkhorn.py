r"""Sinkhorn sweeps: exact alternating updates of both potentials from about one read of the costs."""

# Triton's types are not Python's: kernels carry no annotations.
# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators

import torch
import triton
import triton.language as tl
from torch import Tensor

from fgwot.kernels.common import batch_stride, check_device, row_major
from fgwot.kernels.shapes import RowTile, limited, row_tile_for

LOG2E = tl.constexpr(1.4426950408889634)  # the device's exponential and logarithm are those to base 2
FLOOR = tl.constexpr(-1e30)  # stands for -inf where -inf - -inf could occur
BOUND = tl.constexpr(1e11)  # of a scaling and its inverse: their products stay in the range of float32

# The conditions are constants of the compilation, where a branch not taken must stay inside its else.
# ruff: noqa: RET505


@triton.jit
def above_zero(x):
    """Keep what is divided by, or under a logarithm, in the range of its type."""
    return tl.maximum(x, 1e-300 if x.dtype == tl.float64 else 1e-37)


@triton.jit
def block(X, y, at, step, left, LOG: tl.constexpr, MASKED: tl.constexpr):
    """One block of columns and its potentials: costs and potentials as log2 of what they stand for, or kernel and y."""
    if MASKED:
        x = tl.load(X + at, mask=(step < left)[None, :], other=0)
        y = tl.load(y + step, mask=step < left, other=-float("inf") if LOG else 0)
    else:
        x = tl.load(X + at)
        y = tl.load(y + step)
    return (x * -LOG2E, y * LOG2E) if LOG else (x, y)


@triton.jit
def by_thread(entries, THREADS: tl.constexpr, ALIGNED: tl.constexpr):
    """[ROWS, COLUMNS] as [ROWS, THREADS, .]: the last axis is what one thread has loaded of a row, so no data move."""
    each: tl.constexpr = entries.shape[1] // THREADS
    if ALIGNED:  # neighbours, in one load
        return tl.reshape(entries, [entries.shape[0], THREADS, each])
    else:  # one by one, all threads at once
        return tl.permute(tl.reshape(entries, [entries.shape[0], each, THREADS]), 0, 2, 1)


@triton.jit
def add(x, y, highest, total, LOG: tl.constexpr, ALIGNED: tl.constexpr):
    """Add a block to each thread's row sums; if LOG, sums of 2^(entry - highest), and `highest` grows with them."""
    if LOG:
        entries = by_thread(x + y[None, :], total.shape[1], ALIGNED)
        higher = tl.maximum(highest, tl.max(entries, 2))
        return higher, total * tl.exp2(highest - higher) + tl.sum(tl.exp2(entries - higher[:, :, None]), 2)
    else:
        return highest, total + tl.sum(by_thread(x * y[None, :], total.shape[1], ALIGNED), 2)


@triton.jit
def logarithms(entries):
    """log2 of the column sums of 2^entries."""
    highest = tl.maximum(tl.max(entries, 0), FLOOR)
    return highest + tl.log2(above_zero(tl.sum(tl.exp2(entries - highest[None, :]), 0)))


@triton.jit
def finish(x, y, new, T, partial, step, rows, left, LOG: tl.constexpr, WRITE: tl.constexpr, MASKED: tl.constexpr):
    """Write the column parts of one block, and its plan if WRITE; the parts are then the sums of what was written."""
    if WRITE:
        plan = tl.exp2(x + y[None, :] + new[:, None]) if LOG else x * y[None, :] * new[:, None]
        tl.store(T + step[None, :], plan, mask=rows[:, None] & (step < left)[None, :] if MASKED else rows[:, None])
        joined = tl.sum(plan, 0)
    elif LOG:  # what is the same for a whole column joins at its end
        joined = y + logarithms(x + new[:, None])
    else:  # the sum may overflow, but only in a column without mass
        joined = y * tl.where(y > 0, tl.sum(x * new[:, None], 0), 0)
    if MASKED:
        tl.store(partial + step, joined, mask=step < left)
    else:
        tl.store(partial + step, joined)


@triton.jit(do_not_specialize=["n", "m", "parts", "X_row", "X_batch"])
def rows_kernel(
    X,
    p,
    y,
    x,
    T,
    partial,
    n,
    m,
    parts,
    X_row,
    X_batch,
    LOG: tl.constexpr,
    WRITE: tl.constexpr,
    ALIGNED: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    r"""New row potentials; with them, the part that these rows have in every column sum.

    log      x_i = log p_i - log sum_j exp(y_j - X_ij),   T_ij = exp(x_i + y_j - X_ij),   partial_j = log2 sum_i T_ij
    scaling  x_i = p_i / sum_j X_ij y_j,   T_ij = x_i X_ij y_j,   partial_j = sum_i T_ij

    In the first, X are costs divided by epsilon, and potentials are -inf where there is no mass; in the second, X is a
    kernel exp(-cost), possibly with potentials absorbed. T is written only if WRITE says so; the parts
    then are its sums in either form.

    Tiles
        A program owns ROWS full rows and passes over them COLUMNS at a time: for x, and for the column parts, which
        need x. The second pass finds in a cache what the first has read, so that memory is read about once per
        iteration although rows and columns are updated one after the other, not both from old potentials. The warps
        stand side by side: a thread has all rows of its columns, adds a column by itself, and keeps one sum per row
        until the pass ends; in the logarithmic form relative to its largest exponent so far.
    Cost
        2 passes over n m values, with one exponential per value in each in the logarithmic form, and one more per row
        and block of a thread; from memory, at least n m (1 + 1 / ROWS) values, and n m more to write T.

    References
    ----------
    Sinkhorn's iteration in the stabilised form of Peyré and Cuturi, "Computational optimal transport" (2019), section
    4.4. Joining a row update with the column sums it leads to is this project's.
    """
    part, problem = tl.program_id(0) % parts, (tl.program_id(0) // parts).to(tl.int64)
    tile, step = tl.arange(0, ROWS), tl.arange(0, COLUMNS)
    i = part * ROWS + tile
    row = tl.minimum(tile, n - 1 - part * ROWS)  # rows beyond the last one repeat it, without mass
    if ALIGNED:  # the launcher has seen it; this tells the compiler
        m, X_row, X_batch = m // 4 * 4, X_row // 4 * 4, X_batch // 4 * 4
    # Offsets inside a tile stay 32 bits wide and bases 64; but where a thread loads one value at a time, only offsets
    # that cannot overflow let the compiler keep one pointer per row, and not one per value.
    at = (row * X_row if ALIGNED else (row * X_row).to(tl.int64))[:, None] + step[None, :]
    X += problem * X_batch + (part * ROWS).to(tl.int64) * X_row
    y += problem * m
    mass = tl.load(p + problem * n + i, mask=i < n, other=0)
    whole = m // COLUMNS * COLUMNS
    left = m - whole
    THREADS: tl.constexpr = COLUMNS * mass.dtype.primitive_bitwidth // 128  # side by side, 16 bytes each
    highest = tl.full([ROWS, THREADS], FLOOR, mass.dtype)
    total = tl.zeros([ROWS, THREADS], mass.dtype)
    for start in range(0, whole, COLUMNS):
        entries, potentials = block(X + start, y + start, at, step, left, LOG, False)
        highest, total = add(entries, potentials, highest, total, LOG, ALIGNED)
    if whole < m:
        entries, potentials = block(X + whole, y + whole, at, step, left, LOG, True)
        highest, total = add(entries, potentials, highest, total, LOG, ALIGNED)
    if LOG:
        top = tl.max(highest, 1)
        joined = tl.sum(total * tl.exp2(highest - top[:, None]), 1)
        # A row without mass takes part in no column.
        new = tl.where(mass > 0, tl.log2(above_zero(mass)) - top - tl.log2(above_zero(joined)), -float("inf"))
        tl.store(x + problem * n + i, new / LOG2E, mask=i < n)
    else:
        new = mass / above_zero(tl.sum(total, 1))
        tl.store(x + problem * n + i, new, mask=i < n)
    partial += (problem * parts + part) * m
    T += problem * n * m + (part * ROWS).to(tl.int64) * m + (tile * m)[:, None]
    rows = tile < n - part * ROWS
    for start in range(0, whole, COLUMNS):
        entries, potentials = block(X + start, y + start, at, step, left, LOG, False)
        finish(entries, potentials, new, T + start, partial + start, step, rows, left, LOG, WRITE, False)
    if whole < m:
        entries, potentials = block(X + whole, y + whole, at, step, left, LOG, True)
        finish(entries, potentials, new, T + whole, partial + whole, step, rows, left, LOG, WRITE, True)


@triton.jit(do_not_specialize=["parts"])
def columns_kernel(
    partial,
    q,
    y,
    error,
    m,
    parts,
    LOG: tl.constexpr,
    UPDATE: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    r"""Column sums c from the parts of all rows; with them y_j += log q_j - log c_j, or y_j *= q_j / c_j, if UPDATE.

    `error` receives sum_j |c_j - q_j| over the columns of this program.

    Tiles
        A program owns COLUMNS columns and adds the parts in their order: every run gives the same bits.
    Cost
        (parts + 3) m values moved; one exponential per part for the logarithmic form.
    """
    blocks = tl.cdiv(m, COLUMNS)
    problem = (tl.program_id(0) // blocks).to(tl.int64)
    j = tl.program_id(0) % blocks * COLUMNS + tl.arange(0, COLUMNS)
    mask = j < m
    wanted = tl.load(q + problem * m + j, mask=mask, other=0)
    partial += problem * parts * m + j
    if LOG:
        top = tl.full([COLUMNS], FLOOR, wanted.dtype)
        scaled = tl.zeros([COLUMNS], wanted.dtype)
        for _ in range(parts):
            joined = tl.load(partial, mask=mask, other=0)
            partial += m
            higher = tl.maximum(top, joined)
            scaled = scaled * tl.exp2(top - higher) + tl.exp2(joined - higher)
            top = higher
        logarithm = top + tl.log2(above_zero(scaled))
        total = tl.exp2(logarithm)
    else:
        total = tl.zeros([COLUMNS], wanted.dtype)
        for _ in range(parts):
            total += tl.load(partial, mask=mask, other=0)
            partial += m
    if UPDATE:
        old = tl.load(y + problem * m + j, mask=mask, other=0)
        if LOG:
            new = old + (tl.log2(above_zero(wanted)) - logarithm) / LOG2E
            new = tl.where(wanted > 0, new, -float("inf"))
        else:
            new = tl.minimum(tl.maximum(old * (wanted / above_zero(total)), 1 / BOUND), BOUND)
            new = tl.where(wanted > 0, new, 0)
        tl.store(y + problem * m + j, new, mask=mask)
    tl.store(error + tl.program_id(0), tl.sum(tl.where(mask, tl.abs(total - wanted), 0), 0))


def sweeps(
    X: Tensor, p: Tensor, q: Tensor, y: Tensor, count: int, log: bool = True, tile: RowTile | None = None
) -> tuple[Tensor, Tensor]:
    """Launch `count` updates of rows and then columns for X (B, n, m), p (B, n), q (B, m) and y (B, m).

    Returns the column potentials and the error |c - q|_1 (B,) that their last update corrected.
    """
    y = y.clone(memory_format=torch.contiguous_format)
    error = torch.full_like(y[:, 0], torch.inf)
    for _ in range(count):
        _, _, error = _iterate(X, p, q, y, log, False, tile)
    return y, error


def half_sweep(
    X: Tensor, p: Tensor, q: Tensor, y: Tensor, log: bool = True, tile: RowTile | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Plan (B, n, m) with exact rows for column potentials y (B, m), row potentials (B, n) and |c - q|_1 (B,)."""
    return _iterate(X, p, q, y.contiguous(), log, True, tile)


def _iterate(
    X: Tensor, p: Tensor, q: Tensor, y: Tensor, log: bool, write: bool, tile: RowTile | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Update the rows; then write the plan, or else update y in place."""
    check_device(X)
    X, p, q = row_major(X), p.contiguous(), q.contiguous()
    batch, n, m = X.shape
    tile = tile or row_tile_for(m, X.dtype)
    parts, blocks = triton.cdiv(n, tile.rows), triton.cdiv(m, tile.columns)
    aligned = all(distance % 4 == 0 for distance in (m, X.stride(1), batch_stride(X)))
    x, error = torch.empty_like(p), p.new_empty(batch, blocks)
    T = X.new_empty(batch, n, m) if write else x  # which is not touched then
    partial = X.new_empty(batch, parts, m)
    rows_kernel[(batch * parts,)](
        X,
        p,
        y,
        x,
        T,
        partial,
        n,
        m,
        parts,
        X.stride(1),
        batch_stride(X),
        LOG=log,
        WRITE=write,
        ALIGNED=aligned,
        ROWS=tile.rows,
        COLUMNS=tile.columns,
        **limited(tile, X.dtype, aligned, write).options,
    )
    columns_kernel[(batch * blocks,)](
        partial,
        q,
        y,
        error,
        m,
        parts,
        LOG=log and not write,
        UPDATE=not write,
        COLUMNS=tile.columns,
        **tile.options,
    )
    return T, x, error.sum(1)
