r"""The inner problem for a sequence of slowly changing costs: one softmax per plan, and Newton matrices kept.

P = softmax_j(g - X) is computed once. From there the plan is T = diag(u) P diag(v), with u exact for the rows, and only
v moves, at two matrix-vector products per evaluation: by sweeps v <- v q / c with the column sums c, or by chord steps

    log v <- log v + S^-1 (q - c),    S = diag(c) - T' diag(1/p) T,

whose Newton matrix S^-1 of an earlier plan contracts almost as well as its own. Whatever does not contract is left to
`fgwot.inner.sinkhorn`, which converges from anywhere. On CUDA a kernel makes the first sweeps, some at a time: it reads
P once for both sides, and the host waits for the error only where it decides.
"""

from dataclasses import dataclass
from math import isfinite, log, nan

import torch
from torch import Tensor

from fgwot.backend import uses_triton
from fgwot.batch import Selectable
from fgwot.constants import FAILED, LONGEST, POOR, RIDGE
from fgwot.inner.plan import Marginals, Plan
from fgwot.inner.sinkhorn import kernel_sweeps, sinkhorn
from fgwot.inner.sweeps import half_sweep

_FAR = 30.0  # logarithm of v from which P, computed for v = 1, is too inexact
_EVALUATIONS = 100


@dataclass
class Chord(Selectable):
    """Solves inner problems of a batch; remembers the Newton matrices (B, m, m) from call to call."""

    marginals: Marginals
    matrix: Tensor | None = None

    def __post_init__(self) -> None:
        p, q = self.marginals.p, self.marginals.q
        # A column without mass is given the sum 1 on both sides: nothing divides by zero, and nothing changes.
        self._void = (q == 0).to(q.dtype)[:, None, :]
        self._masked = bool(self._void.any())
        self._p, self._q = p[:, None, :], q[:, None, :] + self._void
        # Price of a Newton matrix, in sweeps.
        self._worth = 4.0 if q.shape[-1] < 64 else q.shape[-1] / 6

    def select(self, index: Tensor) -> "Chord":
        """Return the solver of some problems of the batch."""
        if len(index) == len(self._p):
            return self
        return Chord(self.marginals.select(index), None if self.matrix is None else self.matrix[index])

    def __call__(self, X: Tensor, g: Tensor, tol: Tensor) -> Plan:
        """Plan for costs X (B, n, m), finite and divided by epsilon, with column error at most `tol` (B,).

        `g` (B, m) is a warm start.
        """
        p, q = self._p, self._q
        if not len(X):
            return Plan(X, g, tol)
        P = torch.softmax(self._logits(X, g), -1)
        u, v, transposed = p, torch.ones_like(q), P.mT
        single = len(X) == 1
        limit = tol.item() if single else 0.0
        worst, fresh = nan, False
        for k in range(_EVALUATIONS):
            c = torch.addcmul(self._void, v, torch.bmm(u, P))
            gap = q - c
            error = torch.linalg.vector_norm(gap, 1, (-2, -1))
            before, worst = worst, error.item() / limit if single else (error / tol).amax().item()
            if worst <= 1:
                if not k:
                    return Plan(P.mul_(u.mT), g, error)
                shift = v.log()[:, 0]
                g = g + shift
                if shift.abs().amax() > _FAR:
                    break
                return Plan(P.mul_(u.mT).mul_(v), g, error)
            if not isfinite(worst):  # of one problem: the others need not wait for it
                break
            if k:
                rate = worst / before
                if self.matrix is None:
                    renew = not (rate < 1 and log(worst) <= -self._worth * log(rate))
                else:
                    renew = not rate < POOR
                    if fresh and not rate < FAILED:
                        break
                if renew:
                    self.matrix, fresh = self._newton(P, u, v, c), True
            if self.matrix is not None:
                v = v * torch.bmm(gap, self.matrix).clamp(-LONGEST, LONGEST).exp()
            elif not k and uses_triton(X.device):
                swept, error = kernel_sweeps(P, self.marginals, v[:, 0], tol, self._worth, log=False)
                v = torch.where(self._void > 0, 1, swept[:, None, :])
                if (error <= tol).all():
                    # The kernel bounds v: P is never too inexact for it.
                    T, _, error = half_sweep(P, self.marginals.p, self.marginals.q, v[:, 0], False)
                    return Plan(T, g + v.log()[:, 0], error)
            else:
                v = v * (q / c)
            u = p / torch.bmm(v, transposed)
        self.matrix = None
        plan = sinkhorn(X, self.marginals, g, tol)
        return Plan(plan.T, plan.g, plan.error)

    def _logits(self, X: Tensor, g: Tensor) -> Tensor:
        logits = g[:, None, :] - X
        return logits.masked_fill_(self._void > 0, -torch.inf) if self._masked else logits

    def _newton(self, P: Tensor, u: Tensor, v: Tensor, c: Tensor) -> Tensor:
        """S^-1 at a plan, but zero along the null space of S: adding a number to g changes nothing."""
        info = torch.finfo(c.dtype)
        # In the scaling that makes the diagonal about one; the null space is spanned by sqrt(c).
        root = c.clamp_min(info.tiny).sqrt()
        half = (P * (u / self._p.clamp_min(info.tiny).sqrt()).mT).mul_(v / root)
        null = root / root.norm(dim=-1, keepdim=True)
        S = torch.baddbmm(null.mT @ null, half.mT, half, alpha=-1)
        S.diagonal(dim1=-2, dim2=-1).add_(1 + RIDGE * info.eps)
        return torch.cholesky_inverse(torch.linalg.cholesky_ex(S)[0]) / root / root.mT
