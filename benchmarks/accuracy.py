"""How good a plan is, measured by code that no timed library runs.

r_marg = |T 1 - p|_1 + |T' 1 - q|_1 and r_fix = |T - S|_1, where S is the entropic plan of the linear cost grad E(T):
zero exactly at stationary points. For proximal point methods S solves the cost grad E(T) - epsilon log T, and the
objective is E of the plan rounded to the exact marginals, so that a plan gains nothing by missing them. All in float64,
in torch's elementary operations, so that a GPU can measure what it has solved: 4000 points take a CPU minutes. Where
marginals are paid for or a mass is given, r_marg is what a plan misses of its constraints, J includes the prices, and S
has them too (`benchmarks.relaxed`).
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from benchmarks import relaxed
from benchmarks.problems import Array, Problem
from fgwot import reference

_STEPS = 60
_TOL = 1e-11
_TINY = np.finfo(float).tiny
_SMALL = 64  # up to this size the slow reference may take over


@dataclass(frozen=True)
class Accuracy:
    """Residuals and objective of each problem of a batch; `r_fix` is NaN where it could not be computed."""

    r_marg: Array
    r_fix: Array
    objective: Array
    rounded: bool

    @property
    def worst(self) -> float:
        """Largest residual of any problem; infinite where one is unknown."""
        worst = np.maximum(self.r_marg, self.r_fix)
        return float(np.where(np.isfinite(worst), worst, np.inf).max())

    def feasible(self, bound: float) -> npt.NDArray[np.bool_]:
        """Which objectives are those of couplings: of rounded plans, or of plans whose marginals hold to `bound`."""
        return np.isfinite(self.objective) & (self.rounded | (self.r_marg <= bound))

    def share(self, bound: float) -> float:
        """Part of the problems whose residuals are both at most `bound`."""
        return float(((self.r_marg <= bound) & (self.r_fix <= bound)).mean())


def measure(problem: Problem, T: Array, *, proximal: bool = False, device: str = "cpu") -> Accuracy:
    """Measure the plans T (B, n, m) of a batch of problems with the square loss.

    `proximal` leaves the entropy out of the objective and takes epsilon as the proximal step.
    """
    M, C1, C2, p, q, T_ = (torch.tensor(a, dtype=torch.float64, device=device) for a in (*problem.arrays, T))
    linear = (1 - problem.alpha) * M
    quadratic = problem.alpha * _symmetric_term(C1, C2, T_)
    logs = T_.clamp(min=_TINY).log()
    cost = linear + 2 * quadratic
    if proximal:
        cost = cost - problem.epsilon * logs
        exact = rounded(T_, p, q) if problem.balanced else torch.tensor(relaxed.rounded(problem, T[0]))[None]
        objective = ((linear + problem.alpha * _symmetric_term(C1, C2, exact)) * exact).sum((1, 2))
    else:
        objective = ((linear + quadratic + problem.epsilon * (logs - 1)) * T_).sum((1, 2))
    if not problem.balanced:
        return _relaxed(problem, T[0], cost[0].cpu().numpy(), float(objective[0]), proximal)
    r_marg = (T_.sum(2) - p).abs().sum(1) + (T_.sum(1) - q).abs().sum(1)
    r_fix = torch.full_like(r_marg, torch.nan)
    usable = cost.isfinite().all(2).all(1) & (T_ >= 0).all(2).all(1)
    if usable.any():
        X, plans = cost[usable] / problem.epsilon, T_[usable]
        guess = (plans * (logs[usable] + X)).sum(1) / q[usable]
        r_fix[usable] = (plans - sinkhorn(X, p[usable], q[usable], guess)).abs().sum((1, 2))
    return Accuracy(*(x.cpu().numpy() for x in (r_marg, r_fix, objective)), proximal)


def _relaxed(problem: Problem, T: Array, cost: Array, objective: float, proximal: bool) -> Accuracy:
    """One plan (n, m) with prices or a mass."""
    r_fix = np.nan  # sweeps do not settle on a mass's plans without entropy: too few of their entries are positive
    usable = np.isfinite(cost).all() and (T >= 0).all() and T.any()
    if usable and not (proximal and problem.mass):
        r_fix = np.abs(T - relaxed.following(problem, cost / problem.epsilon, T)).sum()
    value = objective + (0.0 if proximal else relaxed.paid(problem, T))
    return Accuracy(*(np.array([x]) for x in (relaxed.missed(problem, T), r_fix, value)), proximal)


def rounded(T: Tensor, p: Tensor, q: Tensor) -> Tensor:
    """Couplings of p and q near T: shrink rows and columns that are too heavy, then add what is missing.

    References
    ----------
    Altschuler, Weed and Rigollet, "Near-linear time approximation algorithms for optimal transport", 2017.
    """
    T = T * (p / T.sum(2).clamp(min=1e-300)).clamp(max=1)[:, :, None]
    T = T * (q / T.sum(1).clamp(min=1e-300)).clamp(max=1)[:, None, :]
    rows, columns = (p - T.sum(2)).clamp(min=0), (q - T.sum(1)).clamp(min=0)  # negative by rounding alone
    missing = rows.sum(1).clamp(min=1e-300)
    return T + rows[:, :, None] * columns[:, None, :] / missing[:, None, None]


def sinkhorn(X: Tensor, p: Tensor, q: Tensor, g: Tensor) -> Tensor:
    """Entropic plans of the linear costs X (B, n, m) at epsilon 1, by Newton's method on the semi-dual from g.

    Steps are halved until the semi-dual rises. Small problems that Newton leaves open go to `fgwot.reference`; NaN
    marks what is still open then.
    """
    g, plans = g.clone(), torch.full_like(X, torch.nan)
    todo = torch.arange(len(X), device=X.device)
    for step in range(_STEPS):
        T = _plan(X[todo], p[todo], g[todo])
        gap = q[todo] - T.sum(1)
        done = gap.abs().sum(1) <= _TOL
        plans[todo[done]] = T[done]
        todo, T, gap = todo[~done], T[~done], gap[~done]
        if not len(todo) or step == _STEPS - 1:
            break
        g[todo] = _ascend(X[todo], p[todo], q[todo], g[todo], T, gap)
    for b in todo.tolist():
        if X.shape[1] <= _SMALL:
            try:
                found = reference.sinkhorn(*(x[b].cpu().numpy() for x in (X, p, q)), 1.0, tol=_TOL)
            except (RuntimeError, np.linalg.LinAlgError):
                continue
            plans[b] = torch.tensor(found, device=X.device)
    return plans


def _ascend(X: Tensor, p: Tensor, q: Tensor, g: Tensor, T: Tensor, gap: Tensor) -> Tensor:
    """One Newton step on the semi-dual, shortened until the semi-dual rises; a Sinkhorn sweep if it cannot."""
    m = q.shape[1]
    c = T.sum(1)
    hessian = 1 / m**2 - T.mT @ (T / p[:, :, None])
    hessian.diagonal(dim1=1, dim2=2).add_(c * (1 + 1e-13) + 1e-300)
    sweep = q.log() - c.clamp(min=1e-300).log()
    try:
        step = torch.linalg.solve(hessian, gap)
    except torch.linalg.LinAlgError:
        return g + sweep
    now = _dual(X, p, q, g)
    size = (30 / step.abs().amax(1).clamp(min=1e-300)).clamp(max=1)
    for _ in range(8):
        value = _dual(X, p, q, g + size[:, None] * step)
        short = ~(value >= now - 1e-14 * (1 + now.abs()))
        if not short.any():
            return g + size[:, None] * step
        size = torch.where(short, size / 3, size)
    return g + torch.where(short[:, None], sweep, size[:, None] * step)


def _dual(X: Tensor, p: Tensor, q: Tensor, g: Tensor) -> Tensor:
    return (q * g).sum(1) - (p * (g[:, None, :] - X).logsumexp(2)).sum(1)


def _plan(X: Tensor, p: Tensor, g: Tensor) -> Tensor:
    logits = g[:, None, :] - X
    kernel = (logits - logits.amax(2, keepdim=True)).exp()
    return kernel * (p / kernel.sum(2))[:, :, None]


def _tensor_term(C1: Tensor, C2: Tensor, T: Tensor) -> Tensor:
    """Square loss: (L (x) T)_ij = sum_k C1_ik^2 r_k + sum_l C2_jl^2 c_l - 2 (C1 T C2')_ij; r, c are T's marginals."""
    rows, columns = C1**2 @ T.sum(2)[:, :, None], C2**2 @ T.sum(1)[:, :, None]
    return rows + columns.mT - 2 * C1 @ T @ C2.mT


def _symmetric_term(C1: Tensor, C2: Tensor, T: Tensor) -> Tensor:
    """Mean of L (x) T and L' (x) T, L' with transposed structures: half the gradient of <L (x) T, T>."""
    if torch.equal(C1, C1.mT) and torch.equal(C2, C2.mT):
        return _tensor_term(C1, C2, T)
    return (_tensor_term(C1, C2, T) + _tensor_term(C1.mT, C2.mT, T)) / 2
