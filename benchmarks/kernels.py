"""What the Triton kernels compile to, and a model of their time: `python -m benchmarks.kernels`.

Writes docs/kernels.md. Needs no GPU; where there is one, it also times the kernels and adds the measurements.
"""

from dataclasses import dataclass
from pathlib import Path

import torch

from fgwot.kernels.resources import Resources, compile_variant
from fgwot.kernels.shapes import (
    PACK_VARIANTS,
    PRODUCT_VARIANTS,
    SWEEP_VARIANTS,
    VARIANTS,
    ProductVariant,
    SweepVariant,
    Variant,
    limited,
    product_tile_for,
    row_tile_for,
    splits,
    tile_for,
)

PAGE = Path(__file__).parents[1] / "docs" / "kernels.md"
SIZES = (16, 100, 300, 1000)
PRECISIONS = ("ieee", "tf32x3")


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


def readable(seconds: float) -> str:
    """Two digits with a unit."""
    for factor, unit in ((1, "s"), (1e3, "ms"), (1e6, "us")):
        if seconds * factor >= 1:
            return f"{seconds * factor:.2g} {unit}" if seconds * factor < 100 else f"{seconds * factor:.0f} {unit}"
    return f"{seconds * 1e6:.2g} us"


def table(header: str, rows: list[list[str]]) -> str:
    """Markdown."""
    columns = header.split(" | ")
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def measurements() -> str:
    """Times on this machine's GPU, or that there is none."""
    if not torch.cuda.is_available():
        return "None: the machine that wrote this page has no GPU."
    from triton.testing import do_bench

    from fgwot.kernels.adjoint import adjoint
    from fgwot.kernels.contraction import contraction
    from fgwot.kernels.factored import factored

    rows = []
    for n in SIZES:
        C1, C2, W, T = torch.rand(4, n, n, device="cuda")
        for loss in ("abs", "huber"):
            forward = do_bench(lambda: contraction(C1, C2, T, loss, 1.0)) / 1e3  # noqa: B023
            backward = do_bench(lambda: adjoint(C1, C2, W, T, loss, 1.0)) / 1e3  # noqa: B023
            rows.append([f"{n}", loss, readable(forward), readable(backward)])
    direct = table("n = m | loss | contraction | adjoint", rows)
    rows = []
    for n in SIZES:
        W, H, M = torch.rand(3, n, n, device="cuda")
        one = torch.ones((), device="cuda")
        times = [do_bench(lambda: factored(W, H, None, None, M, one, one, p)) / 1e3 for p in PRECISIONS]  # noqa: B023
        rows.append([f"{n}", *map(readable, times)])
    products = table(f"n = m | factored, {' | factored, '.join(PRECISIONS)}", rows)
    return f"{torch.cuda.get_device_name()}, float32.\n\n{direct}\n\n{products}"


TEXT = """# Triton kernels

<!-- Written by `python -m benchmarks.kernels`. -->

Losses that do not factor (abs, huber) cost n^2 m^2 terms. On CUDA tensors `fgwot.tensor_term` sums them with Triton
kernels that hold n m values per part of the sum and no n^2 m^2 array, forward and backward. `fgwot.backend` and the
variable `FGWOT_BACKEND` choose between `torch` and `triton`.

Losses that factor (square, kl) need two matrix products. torch computes the first; the second is a Triton kernel that
adds the marginal terms and the linear cost and scales to log K before it writes its result, once. float32 is multiplied
in full precision; `fgwot.backend("triton", precision="tf32x3")` allows tensor cores with three TF32 products instead.

**GPU speed has not been measured: no GPU was available where this was built.** The kernels' results are tested in
Triton's interpreter. What follows comes from the compiler and from a model. `python -m benchmarks.kernels` measures
the times where there is a GPU, and `python -m pytest -m gpu` runs the tests on it.

Sinkhorn's sweeps on large problems update rows and columns exactly one after the other, from about one read of the
costs per sweep: a program takes a few full rows, updates their potentials, and adds their part of every column while
the rows are still in a cache. The plan is written once, by the last half sweep. Newton's method, for problems that need
many sweeps, is torch's.

Small problems (square and kl, n and m up to 64 in float32 and 16 in float64, uniform or given marginals, envelope
gradients) are solved by one launch for the whole batch: outer steps, sweeps, stopping test, values and status in one
kernel, two problems per program up to 8 x 8 in float32. A second kernel differentiates the values: a step of K-MaT's
loss is these two and the read of the status. What the kernel leaves unfinished, the solver goes on with; other
options, `torch.func` and invalid values go to the solver at once.

## Resources

Read from the compiled binaries, for compute capability 8.0 (A100) / 9.0 (H100). Stack and local memory are 0
everywhere, which a test enforces. Per term of the sum: all instructions of the innermost loop, and those among them
on floating-point numbers (matrix instructions of tensor cores not counted). Programs: as many as fit on one
multiprocessor. For the sweeps: per matrix entry, all passes together; the column kernel, per column and part. For the
whole solve (solve): per problem and inner sweep of both updates, over the threads of its program; its adjoint has no
loop.

{resources}

Against the compile-time study of single loops that preceded the kernels, these are short of what was hoped for:

- Whole solve: more registers than loops without the outer iteration had, 96 (16 x 16), 126 (32 x 32) and 168
  (64 x 64). A bound of 255 registers is asked for, and none spills.
- Whole solve of packs up to 8 x 8: two problems a program need {pack:.0f} instructions of a warp per problem and sweep,
  the study's packs of eight 20; those spill once the outer iteration and its optional inputs are compiled in.
- Sweeps: the study had 96 registers and 5 programs per multiprocessor in log form, and 6.7 instructions per entry in
  scaling form.

## Model

Not a measurement. The largest of three times at the chip's peak: issuing every instruction, the floating-point
instructions, and moving the bytes; every multiprocessor always busy, no latency, no launch. Comparisons count as
arithmetic, though they use other units. Tensor cores: their published peak, a third of it for three products.
float32, one problem of n = m, terms of unused tile entries included. The factored kernel is one of the two products.
A sweep counts its costs once: that later passes over the same rows are served by a cache is assumed.

{model}

## Measurements

{measured}
"""


def main() -> None:
    """Compile everything, print and write the page."""
    variants = [*VARIANTS, *PRODUCT_VARIANTS, *SWEEP_VARIANTS, *PACK_VARIANTS]
    used = {(v, chip.capability): compile_variant(v, chip.capability) for v in variants for chip in CHIPS}
    spilled = [str(v) for (v, _), r in used.items() if r.stack or r.local]
    if spilled:
        raise SystemExit(f"these variants spill: {', '.join(spilled)}")
    resources = []
    for v in variants:
        both = [used[v, chip.capability] for chip in CHIPS]
        figures = (
            [f"{r.registers}" for r in both],
            [f"{r.shared}" for r in both],
            [
                f"{r.programs_per_multiprocessor(v.tile.warps, chip.capability)}"
                for r, chip in zip(both, CHIPS, strict=True)
            ],
            [f"{r.instructions:.2f}" for r in both],
            [f"{r.arithmetic:.2f}" for r in both],
        )
        resources.append([str(v), f"{v.tile.warps}", *(" / ".join(pair) for pair in figures)])
    model = []
    for op, loss in (("contraction", "abs"), ("contraction", "huber"), ("adjoint", "abs"), ("adjoint", "huber")):
        for n in SIZES:
            v = Variant(op, loss, torch.float32, tile_for(n, n, torch.float32))  # type: ignore[arg-type]
            times = [readable(modelled_seconds(v, used[v, c.capability], c, n)) for c in CHIPS]
            operations = padded_terms(v, n) * used[v, 80].arithmetic
            model.append([f"{op}, {loss}", f"{n}", f"{operations:.2g}", f"{moved_bytes(v, n):.2g}", *times])
    for precision in PRECISIONS:
        for n in (100, 1000, 4000):
            aligned = n % 16 == 0
            tile = product_tile_for(1, n, n, torch.float32, aligned)
            p = ProductVariant(torch.float32, precision, tile, aligned)
            (operations, moved, first), (*_, second) = (modelled_product(p, used[p, c.capability], c, n) for c in CHIPS)
            times = [readable(first), readable(second)]
            model.append([f"factored, {precision}", f"{n}", f"{operations:.2g}", f"{moved:.2g}", *times])
    for log in (True, False):
        for n in (1000, 4000):
            row_tile = limited(row_tile_for(n, torch.float32), torch.float32, aligned=True, write=False)
            s = SweepVariant("rows", torch.float32, row_tile, log, write=False)
            (operations, moved, first), (*_, second) = (modelled_sweep(s, used[s, c.capability], c, n) for c in CHIPS)
            times = [readable(first), readable(second)]
            name = f"one sweep, {'log' if log else 'scaling'}"
            model.append([name, f"{n}", f"{operations:.2g}", f"{moved:.2g}", *times])
    page = TEXT.format(
        resources=table(
            "variant | warps | registers | shared bytes | programs | instructions per term | arithmetic per term",
            resources,
        ),
        model=table("kernel | n = m | operations | bytes | A100 | H100", model),
        measured=measurements(),
        pack=used[PACK_VARIANTS[0], 80].instructions / 32,
    )
    print(page)
    PAGE.write_text(page)


if __name__ == "__main__":
    main()
