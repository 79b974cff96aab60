"""A model of the kernels' times: every unit of the chip busy at its peak. Not a measurement."""

from dataclasses import dataclass

import torch

from fgwot.kernels.resources import Resources
from fgwot.kernels.shapes import ProductVariant, SweepVariant, Variant, splits


@dataclass(frozen=True)
class Chip:
    """Published figures: multiprocessors, clock in Hz, arithmetic lanes per multiprocessor, bytes per second."""

    name: str
    capability: int
    multiprocessors: int
    clock: float
    lanes: dict[torch.dtype, int]
    bandwidth: float
    tf32: float  # tensor-core operations per second, without sparsity


CHIPS = (
    Chip("A100", 80, 108, 1.41e9, {torch.float32: 64, torch.float64: 32}, 1.555e12, 156e12),
    Chip("H100", 90, 132, 1.755e9, {torch.float32: 128, torch.float64: 64}, 3.35e12, 494e12),
)
ISSUE_LANES = 128  # four schedulers, one instruction for 32 threads each


def padded_terms(variant: Variant, n: int) -> int:
    """Terms (i, j, k, l) that the kernel works through for n = m, with the unused ones of tiles and steps."""
    side, unroll = variant.tile.side, variant.tile.unroll
    return (-(-n // side) * side) ** 2 * n * (-(-n // unroll) * unroll)


def moved_bytes(variant: Variant, n: int) -> int:
    """Bytes that must cross the memory bus for n = m: each input once, partial sums written and read."""
    parts, _ = splits(n, (-(-n // variant.tile.side)) ** 2)
    inputs = 3 if variant.op == "contraction" else 4
    return (inputs + 2 * parts + 1) * n * n * torch.finfo(variant.dtype).bits // 8


def modelled_seconds(variant: Variant, used: Resources, chip: Chip, n: int) -> float:
    """Largest of the times for issuing, for arithmetic and for memory, each at its peak."""
    per_second = padded_terms(variant, n) / (chip.multiprocessors * chip.clock)
    return max(
        per_second * used.instructions / ISSUE_LANES,
        per_second * used.arithmetic / chip.lanes[variant.dtype],
        moved_bytes(variant, n) / chip.bandwidth,
    )


def modelled_product(variant: ProductVariant, used: Resources, chip: Chip, n: int) -> tuple[float, float, float]:
    """Operations, bytes and seconds of one factored contraction of n = m = k in float32."""
    terms = (-(-n // variant.tile.side) * variant.tile.side) ** 2 * (-(-n // variant.tile.depth) * variant.tile.depth)
    moved = 4 * 4 * n * n  # W, H and M are read, the result is written
    per_second = terms / (chip.multiprocessors * chip.clock)
    arithmetic = (
        per_second * used.arithmetic / chip.lanes[variant.dtype]
        if variant.precision == "ieee"
        else 3 * 2 * terms / chip.tf32
    )
    return 2 * terms, moved, max(per_second * used.instructions / ISSUE_LANES, arithmetic, moved / chip.bandwidth)


def modelled_sweep(variant: SweepVariant, used: Resources, chip: Chip, n: int) -> tuple[float, float, float]:
    """Operations, bytes and seconds of one update of rows and columns of n = m in float32, without the merge."""
    entries = -(-n // variant.tile.rows) * variant.tile.rows * n
    parts = -(-n // variant.tile.rows)
    moved = 4 * (n * n + 2 * parts * n)  # costs once; column parts written, and read by the second kernel
    per_second = entries / (chip.multiprocessors * chip.clock)
    arithmetic = per_second * used.arithmetic / chip.lanes[variant.dtype]
    issue = per_second * used.instructions / ISSUE_LANES
    return entries * used.arithmetic, moved, max(issue, arithmetic, moved / chip.bandwidth)
