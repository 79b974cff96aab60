r"""The inner problem by a fixed number of operations: what a CUDA graph can replay, as it looks at no value.

P = softmax_j(g - X) is computed once, and the plan is T = diag(u) P diag(v) with u exact for the rows. Sweeps
v <- q / (P' u) cost two matrix-vector products each. Newton's step S d = q - c on log v, with

    S = diag(c) - T' diag(1/p) T,    c = T' 1,

is taken by as many conjugate gradients, at two products each, preconditioned by diag(c): in that scaling S is one minus
the contraction of a sweep, and k gradients do what k^2 sweeps would. Whoever calls looks at the error that is left.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from fgwot.constants import LONGEST, RIDGE
from fgwot.inner.plan import Marginals, Plan


@dataclass(frozen=True)
class Effort:
    """Sweeps, then conjugate gradients of a Newton step and a sweep after it."""

    sweeps: int
    gradients: int = 0


class Fixed:
    """Solves inner problems of a batch by a fixed number of operations.

    `void` is what a column without mass is given on both sides, and the smallest number elsewhere: nothing divides by
    zero, and a sum that underflows moves its potential as far as numbers go, and no further.
    """

    def __init__(self, marginals: Marginals) -> None:
        self._p, q = marginals.p[:, None, :], marginals.q[:, None, :]
        self._empty = q == 0
        tiny = torch.finfo(q.dtype).tiny
        self._void = self._empty.to(q.dtype) + tiny
        self._q, self._ones, self._positive = q + self._void, torch.ones_like(q), self._p.clamp_min(tiny)

    def __call__(self, X: Tensor, g: Tensor, effort: Effort) -> Plan:
        """Plan for costs X (B, n, m), finite and divided by epsilon, from potentials g (B, m).

        Its error says how good it is.
        """
        P = torch.softmax(g[:, None, :].masked_fill(self._empty, -torch.inf) - X, -1)
        u, v = self._p, self._ones
        for _ in range(effort.sweeps):
            v = self._q / self._sums(P, u)
            u = self._rows(P, v)
        if effort.gradients:
            v = v * self._newton(P, u, v, effort.gradients).clamp(-LONGEST, LONGEST).exp()
            v = self._q / self._sums(P, self._rows(P, v))
            u = self._rows(P, v)
        gap = torch.addcmul(self._q, v, self._sums(P, u), value=-1)
        error = torch.linalg.vector_norm(gap, 1, (-2, -1))
        return Plan(P.mul_(u.mT).mul_(v), g + v.log()[:, 0], error)

    def _sums(self, P: Tensor, u: Tensor) -> Tensor:
        """Column sums (B, 1, m) of diag(u) P."""
        return torch.baddbmm(self._void, u, P)

    def _rows(self, P: Tensor, v: Tensor) -> Tensor:
        """Return u (B, 1, n) that gives diag(u) P diag(v) its rows."""
        return self._p / torch.bmm(v, P.mT)

    def _newton(self, P: Tensor, u: Tensor, v: Tensor, count: int) -> Tensor:
        """Change d (B, 1, m) of log v by Newton's step, from 0 by `count` conjugate gradients."""
        info = torch.finfo(v.dtype)
        tiny = info.tiny
        c = v * self._sums(P, u)
        diagonal, weight = c * (1 + RIDGE * info.eps), u.square() / self._positive
        d, residual = torch.zeros_like(v), self._q - c
        direction = residual / c
        norm = torch.bmm(residual, direction.mT)
        least, none = info.eps * norm + tiny, torch.zeros_like(norm)
        for _ in range(count):
            inner = torch.bmm(direction * v, P.mT).mul_(weight)
            image = torch.addcmul(direction * diagonal, v, torch.bmm(inner, P), value=-1)
            step = norm / torch.bmm(direction, image.mT).clamp_min(tiny)
            step = torch.where(norm > least, step, none)  # what is left is rounding
            d = torch.addcmul(d, step, direction)
            residual = torch.addcmul(residual, step, image, value=-1)
            scaled = residual / c
            before, norm = norm, torch.bmm(residual, scaled.mT)
            direction = torch.addcmul(scaled, norm / before.clamp_min(tiny), direction)
        return d
