r"""The inner problem with marginals that are paid for instead of met.

For costs X, already divided by epsilon, and prices r of the two marginals

    min_T <X, T> - H(T) + r1 KL(T 1 | p) + r2 KL(T' 1 | q)

is solved by T = exp(f (+) g - X) with f = tau1 (log p - logsumexp_j(g - X)), tau = r / (1 + r), and the same for g:
Sinkhorn's updates, shortened (Chizat, Peyré, Schmitzer and Vialard 2018). tau is 1 for an exact marginal and 0 for a
free one. With f eliminated, g maximises a concave function whose gradient is s - c and whose Hessian is -S,

    s = q exp(-g / r2),    c = T' 1,    S = diag(c + s / r2) - tau1 T' diag(1 / T 1) T.

Sweeps are slow where prices are large, and Newton's method with a line search takes over.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fgwot.batch import Batch, take
from fgwot.constants import BACKTRACKS, FIRST_SWEEPS, LONGEST_STEP, RIDGE
from fgwot.inner.plan import FullPlan

_NEWTON_STEPS = 100


@dataclass(frozen=True)
class Sides(Batch):
    """Masses p (B, n) and q (B, m), and their prices r1 and r2 (B, 1), divided by epsilon."""

    p: Tensor
    q: Tensor
    r1: Tensor
    r2: Tensor

    def map(self, change: Callable[[Tensor], Tensor]) -> "Sides":
        """Return the same masses with other prices."""
        return replace(self, r1=change(self.r1), r2=change(self.r2))


def relaxed(X: Tensor, sides: Sides, g: Tensor, tol: float | Tensor) -> FullPlan:
    """Solve a batch until the error of each plan is at most `tol` (B,), as a part of its mass, or rounding.

    Parameters
    ----------
    X : Tensor (B, n, m)
    sides : Sides
    g : Tensor (B, m)
        A guess.
    """
    dual = _Dual.at(X, sides, torch.where(sides.r2 == 0, 0, g))
    for step in range(FIRST_SWEEPS + _NEWTON_STEPS):
        met = dual.error.isfinite() & (dual.error <= tol * dual.mass + dual.resolution)
        open_ = (~met).nonzero()[:, 0]
        if not len(open_):
            break
        move = _sweep if step < FIRST_SWEEPS else _newton_step
        dual = dual.put(open_, move(take(X, open_), sides.select(open_), dual.select(open_)))
    return FullPlan(dual.a[:, :, None] * dual.P, dual.g, dual.error, dual.f)


@dataclass
class _Dual(Batch):
    """A point g of the dual: f, row-normalised P, sums a = T 1 and c = T' 1, those that g means, their distance."""

    g: Tensor
    f: Tensor
    P: Tensor
    a: Tensor
    c: Tensor
    s: Tensor
    error: Tensor
    resolution: Tensor  # rounding of the distance
    value: Tensor
    rounding: Tensor  # of the value

    @staticmethod
    def at(X: Tensor, sides: Sides, g: Tensor) -> "_Dual":
        p, q, r1, r2 = sides.p, sides.q, sides.r1, sides.r2
        g = g.masked_fill((q == 0) & (r2 > 0), -torch.inf)
        logits = g[:, None, :] - X
        lse = torch.logsumexp(logits, -1)
        f = _update(r1, p.log() - lse)
        a = (f + lse).exp()
        P = (logits - lse[:, :, None]).exp()
        c = (a[:, None, :] @ P)[:, 0]
        s = torch.where(r2 == 0, c, _log_meant(g, r2, q).exp())
        paid1, paid2 = _paid(f, r1, p), _paid(g, r2, q)
        value = paid1.sum(-1) + paid2.sum(-1) - a.sum(-1)
        eps = 8 * torch.finfo(X.dtype).eps
        resolution = eps * (a * (1 + _finite(lse).abs()) + a).sum(-1) + eps * (c * _finite(g).abs()).sum(-1)
        rounding = resolution + eps * (paid1.abs().sum(-1) + paid2.abs().sum(-1))
        return _Dual(g, f, P, a, c, s, (c - s).abs().sum(-1), resolution, value, rounding)

    @property
    def mass(self) -> Tensor:
        return self.a.sum(-1)


def _sweep(X: Tensor, sides: Sides, dual: _Dual) -> _Dual:
    """One update of each side, and of the number that moves between f and g."""
    g = _update(sides.r2, sides.q.log() - torch.logsumexp(dual.f[:, :, None] - X, -2))
    return _Dual.at(X, sides, g - _translation(dual.f, g, sides))


def _newton_step(X: Tensor, sides: Sides, dual: _Dual) -> _Dual:
    """Newton's step on the dual, shortened until it rises; a sweep if it does not."""
    info = torch.finfo(X.dtype)
    r1, r2 = sides.r1, sides.r2
    moves = (sides.q > 0) & (r2 > 0)
    curvature = dual.c + torch.where(r2.isinf() | (r2 == 0), 0, dual.s / r2)
    root = torch.where(moves, curvature, 1).clamp_min(info.tiny).sqrt()
    half = (_tau(r1) * dual.a).sqrt()[:, :, None] * dual.P * (moves / root)[:, None, :]
    S = -half.mT @ half
    S.diagonal(dim1=-2, dim2=-1).add_(1 + RIDGE * info.eps)
    # Where both sides are exact, g is determined up to a number only: sqrt(c) spans the null space of S.
    null = torch.where(r1.isinf() & r2.isinf() & moves, root, 0)
    null = null / null.norm(dim=-1, keepdim=True).clamp_min(info.tiny)
    factor, failed = torch.linalg.cholesky_ex(S + null[:, :, None] * null[:, None, :])
    gap = torch.where(moves, dual.s - dual.c, 0)
    step = torch.cholesky_solve((gap / root)[:, :, None], factor)[:, :, 0] / root
    step = torch.where((failed == 0)[:, None] & step.isfinite() & moves, step, 0)
    slope = (step * gap).sum(-1)
    size = (LONGEST_STEP / step.abs().amax(-1).clamp_min(info.tiny)).clamp(max=1)
    enough = dual.value - dual.rounding
    rises = torch.zeros_like(failed, dtype=torch.bool)
    for _ in range(BACKTRACKS):
        new = _Dual.at(X, sides, dual.g + size[:, None] * step)
        rises = (slope > 0) & (new.value >= enough + 1e-4 * size * slope)
        if bool(rises.all()):
            return new
        size = torch.where(rises, size, size / 3)
    stuck = (~rises).nonzero()[:, 0]
    return new.put(stuck, _sweep(take(X, stuck), sides.select(stuck), dual.select(stuck)))


def priced(rho: Tensor, sums: Tensor, marginal: Tensor) -> Tensor:
    """Return rho KL(sums | marginal) (B,); nothing for an exact side, which has none, and for a free one."""
    divergence = (torch.xlogy(sums, sums) - torch.xlogy(sums, marginal) - sums + marginal).sum(-1)
    paid = (rho > 0) & ~rho.isinf()
    return torch.where(paid, rho, 0) * torch.where(paid, divergence, 0).nan_to_num(0.0)


def _log_meant(potential: Tensor, r: Tensor, marginal: Tensor) -> Tensor:
    """Logarithm of the sums that a potential stands for, marginal exp(-potential / r); of a free side its marginal."""
    return marginal.log() - torch.where(r.isinf() | (r == 0) | (marginal == 0), 0, potential / r)


def _paid(potential: Tensor, r: Tensor, marginal: Tensor) -> Tensor:
    """Terms of a side in the dual: -r marginal (exp(-potential / r) - 1); of an exact side marginal potential."""
    finite = ~r.isinf() & (r > 0)
    ratio = torch.where(finite & (marginal > 0), -potential / r, 0)
    exact = torch.where(r.isinf() & (marginal > 0), potential * marginal, 0)
    return torch.where(finite, -r * marginal * ratio.expm1(), exact)


def _tau(r: Tensor) -> Tensor:
    return torch.where(r.isinf(), 1, r / (1 + r))


def _update(r: Tensor, exact: Tensor) -> Tensor:
    """Potential of a side from that of an exact one; zero of a free side."""
    return torch.where(r == 0, 0, _tau(r) * exact)


def _translation(f: Tensor, g: Tensor, sides: Sides) -> Tensor:
    """Number (B, 1) to take from g, and give to f, so that both sides stand for the same mass.

    Sinkhorn alone is slow at that when prices are large (Séjourné, Vialard and Peyré 2022, translation invariance).
    """
    r1, r2 = sides.r1, sides.r2
    one, two = (torch.logsumexp(_log_meant(*side), -1, True) for side in ((f, r1, sides.p), (g, r2, sides.q)))
    price = torch.where(r1.isinf(), r2, torch.where(r2.isinf(), r1, r1 * r2 / (r1 + r2)))
    return torch.where(price.isfinite() & (price > 0), price * (one - two), 0)


def _finite(x: Tensor) -> Tensor:
    return x.nan_to_num(0.0, 0.0, 0.0)
