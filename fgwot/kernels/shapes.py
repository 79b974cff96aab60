"""Tile shapes by size, and every variant that a launch can compile."""

from dataclasses import dataclass, replace
from itertools import product
from typing import Literal, Protocol

import torch

Op = Literal["contraction", "adjoint"]
_OPS: tuple[Op, ...] = ("contraction", "adjoint")

# Programs that fill an A100 or H100 (108 and 132 multiprocessors) about four times over. It is a constant and not a
# property of the device, so that sums are split, and therefore rounded, in the same way on all of them.
PROGRAMS = 512


class _Threads(Protocol):
    @property
    def warps(self) -> int: ...

    @property
    def registers(self) -> int | None: ...


def _options(threads: _Threads) -> dict[str, int | None]:
    # Fused multiplications and additions are asked for: from Triton 3.10 on they are no default.
    return {"num_warps": threads.warps, "num_stages": 1, "maxnreg": threads.registers, "enable_fp_fusion": True}


@dataclass(frozen=True)
class Tile:
    """How one program works: a `side` x `side` block of the result, `unroll` terms of the inner sum at a time.

    `registers` caps what a thread may use, where the compiler would otherwise take more than it needs.
    """

    side: int
    unroll: int
    warps: int
    registers: int | None = None

    @property
    def options(self) -> dict[str, int | None]:
        """What Triton is told, at a launch as ahead of time."""
        return _options(self)


SMALL, MEDIUM, LARGE = Tile(16, 4, 1), Tile(32, 8, 2, registers=80), Tile(64, 8, 4, registers=128)
# float64 needs twice the registers: a large tile would leave room for one program on a multiprocessor.
DOUBLE = replace(MEDIUM, registers=None)


def tile_for(rows: int, columns: int, dtype: torch.dtype) -> Tile:
    """Tile for a (rows, columns) result that is accumulated in `dtype`."""
    longest = max(rows, columns)
    if longest <= SMALL.side:
        return SMALL
    if dtype == torch.float64:
        return DOUBLE
    return MEDIUM if longest <= MEDIUM.side else LARGE


@dataclass(frozen=True)
class RowTile:
    """Entries of a matrix that a program holds at once; it goes over the longer side."""

    rows: int
    columns: int
    warps: int
    registers: int | None = None

    @property
    def options(self) -> dict[str, int | None]:
        """What Triton is told, at a launch as ahead of time."""
        return _options(self)


# A thread loads 16 bytes of each row: its warp 128 columns in float32, 64 in float64.
ROW_TILES = {
    torch.float32: tuple(RowTile(8, 128 * warps, warps) for warps in (1, 4)),
    torch.float64: tuple(RowTile(4, 64 * warps, warps) for warps in (1, 4)),
}


def row_tile_for(columns: int, dtype: torch.dtype) -> RowTile:
    """Return the smallest tile that holds a row at once, or the largest."""
    tiles = ROW_TILES[dtype]
    return next((tile for tile in tiles if columns <= tile.columns), tiles[-1])


def limited(tile: RowTile, dtype: torch.dtype, aligned: bool, write: bool) -> RowTile:
    """Return the tile as the row kernel takes it: as many programs on a multiprocessor as fit without spilling.

    Rows whose distances are not multiples of 4 values (not `aligned`) load them one by one; to `write` the plan takes
    a second address per row.
    """
    if dtype == torch.float64:  # takes as much by itself
        return tile
    return replace(tile, registers=(96 if aligned else 128) if write else (80 if aligned else 88))


@dataclass(frozen=True)
class Pack:
    """How one program solves a whole problem of at most `side` points, padded to it.

    Left to itself, the assembler may spill registers to fit one program more on a multiprocessor.
    """

    side: int
    warps: int
    rows: int  # at a time, where a phase takes a few rows
    registers = 255

    @property
    def options(self) -> dict[str, int | None]:
        """What Triton is told, at a launch as ahead of time."""
        return _options(self)


PACKS = {
    torch.float32: (
        Pack(8, 1, 2),
        Pack(16, 1, 4),
        Pack(32, 2, 8),
        Pack(64, 4, 8),
    ),
    torch.float64: (
        Pack(8, 1, 2),
        Pack(16, 2, 8),
        Pack(32, 4, 8),
    ),
}


def pack_for(n: int, m: int, dtype: torch.dtype) -> Pack | None:
    """Return the smallest pack that holds problems of n and m points; None where none does."""
    return next((pack for pack in PACKS.get(dtype, ()) if max(n, m) <= pack.side), None)


def splits(terms: int, programs: int) -> tuple[int, int]:
    """Cut the outer sum into (number of parts, terms per part), for `programs` programs before the cut.

    Examples
    --------
    >>> splits(100, 4), splits(100, 1024)
    ((100, 1), (1, 100))
    """
    wanted = max(1, min(terms, PROGRAMS // programs))
    length = -(-terms // wanted)
    return -(-terms // length), length


@dataclass(frozen=True)
class Variant:
    """One compiled kernel."""

    op: Op
    loss: str
    dtype: torch.dtype
    tile: Tile
    aligned = True

    def __str__(self) -> str:
        bits = torch.finfo(self.dtype).bits
        return f"{self.op}-{self.loss}-float{bits}-{self.tile.side}"

    @property
    def constants(self) -> dict[str, object]:
        """Arguments that are constants of the compilation."""
        return {"LOSS": self.loss, "SIDE": self.tile.side, "UNROLL": self.tile.unroll}


# All that `fgwot.tensor_term` can launch; and square and kl, which it never sums directly, in one size, because the
# tests use them to show that the loops are right for losses of other forms.
VARIANTS = [
    Variant(op, loss, dtype, tile)
    for op, loss, (dtype, tile) in product(
        _OPS,
        ("abs", "huber"),
        [(torch.float32, t) for t in (SMALL, MEDIUM, LARGE)] + [(torch.float64, t) for t in (SMALL, DOUBLE)],
    )
] + [Variant(op, loss, torch.float32, replace(MEDIUM, registers=96)) for op, loss in product(_OPS, ("square", "kl"))]


@dataclass(frozen=True)
class SweepVariant:
    """One compiled kernel of the Sinkhorn sweep; `write`: the last one, which writes the plan.

    Rows that are not `aligned` to 4 values load one by one.
    """

    op: Literal["rows", "columns"]
    dtype: torch.dtype
    tile: RowTile
    log: bool
    write: bool
    aligned: bool = True

    def __str__(self) -> str:
        form, role = ("log" if self.log else "scaling"), ("-plan" if self.write else "")
        bits = torch.finfo(self.dtype).bits
        return f"{self.op}-{form}-float{bits}-{self.tile.columns}{role}" + ("" if self.aligned else "-unaligned")

    @property
    def constants(self) -> dict[str, object]:
        """Arguments that are constants of the compilation."""
        if self.op == "columns":
            return {"LOG": self.log, "UPDATE": not self.write, "COLUMNS": self.tile.columns}
        tile: dict[str, object] = {"ROWS": self.tile.rows, "COLUMNS": self.tile.columns}
        return tile | {"LOG": self.log, "WRITE": self.write, "ALIGNED": self.aligned}


PackOp = Literal["solve", "solve_adjoint"]
_PACK_OPS: tuple[PackOp, ...] = ("solve", "solve_adjoint")


@dataclass(frozen=True)
class PackVariant:
    """One compiled kernel for whole problems, with all its inputs, or all its cotangents and gradients.

    A `bare` solve has structures alone: uniform marginals, weights of the whole batch, no linear cost and no start.
    Bare gradients are those of the value alone. What launches compile lies between.
    """

    op: PackOp
    loss: str
    dtype: torch.dtype
    tile: Pack
    bare: bool = False
    aligned = False  # problems of any size: their distances are not multiples of 16

    def __str__(self) -> str:
        name = f"{self.op}-{self.loss}-float{torch.finfo(self.dtype).bits}-{self.tile.side}"
        return name + ("-bare" if self.bare else "")

    @property
    def constants(self) -> dict[str, object]:
        """Arguments that are constants of the compilation."""
        tile = {"SIDE": self.tile.side, "ROWS": self.tile.rows}
        constants: dict[str, object] = {"LOSS": self.loss, **tile}
        if self.op == "solve":
            double = self.dtype == torch.float64
            constants |= {"EPS": torch.finfo(self.dtype).eps, "TINY": 1e-200 if double else 1e-30}
        if self.bare:
            solve, adjoint = ("M", "p", "q", "start", "start_g", "epsilons"), ("dcost", "dlinear", "dquad")
            constants |= dict.fromkeys(("alphas", *(solve if self.op == "solve" else adjoint)))
        return constants


PACK_VARIANTS = [
    PackVariant(op, loss, dtype, tile, bare)
    for op in _PACK_OPS
    for loss, (dtype, tiles) in product(("square", "kl"), PACKS.items())
    for tile in tiles
    for bare in (False, True)
    if op == "solve_adjoint" or not bare or loss == "square"  # compilations of solves take seconds
]


SWEEP_VARIANTS = [
    SweepVariant("rows", dtype, limited(tile, dtype, aligned, write), log, write, aligned)
    for dtype, tiles in ROW_TILES.items()
    for tile, log, write, aligned in product(tiles, (True, False), (False, True), (True, False))
] + [
    SweepVariant("columns", dtype, tile, log, write)
    for dtype, tiles in ROW_TILES.items()
    for tile, (log, write) in product(tiles, ((True, False), (False, False), (False, True)))
]


StreamOp = Literal["stream_rows", "stream_columns", "stream_difference"]
_STREAM_OPS: tuple[StreamOp, ...] = ("stream_rows", "stream_columns", "stream_difference")
STREAM_SIDE = 64  # sizes are padded to multiples of it: of both sides of all tiles
STREAM_KINDS = 16  # columns that a plan is multiplied by at a time: with 32 registers spill


def stream_tile_for(op: StreamOp, dtype: torch.dtype) -> RowTile:
    """Tile of a pass: few of what a program owns, so that there are many programs, and many of what it goes over."""
    few = 16 if dtype == torch.float64 else 32
    return RowTile(64, few, 4) if op == "stream_columns" else RowTile(few, 64, 4)


@dataclass(frozen=True)
class StreamVariant:
    """One compiled kernel of a pass over a plan that is never stored."""

    op: StreamOp
    dtype: torch.dtype
    aligned = True

    def __str__(self) -> str:
        return f"{self.op}-float{torch.finfo(self.dtype).bits}"

    @property
    def tile(self) -> RowTile:
        """That of a launch."""
        return stream_tile_for(self.op, self.dtype)

    @property
    def constants(self) -> dict[str, object]:
        """Arguments that are constants of the compilation."""
        kinds = {"KINDS": STREAM_KINDS} if self.op == "stream_rows" else {}
        return {"ROWS": self.tile.rows, "COLUMNS": self.tile.columns, **kinds}


STREAM_VARIANTS = [StreamVariant(op, dtype) for op, dtype in product(_STREAM_OPS, (torch.float32, torch.float64))]
