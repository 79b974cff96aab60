r"""Costs of low rank in bases of few vectors, where the whole iteration but the plan itself is small matrices.

Let the columns of P = [1 / sqrt(n), U] be an orthonormal basis of the columns of all row factors (of M, and both
factors of C1), and Q = [1 / sqrt(m), W] one for the other side. Then

    M = P M' Q^T,    C1 = P S1 P^T,    C2 = Q S2 Q^T,    core K = P^T T Q,

and the gradient is P G Q^T with G = (1 - alpha) M' / epsilon - (2 alpha / epsilon) (S1 K S2^T + S1^T K S2), whether the
structures are symmetric or not. Inner products of gradients are those of their G, and <T, P G Q^T> = <K, G>: the steps
of `fgwot.iteration.undamped` are the same with K and G in place of plans and gradients. Only U and W meet in the
exponent of a plan: the first row and column of G shift potentials, which the passes absorb. So points of d dimensions
need d + 1 products per entry of a plan, however many costs they have.

Where a marginal is not met (`fgwot.streamed.sides`), the part of the gradient that depends on its side alone counts,
and varies with the plan: costs are P G Q^T + x (+) y with vectors x (n,) and y (m,), and their inner product with T has
<T 1, x> + <T^T 1, y>, too. Costs are kept as one vector of G, sqrt(m) x and sqrt(n) y, plans as one of K, T 1 / sqrt(m)
and T^T 1 / sqrt(n), without what belongs to exact sides: inner products are those of these vectors.
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
    vectors = vectors[:, values > _ROUNDINGS * rounding * columns.shape[1] ** 0.5]
    # A vector of small value is of rounding, of which centring leaves a constant: twice, and it is orthogonal.
    for _ in range(2):
        vectors = torch.linalg.qr(vectors - vectors.mean(0)).Q
    return torch.cat([constant, vectors], 1)


@dataclass(frozen=True)
class Bases:
    """P (n, r1 + 1) and Q (m, r2 + 1); both start with a constant column.

    `moving` says of rows and columns whether their marginals need not be met. Vectors of costs and plans are (1, k).
    """

    P: Tensor
    Q: Tensor
    moving: tuple[bool, bool] = (False, False)

    @property
    def U(self) -> Tensor:  # noqa: N802 - as in the formulas
        """The rest of P."""
        return self.P[:, 1:].contiguous()

    def costs(self, G: Tensor, x: Tensor, y: Tensor) -> Tensor:
        """Vector of the costs P G Q^T + x (+) y."""
        return self._vector(G, x / self.Q[0, 0], y / self.P[0, 0])

    def plan(self, K: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
        """Vector of a plan with this core and these sums."""
        return self._vector(K, rows * self.Q[0, 0], columns * self.P[0, 0])

    def _vector(self, core: Tensor, *parts: Tensor) -> Tensor:
        some = (part for part, moves in zip(parts, self.moving, strict=True) if moves)
        return torch.cat([core.flatten(), *some])[None]

    def core(self, vector: Tensor) -> Tensor:
        """G or K (r1 + 1, r2 + 1) of costs or of a plan."""
        shape = self.P.shape[1], self.Q.shape[1]
        return vector[0, : shape[0] * shape[1]].view(shape)

    def _parts(self, vector: Tensor) -> tuple[Tensor, Tensor]:
        """What a vector has of rows (n,) and columns (m,), nothing of exact sides."""
        n, m = (len(X) * moves for X, moves in zip((self.P, self.Q), self.moving, strict=True))
        end = vector.shape[1]
        return vector[0, end - m - n : end - m], vector[0, end - m :]

    def sums(self, plan: Tensor) -> tuple[Tensor, Tensor]:
        """Sums (n,), (m,) of a plan, none of exact sides."""
        rows, columns = self._parts(plan)
        return rows / self.Q[0, 0], columns / self.P[0, 0]

    def potentials(self, costs: Tensor) -> tuple[Tensor, Tensor]:
        """Row (n,) and column part (m,) of costs, the former without a constant of G."""
        G, constants = self.core(costs), (self.P[0, 0], self.Q[0, 0])
        rows, columns = self.P[:, 1:] @ G[1:, 0] * constants[1], self.Q @ G[0] * constants[0]
        x, y = self._parts(costs)
        return (rows + x * constants[1] if len(x) else rows), (columns + y * constants[0] if len(y) else columns)

    def exponent(self, costs: Tensor) -> Tensor:
        """V (r1, m) of costs U V, up to the row and column part."""
        return self.core(costs)[1:, 1:] @ self.Q[:, 1:].T

    def along(self, costs: Tensor, plan: Tensor) -> Tensor:
        """<T, U V>."""
        return (self.core(costs) * self.core(plan))[1:, 1:].sum()

    def core_of(self, products: Tensor, p: Tensor, columns: Tensor) -> Tensor:
        """K of a plan with these marginals, from its products T W (n, r2)."""
        rest = self.P.T @ products
        first = torch.outer(self.P[0, :1], self.Q[0, :1] * columns.sum())
        left = torch.cat([first, (self.P[:, 1:].T @ p * self.Q[0, 0])[:, None]])
        # The first row of K says what the column sums say, up to their rounding.
        rest[0] = self.Q[:, 1:].T @ columns * self.P[0, 0]
        return torch.cat([left, rest], 1)


class ReducedLinearisation(LowRankLinearisation):
    """Plans to costs, as vectors (1, 1, k); what the problem calls M is `linear`, the reduced one.

    `factors` (n, k1), (m, k2) are those that the `bases` span; `moving` is theirs.
    """

    def __init__(self, problem: Problem, M: LowRank | None, rounding: float, moving: tuple[bool, bool]) -> None:
        C1, C2 = problem.low_rank
        super().__init__(problem, C1, C2, mass_of_plans(problem), symmetric=False)
        sides = [[C.A[0], C.B[0]] for C in (C1, C2)]
        if M is not None:
            sides = [[factor, *side] for factor, side in zip((M.A, M.B), sides, strict=True)]
        self.factors = tuple(torch.cat(side, 1) for side in sides)
        P, Q = (basis(side, rounding) for side in self.factors)
        self.bases = Bases(P, Q, moving)
        self._S1, self._S2 = ((X.T @ C.A) @ (X.T @ C.B).mT for X, C in ((P, C1), (Q, C2)))
        reduced = P.new_zeros(P.shape[1], Q.shape[1]) if M is None else (P.T @ M.A) @ (Q.T @ M.B).T
        self._linear = reduced * ((1 - problem.alpha) / problem.epsilon)[:, None, None]

    @property
    def linear(self) -> Tensor:
        """(1 - alpha) M' / epsilon."""
        return self._linear

    def __call__(self, T: Tensor) -> Tensor:
        """Gradient at a plan, divided by epsilon."""
        K = self.bases.core(T[0])
        both = self._S1 @ K @ self._S2.mT + self._S1.mT @ K @ self._S2
        sums = zip((self._C1, self._C2), self.bases.sums(T[0]), strict=True)
        x, y = (self._squares(C, rows) / self.epsilon if len(rows) else rows for C, rows in sums)
        return self.bases.costs((self._linear - self._weight * both)[0], x, y)[None]

    def at_independent(self, marginals: Marginals) -> Tensor:
        """Gradient at the plan p q'."""
        return self(self.of_product(marginals.p[0], marginals.q[0]))

    def of_product(self, p: Tensor, q: Tensor) -> Tensor:
        """Vector of the plan p q', whose factors have one mass, over that mass."""
        core = torch.outer(self.bases.P.T @ p, self.bases.Q.T @ q) / p.sum()
        return self.bases.plan(core, p, q)[None]

    def shift(self, marginals: Marginals) -> tuple[Tensor, Tensor]:
        """Row part (1, n) and column part (1, m) that were left out, of exact sides only, not divided by epsilon."""
        rows, columns = (
            torch.zeros_like(x) if moves else self._squares(C, x[0])[None]
            for C, x, moves in zip((self._C1, self._C2), (marginals.p, marginals.q), self.bases.moving, strict=True)
        )
        return rows, columns

    def _squares(self, C: LowRank, sums: Tensor) -> Tensor:
        """Part (k,) of the energy's gradient that depends on the sums (k,) of one side alone."""
        x = sums[None, :, None]
        return self._quadratic * (C.squares(x) + C.mT.squares(x))[0, :, 0]

    def size(self, G: Tensor, marginals: Marginals) -> Tensor:
        """Root mean square (1,) of the costs that passes compute, under p q', and mean of what moves potentials."""
        U, W = self.bases.U, self.bases.Q[:, 1:]
        left, right = (X.T @ (x[:, None] * X) for X, x in ((U, marginals.p[0]), (W, marginals.q[0])))
        inside = self.bases.core(G[0])[1:, 1:]
        entries = (left * (inside @ right @ inside.T)).sum().clamp_min(0).sqrt()
        sides = zip((marginals.p[0], marginals.q[0]), self.bases.potentials(G[0]), self.bases.moving, strict=True)
        return (entries + sum(x @ part.abs() for x, part, moves in sides if moves))[None]


def mass_of_plans(problem: Problem) -> Tensor:
    """What the plans of an iteration are multiplied by (1,): they have mass one where the marginals are met."""
    return torch.ones_like(problem.alpha) if problem.moving else problem.p.sum(-1)
