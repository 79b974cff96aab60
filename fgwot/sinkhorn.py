r"""Entropic optimal transport for a given linear cost: the inner problem.

For costs X (already divided by epsilon) find T = exp(f (+) g - X) with marginals p and q. Rows are eliminated:
with P = softmax_j(g - X), the plan T = diag(p) P has exact rows for every g, and only g is iterated. What remains
is to maximise the concave semi-dual <q, g> - <p, logsumexp_j(g - X)>, whose gradient is q - c with column sums
c = P' p, and whose Hessian is -S with

    S = diag(c) - P' diag(p) P.

Sinkhorn sweeps g += log q - log c are cheap but contract slowly at small epsilon; Newton steps S d = q - c cost
O(n m^2 + m^3) and contract quadratically. Every problem of the batch starts with sweeps and turns to Newton when
the contraction it shows says that sweeping would be dearer.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

_SWEEPS = 4  # sweeps between two looks at the error
_NEWTON_FROM = 0.3  # relative column error below which Newton is tried
_NEWTON_STEP = 3.0  # largest move of a potential in one Newton step
_ROUNDS = 500  # rounds of sweeps or Newton steps before giving up


@dataclass(frozen=True)
class Marginals:
    """Marginals p (B, n) and q (B, m) of equal mass (B,)."""

    p: Tensor
    q: Tensor
    mass: Tensor

    @staticmethod
    def of(p: Tensor, q: Tensor) -> "Marginals":
        """Rescale q, by rounding only, to the mass of p."""
        mass = p.sum(-1)
        return Marginals(p, q * (mass / q.sum(-1))[:, None], mass)

    def select(self, index: Tensor) -> "Marginals":
        """Return the marginals of some problems of the batch."""
        return Marginals(self.p[index], self.q[index], self.mass[index])


class Coupling(NamedTuple):
    """A plan T = exp(f (+) g - X) with exact rows.

    Attributes
    ----------
    T : Tensor (B, n, m)
    f, g : Tensor (B, n), (B, m)
        Potentials divided by epsilon; zero where there is no mass.
    error : Tensor (B,)
        L1 error of the column marginal.
    """

    T: Tensor
    f: Tensor
    g: Tensor
    error: Tensor


def sinkhorn(X: Tensor, marginals: Marginals, g: Tensor, tol: Tensor) -> Coupling:
    """Solve a batch of entropic linear problems until the column error is at most `tol`.

    Parameters
    ----------
    X : Tensor (B, n, m)
        Cost divided by epsilon; finite.
    marginals : Marginals
    g : Tensor (B, m)
        Warm start.
    tol : Tensor (B,)
        Allowed L1 error of the column marginal. The returned ``error`` says what was reached.
    """
    P, c, error = _columns(X, marginals, g)
    # No potential resolves a column sum more finely than its own rounding.
    resolution = torch.finfo(g.dtype).eps * (8 + 2 * g.abs().amax(-1))
    tol = torch.maximum(tol, resolution * marginals.mass)
    newton = torch.zeros_like(error, dtype=torch.bool)
    for _ in range(_ROUNDS):
        unmet = error > tol
        if not bool(unmet.any()):
            break
        for turn, step in ((unmet & newton, _newton), (unmet & ~newton, _sweep)):
            if not bool(turn.any()):
                continue
            if bool(turn.all()):
                g, P, c, error, slow = step(X, marginals, g, P, c, error, tol)
                newton = newton | slow
            else:
                at = turn.nonzero()[:, 0]
                args = (t[at] for t in (g, P, c, error, tol))
                new = step(X[at], marginals.select(at), *args)
                g, P, c, error = (
                    old.index_copy(0, at, x) for old, x in zip((g, P, c, error), new[:4], strict=True)
                )
                newton = newton.index_copy(0, at, newton[at] | new[4])
    has_p, has_q = marginals.p > 0, marginals.q > 0
    f = torch.where(has_p, marginals.p.log() - torch.logsumexp(_logits(X, marginals, g), -1), 0)
    return Coupling(marginals.p[:, :, None] * P, f, torch.where(has_q, g, 0), error)


_Step = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]


def _logits(X: Tensor, marginals: Marginals, g: Tensor) -> Tensor:
    return g.masked_fill(marginals.q == 0, -torch.inf)[:, None, :] - X


def _columns(X: Tensor, marginals: Marginals, g: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Row-exact plan for g, divided by p; its column sums, and their L1 error."""
    P = torch.softmax(_logits(X, marginals, g), -1)
    c = (marginals.p[:, None, :] @ P)[:, 0]
    return P, c, (c - marginals.q).abs().sum(-1)


def _sweep(
    X: Tensor, marginals: Marginals, g: Tensor, P: Tensor, c: Tensor, error: Tensor, tol: Tensor
) -> _Step:
    """A few Sinkhorn sweeps as mat-vecs on P (the kernel with g absorbed and rows normalised)."""
    tiny = torch.finfo(g.dtype).tiny
    bound = tiny**-0.3  # g is absorbed again long before v can overflow
    v = torch.ones_like(g)
    for k in range(_SWEEPS):
        if k:
            u = marginals.p / (P @ v[:, :, None])[:, :, 0].clamp_min(tiny)
            c = v * (u[:, None, :] @ P)[:, 0]
        ratio = torch.where(marginals.q > 0, marginals.q / c.clamp_min(tiny), 1)
        v = (v * ratio).clamp(1 / bound, bound)
    g = g + v.log()
    before = (c - marginals.q).abs().sum(-1)
    P, c, error = _columns(X, marginals, g)
    # Sweeps still needed at this rate, against the price of one Newton step in sweeps.
    rate = (error / before).clamp(1e-3, 1 - 1e-6)
    needed = (tol / error).log() / rate.log()
    worth = _SWEEPS if g.shape[-1] < 64 else g.shape[-1] / 6
    slow = (needed > worth) & (error < _NEWTON_FROM * marginals.mass)
    return g, P, c, error, slow


def _newton(
    X: Tensor, marginals: Marginals, g: Tensor, P: Tensor, c: Tensor, error: Tensor, tol: Tensor
) -> _Step:
    """One Newton step on the semi-dual; a problem that it does not improve gets sweeps instead."""
    m = g.shape[-1]
    diagonal = torch.where(marginals.q > 0, c, 1)
    S = torch.diag_embed(diagonal * (1 + 4 * torch.finfo(g.dtype).eps)) - P.mT @ (marginals.p[:, :, None] * P)
    S += (c.mean(-1) / m)[:, None, None]  # S 1 = 0: g is defined up to a constant
    factor, failed = torch.linalg.cholesky_ex(S)
    step = torch.cholesky_solve((marginals.q - c)[:, :, None], factor)[:, :, 0]
    g_new = g + step.nan_to_num(0.0).clamp(-_NEWTON_STEP, _NEWTON_STEP)
    P_new, c_new, error_new = _columns(X, marginals, g_new)
    worse = ~(error_new < 0.9 * error) | (failed > 0)
    if bool(worse.any()):
        at = worse.nonzero()[:, 0]
        args = (t[at] for t in (g, P, c, error, tol))
        swept = _sweep(X[at], marginals.select(at), *args)
        new = (g_new, P_new, c_new, error_new)
        g_new, P_new, c_new, error_new = (t.index_copy(0, at, x) for t, x in zip(new, swept[:4], strict=True))
    return g_new, P_new, c_new, error_new, torch.ones_like(worse)
