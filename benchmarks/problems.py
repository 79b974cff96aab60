"""The arrays of a case, the same in every process."""

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.sparse.csgraph import shortest_path

from benchmarks.cases import Case

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Problem:
    """A batch of problems as float64 arrays; `x` and `y` are the points of a cloud.

    `rho` prices the marginals of the first and the second side, infinite where they are exact; `mass`, if there is one,
    is that of the plan, whose marginals are at most p and q.
    """

    M: Array
    C1: Array
    C2: Array
    p: Array
    q: Array
    alpha: float
    epsilon: float
    x: Array | None = None
    y: Array | None = None
    rho: tuple[float, float] = (np.inf, np.inf)
    mass: float | None = None

    @property
    def balanced(self) -> bool:
        """Whether both marginals are exact."""
        return self.rho == (np.inf, np.inf) and self.mass is None

    @property
    def arrays(self) -> tuple[Array, Array, Array, Array, Array]:
        """M, C1, C2, p, q with their batch dimension."""
        return self.M, self.C1, self.C2, self.p, self.q

    @property
    def first(self) -> tuple[Array, Array, Array, Array, Array]:
        """M, C1, C2, p, q of the first problem."""
        M, C1, C2, p, q = (a[0] for a in self.arrays)
        return M, C1, C2, p, q


def build(case: Case) -> Problem:
    """Draw the problems of a case; costs are scaled so that the largest is 1.

    Examples
    --------
    >>> build(Case("single", "points", 3, 4, 0.05)).M.shape
    (1, 3, 4)
    """
    M, C1, C2, *points = _drawn(case.structure, case.n, case.m, max(case.batch, 1), case.seed)
    p, q = (np.full((len(M), k), 1 / k) for k in (case.n, case.m))
    points = [cloud[0] for cloud in points] or [None, None]
    return Problem(M, C1, C2, p, q, case.alpha, case.epsilon, *points, **_MARGINALS.get(case.group, {}))


# What the groups ask of marginals; all others have exact ones.
_MARGINALS: dict[str, dict[str, Any]] = {
    "semi-relaxed": {"rho": (np.inf, 0.0)},
    "semi-relaxed proximal": {"rho": (np.inf, 0.0)},
    "partial": {"mass": 0.6},
    "partial proximal": {"mass": 0.6},
    "unbalanced": {"rho": (0.5, 0.5)},
}


@lru_cache(maxsize=1)  # thousands of points take seconds, for each setting of each solver
def _drawn(structure: str, n: int, m: int, batch: int, seed: int) -> tuple[Array, ...]:
    rng = np.random.default_rng([seed, n, m])
    drawn = [_KINDS[structure](rng, n, m) for _ in range(batch)]
    found = tuple(np.stack(arrays) for arrays in zip(*drawn, strict=True))
    for array in found:
        array.flags.writeable = False
    return found


def drift(problem: Problem, steps: int, size: float = 0.01) -> list[Problem]:
    """Return a "unit vectors" problem as the steps of a training change it: every vector turns by about `size`."""
    if problem.x is None or problem.y is None:
        raise ValueError("drift needs a problem made of unit vectors")
    rng = np.random.default_rng(0)
    found, x, y = [], problem.x, problem.y
    for _ in range(steps):
        x, y = (_normalised(a + size / np.sqrt(a.shape[1]) * rng.normal(size=a.shape)) for a in (x, y))
        M, C1, C2 = (costs[None] for costs in _cosine_costs(x, y))
        found.append(replace(problem, M=M, C1=C1, C2=C2, x=x, y=y))
    return found


def _distances(x: Array, y: Array) -> Array:
    squares = (x**2).sum(1)[:, None] + (y**2).sum(1) - 2 * x @ y.T
    result: Array = np.sqrt(np.maximum(squares, 0))
    return result


def _structure(x: Array) -> Array:
    C = _distances(x, x)
    np.fill_diagonal(C, 0)
    result: Array = C / C.max()
    return result


def _features(rng: np.random.Generator, n: int, m: int) -> Array:
    M = _distances(rng.uniform(size=(n, 2)), rng.uniform(size=(m, 2)))
    result: Array = M / M.max()
    return result


def _points(rng: np.random.Generator, n: int, m: int) -> tuple[Array, ...]:
    x, y = rng.normal(size=(n, 2)), rng.normal(size=(m, 2))
    M = _distances(x, y)
    return M / M.max(), _structure(x), _structure(y)


def _cloud(rng: np.random.Generator, n: int, m: int) -> tuple[Array, ...]:
    x, y = rng.normal(size=(n, 3)), rng.normal(size=(m, 3))
    scale = max(_distances(a, b).max() for a, b in ((x, y), (x, x), (y, y)))
    x, y = x / scale, y / scale
    C1, C2 = _distances(x, x) ** 2, _distances(y, y) ** 2
    return _distances(x, y) ** 2, C1, C2, x, y


def _unit_vectors(rng: np.random.Generator, n: int, m: int) -> tuple[Array, ...]:
    x, y = _normalised(rng.normal(size=(n, 32))), _normalised(rng.normal(size=(m, 32)))
    return *_cosine_costs(x, y), x, y


def _normalised(x: Array) -> Array:
    result: Array = x / np.linalg.norm(x, axis=1, keepdims=True)
    return result


def _cosine_costs(x: Array, y: Array) -> tuple[Array, Array, Array]:
    M, C1, C2 = (np.maximum(1 - a @ b.T, 0) for a, b in ((x, y), (x, x), (y, y)))
    return M, C1, C2


def _edges(rng: np.random.Generator, n: int) -> Array:
    upper = np.triu(rng.uniform(size=(n, n)) < 0.2, 1)
    upper[np.arange(n - 1), np.arange(1, n)] = True  # a path keeps the graph connected
    return (upper + upper.T).astype(float)


def _adjacency(rng: np.random.Generator, n: int, m: int) -> tuple[Array, ...]:
    return _features(rng, n, m), _edges(rng, n), _edges(rng, m)


def _shortest_path(rng: np.random.Generator, n: int, m: int) -> tuple[Array, ...]:
    C1, C2 = (shortest_path(_edges(rng, k)) for k in (n, m))
    return _features(rng, n, m), C1 / C1.max(), C2 / C2.max()


def _asymmetric(rng: np.random.Generator, n: int, m: int) -> tuple[Array, ...]:
    return _features(rng, n, m), rng.uniform(size=(n, n)), rng.uniform(size=(m, m))


_KINDS = {
    "points": _points,
    "cloud": _cloud,
    "unit vectors": _unit_vectors,
    "adjacency": _adjacency,
    "shortest path": _shortest_path,
    "asymmetric": _asymmetric,
}
