"""Tile shapes by size, and every variant that a launch can compile."""

from dataclasses import dataclass
from itertools import product
from typing import Literal

import torch

Op = Literal["contraction", "adjoint"]
_OPS: tuple[Op, ...] = ("contraction", "adjoint")

# Programs that fill an A100 or H100 (108 and 132 multiprocessors) about four times over. It is a constant and not a
# property of the device, so that sums are split, and therefore rounded, in the same way on all of them.
PROGRAMS = 512


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
        return {"num_warps": self.warps, "num_stages": 1, "maxnreg": self.registers}


SMALL, MEDIUM, LARGE = Tile(16, 4, 1), Tile(32, 8, 2), Tile(64, 8, 4, registers=144)


def tile_for(rows: int, columns: int, dtype: torch.dtype) -> Tile:
    """Tile for a (rows, columns) result that is accumulated in `dtype`."""
    longest = max(rows, columns)
    if longest <= SMALL.side:
        return SMALL
    # float64 needs twice the registers: a large tile would leave room for one program on a multiprocessor.
    return MEDIUM if longest <= MEDIUM.side or dtype == torch.float64 else LARGE


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

    def __str__(self) -> str:
        bits = torch.finfo(self.dtype).bits
        return f"{self.op}-{self.loss}-float{bits}-{self.tile.side}"


# All that `fgwot.tensor_term` can launch; and square and kl, which it never sums directly, in one size, because the
# tests use them to show that the loops are right for losses of other forms.
VARIANTS = [
    Variant(op, loss, dtype, tile)
    for op, loss, (dtype, tile) in product(
        _OPS,
        ("abs", "huber"),
        [(torch.float32, t) for t in (SMALL, MEDIUM, LARGE)] + [(torch.float64, t) for t in (SMALL, MEDIUM)],
    )
] + [Variant(op, loss, torch.float32, MEDIUM) for op, loss in product(_OPS, ("square", "kl"))]
