"""What a solve and its gradients ask of the host: launches, reads, waits; and of the card: time and memory."""

import warnings
from collections.abc import Callable
from functools import partial
from itertools import product

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

import fgwot
from benchmarks.cases import Case
from benchmarks.gpu.clock import host_seconds
from benchmarks.gpu.section import Row, Run
from benchmarks.gpu.training import criterion, term
from benchmarks.methods.tensors import tensors, wait
from benchmarks.problems import build

# How the profiler's names of the host's calls begin. Triton launches with the driver's functions, torch with the
# runtime's. Waits for the whole device are the profiler's and this module's own.
_NAMES = {
    "launches": ("cudaLaunchKernel", "cuLaunchKernel"),
    "graphs": ("cudaGraphLaunch",),
    "reads": ("Memcpy DtoH",),
    "waits": ("cudaStreamSynchronize", "cudaEventSynchronize"),
    "operations": ("aten::",),
}


def measure(run: Run) -> None:
    """Add a row for K-MaT's term, and two per solve and backend, without and with gradients."""
    warnings.simplefilter("ignore", fgwot.ConvergenceWarning)  # the row says how it ended
    case = term(6, "float32")
    run.attempt(lambda: _asked(criterion(case, run.device), run.device), what="K-MaT's term", case=case.to_dict())
    cases = [Case("gradients", "points", 6, 6, 0.05, dtype="float32")]
    if not run.small:
        cases += [Case("gradients", "points", n, n, e) for n in (64, 256, 1000, 2000) for e in (0.05, 0.01)]
        cases += [Case("gradients", "points", 1000, 1000, e, dtype="float32") for e in (0.05, 0.01)]
        cases += [Case("gradients", "points", n, n, 0.05, batch=b, dtype="float32") for b, n in ((1024, 6), (64, 64))]
    for backend, case, backward in product(("auto", "graphs"), cases, (False, True)):
        row = {"what": "forward and backward" if backward else "forward", "backend": backend, "case": case.to_dict()}
        with fgwot.backend(backend):
            run.attempt(partial(_solve, case, run.device, backward), **row)


def _solve(case: Case, device: str, backward: bool) -> Row:
    *costs, p, q = tensors(case, build(case), device)
    for cost in costs:
        cost.requires_grad_(backward)

    def solve() -> fgwot.Solution:
        solution = fgwot.fused_gromov_wasserstein(*costs, p, q, alpha=case.alpha, epsilon=case.epsilon)
        if backward:
            torch.autograd.grad(solution.value.sum(), costs)
        return solution

    solution = solve()
    steps = {"steps": int(solution.n_iter.max()), "open": int((~solution.converged).sum())}
    return steps | _asked(solve, device)


def _asked(call: Callable[[], object], device: str) -> Row:
    """Counts and times of one call, after others."""
    seconds = host_seconds(call, device, repeats=5)
    memory = {}
    if device == "cuda":
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        call()
        torch.cuda.synchronize()
        memory = {"peak_bytes": torch.cuda.max_memory_allocated() - before}
    on_card = [ProfilerActivity.CUDA] if device == "cuda" else []
    with profile(activities=[ProfilerActivity.CPU, *on_card]) as profiler:
        call()
        wait(device)
    entries = profiler.key_averages()
    # Entries of the CPU repeat the time of what they launched.
    busy = sum(entry.self_device_time_total for entry in entries if entry.device_type != DeviceType.CPU)
    counts = {
        what: sum(entry.count for entry in entries if entry.key.startswith(names)) for what, names in _NAMES.items()
    }
    return {"seconds": seconds, "device_seconds": busy / 1e6, **counts, **memory}
