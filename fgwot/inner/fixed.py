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

from fgwot.batch import Batch
from fgwot.constants import LONGEST
from fgwot.inner.plan import Marginals, Plan


@dataclass(frozen=True)
class Effort:
    """Sweeps, then conjugate gradients of a Newton step and a sweep after it."""

    sweeps: int
    gradients: int = 0


@dataclass(frozen=True)
class _Scaling(Batch):
    """P (B, n, m) and P', rows p (B, 1, n) and columns q (B, 1, m), 1 instead of 0 where there is no mass.

    `void` is what that adds to column sums, and the smallest number elsewhere: nothing divides by zero.
    """

    P: Tensor
    transposed: Tensor
    p: Tensor
    q: Tensor
    void: Tensor

    def sums(self, u: Tensor) -> Tensor:
        """Column sums of diag(u) P."""
        return torch.baddbmm(self.void, u, self.P)

    def rows(self, v: Tensor) -> Tensor:
        """Return u (B, 1, n) that gives diag(u) P diag(v) its rows."""
        return self.p / torch.bmm(v, self.transposed)


def fixed(X: Tensor, marginals: Marginals, g: Tensor, effort: Effort) -> Plan:
    """Plan for costs X (B, n, m), finite and divided by epsilon, from potentials g (B, m); its error says how good."""
    p, q = marginals.p[:, None, :], marginals.q[:, None, :]
    empty = q == 0
    logits = (g[:, None, :] - X).masked_fill_(empty, -torch.inf)
    # A sum that underflows moves its potential as far as numbers go, and no further.
    void = empty.to(q.dtype) + torch.finfo(q.dtype).tiny
    P = torch.softmax(logits, -1)
    scaling = _Scaling(P, P.mT, p, q + void, void)
    u, v = p, torch.ones_like(q)
    for _ in range(effort.sweeps):
        v = scaling.q / scaling.sums(u)
        u = scaling.rows(v)
    if effort.gradients:
        v = v * _newton(scaling, u, v, effort.gradients).clamp(-LONGEST, LONGEST).exp()
        v = scaling.q / scaling.sums(scaling.rows(v))
        u = scaling.rows(v)
    error = torch.linalg.vector_norm(v * scaling.sums(u) - scaling.q, 1, (-2, -1))
    return Plan(P.mul_(u.mT).mul_(v), g + v.log()[:, 0], error)


def _newton(scaling: _Scaling, u: Tensor, v: Tensor, count: int) -> Tensor:
    """Change d (B, 1, m) of log v by Newton's step, from 0 by `count` conjugate gradients."""
    info = torch.finfo(v.dtype)
    tiny = info.tiny
    c = v * scaling.sums(u)
    weight = u.square() / scaling.p.clamp_min(tiny)
    d, residual = torch.zeros_like(v), scaling.q - c
    direction = residual / c
    norm = torch.bmm(residual, direction.mT)
    least = info.eps * norm + tiny
    for _ in range(count):
        inner = torch.bmm(direction * v, scaling.transposed).mul_(weight)
        image = torch.addcmul(direction * (c * (1 + 64 * info.eps)), v, torch.bmm(inner, scaling.P), value=-1)
        step = norm / torch.bmm(direction, image.mT).clamp_min(tiny)
        step = torch.where(norm > least, step, 0)  # what is left is rounding
        d = torch.addcmul(d, step, direction)
        residual = torch.addcmul(residual, step, image, value=-1)
        scaled = residual / c
        before, norm = norm, torch.bmm(residual, scaled.mT)
        direction = torch.addcmul(scaled, norm / before.clamp_min(tiny), direction)
    return d
