"""Clouds whose plans are never stored: passes by torch's blocks beside those by Triton's kernels.

"normal" are the clouds of `benchmarks.clouds`. "helix" are those on which torchgw-bench's c1 times POT and torchgw, a
helix of growing radius and the same turned about, but with squared Euclidean distances: c1's are distances along the
curve, of no low rank, so that its times are of another problem.
"""

import math
import os
from functools import partial
from importlib.util import find_spec

import torch
from torch import Tensor

import fgwot
from benchmarks import clouds
from benchmarks.gpu.clock import host_seconds
from benchmarks.gpu.section import Row, Run

_TOL = 1e-4


def measure(run: Run) -> None:
    """Add a row for each cloud and each of the ways to make the passes."""
    if run.device == "cpu":
        os.environ["TRITON_INTERPRET"] = "1"  # read when Triton is imported, which is later
    cases = [("normal", 20_000), ("normal", 100_000), ("helix", 10_000), ("helix", 20_000)]
    if run.small:
        cases = [("normal", 20), ("helix", 20)]
    epsilon = 0.5 if run.small else 0.05
    for what, n in cases:
        for passes in ("torch", "triton") if find_spec("triton") else ("torch",):
            with fgwot.backend(passes):
                row = {"what": what, "n": n, "dtype": "float32", "epsilon": epsilon, "passes by": passes}
                run.attempt(partial(_solve, what, n, epsilon, run.device), **row)


def _solve(what: str, n: int, epsilon: float, device: str) -> Row:
    x, y = (points.to(device) for points in (_helix(n) if what == "helix" else clouds.clouds(n, torch.float32)))
    told: list[fgwot.Progress] = []
    lazy = fgwot.Lazy(progress=told.append)

    def solve() -> fgwot.Solution:
        if what == "normal":
            return clouds.solution_of(x, y, epsilon, _TOL, lazy)
        costs = (fgwot.LowRank.squared_distances(points) for points in (x, y))
        return fgwot.gromov_wasserstein(*costs, epsilon=epsilon, tol=_TOL, plan=lazy)

    solution = solve()
    found: Row = {"passes": told[-1].passes, "steps": int(solution.n_iter), "converged": bool(solution.converged)}
    if device == "cuda":
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
    found["seconds"] = host_seconds(solve, device, repeats=1)
    return found | ({"peak_bytes": torch.cuda.max_memory_allocated() - before} if device == "cuda" else {})


def _helix(n: int) -> tuple[Tensor, Tensor]:
    """Points along four turns of a helix whose radius grows by half, of diameter about one; turned, and as they are."""
    s = torch.linspace(0, 1, n, dtype=torch.float64)
    angle, radius = 8 * math.pi * s, (1 + s / 2) / 3
    x = torch.stack([radius * angle.cos(), radius * angle.sin(), s / 3], 1)
    generator = torch.Generator().manual_seed(0)
    turn = torch.linalg.qr(torch.randn(3, 3, generator=generator, dtype=torch.float64)).Q
    return x.float(), (x @ turn).float()
