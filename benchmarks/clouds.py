"""Time and memory of solves whose plan is never stored: ``python -m benchmarks.clouds``.

Clouds of normal points in three dimensions, scaled so that the largest cost is 1, as in `benchmarks.problems`; uniform
weights, alpha 0.5. Each solve has a process of its own. Memory is the largest that the process had during the solve,
above what it had before it, with the points. A pass goes once over the n x m entries of a plan; one for the certificate
counts 2. The last time is that of a solve and of the gradient of its value in all points. Of several repeats, made in
turns, the fastest counts; processor time and memory are those of one process, the first if several share the solve.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SIZES = (5_000, 10_000, 20_000, 40_000)
EPSILONS = (0.05, 0.01)
DENSE = (250, 500, 1_000, 2_000, 4_000)


def main() -> None:
    """Print tables in Markdown."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.clouds", description="plans that are never stored")
    parser.add_argument("--sizes", type=int, nargs="*", default=SIZES, help="points of each cloud")
    parser.add_argument("--epsilons", type=float, nargs="*", default=EPSILONS)
    parser.add_argument("--threads", type=int, nargs="*", default=(1, 2), help="of one process")
    parser.add_argument("--processes", type=int, nargs="*", default=(2,), help="of one thread each")
    parser.add_argument("--dense", type=int, nargs="*", default=DENSE, help="points of clouds solved both ways")
    parser.add_argument("--repeats", type=int, default=1)
    options = parser.parse_args()
    print(
        "| n = m, float32, tol 1e-4 | epsilon | threads | processes | time | processor time | passes | steps | memory "
        "| with gradient |\n|" + " --- |" * 10
    )
    workers = [(threads, 1) for threads in options.threads] + [(1, processes) for processes in options.processes]
    for n in options.sizes:
        for epsilon in options.epsilons:
            call = (n, "float32", 1e-4, epsilon)
            rounds = [[_run(*call, *some, "lazy") for some in workers] for _ in range(options.repeats)]
            for (threads, processes), *found in zip(workers, *rounds, strict=True):
                f = min(found, key=lambda figures: figures["seconds"])
                case = f"| {n} | {epsilon} | {threads} | {processes} | {f['seconds']:.2f} s "
                counts = f"| {f['processor']:.2f} s | {f['passes']} | {f['steps']} | {f['megabytes']:.0f} MB "
                print(f"{case}{counts}| {f['with gradient']:.2f} s |", flush=True)
    print("\n| n = m, float64, tol 1e-6, epsilon 0.05, 1 thread | lazy | dense | dense over lazy |\n|" + " --- |" * 4)
    for n in options.dense:
        lazy, dense = (_run(n, "float64", 1e-6, 0.05, 1, 1, plan)["processor"] for plan in ("lazy", "dense"))
        print(f"| {n} | {1e3 * lazy:.1f} ms | {1e3 * dense:.1f} ms | {dense / lazy:.1f} |", flush=True)


def _run(n: int, dtype: str, tol: float, epsilon: float, threads: int, processes: int, plan: str) -> dict[str, float]:
    arguments = [str(argument) for argument in (n, dtype, tol, epsilon, threads, plan)]
    command = [sys.executable, "-m", "benchmarks.clouds", "measure", *arguments]
    with tempfile.TemporaryDirectory() as folder:
        meeting = {"FGWOT_MEETING": f"file://{folder}/meeting", "WORLD_SIZE": str(processes)}
        ranks = [
            subprocess.Popen(command, env=os.environ | meeting | {"RANK": str(rank)}, stdout=subprocess.PIPE)  # noqa: S603
            for rank in range(processes)
        ]
        printed = [rank.communicate()[0] for rank in ranks]
    assert not any(rank.returncode for rank in ranks)
    found: dict[str, float] = json.loads(printed[0])
    return found


def measure(n: int, dtype: str, tol: float, epsilon: float, threads: int, plan: str) -> None:
    """Print the figures of one solve as JSON."""
    import torch
    import torch.distributed as dist
    from torch import Tensor

    import fgwot

    torch.set_num_threads(threads)
    group, size = None, int(os.environ["WORLD_SIZE"])
    if size > 1:
        dist.init_process_group(
            "gloo", init_method=os.environ["FGWOT_MEETING"], rank=int(os.environ["RANK"]), world_size=size
        )
        group = dist.group.WORLD
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.randn(n, 3, generator=generator, dtype=torch.float64) for _ in range(2))
    outermost = torch.cat([points[points.norm(dim=1).topk(min(n, 1000)).indices] for points in (x, y)])
    scale = float(torch.cdist(outermost, outermost).max())
    x, y = ((points / scale).to(getattr(torch, dtype)) for points in (x, y))

    told: list[fgwot.Progress] = []
    chosen = fgwot.Lazy(progress=told.append, group=group) if plan == "lazy" else "dense"

    def solve(x: Tensor, y: Tensor) -> fgwot.Solution:
        distances = fgwot.LowRank.squared_distances
        costs = distances(x, y), distances(x), distances(y)
        return fgwot.fused_gromov_wasserstein(*costs, epsilon=epsilon, tol=tol, plan=chosen)

    solve(x[:100].clone().requires_grad_(), y[:100]).value.backward()  # imports, compilation
    before = _memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # forgets the peak
    start, processor = time.perf_counter(), time.process_time()
    solution = solve(x, y)
    seconds, processor = time.perf_counter() - start, time.process_time() - processor
    figures = {
        "seconds": seconds,
        "processor": processor,
        "passes": told[-1].passes if told else 0,
        "steps": int(solution.n_iter),
        "megabytes": (_memory("VmHWM") - before) / 1e3,
        "with gradient": seconds,
    }
    assert bool(solution.converged)
    if plan == "lazy":
        start = time.perf_counter()
        solve(x.requires_grad_(), y.requires_grad_()).value.backward()
        figures["with gradient"] = time.perf_counter() - start
    print(json.dumps(figures))


def _memory(name: str) -> float:
    """Kilobytes of this process: VmRSS now, VmHWM at most."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return float(next(line.split()[1] for line in lines if line.startswith(name)))


if __name__ == "__main__":
    if sys.argv[1:2] == ["measure"]:
        n, dtype, tol, epsilon, threads, plan = sys.argv[2:]
        measure(int(n), dtype, float(tol), float(epsilon), int(threads), plan)
    else:
        main()
