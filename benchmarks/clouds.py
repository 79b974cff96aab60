"""Time and memory of solves whose plan is never stored: ``python -m benchmarks.clouds``.

Clouds of normal points in three dimensions, scaled so that the largest cost is 1, as in `benchmarks.problems`; uniform
weights, alpha 0.5. Each solve has a process of its own. Memory is the largest that the process had during the solve,
above what it had before it, with the points. A pass goes once over the n x m entries of a plan; one for the certificate
counts 2. The last time is that of a solve and of the gradient of its value in all points. Of several repeats, made in
turns, the fastest counts.

Speed-ups are those over the first number of threads or processes that was asked for. The clock's are worth something
where nothing else wants the cores. Processor time is that of the process that took most of it, of all its threads; with
one thread each it says how the work was divided. Of what several processes share, the megabytes of one rank's sums are
counted, and the seconds that it spends in them, waiting for the others included.

The next table has solves in one process, in turns: streamed, with the plan built at the end, and with stored plans.
The last, if it is asked for, tells what it takes to build a large plan after its solve, and by how much the marginals
of the tensor miss those that were asked for.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    import fgwot

SIZES = (5_000, 10_000, 20_000, 40_000)
EPSILONS = (0.05, 0.01)
DENSE = (250, 500, 1_000, 2_000, 4_000)
PRICE = 0.3
_SOLVES = "threads|processes|time|processor time|clock|processor|summed|in sums|passes|steps|memory|with gradient"
_BOTH = "n = m, float64, tol 1e-6, 1 thread|epsilon|rho|streamed, built|stored|stored over streamed"
_BUILT = "n = m, float32, tol 1e-4, 1 thread|epsilon|solve|to_dense|the plan|memory|marginals missed"

Figures = dict[str, float]


def main() -> None:
    """Print tables in Markdown."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.clouds", description="plans that are never stored")
    parser.add_argument("--sizes", type=int, nargs="*", default=SIZES, help="points of each cloud")
    parser.add_argument("--epsilons", type=float, nargs="*", default=EPSILONS)
    parser.add_argument("--threads", type=int, nargs="*", default=(1, 2), help="of one process")
    parser.add_argument("--processes", type=int, nargs="*", default=(2,), help="of one thread each")
    parser.add_argument("--dense", type=int, nargs="*", default=DENSE, help="points of clouds solved both ways")
    parser.add_argument("--build", type=int, nargs="*", default=(), help="points of clouds whose plan is built")
    parser.add_argument("--repeats", type=int, default=1)
    options = parser.parse_args()
    asked = [(threads, 1) for threads in options.threads] + [(1, processes) for processes in options.processes]
    workers = list(dict.fromkeys(asked))
    _header(f"n = m, float32, tol 1e-4|epsilon|{_SOLVES}")
    for n in options.sizes:
        for epsilon in options.epsilons:
            rounds = [[figures(n, epsilon, *some) for some in workers] for _ in range(options.repeats)]
            found = [min(figures, key=lambda f: f["seconds"]) for figures in zip(*rounds, strict=True)]
            for (threads, processes), f in zip(workers, found, strict=True):
                ups = (f"{found[0][name] / f[name]:.2f}x" for name in ("seconds", "processor"))
                sums = f"{f['summed']:.1f} MB", f"{f['in sums']:.2f} s"
                times = f"{f['seconds']:.2f} s", f"{f['processor']:.2f} s"
                rest = f["passes"], f["steps"], f"{f['megabytes']:.0f} MB", f"{f['with gradient']:.2f} s"
                _row(n, epsilon, threads, processes, *times, *ups, *sums, *rest)
    print()
    _header(_BOTH)
    for n in options.dense:
        for epsilon in options.epsilons:
            for rho in (None, PRICE):
                f = _ranks(1, "compare", n, epsilon, options.repeats, rho or "")[0]
                _row(n, epsilon, rho, *(f"{1e3 * f[plan]:.1f} ms" for plan in ("lazy", "dense")), f"{f['ratio']:.1f}")
    if options.build:
        print()
        _header(_BUILT)
    for n in options.build:
        for epsilon in options.epsilons:
            f = _ranks(1, "build", n, epsilon)[0]
            times = f"{f['solve']:.0f} s", f"{f['build']:.1f} s"
            _row(n, epsilon, *times, f"{f['gigabytes']:.2f} GB", f"{f['largest']:.2f} GB", f"{f['missed']:.1e}")


def _header(names: str) -> None:
    columns = names.split("|")
    _row(*columns)
    _row(*["---"] * len(columns))


def _row(*cells: object) -> None:
    print("| " + " | ".join(map(str, cells)) + " |", flush=True)


def figures(n: int, epsilon: float, threads: int, processes: int) -> Figures:
    """Measure a solve: figures of the first process, but processor time of the one that took most of it."""
    found = _ranks(processes, "solve", n, epsilon, threads)
    return found[0] | {"processor": max(f["processor"] for f in found)}


def _ranks(processes: int, *arguments: object) -> list[Figures]:
    """What each of some processes prints."""
    command = [sys.executable, "-m", "benchmarks.clouds", *map(str, arguments)]
    with tempfile.TemporaryDirectory() as folder:
        meeting = {"FGWOT_MEETING": f"file://{folder}/meeting", "WORLD_SIZE": str(processes)}
        ranks = [
            subprocess.Popen(command, env=os.environ | meeting | {"RANK": str(rank)}, stdout=subprocess.PIPE)  # noqa: S603
            for rank in range(processes)
        ]
        printed = [rank.communicate()[0] for rank in ranks]
    assert not any(rank.returncode for rank in ranks)
    return [json.loads(text) for text in printed]


def solve(n: int, epsilon: float, threads: int) -> Figures:
    """One solve of large clouds, shared if there are several processes."""
    import torch
    import torch.distributed as dist

    import fgwot

    torch.set_num_threads(threads)
    group, sums = None, {"summed": 0.0, "in sums": 0.0}
    if int(os.environ["WORLD_SIZE"]) > 1:
        rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        dist.init_process_group("gloo", init_method=os.environ["FGWOT_MEETING"], rank=rank, world_size=size)
        group, dist.all_reduce = dist.group.WORLD, _counted(dist.all_reduce, sums)
    x, y = _clouds(n, torch.float32)
    told: list[fgwot.Progress] = []
    lazy = fgwot.Lazy(progress=told.append, group=group)
    _solution(x[:100].clone().requires_grad_(), y[:100], epsilon, 1e-4, lazy).value.backward()  # imports, compilation
    sums.update(dict.fromkeys(sums, 0.0))
    before = _memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # forgets the peak
    start, processor = time.perf_counter(), time.process_time()
    solution = _solution(x, y, epsilon, 1e-4, lazy)
    figures = {"seconds": time.perf_counter() - start, "processor": time.process_time() - processor, **sums}
    figures |= {"passes": told[-1].passes if told else 0, "steps": int(solution.n_iter)}
    figures["megabytes"] = (_memory("VmHWM") - before) / 1e3
    assert bool(solution.converged)
    start = time.perf_counter()
    _solution(x.requires_grad_(), y.requires_grad_(), epsilon, 1e-4, lazy).value.backward()
    return figures | {"with gradient": time.perf_counter() - start}


def compare(n: int, epsilon: float, repeats: int, rho: float | None) -> Figures:
    """Processor times of both ways in turns, after one solve each."""
    import torch

    torch.set_num_threads(1)
    x, y = _clouds(n, torch.float64)
    times: dict[str, list[float]] = {"lazy": [], "dense": []}
    for _ in range(1 + repeats):
        for plan, taken in times.items():
            start = time.process_time()
            solution = _solution(x, y, epsilon, 1e-6, plan, rho)
            if plan == "lazy":
                solution.plan.to_dense()
            taken.append(time.process_time() - start)
            assert bool(solution.converged)
    best = {plan: min(taken[1:]) for plan, taken in times.items()}
    return best | {"ratio": best["dense"] / best["lazy"]}


def build(n: int, epsilon: float) -> Figures:
    """Processor times of a solve and of building its plan, which is checked by its sums, some rows at a time."""
    import torch

    torch.set_num_threads(1)
    x, y = _clouds(n, torch.float32)
    start = time.process_time()
    solution = _solution(x, y, epsilon, 1e-4, "lazy")
    solved = time.process_time()
    plan = solution.plan.to_dense()
    built = time.process_time()
    largest = _memory("VmHWM") / 1e6
    assert bool(solution.converged)
    missed, columns = 0.0, torch.zeros(n, dtype=torch.float64)
    for rows in plan.split(1000):
        missed += float((rows.sum(1, dtype=torch.float64) - 1 / n).abs().sum())
        columns += rows.sum(0, dtype=torch.float64)
    missed += float((columns - 1 / n).abs().sum())
    gigabytes = plan.numel() * plan.element_size() / 1e9
    times = {"solve": solved - start, "build": built - solved}
    return times | {"gigabytes": gigabytes, "largest": largest, "missed": missed}


def _clouds(n: int, dtype: "torch.dtype") -> tuple["Tensor", "Tensor"]:
    import torch

    generator = torch.Generator().manual_seed(0)
    x, y = (torch.randn(n, 3, generator=generator, dtype=torch.float64) for _ in range(2))
    outermost = torch.cat([points[points.norm(dim=1).topk(min(n, 1000)).indices] for points in (x, y)])
    scale = float(torch.cdist(outermost, outermost).max())
    return (x / scale).to(dtype), (y / scale).to(dtype)


def _solution(
    x: "Tensor", y: "Tensor", epsilon: float, tol: float, plan: Any, rho: float | None = None
) -> "fgwot.Solution":
    import fgwot

    distances = fgwot.LowRank.squared_distances
    costs = distances(x, y), distances(x), distances(y)
    return fgwot.fused_gromov_wasserstein(*costs, epsilon=epsilon, rho=rho, tol=tol, plan=plan)


def _counted(reduce: Any, sums: dict[str, float]) -> Any:
    """All-reduce that adds up the megabytes and seconds of its calls."""

    def counted(x: "Tensor", *arguments: Any, **options: Any) -> Any:
        start = time.perf_counter()
        done = reduce(x, *arguments, **options)
        sums["in sums"] += time.perf_counter() - start
        sums["summed"] += x.numel() * x.element_size() / 1e6
        return done

    return counted


def _memory(name: str) -> float:
    """Kilobytes of this process: VmRSS now, VmHWM at most."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return float(next(line.split()[1] for line in lines if line.startswith(name)))


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["solve", n, epsilon, threads]:
            print(json.dumps(solve(int(n), float(epsilon), int(threads))))
        case ["compare", n, epsilon, repeats, rho]:
            print(json.dumps(compare(int(n), float(epsilon), int(repeats), float(rho) if rho else None)))
        case ["build", n, epsilon]:
            print(json.dumps(build(int(n), float(epsilon))))
        case _:
            main()
