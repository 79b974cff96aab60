"""Two clouds, and the processes of a torchrun that share the work.

    torchrun --nproc-per-node 2 docs/examples/many_processes.py --points 20000

Each process makes the same call with all points, computes its part of the rows and has the whole solution.
"""

import argparse
import sys
import time
from datetime import timedelta

import torch
import torch.distributed as dist

import fgwot
from fgwot import LowRank


def main() -> None:
    """Solve, differentiate, and print on rank 0."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--points", type=int, default=20_000)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--tol", type=float, default=1e-4)
    parser.add_argument("--checkpoint", help="a file to go on from")
    options = parser.parse_args()
    dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo", timeout=timedelta(minutes=5))
    if torch.cuda.is_available():
        torch.cuda.set_device(dist.get_rank())
        torch.set_default_device("cuda")

    generator = torch.Generator(torch.get_default_device()).manual_seed(0)
    x, y = (torch.randn(options.points, 3, generator=generator, dtype=torch.float64) / 8 for _ in range(2))
    x, y = (points.to(getattr(torch, options.dtype)).requires_grad_() for points in (x, y))
    costs = LowRank.squared_distances(x, y), LowRank.squared_distances(x), LowRank.squared_distances(y)
    lazy = fgwot.Lazy(progress=fgwot.ProgressLine(), checkpoint=options.checkpoint, group=dist.group.WORLD)
    began = time.perf_counter()
    solution = fgwot.fused_gromov_wasserstein(*costs, epsilon=0.05, tol=options.tol, plan=lazy)
    solved = time.perf_counter()
    solution.value.backward()
    if dist.get_rank() == 0:
        seconds = f"{solved - began:.2f} s, gradient {time.perf_counter() - solved:.2f} s"
        print(f"{dist.get_world_size()} processes, {options.points} points: {seconds}")
        print(f"value {solution.value:.12g}, gradient {y.grad.norm():.12g}, residual {solution.residual:.1e}")
        print(f"the first point goes to {(solution.plan.rows(slice(0, 1)) @ y * options.points).tolist()[0]}")
    dist.destroy_process_group()


if __name__ == "__main__":
    sys.exit(main())
