"""What the Triton kernels compile to, and a model of their time: `python -m benchmarks.kernels`.

Writes docs/kernels.md. Needs no GPU; `python -m benchmarks.gpu` measures where there is one.
"""

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import torch

from benchmarks.kernel_times import PRECISIONS, SIZES, readable
from benchmarks.roofline import (
    CHIPS,
    modelled_product,
    modelled_seconds,
    modelled_sweep,
    moved_bytes,
    padded_terms,
)
from fgwot.kernels.resources import compile_variant
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
    tile_for,
)

PAGE = Path(__file__).parents[1] / "docs" / "kernels.md"


def table(header: str, rows: list[list[str]]) -> str:
    """Markdown."""
    columns = header.split(" | ")
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


TEXT = """# Triton kernels

<!-- Written by `python -m benchmarks.kernels`. -->

Losses that do not factor (abs, huber) cost n^2 m^2 terms. On CUDA tensors `fgwot.tensor_term` sums them with Triton
kernels that hold n m values per part of the sum and no n^2 m^2 array, forward and backward. `fgwot.backend` and the
variable `FGWOT_BACKEND` choose between `torch` and `triton`.

Losses that factor (square, kl) need two matrix products. torch computes the first; for the second there is a Triton
kernel, which adds the marginal terms and the linear cost and scales to log K before it writes its result, once. float32
is multiplied in full precision; `fgwot.backend("triton", precision="tf32x3")` allows tensor cores with three TF32
products instead.

The kernels' results are tested in Triton's interpreter, and every variant is compiled ahead of time for compute
capability 8.0 and 9.0: with the Triton that is installed, and one of each kernel (`make versions`) with Triton 3.5,
that of the lowest torch, 2.9, and with Triton 3.9. Triton 3.4 compiles no product in float64. Where a variant spills
registers the tests report it: few do with Triton 3.7 to 3.9, more before, and what that costs only a GPU tells.
[One command](gpu.md) measures times where there is a GPU, and runs the tests on it.

**On an H100** (80GB HBM3, driver 580, torch 2.11, Triton 3.6; commit 26f0a5c, with the products of the whole solve as
they are now, without which it did not compile) all tests passed. What runs unasked on CUDA follows from its times:

- The direct sums do: at n = 1000 in float32, abs takes 95 ms and huber 214, the adjoints 213 and 211.
- The factored kernel does not: at n = 1000 in float32 it takes 174 us (146 with tf32x3), cuBLAS 52, and whole steps
  are 500 us with it and 393 without.
- Sweeps do. One takes 41 us at n = 1000 in float32 (140 in float64) and 320 at 4000, 13 to 27 times what the bytes
  they move would. torch's own were not measured; they are more launches, of which each cost 20 us there.
- The whole solve does, but for batches of at most 8 points a side: 1024 problems of 4 points took 36 ms, of 8 points
  7.2, of 16 points 0.21, of 64 points 2.2. Through `fgwot.fused_gromov_wasserstein`, 1024 of 6 points took 725 ms in
  float64 and 171 in float32, and the loops on one thread of a CPU 27: a program waits for the slowest of its problems.
- Below n = 2000 the solver waits for the host, and a CPU is faster: 27 to 172 ms a solve of 64 to 1000 points in
  float64. OTT-JAX, jitted, took 3.7 to 18.6 ms at epsilon 0.05 for 64 to 2000 points, fgwot 32 to 41; at 0.01 OTT took
  26 to 226 and fgwot 27 to 172.

`fgwot.backend("triton")` takes every kernel.

Sinkhorn's sweeps on large problems update rows and columns exactly one after the other, from about one read of the
costs per sweep: a program takes a few full rows, updates their potentials, and adds their part of every column while
the rows are still in a cache. The plan is written once, by the last half sweep. Newton's method, for problems that need
many sweeps, is torch's. Sweeps of the undamped iteration take the scaling form, those of the guarded one the
logarithmic.

Small problems (square and kl, n and m up to 64 in float32 and 32 in float64, uniform or given marginals, envelope
gradients) are solved by one launch for the whole batch: outer steps, inner problems, stopping test, values and status
in one kernel, each problem by a program of its own, which ends when it is done. Its iteration is that of the compiled
loops: undamped steps, extrapolated where they are slow, damped ones where the objective would rise; inside, sweeps and
chord steps with a Newton matrix that is kept. This is not what the H100's times above are of: there sweeps were all
there was, every step was guarded, and up to 8 points a side eight problems shared a program (four in float64). Steps
and sweeps have been counted since, not timed: it makes about as many steps as the loops. The default for batches of at
most 8 points a side stays until a GPU has timed it. A second kernel differentiates the values: a step of
K-MaT's loss is these two and the read of the status. The solver goes on with those problems alone
that the kernel leaves unfinished; other options, `torch.func` and invalid values go to the solver at once. Triton
compiles a kernel when it is first used, a whole solve for some seconds up to half a minute, and keeps it on disk.

## Resources

Read from the compiled binaries, for compute capability 8.0 (A100) / 9.0 (H100); on the H100 they did not predict the
times. Per term of the sum: all instructions of the innermost loop, and those among them
on floating-point numbers (matrix instructions of tensor cores not counted). Programs: as many as fit on one
multiprocessor. For the sweeps: per matrix entry, all passes together; the column kernel, per column and part. For
the whole solve (solve) and its adjoint: a pass through their longest innermost loop.

{resources}

## Model

Not a measurement. The largest of three times at the chip's peak: issuing every instruction, the floating-point
instructions, and moving the bytes; every multiprocessor always busy, no latency, no launch. Comparisons count as
arithmetic, though they use other units. Tensor cores: their published peak, a third of it for three products.
float32, one problem of n = m, terms of unused tile entries included. The factored kernel is one of the two products.
A sweep counts its costs once: that the second pass over the same rows is served by a cache is assumed.

{model}
"""


def main() -> None:
    """Compile everything, print and write the page."""
    variants = [*VARIANTS, *PRODUCT_VARIANTS, *SWEEP_VARIANTS, *PACK_VARIANTS]
    keys = [(v, chip.capability) for v in variants for chip in CHIPS]
    with ProcessPoolExecutor(mp_context=multiprocessing.get_context("spawn")) as pool:
        used = dict(zip(keys, pool.map(compile_variant, *zip(*keys, strict=True)), strict=True))
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
    )
    print(page)
    PAGE.write_text(page)


if __name__ == "__main__":
    main()
