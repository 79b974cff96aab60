"""All pairs of a set of graphs, beside POT's loop: ``python -m benchmarks.pairwise``.

Generated data: graphs of the stochastic block model on 20 to 40 nodes with one, two or three communities; nodes are
joined with probability 0.6 within and 0.1 across. Structures are the lengths of shortest paths, or adjacency matrices,
and the feature of a node is its degree over the number of nodes; both are scaled so that the largest cost is 1. Weights
are uniform, alpha is 0.5, all in float64 on one thread.

POT solves a random sample of the pairs by `ot.gromov.entropic_fused_gromov_wasserstein`, and its time is that per pair
times the number of pairs. Of four settings, from loose to tight, the first counts at which nine of ten plans of the
sample have residuals of at most 1e-5; if there is none, the tightest, with the part that has. Residuals are measured by
`benchmarks.accuracy`, those of fgwot at plans of the same pairs, solved to the same tolerance one by one. The least of
two times counts.
"""

import argparse
import warnings

import numpy as np
import ot
import torch
from scipy.sparse.csgraph import shortest_path

import fgwot
from benchmarks.accuracy import measure
from benchmarks.machine import timed
from benchmarks.methods.pot import Entropic
from benchmarks.problems import Array, Problem

ALPHA, BOUND, SHARE = 0.5, 1e-5, 0.9


def graphs(count: int, kind: str, seed: int = 0) -> tuple[list[Array], list[Array]]:
    """Structures and features."""
    rng = np.random.default_rng(seed)
    structures, features = [], []
    for g in range(count):
        n = int(rng.integers(20, 41))
        community = np.arange(n) % (1 + g % 3)
        joined = np.triu(rng.uniform(size=(n, n)) < np.where(community[:, None] == community, 0.6, 0.1), 1)
        adjacency = (joined | joined.T).astype(float)
        lengths = shortest_path(adjacency, unweighted=True)
        lengths[np.isinf(lengths)] = n
        structures.append(lengths if kind == "shortest path" else adjacency)
        features.append(adjacency.sum(1, keepdims=True) / n)
    largest = max(C.max() for C in structures)
    return [C / largest for C in structures], features


def _pair(first: tuple[Array, Array], second: tuple[Array, Array], epsilon: float) -> Problem:
    (C1, x), (C2, y) = first, second
    M = ((x[:, None] - y[None]) ** 2).sum(-1)
    arrays = (M, C1, C2, np.full(len(C1), 1 / len(C1)), np.full(len(C2), 1 / len(C2)))
    return Problem(*(a[None] for a in arrays), ALPHA, epsilon)


def _share(problems: list[Problem], plans: list[Array]) -> float:
    """Part of the plans whose residuals are within the bound."""
    worst = [measure(problem, plan[None]).worst for problem, plan in zip(problems, plans, strict=True)]
    return float(np.mean([w <= BOUND for w in worst]))


def compare(kind: str, epsilon: float, count: int, sample: int) -> str:
    """One row of the table."""
    structures, features = graphs(count, kind)
    tensors = [[torch.from_numpy(a) for a in arrays] for arrays in (structures, features)]
    every = [(i, j) for i in range(count) for j in range(i, count)]
    chosen = np.random.default_rng(1).choice(len(every), min(sample, len(every)), replace=False)
    of = list(zip(structures, features, strict=True))
    problems = [_pair(of[i], of[j], epsilon) for i, j in (every[k] for k in chosen)]
    options = {"alpha": ALPHA, "epsilon": epsilon, "tol": BOUND}

    def ours() -> None:
        fgwot.pairwise(*tensors, **options)

    def one(problem: Problem, setting: dict[str, float]) -> Array:
        plan: Array = ot.gromov.entropic_fused_gromov_wasserstein(
            *problem.first, symmetric=True, alpha=ALPHA, epsilon=epsilon, **setting
        )
        return plan

    seconds = timed(ours)
    solved = [fgwot.fused_gromov_wasserstein(*map(torch.from_numpy, p.first), **options).plan.numpy() for p in problems]
    for setting in Entropic.ladder:
        plans: list[Array] = []
        peer = timed(lambda: plans.extend(one(p, setting) for p in problems))  # noqa: B023
        share = _share(problems, plans)
        if share >= SHARE:
            break
    peer = min(peer, timed(lambda: [one(p, setting) for p in problems])) / len(problems) * len(every)
    seconds = min(seconds, timed(ours))
    return (
        f"| {kind} | {epsilon} | {len(every)} | {seconds:.2f} s | {_share(problems, solved):.0%} "
        f"| {peer:.1f} s | {share:.0%} | {peer / seconds:.1f} |"
    )


def main() -> None:
    """Print a table in Markdown."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.pairwise", description="all pairs of a set of graphs")
    parser.add_argument("--graphs", type=int, default=100)
    parser.add_argument("--sample", type=int, default=40, help="pairs that POT solves (default %(default)s)")
    parser.add_argument(
        "--kinds", nargs="*", default=("shortest path",), help="or adjacency, on which POT takes minutes a pair"
    )
    parser.add_argument("--epsilons", type=float, nargs="*", default=(0.05, 0.01))
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # POT's on sums that overflow, and what does not converge is in the table
    fgwot.pairwise([torch.eye(2)], epsilon=1.0)  # compiles the loops
    print("| structure | epsilon | pairs | fgwot.pairwise | within 1e-5 | POT's loop | within 1e-5 | ratio |")
    print("|" + " --- |" * 8)
    for kind in options.kinds:
        for epsilon in options.epsilons:
            print(compare(kind, epsilon, options.graphs, options.sample), flush=True)


if __name__ == "__main__":
    main()
