"""Random problems, and problems whose answer is known."""

from dataclasses import dataclass, replace

import numpy as np
import torch
from hypothesis import strategies as st

STRUCTURES = ("euclidean", "squared euclidean", "adjacency", "asymmetric", "indefinite")


def structure(rng, n, kind):
    """Structure matrix of one of the kinds users have: distances, graphs, directed and arbitrary relations."""
    if "euclidean" in kind:
        x = rng.normal(size=(n, 2))
        distances = np.linalg.norm(x[:, None] - x[None], axis=-1)
        return distances**2 if "squared" in kind else distances
    if kind == "adjacency":
        upper = np.triu(rng.uniform(size=(n, n)) < 0.4, 1).astype(float)
        return upper + upper.T
    if kind == "asymmetric":
        return rng.uniform(size=(n, n))
    A = rng.normal(size=(n, n))
    return A + A.T


@dataclass(frozen=True)
class Case:
    """One problem as float64 NumPy arrays."""

    M: np.ndarray
    C1: np.ndarray
    C2: np.ndarray
    p: np.ndarray
    q: np.ndarray
    alpha: float
    epsilon: float

    @property
    def arrays(self):
        return self.M, self.C1, self.C2, self.p, self.q

    def tensors(self, dtype=torch.float64):
        return tuple(torch.from_numpy(a).to(dtype) for a in self.arrays)

    @property
    def weights(self):
        return {"alpha": self.alpha, "epsilon": self.epsilon}

    def scaled_by(self, **changes):
        return replace(self, **changes)


def central_differences(value, arguments, which, step=1e-5):
    """Derivatives of a value of tensors in all entries of one of them."""
    found = torch.zeros_like(arguments[which])
    for entry in np.ndindex(*found.shape):
        sides = []
        for sign in (1, -1):
            moved = arguments[which].clone()
            moved[entry] += sign * step
            sides.append(value(*arguments[:which], moved, *arguments[which + 1 :]))
        found[entry] = (sides[0] - sides[1]) / (2 * step)
    return found


def random_case(seed, max_points=12, kind=None, epsilon=(0.02, 0.5)):
    rng = np.random.default_rng(seed)
    n, m = rng.integers(2, max_points + 1, 2)
    kind = kind or rng.choice(STRUCTURES)
    M = rng.uniform(size=(n, m))
    C1, C2 = structure(rng, n, kind), structure(rng, m, kind)
    p, q = rng.dirichlet(np.full(n, 2.0)), rng.dirichlet(np.full(m, 2.0))
    # epsilon as a part of the largest cost
    cost = max(M.max(), np.abs(C1).max() ** 2, np.abs(C2).max() ** 2)
    low, high = np.log(epsilon)
    return Case(M, C1, C2, p, q, float(rng.uniform(0.1, 1)), float(np.exp(rng.uniform(low, high)) * cost))


cases = st.builds(random_case, st.integers(0, 2**31 - 1), kind=st.sampled_from(STRUCTURES))
