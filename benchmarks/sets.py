"""Problems with many spaces: what is generated, and how results are measured.

"ellipses" are the inputs of a barycenter: `batch` clouds of m points on a circle and ellipses, with noise, distances
scaled to a largest one of 1, the points themselves as features. All solvers start from one structure on n points. A
barycenter is worth its objective at plans that fgwot solves for to a residual of 1e-9, from the plans that came with it
and from the usual start, the better counting for each input: only C and X are the solver's.

"communities" is a set of `batch` graphs of the stochastic block model on n to m nodes with one, two or three
communities; nodes are joined with probability 0.6 within and 0.1 across. Structures are lengths of shortest paths,
scaled so that the longest is 1, and the feature of a node is its degree over the number of nodes. Residuals are those
of plans of a random sample of the pairs, but for the worst tenth of it.
"""

import warnings
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from scipy.sparse.csgraph import shortest_path

from benchmarks.cases import Case
from benchmarks.problems import Array, Problem

if TYPE_CHECKING:
    from benchmarks.accuracy import Accuracy

SAMPLE, SHARE = 40, 0.9


@dataclass(frozen=True)
class Spaces:
    """Structures and features of some spaces, with uniform weights."""

    structures: list[Array]
    features: list[Array]
    alpha: float
    epsilon: float
    n: int

    @property
    def start(self) -> tuple[Array, Array]:
        """Structure and features from which a barycenter starts."""
        x = np.random.default_rng(1).normal(size=(self.n, 2))
        C = np.linalg.norm(x[:, None] - x, axis=-1)
        return C / C.max(), x

    @cached_property
    def sample(self) -> list[Problem]:
        """Problems of some pairs."""
        every = np.stack(np.triu_indices(len(self.structures)), 1)
        chosen = np.random.default_rng(1).choice(len(every), min(SAMPLE, len(every)), replace=False)
        return [self._pair(*every[k]) for k in chosen]

    def _pair(self, i: int, j: int) -> Problem:
        x, y = self.features[i], self.features[j]
        M = ((x[:, None] - y) ** 2).sum(-1)
        p, q = (np.full(len(z), 1 / len(z)) for z in (x, y))
        arrays = (M, self.structures[i], self.structures[j], p, q)
        return Problem(*(a[None] for a in arrays), self.alpha, self.epsilon)


def spaces(case: Case) -> Spaces:
    """Draw the spaces of a case."""
    rng = np.random.default_rng(case.seed)
    draw = _ellipses if case.structure == "ellipses" else _communities
    structures, features = draw(rng, case.n, case.m, case.batch)
    largest = max(C.max() for C in structures)
    return Spaces([C / largest for C in structures], features, case.alpha, case.epsilon, case.n)


def sampled(case: Case) -> float:
    """Which part of a set's pairs the sample has."""
    count = case.batch * (case.batch + 1) // 2
    return min(SAMPLE, count) / count


def measure_barycenter(problem: Spaces, found: tuple[Array, Array, Array | None]) -> "Accuracy":
    """Objective of C (n, n) and X (n, d), plans (S, n, m) having come with them or not."""
    import torch

    import fgwot
    from benchmarks.accuracy import Accuracy

    C, X, plans = (None if x is None else torch.tensor(x) for x in found)
    inputs, features = (torch.tensor(np.stack(x)) for x in (problem.structures, problem.features))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", fgwot.ConvergenceWarning)  # of plans that were bad
        values = [
            fgwot.fused_gromov_wasserstein(
                torch.cdist(X, features) ** 2,
                C,
                inputs,
                alpha=problem.alpha,
                epsilon=problem.epsilon,
                init=start,
                tol=1e-9,
                max_iter=5000,
            ).value.numpy()
            for start in ([None] if plans is None else [None, plans])
        ]
    return Accuracy(np.zeros(1), np.full(1, np.nan), np.min(values, 0).mean(keepdims=True), rounded=True)


def measure_pairs(problem: Spaces, plans: list[Array]) -> "Accuracy":
    """Residuals of the sample's plans."""
    from benchmarks.accuracy import Accuracy, measure

    found = [measure(pair, plan[None]) for pair, plan in zip(problem.sample, plans, strict=True)]
    found = sorted(found, key=lambda accuracy: accuracy.worst)[: int(np.ceil(SHARE * len(found)))]
    columns = ([getattr(a, name)[0] for a in found] for name in ("r_marg", "r_fix", "objective"))
    return Accuracy(*map(np.array, columns), rounded=False)


def _ellipses(rng: np.random.Generator, _n: int, m: int, count: int) -> tuple[list[Array], list[Array]]:
    clouds = []
    for s in range(count):
        angle = np.sort(rng.uniform(0, 2 * np.pi, m))
        cloud = np.stack([np.cos(angle), (0.5 + 0.5 * s / count) * np.sin(angle)], 1)
        clouds.append(cloud + rng.normal(scale=0.05, size=cloud.shape))
    return [np.linalg.norm(x[:, None] - x, axis=-1) for x in clouds], clouds


def _communities(rng: np.random.Generator, n: int, m: int, count: int) -> tuple[list[Array], list[Array]]:
    structures, features = [], []
    for g in range(count):
        nodes = int(rng.integers(n, m + 1))
        community = np.arange(nodes) % (1 + g % 3)
        joined = np.triu(rng.uniform(size=(nodes, nodes)) < np.where(community[:, None] == community, 0.6, 0.1), 1)
        adjacency = (joined | joined.T).astype(float)
        lengths = shortest_path(adjacency, unweighted=True)
        lengths[np.isinf(lengths)] = nodes
        structures.append(lengths)
        features.append(adjacency.sum(1, keepdims=True) / nodes)
    return structures, features
