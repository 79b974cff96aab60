r"""The inner problem of partial transport: plans of a given mass s that exceed no marginal.

For costs X, already divided by epsilon,

    min_T <X, T> - H(T)   over   T 1 <= p,  T' 1 <= q,  1' T 1 = s

is solved by T = exp(f (+) g + h - X) with multipliers f <= 0 and g <= 0, zero where a bound does not bind, and h of the
mass (Benamou, Carlier, Cuturi, Nenna and Peyré 2015, section 5, whose Dykstra steps are the sweeps below). With f
eliminated, f = min(0, log p - logsumexp_j(g + h - X)), the dual is concave in (g, h). Its gradient is q - T' 1 and
s - 1' T 1; rows at their bound do not feel h, and its Hessian is -S with

    S = [diag(c) - T_b' diag(1/p_b) T_b   c - T_b' 1]
        [              .                1' T 1 - 1' T_b 1],      c = T' 1, T_b the rows at their bound.

Newton's method is projected on g <= 0 (Bertsekas 1982) and takes turns with sweeps. The plan keeps g while g + t and
h - t change, and the dual rises with t: the largest g is zero, so that g + h, which the plan needs, says both.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from fgwot.batch import Batch, take
from fgwot.inner.plan import Coupling

_STEPS = 200
_SWEEPS = 8  # before Newton steps, which are dearer
_BACKTRACKS = 12  # thirds of a Newton step in its line search
_LONGEST_STEP = 30.0  # of a potential, before the line search


@dataclass(frozen=True)
class Bounds(Batch):
    """Largest marginals p (B, n) and q (B, m), and the mass (B,) of plans."""

    p: Tensor
    q: Tensor
    mass: Tensor


def bounded(X: Tensor, bounds: Bounds, y: Tensor, tol: Tensor) -> Coupling:
    """Solve a batch until the error of each plan is at most `tol` (B,), as a part of its mass, or rounding.

    Parameters
    ----------
    X : Tensor (B, n, m)
    bounds : Bounds
    y : Tensor (B, m)
        A guess of g + h, which is also the g of the coupling that is returned.
    """
    dual = _Dual.at(X, bounds, *split(y, bounds.q))
    for step in range(_STEPS):
        met = dual.error.isfinite() & (dual.error <= tol * bounds.mass + dual.resolution)
        open_ = (~met).nonzero()[:, 0]
        if not len(open_):
            break
        some = take(X, open_), bounds.select(open_), dual.select(open_)
        swept = _sweep(*some)
        dual = dual.put(open_, swept if step < _SWEEPS else _newton_step(*some[:2], swept))
    return Coupling(dual.a[:, :, None] * dual.P, dual.g + dual.h[:, None], dual.error, dual.f)


def split(y: Tensor, q: Tensor) -> tuple[Tensor, Tensor]:
    """g (B, m) and h (B,) of y = g + h: the largest g where there is mass is zero."""
    h = y.masked_fill(q == 0, -torch.inf).amax(-1)
    return torch.where(q > 0, y - h[:, None], 0), h


@dataclass
class _Dual(Batch):
    """A point (g, h) of the dual: f, row-normalised P, sums a = T 1 and c = T' 1, and the gradient (dg, dh)."""

    g: Tensor
    h: Tensor
    f: Tensor
    P: Tensor
    a: Tensor
    c: Tensor
    dg: Tensor
    dh: Tensor
    error: Tensor
    resolution: Tensor  # rounding of the error
    value: Tensor
    rounding: Tensor  # of the value

    @staticmethod
    def at(X: Tensor, bounds: Bounds, g: Tensor, h: Tensor) -> "_Dual":
        p, q, mass = bounds.p, bounds.q, bounds.mass
        logits = (g + h[:, None]).masked_fill(q == 0, -torch.inf)[:, None, :] - X
        lse = torch.logsumexp(logits, -1)
        f = (p.log() - lse).clamp(max=0)
        a = (f + lse).exp()
        P = (logits - lse[:, :, None]).exp()
        c = (a[:, None, :] @ P)[:, 0]
        dg, dh = q - c, mass - a.sum(-1)
        # A bound that does not bind may be missed by as much as it likes.
        error = torch.where(g < 0, dg.abs(), (-dg).clamp(min=0)).sum(-1) + dh.abs()
        paid = torch.where(p > 0, f * p, 0), g * q, h * mass
        value = paid[0].sum(-1) + paid[1].sum(-1) + paid[2] - a.sum(-1)
        eps = 8 * torch.finfo(X.dtype).eps
        resolution = eps * ((a * (1 + lse.nan_to_num(0.0, 0.0, 0.0).abs())).sum(-1) + (c * g.abs()).sum(-1) + mass)
        rounding = resolution + eps * (paid[0].abs().sum(-1) + paid[1].abs().sum(-1) + paid[2].abs())
        return _Dual(g, h, f, P, a, c, dg, dh, error, resolution, value, rounding)


def _sweep(X: Tensor, bounds: Bounds, dual: _Dual) -> _Dual:
    """Update the columns, then the mass; the rows follow."""
    rows = dual.f[:, :, None] - X
    log_c = torch.logsumexp(rows, -2)
    g = torch.where(bounds.q > 0, (bounds.q.log() - log_c - dual.h[:, None]).clamp(max=0), 0)
    h = bounds.mass.log() - torch.logsumexp((g + log_c).masked_fill(bounds.q == 0, -torch.inf), -1)
    return _Dual.at(X, bounds, *split(g + h[:, None], bounds.q))


def _newton_step(X: Tensor, bounds: Bounds, dual: _Dual) -> _Dual:
    """Newton's step on the dual, projected, and shortened until it rises; nothing if it does not."""
    info = torch.finfo(X.dtype)
    free = (bounds.q > 0) & ((dual.g < 0) | (dual.dg < 0))
    binding = torch.where(dual.f < 0, dual.a, 0)
    loose = dual.a.sum(-1) - binding.sum(-1)
    curvature = torch.cat((torch.where(free, dual.c, 0), loose[:, None]), -1)
    root = torch.where(curvature > info.tiny, curvature, 1).sqrt()
    moves = curvature > info.tiny
    half = (binding.sqrt()[:, :, None] * dual.P) / root[:, None, :-1] * moves[:, None, :-1]
    S = torch.zeros(*root.shape, root.shape[-1], dtype=X.dtype, device=X.device)
    S[:, :-1, :-1] = -half.mT @ half
    coupled = (dual.c - (binding[:, None, :] @ dual.P)[:, 0]) / root[:, :-1] / root[:, -1:]
    S[:, -1, :-1] = S[:, :-1, -1] = coupled * (moves[:, :-1] & moves[:, -1:])
    S.diagonal(dim1=-2, dim2=-1).add_(1 + 64 * info.eps)
    # If every g may move, g + t and h - t leave the plan as it is: a null vector of S.
    whole = (free | (bounds.q == 0)).all(-1, keepdim=True)
    null = torch.cat((root[:, :-1], -root[:, -1:]), -1) * (moves & whole)
    null = null / null.norm(dim=-1, keepdim=True).clamp_min(info.tiny)
    factor, failed = torch.linalg.cholesky_ex(S + null[:, :, None] * null[:, None, :])
    gradient = torch.cat((dual.dg, dual.dh[:, None]), -1) * moves
    step = torch.cholesky_solve((gradient / root)[:, :, None], factor)[:, :, 0] / root * moves
    step = torch.where((failed == 0)[:, None] & step.isfinite(), step, 0)
    size = (_LONGEST_STEP / step.abs().amax(-1).clamp_min(info.tiny)).clamp(max=1)
    for _ in range(_BACKTRACKS):
        g = (dual.g + size[:, None] * step[:, :-1]).clamp(max=0)
        h = dual.h + size * step[:, -1]
        gain = (gradient[:, :-1] * (g - dual.g)).sum(-1) + gradient[:, -1] * (h - dual.h)
        new = _Dual.at(X, bounds, *split(g + h[:, None], bounds.q))
        rises = new.value >= dual.value - dual.rounding + 1e-4 * gain.clamp(min=0)
        if bool(rises.all()):
            return new
        size = torch.where(rises, size, size / 3)
    return new.where(rises, dual)
