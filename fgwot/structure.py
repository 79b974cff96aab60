"""Structures of low rank, which are never built."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fgwot.arrays import any_array
from fgwot.constants import BLOCK
from fgwot.operations import folded, once, without_autocast

_OVERSAMPLING = 8  # further columns of the subspace iteration for distances
_PROBE_ROUNDING = 256  # times eps: by how much C v and C' v may differ for a symmetric C


@dataclass(frozen=True)
class LowRank:
    """The matrix A B', for a few columns: products with a plan cost O(n m r), and it is never built.

    A structure, for the square loss and for both structures or neither; or a linear cost, which is built unless the
    plan is lazy (`fgwot.LazyPlan`).

    Parameters
    ----------
    A, B : Tensor (..., n, r), (..., m, r)
        With m = n for a structure.

    Examples
    --------
    >>> import torch
    >>> from fgwot import gromov_wasserstein
    >>> x = torch.tensor([[0.0], [1.0], [3.0]], dtype=torch.float64)
    >>> C = LowRank.squared_distances(x)
    >>> gromov_wasserstein(C, C, epsilon=0.02).plan.argmax(1).tolist()
    [0, 1, 2]
    """

    A: Tensor
    B: Tensor

    @staticmethod
    @any_array
    def squared_distances(x: Tensor, y: Tensor | None = None) -> "LowRank":
        """Return the squared Euclidean distances of points, which have rank d + 2.

        The points are centred first, which changes no distance and keeps the terms small.

        Parameters
        ----------
        x : Tensor (..., n, d)
        y : Tensor (..., m, d), optional
            Distances from x to y, a linear cost; among x by default, a structure.

        Examples
        --------
        >>> LowRank.squared_distances(torch.zeros(1, 2), torch.tensor([[3.0, 4.0], [0.0, 1.0]])).to_dense()
        tensor([[25.,  1.]])
        """
        centre = x.mean(-2, keepdim=True)
        if y is not None:
            centre = (centre + y.mean(-2, keepdim=True)) / 2
        x, y = x - centre, x - centre if y is None else y - centre

        def terms(points: Tensor) -> tuple[Tensor, Tensor]:
            return points.square().sum(-1, keepdim=True), torch.ones_like(points[..., :1])

        (squares, one), (others, another) = terms(x), terms(y)
        return LowRank(torch.cat([squares, one, -2 * x], -1), torch.cat([another, others, y], -1))

    @staticmethod
    def distances(x: Tensor, rank: int) -> tuple["LowRank", Tensor]:
        r"""Return nearly the Euclidean distances among points, and the root mean square error of their entries.

        Euclidean distances have no low rank; these are their eigenvectors of the largest eigenvalues, found by subspace
        iteration in three products with the distances, which are never stored (Halko, Martinsson and Tropp 2011). The
        error is exact, since :math:`|D - W \Lambda W^\top|_F^2 = |D|_F^2 - |\Lambda|_F^2`, and says what it does to a
        problem: with errors e1 and e2 of the two structures and uniform marginals of mass one, every coupling has

        .. math:: |\sqrt{\langle L \otimes T, T \rangle} - \sqrt{\langle \tilde L \otimes T, T \rangle}|
                  \le e_1 + e_2,

        as the square roots are norms of C1 - C2 in the square-integrable functions of T x T. (With marginals p and q
        multiply e1 by n max(p), e2 by m max(q).)

        Parameters
        ----------
        x : Tensor (n, d)
        rank : int
            The error falls as rank^-(1/2 + 1/d).

        Returns
        -------
        C : LowRank
            In the points' dtype, without gradients.
        error : Tensor ()
            In their unit; below 1e-7 of the largest distance it is rounding.

        Raises
        ------
        ValueError
            If the points have another shape or want gradients, or rank is not positive.

        Examples
        --------
        >>> x = torch.linspace(0, 1, 200)[:, None]
        >>> for rank in (4, 8, 16):
        ...     C, error = LowRank.distances(x, rank)
        ...     print(rank, f"{error:.4f}")
        4 0.0182
        8 0.0058
        16 0.0020
        """
        if x.ndim != 2 or not x.is_floating_point():
            raise ValueError(
                f"distances needs points (n, d) of floating point, got {x.dtype} of shape {tuple(x.shape)}"
            )
        if x.requires_grad:
            raise ValueError("distances of some rank have no gradients in the points: pass x.detach()")
        if rank < 1:
            raise ValueError(f"rank must be positive, got {rank}")
        n, points = len(x), x.double() - x.double().mean(0)
        generator = torch.Generator().manual_seed(0)
        Q = torch.randn(n, min(rank + _OVERSAMPLING, n), generator=generator, dtype=torch.float64).to(x.device)
        for _ in range(2):
            Q = torch.linalg.qr(_distances_times(points, Q)).Q
        values, vectors = torch.linalg.eigh(Q.T @ _distances_times(points, Q))
        largest = values.abs().topk(min(rank, len(values))).indices
        values, W = values[largest], Q @ vectors[:, largest]
        total = 2 * n * points.square().sum()
        error = (total - values.square().sum()).clamp_min(0).sqrt() / n
        return LowRank((W * values).to(x.dtype), W.to(x.dtype)), error.to(x.dtype)

    def map(self, f: Callable[[Tensor], Tensor]) -> "LowRank":
        """Apply a function to both factors."""
        return LowRank(f(self.A), f(self.B))

    @property
    def shape(self) -> torch.Size:
        """Shape (..., n, m) of the matrix."""
        return torch.Size([*self.A.shape[:-1], self.B.shape[-2]])

    @property
    def dtype(self) -> torch.dtype:
        """Of the factors."""
        return self.A.dtype

    @property
    def device(self) -> torch.device:
        """Of the factors."""
        return self.A.device

    @property
    def mT(self) -> "LowRank":  # noqa: N802 (torch's name)
        """The transposed matrix."""
        return LowRank(self.B, self.A)

    def __matmul__(self, x: Tensor) -> Tensor:
        return self.A @ (self.B.mT @ x)

    def to_dense(self) -> Tensor:
        """Build A B'."""
        return self.A @ self.B.mT

    def squares(self, x: Tensor) -> Tensor:
        """Return (C o C) x for x (..., n, 1), C o C holding the squares of the entries."""
        return ((self.A @ (self.B.mT @ (x * self.B))) * self.A).sum(-1, keepdim=True)

    @property
    def symmetric(self) -> bool:
        """Whether C = C' up to rounding; told by its product with one vector."""
        n = self.A.shape[-2]
        v = torch.arange(1, n + 1, dtype=self.A.dtype, device=self.A.device).sin()[:, None]
        scale = self.A.abs() @ (self.B.abs().mT @ v.abs())
        return bool(((self @ v - self.mT @ v).abs() <= _PROBE_ROUNDING * torch.finfo(v.dtype).eps * scale.amax()).all())


def _distances_times(x: Tensor, V: Tensor) -> Tensor:
    """Product of the distances among points with V (n, k), by blocks."""
    return torch.cat([torch.cdist(part, x) @ V for part in x.split(max(1, BLOCK // len(x)))])


Structure = Tensor | LowRank


def refuse_sparse(**matrices: Any) -> None:
    """Raise a TypeError that says what to do, if one is sparse: tensors of torch or matrices of SciPy."""
    for name, C in matrices.items():
        if C.layout is not torch.strided if isinstance(C, Tensor) else hasattr(C, "tocsr"):
            raise TypeError(
                f"{name} is sparse, and is not built unasked: use {name}.to_dense() (SciPy: {name}.toarray()) where "
                f"what is not stored is zero, or fgwot.geodesic({name}), the shortest paths in that graph"
            )


class _Quadratic(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(A1: Tensor, B1: Tensor, A2: Tensor, B2: Tensor, T: Tensor) -> Tensor:
        p, q = T.sum(-1)[..., None], T.sum(-2)[..., None]
        own = (p * LowRank(A1, B1).squares(p)).sum((-2, -1)) + (q * LowRank(A2, B2).squares(q)).sum((-2, -1))
        return own - 2 * ((A1.mT @ T @ A2) * (B1.mT @ T @ B2)).sum((-2, -1))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:  # noqa: ARG004
        ctx.save_for_backward(*inputs)

    @staticmethod
    @without_autocast
    def backward(ctx: Any, dquad: Tensor) -> tuple[Tensor | None, ...]:
        grads = folded(_quadratic_adjoint, *ctx.saved_tensors, dquad)
        return *once(
            grads, "the quadratic term of LowRank structures is differentiable once", *ctx.saved_tensors, dquad
        ), None


def _quadratic_adjoint(A1: Tensor, B1: Tensor, A2: Tensor, B2: Tensor, T: Tensor, dquad: Tensor) -> tuple[Tensor, ...]:
    p, q = T.sum(-1)[..., None], T.sum(-2)[..., None]
    left, right = A1.mT @ T @ A2, B1.mT @ T @ B2
    w = 2 * dquad[..., None, None]

    def own(x: Tensor, A: Tensor, B: Tensor) -> Tensor:
        return x * (A @ (B.mT @ (x * B)))

    dA1, dB1 = own(p, A1, B1) - T @ (A2 @ right.mT), own(p, B1, A1) - T @ (B2 @ left.mT)
    dA2, dB2 = own(q, A2, B2) - T.mT @ (A1 @ right), own(q, B2, A2) - T.mT @ (B1 @ left)
    return w * dA1, w * dB1, w * dA2, w * dB2


def low_rank_quadratic(C1: LowRank, C2: LowRank, T: Tensor) -> Tensor:
    r"""Return <L (x) T, T> (...) for the square loss, in O(n m r), differentiable once in the four factors.

    .. math:: \sum_{ijkl} (C1_{ik} - C2_{jl})^2 T_{ij} T_{kl}
              = \langle p, (C1 \circ C1) p \rangle + \langle q, (C2 \circ C2) q \rangle
              - 2 \langle A_1^T T A_2, B_1^T T B_2 \rangle

    with the marginals p = T 1 and q = T' 1 of the plan T (..., n, m).
    """
    quad: Tensor = _Quadratic.apply(C1.A, C1.B, C2.A, C2.B, T)
    return quad
