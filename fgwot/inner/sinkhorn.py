r"""Entropic optimal transport for a given linear cost: the inner problem.

For costs X (already divided by epsilon) find T = exp(f (+) g - X) with marginals p and q. Rows are eliminated:
with P = softmax_j(g - X), the plan T = diag(p) P has exact rows for every g, and only g is iterated. What remains
is to maximise the concave semi-dual <q, g> - <p, logsumexp_j(g - X)>, whose gradient is q - c with column sums
c = P' p, and whose Hessian is -S with

    S = diag(c) - P' diag(p) P.

Three methods take turns, each for the problems that the one before left open:

1. Sinkhorn sweeps g += log q - log c: cheap, but slow at small epsilon. A problem leaves when the contraction it
   shows says that Newton would be cheaper.
2. Newton steps S d = q - c with a line search on the semi-dual, O(n m^2 + m^3) each: quadratic close to the answer.
3. Annealing: Newton on s X for s growing to 1, which makes 2 reliable from any start.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from fgwot.backend import uses_triton
from fgwot.batch import Batch, take
from fgwot.constants import ANNEALED_STEPS, BACKTRACKS, LONGEST_STEP, RIDGE
from fgwot.inner.annealing import annealed
from fgwot.inner.plan import FullPlan, Marginals
from fgwot.inner.sweeps import half_sweep, sweeps

_SWEEPS = 4  # sweeps between two looks at the error
_LOOKS = 100  # looks before a problem counts as slow whatever its rate
_NEWTON_STEPS = 15  # steps tried before annealing
_ROUNDED = 8  # resolutions of the columns, at which Newton's method may stay


def sinkhorn(X: Tensor, marginals: Marginals, g: Tensor, tol: Tensor) -> FullPlan:
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
    if not uses_triton(X.device):
        dual = _Dual.at(X, marginals, g)
        tol = torch.maximum(tol, _resolution(marginals, dual))
        return _after_sweeps(X, marginals, _sweeps(X, marginals, dual, tol), tol)
    tol = torch.maximum(tol, torch.finfo(g.dtype).eps * (8 + 2 * g.abs().amax(-1)))
    plan = _kernel_sweeps(X, marginals, g, tol)
    open_ = (plan.error > tol).nonzero()[:, 0]
    if not len(open_):
        return plan
    X_, some = take(X, open_), marginals.select(open_)
    dual = _Dual.at(X_, some, take(plan.g, open_))
    tol = torch.maximum(take(tol, open_), _resolution(some, dual))
    return plan.put(open_, _after_sweeps(X_, some, dual, tol))


def _resolution(marginals: Marginals, dual: "_Dual") -> Tensor:
    """Error of the columns (B,) that is rounding: of g, and where there is mass of costs as large as g - lse."""
    weighted = (marginals.q * dual.g.abs()).sum(-1) + (marginals.p * dual.lse.abs()).sum(-1)
    return torch.finfo(dual.g.dtype).eps * (8 + 2 * torch.maximum(dual.g.abs().amax(-1), weighted))


def _after_sweeps(X: Tensor, marginals: Marginals, dual: "_Dual", tol: Tensor) -> FullPlan:
    """Newton's method, and annealing, for the problems above their tolerance."""
    for method in (_newton, _anneal):
        open_ = (dual.error > tol).nonzero()[:, 0]
        if not len(open_):
            break
        dual = dual.put(open_, method(take(X, open_), marginals.select(open_), dual.select(open_), tol[open_]))
    f = torch.where(marginals.p > 0, marginals.p.log() - dual.lse, 0)
    g = torch.where(marginals.q > 0, dual.g, 0)
    return FullPlan(marginals.p[:, :, None] * dual.P, g, dual.error, f)


@dataclass
class _Dual(Batch):
    """A point g (B, m) of the semi-dual, with lse_j(g - X) (B, n), P, the column sums c and their L1 error."""

    g: Tensor
    lse: Tensor
    P: Tensor
    c: Tensor
    error: Tensor

    @staticmethod
    def at(X: Tensor, marginals: Marginals, g: Tensor) -> "_Dual":
        logits = g.masked_fill(marginals.q == 0, -torch.inf)[:, None, :] - X
        lse = torch.logsumexp(logits, -1)
        P = (logits - lse[:, :, None]).exp()
        c = (marginals.p[:, None, :] @ P)[:, 0]
        return _Dual(g, lse, P, c, (c - marginals.q).abs().sum(-1))

    def value(self, marginals: Marginals) -> Tensor:
        return (marginals.q * self.g).sum(-1) - (marginals.p * self.lse).sum(-1)


def _sweeps(X: Tensor, marginals: Marginals, dual: _Dual, tol: Tensor) -> _Dual:
    """Sweep each problem until it meets its tolerance or shows that Newton steps would be cheaper."""
    m = dual.g.shape[-1]
    worth = _SWEEPS if m < 64 else m / 6  # price of a Newton step in sweeps
    open_ = (dual.error > tol).nonzero()[:, 0]
    for _ in range(_LOOKS):
        if not len(open_):
            break
        swept, before = _few_sweeps(take(X, open_), marginals.select(open_), dual.select(open_))
        dual = dual.put(open_, swept)
        rate = (swept.error / before).clamp(1e-3, 1 - 1e-6)
        needed = (tol[open_] / swept.error).log() / rate.log()
        open_ = open_[(swept.error > tol[open_]) & (needed <= worth)]
    return dual


def _kernel_sweeps(X: Tensor, marginals: Marginals, g: Tensor, tol: Tensor) -> FullPlan:
    """The same by Triton's kernels, which hold no P and write the plan once, at the end."""
    p, q = marginals.p, marginals.q
    worth = max(_SWEEPS, q.shape[-1] / 6)
    y, _ = kernel_sweeps(X, marginals, g.masked_fill(q == 0, -torch.inf), tol, worth, log=True)
    T, f, error = half_sweep(X, p, q, y, True)
    return FullPlan(T, torch.where(q > 0, y, 0), error, torch.where(p > 0, f, 0))


def kernel_sweeps(
    X: Tensor, marginals: Marginals, y: Tensor, tol: Tensor, worth: float, log: bool
) -> tuple[Tensor, Tensor]:
    """Sweep each problem by the kernel until it meets its tolerance or seems to need more than `worth` sweeps.

    X (B, n, m) and y (B, m) are those of `fgwot.inner.sweeps.sweeps`. Returns y, and the error (B,) before its last
    update.
    """
    open_ = torch.arange(len(y), device=y.device)
    before = torch.full_like(tol, torch.inf)
    for _ in range(_LOOKS):
        some = marginals.select(open_)
        swept, error = sweeps(take(X, open_), some.p, some.q, take(y, open_), _SWEEPS, log)
        y = y.index_copy(0, open_, swept)
        rate = (error / before[open_]).clamp(1e-3, 1 - 1e-6) ** (1 / _SWEEPS)
        needed = (tol[open_] / error).log() / rate.log()
        before = before.index_copy(0, open_, error)
        open_ = open_[(error > tol[open_]) & (needed <= worth)]
        if not len(open_):
            break
    return y, before


def _few_sweeps(X: Tensor, marginals: Marginals, dual: _Dual) -> tuple[_Dual, Tensor]:
    """A few sweeps as mat-vecs on P, the kernel with g absorbed; and the error before the last of them."""
    tiny = torch.finfo(X.dtype).tiny
    bound = tiny**-0.3  # g is absorbed again long before v can overflow
    c, v = dual.c, torch.ones_like(dual.g)
    for k in range(_SWEEPS):
        if k:
            u = marginals.p / (dual.P @ v[:, :, None])[:, :, 0].clamp_min(tiny)
            c = v * (u[:, None, :] @ dual.P)[:, 0]
        ratio = torch.where(marginals.q > 0, marginals.q / c.clamp_min(tiny), 1)
        v = (v * ratio).clamp(1 / bound, bound)
    return _Dual.at(X, marginals, dual.g + v.log()), (c - marginals.q).abs().sum(-1)


def _newton(X: Tensor, marginals: Marginals, dual: _Dual, tol: Tensor, steps: int = _NEWTON_STEPS) -> _Dual:
    """Newton's method on the semi-dual, for the problems above their tolerance."""
    open_ = (dual.error > tol).nonzero()[:, 0]
    for _ in range(steps):
        if not len(open_):
            break
        some, before = marginals.select(open_), dual.select(open_)
        after = _newton_step(take(X, open_), some, before)
        dual = dual.put(open_, after)
        # Near rounding, an error that no longer falls will not.
        settled = (after.error <= _ROUNDED * _resolution(some, after)) & (after.error > 0.9 * before.error)
        open_ = open_[(after.error > tol[open_]) & ~settled]
    return dual


def _newton_step(X: Tensor, marginals: Marginals, dual: _Dual) -> _Dual:
    eps, tiny = torch.finfo(X.dtype).eps, torch.finfo(X.dtype).tiny
    p, q = marginals.p, marginals.q
    # S in the scaling that makes its diagonal about one; sqrt(c) spans its null space (g is up to a constant).
    root = dual.c.clamp_min(tiny).sqrt()
    half = p.sqrt()[:, :, None] * dual.P / root[:, None, :]
    S = root[:, :, None] * root[:, None, :] - half.mT @ half
    S.diagonal(dim1=-2, dim2=-1).add_(1 + RIDGE * eps)
    factor, failed = torch.linalg.cholesky_ex(S)
    gap = q - dual.c
    step = torch.cholesky_solve((gap / root)[:, :, None], factor)[:, :, 0] / root
    # The quotient may overflow; its logarithm does not.
    sweep = torch.where(q > 0, q.log() - dual.c.clamp_min(tiny).log(), 0)
    step = torch.where((failed == 0)[:, None] & step.isfinite() & (q > 0), step, sweep)
    slope = (step * gap).sum(-1)
    # Parts of the plan that hardly exchange mass make S almost singular and the step far too long.
    size = (LONGEST_STEP / step.abs().amax(-1).clamp_min(tiny)).clamp(max=1)
    rounding = 8 * eps * ((q * dual.g.abs()).sum(-1) + (p * dual.lse.abs()).sum(-1) + 1)
    enough = dual.value(marginals) + 1e-4 * size * slope - rounding
    for _ in range(BACKTRACKS):
        new = _Dual.at(X, marginals, dual.g + size[:, None] * step)
        short = ~(new.value(marginals) >= enough)
        if not bool(short.any()):
            return new
        size = torch.where(short, size / 3, size)
    return _Dual.at(X, marginals, dual.g + torch.where(short[:, None], sweep, size[:, None] * step))


def _anneal(X: Tensor, marginals: Marginals, _dual: _Dual, tol: Tensor) -> _Dual:
    """Newton's method at growing scales of the costs, from the start."""
    g = torch.where(marginals.q > 0, marginals.q, 1).log()
    return annealed(X, g, tol, lambda X, g, tol: _newton(X, marginals, _Dual.at(X, marginals, g), tol, ANNEALED_STEPS))
