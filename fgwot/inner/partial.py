r"""The inner problem of partial transport: plans of a given mass s that exceed no marginal.

For costs X, already divided by epsilon,

    min_T <X, T> - H(T)   over   T 1 <= p,  T' 1 <= q,  1' T 1 = s

is solved by T = exp(f (+) g + h - X) with multipliers f <= 0 and g <= 0, zero where a bound does not bind, and h of the
mass (Benamou, Carlier, Cuturi, Nenna and Peyré 2015, section 5). For every g the best f and h are known: rows of the
kernel R = exp(g - X) 1, scaled by exp(h) and cut off at p, have the mass s. What remains is concave in g, with gradient
q - c, c = T' 1, and Hessian -S,

    S = diag(c) - T_b' diag(1 / p_b) T_b - w w' / (1' w),      w = c - T_b' 1,

T_b being the rows at their bound. Newton's method is projected on g <= 0 (Bertsekas 1982) and takes turns with sweeps,
which find the best g and h for given f; what it does not solve is annealed, solved at scales of X that grow to 1. As
g + t with h - t is the same plan, and better, the largest g is zero: y = g + h, which the plan needs, says both.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from fgwot.batch import Batch, take
from fgwot.constants import ANNEALED_STEPS, BACKTRACKS, BOUNDED_STEPS, FIRST_SWEEPS, LONGEST_STEP, RIDGE
from fgwot.inner.annealing import annealed
from fgwot.inner.plan import FullPlan


@dataclass(frozen=True)
class Bounds(Batch):
    """Largest marginals p (B, n) and q (B, m), and the mass (B,) of plans."""

    p: Tensor
    q: Tensor
    mass: Tensor


def bounded(X: Tensor, bounds: Bounds, y: Tensor, tol: Tensor) -> FullPlan:
    """Solve a batch until the error of each plan is at most `tol` (B,), as a part of its mass, or rounding.

    Parameters
    ----------
    X : Tensor (B, n, m)
    bounds : Bounds
    y : Tensor (B, m)
        A guess of g + h, which is also the g of the plan that is returned.
    """
    dual = _solve(X, bounds, _Dual.at(X, bounds, split(y, bounds.q)[0]), tol, BOUNDED_STEPS)
    open_ = (~_met(dual, bounds, tol)).nonzero()[:, 0]
    if len(open_):
        dual = dual.put(open_, _anneal(take(X, open_), bounds.select(open_), tol[open_]))
    return FullPlan(dual.a[:, :, None] * dual.P, dual.g + dual.h[:, None], dual.error, dual.f)


def _met(dual: "_Dual", bounds: Bounds, tol: Tensor) -> Tensor:
    return dual.error.isfinite() & (dual.error <= tol * bounds.mass + dual.resolution)


def _solve(X: Tensor, bounds: Bounds, dual: "_Dual", tol: Tensor, steps: int) -> "_Dual":
    """Sweeps, then Newton steps, for the problems above their tolerance."""
    for step in range(steps):
        open_ = (~_met(dual, bounds, tol)).nonzero()[:, 0]
        if not len(open_):
            break
        some = take(X, open_), bounds.select(open_), dual.select(open_)
        swept = _sweep(*some)
        dual = dual.put(open_, swept if step < FIRST_SWEEPS else _newton_step(*some[:2], swept))
    return dual


def _anneal(X: Tensor, bounds: Bounds, tol: Tensor) -> "_Dual":
    """The same at growing scales of the costs, from the start."""
    g = torch.zeros_like(bounds.q)
    return annealed(X, g, tol, lambda X, g, tol: _solve(X, bounds, _Dual.at(X, bounds, g), tol, ANNEALED_STEPS))


def split(y: Tensor, q: Tensor) -> tuple[Tensor, Tensor]:
    """Return g (B, m) and h (B,) of y = g + h: the largest g where there is mass is zero."""
    h = y.masked_fill(q == 0, -torch.inf).amax(-1)
    return torch.where(q > 0, y - h[:, None], 0), h


@dataclass
class _Dual(Batch):
    """A point g of the dual: h, f, row-normalised P, sums a = T 1 and c = T' 1, and the gradient q - c."""

    g: Tensor
    h: Tensor
    f: Tensor
    P: Tensor
    a: Tensor
    c: Tensor
    gap: Tensor
    error: Tensor
    resolution: Tensor  # rounding of the error
    value: Tensor
    rounding: Tensor  # of the value

    @staticmethod
    def at(X: Tensor, bounds: Bounds, g: Tensor) -> "_Dual":
        p, q, mass = bounds.p, bounds.q, bounds.mass
        logits = g.masked_fill(q == 0, -torch.inf)[:, None, :] - X
        lse = torch.logsumexp(logits, -1)
        f, h = _cut_off(p.log(), lse, mass)
        a = (f + h[:, None] + lse).exp()
        P = (logits - lse[:, :, None]).exp()
        c = (a[:, None, :] @ P)[:, 0]
        gap = q - c
        # A bound that does not bind may be missed by as much as it likes.
        error = torch.where(g < 0, gap.abs(), (-gap).clamp(min=0)).sum(-1)
        paid = torch.where(p > 0, f * p, 0), g * q, (h * mass)[:, None]
        eps = 8 * torch.finfo(X.dtype).eps
        resolution = eps * ((a * (1 + lse.nan_to_num(0.0, 0.0, 0.0).abs())).sum(-1) + (c * g.abs()).sum(-1) + mass)
        rounding = resolution + eps * sum(terms.abs().sum(-1) for terms in paid)
        value = sum(terms.sum(-1) for terms in paid) - a.sum(-1)
        return _Dual(g, h, f, P, a, c, gap, error, resolution, value, rounding)


def _cut_off(log_bounds: Tensor, log_sums: Tensor, mass: Tensor) -> tuple[Tensor, Tensor]:
    """Multipliers (B, n) <= 0 of sums, and the scale h (B,) with sum_i min(bounds, exp(h) sums) = mass.

    Sums whose bound comes first are cut off first: in that order, mass that is reached when the k-th is.
    """
    reached, order = (log_bounds - log_sums).nan_to_num(-torch.inf).sort(-1)  # what has no mass comes first
    bounds, sums = log_bounds.exp().gather(-1, order), log_sums.gather(-1, order)
    cut = bounds.cumsum(-1)
    left = sums.flip(-1).logcumsumexp(-1).flip(-1)  # log of the sums from the k-th on
    after = torch.cat((left[:, 1:], torch.full_like(left[:, :1], -torch.inf)), -1)
    there = cut + (reached + after).exp() <= mass[:, None]
    # The last is never said to be cut off: it takes what is left, up to its bound.
    count = there.sum(-1, keepdim=True).clamp(max=bounds.shape[-1] - 1)
    before = torch.cat((torch.zeros_like(cut[:, :1]), cut), -1).gather(-1, count)
    rest = (mass[:, None] - before).clamp_min(torch.finfo(mass.dtype).tiny)
    h = rest.log() - left.gather(-1, count)
    return (log_bounds - log_sums - h).clamp(max=0), h[:, 0]


def _sweep(X: Tensor, bounds: Bounds, dual: _Dual) -> _Dual:
    """Best g and h for the present f."""
    g, _ = _cut_off(bounds.q.log(), torch.logsumexp(dual.f[:, :, None] - X, -2), bounds.mass)
    return _Dual.at(X, bounds, split(g, bounds.q)[0])


def _newton_step(X: Tensor, bounds: Bounds, dual: _Dual) -> _Dual:
    """Newton's step on the dual, projected, and shortened until it rises; nothing if it does not."""
    info = torch.finfo(X.dtype)
    free = (bounds.q > 0) & ((dual.g < 0) | (dual.gap < 0)) & (dual.c > info.tiny)
    binding = torch.where(dual.f < 0, dual.a, 0)
    root = torch.where(free, dual.c, 1).sqrt()
    half = binding.sqrt()[:, :, None] * dual.P * (free / root)[:, None, :]
    w = (dual.c - (binding[:, None, :] @ dual.P)[:, 0]) * free / root
    loose = (dual.a - binding).sum(-1).clamp_min(info.tiny).sqrt()
    w = w / loose[:, None]
    S = -(half.mT @ half) - w[:, :, None] * w[:, None, :]
    S.diagonal(dim1=-2, dim2=-1).add_(1 + RIDGE * info.eps)
    # If every g may move, g + t changes nothing: sqrt(c) spans the null space of S.
    null = torch.where((free | (bounds.q == 0)).all(-1, keepdim=True) & free, root, 0)
    null = null / null.norm(dim=-1, keepdim=True).clamp_min(info.tiny)
    factor, failed = torch.linalg.cholesky_ex(S.add_(null[:, :, None] * null[:, None, :]))
    if bool(failed.any()):  # parts of the plan that exchange no mass: rounding decides about the sign of an eigenvalue
        S.diagonal(dim1=-2, dim2=-1).add_(torch.where(failed > 0, 4096 * info.eps, 0)[:, None])
        factor, failed = torch.linalg.cholesky_ex(S)
    gradient = torch.where(free, dual.gap, 0)
    step = torch.cholesky_solve((gradient / root)[:, :, None], factor)[:, :, 0] / root
    step = torch.where((failed == 0)[:, None] & step.isfinite() & free, step, 0)
    size = (LONGEST_STEP / step.abs().amax(-1).clamp_min(info.tiny)).clamp(max=1)
    for _ in range(BACKTRACKS):
        g = (dual.g + size[:, None] * step).clamp(max=0)
        new = _Dual.at(X, bounds, split(g, bounds.q)[0])
        gain = (gradient * (g - dual.g)).sum(-1).clamp(min=0)
        rises = new.value >= dual.value - dual.rounding + 1e-4 * gain
        if bool(rises.all()):
            return new
        size = torch.where(rises, size, size / 3)
    return new.where(rises, dual)
