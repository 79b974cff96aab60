r"""Costs of low rank in bases of few vectors, where the whole iteration but the plan itself is small matrices.

Let the columns of P = [1 / sqrt(n), U] be an orthonormal basis of the columns of all row factors (of M, and both
factors of C1), and Q = [1 / sqrt(m), W] one for the other side. Then

    M = P M' Q^T,    C1 = P S1 P^T,    C2 = Q S2 Q^T,    core K = P^T T Q,

and the gradient is P G Q^T with G = (1 - alpha) M' / epsilon - (2 alpha / epsilon) (S1 K S2^T + S1^T K S2), whether the
structures are symmetric or not. Inner products of gradients are those of their G, and <T, P G Q^T> = <K, G>: the steps
of `fgwot.iteration.undamped` are the same with K and G in place of plans and gradients. Only U and W meet in the
exponent of a plan: the first row and column of G shift potentials, which the passes absorb. So points of d dimensions
need d + 1 products per entry of a plan, however many costs they have.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from fgwot.gradient.linearisation import LowRankLinearisation
from fgwot.inner.plan import Marginals
from fgwot.problem import Problem
from fgwot.structure import LowRank

_ROUNDINGS = 8  # of a column, below which another says nothing new


def basis(factors: Tensor, rounding: float) -> Tensor:
    """Orthonormal basis (n, r + 1) of the columns of a matrix (n, k), which starts with a constant."""
    n = len(factors)
    constant = factors.new_full((n, 1), n**-0.5)
    columns = factors - factors.mean(0)
    # Before they are centred: what is left of a constant column is rounding.
    norms = factors.norm(dim=0)
    columns = columns / torch.where(norms > 0, norms, 1)
    vectors, values, _ = torch.linalg.svd(columns, full_matrices=False)
    return torch.cat([constant, vectors[:, values > _ROUNDINGS * rounding]], 1)


@dataclass(frozen=True)
class Bases:
    """P (n, r1 + 1) and Q (m, r2 + 1); both start with a constant column."""

    P: Tensor
    Q: Tensor

    @property
    def U(self) -> Tensor:  # noqa: N802 - as in the formulas
        """The rest of P."""
        return self.P[:, 1:].contiguous()

    def potentials(self, G: Tensor) -> tuple[Tensor, Tensor]:
        """Row (n,) and column part (m,) of P G Q^T, for G (r1 + 1, r2 + 1)."""
        constants = self.P[0, 0], self.Q[0, 0]
        return self.P[:, 1:] @ G[1:, 0] * constants[1], self.Q @ G[0] * constants[0]

    def exponent(self, G: Tensor) -> Tensor:
        """V (r1, m) with P G Q^T = U V, up to the row and column part."""
        return G[1:, 1:] @ self.Q[:, 1:].T

    def core(self, products: Tensor, p: Tensor, columns: Tensor) -> Tensor:
        """K of a plan with these marginals, from its products T W (n, r2)."""
        rest = self.P.T @ products
        first = torch.outer(self.P[0, :1], self.Q[0, :1] * columns.sum())
        left = torch.cat([first, (self.P[:, 1:].T @ p * self.Q[0, 0])[:, None]])
        # The first row of K says what the column sums say, up to their rounding.
        rest[0] = self.Q[:, 1:].T @ columns * self.P[0, 0]
        return torch.cat([left, rest], 1)


class ReducedLinearisation(LowRankLinearisation):
    """K -> G, for a batch of one; what the problem calls M is `linear`, the reduced one.

    `sides` (n, k1), (m, k2) are the factors that the `bases` span.
    """

    def __init__(self, problem: Problem, M: LowRank | None, rounding: float) -> None:
        C1, C2 = problem.low_rank
        super().__init__(problem, C1, C2, problem.p.sum(-1), symmetric=False)
        sides = [[C.A[0], C.B[0]] for C in (C1, C2)]
        if M is not None:
            sides = [[factor, *side] for factor, side in zip((M.A, M.B), sides, strict=True)]
        self.sides = tuple(torch.cat(side, 1) for side in sides)
        P, Q = (basis(side, rounding) for side in self.sides)
        self.bases = Bases(P, Q)
        self._S1, self._S2 = ((X.T @ C.A) @ (X.T @ C.B).mT for X, C in ((P, C1), (Q, C2)))
        reduced = P.new_zeros(P.shape[1], Q.shape[1]) if M is None else (P.T @ M.A) @ (Q.T @ M.B).T
        self._linear = reduced * ((1 - problem.alpha) / problem.epsilon)[:, None, None]

    @property
    def linear(self) -> Tensor:
        """(1 - alpha) M' / epsilon."""
        return self._linear

    def __call__(self, K: Tensor) -> Tensor:
        """G (1, r1 + 1, r2 + 1) at a plan with the core K."""
        both = self._S1 @ K @ self._S2.mT + self._S1.mT @ K @ self._S2
        return self._linear - self._weight * both

    def product(self, marginals: Marginals) -> Tensor:
        """G at the plan p q'."""
        return self(self.product_core(marginals))

    def product_core(self, marginals: Marginals) -> Tensor:
        """K of the plan p q'."""
        return torch.outer(self.bases.P.T @ marginals.p[0], self.bases.Q.T @ marginals.q[0])[None]

    def size(self, G: Tensor, marginals: Marginals) -> Tensor:
        """Root mean square (1,) of the entries of P G Q^T that passes compute, under p q'."""
        U, W = self.bases.U, self.bases.Q[:, 1:]
        left, right = (X.T @ (x[:, None] * X) for X, x in ((U, marginals.p[0]), (W, marginals.q[0])))
        inside = G[0, 1:, 1:]
        return (left * (inside @ right @ inside.T)).sum().clamp_min(0).sqrt()[None]
