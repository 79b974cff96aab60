r"""Unbalanced and semi-relaxed problems: marginals that are paid for instead of met.

Mirror descent as in `fgwot.iteration.guarded`, with the inner problem of `fgwot.inner.relaxed`: a damped step of size
theta = epsilon / (epsilon + lambda) has the cost theta G(T_k) - (1 - theta) log T_k and the entropy weight
epsilon / theta.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fgwot.adjoint import envelope_values, with_quadratic
from fgwot.batch import Batch
from fgwot.constants import COARSEST, PATIENCE, SMALLEST_THETA
from fgwot.functional import fused_gromov_wasserstein, warn
from fgwot.inner.plan import Coupling, Marginals
from fgwot.inner.relaxed import Sides, relaxed
from fgwot.iteration.initial import check_plan, shaped_plan
from fgwot.iteration.result import Result, Tolerance
from fgwot.losses import GroundLoss
from fgwot.operations import folded, outside_graphs, without_autocast
from fgwot.problem import Problem, Weight
from fgwot.solution import Solution, Status, WarmStart
from fgwot.tensor_term import tensor_term


@outside_graphs
@without_autocast
def unbalanced_fused_gromov_wasserstein(
    M: Tensor | None,
    C1: Tensor,
    C2: Tensor,
    p: Tensor | None = None,
    q: Tensor | None = None,
    *,
    rho: Weight | tuple[Weight, Weight],
    alpha: Weight | None = None,
    epsilon: Weight = 0.05,
    loss: str | GroundLoss = "square",
    init: Tensor | WarmStart | None = None,
    max_iter: int = 1000,
    tol: float | None = None,
    validate: bool = True,
) -> Solution:
    r"""Entropic Fused Gromov-Wasserstein with relaxed marginals.

    Find a stationary point of

    .. math:: J(T) = (1-\alpha) \langle M, T \rangle + \alpha \sum_{ijkl} L(C1_{ik}, C2_{jl}) T_{ij} T_{kl}
              + \rho_1 \mathrm{KL}(T 1 | p) + \rho_2 \mathrm{KL}(T^\top 1 | q) - \varepsilon H(T)

    over T >= 0, with :math:`\mathrm{KL}(a|b) = \sum a \log(a/b) - a + b`. The divergence is the plain one, not that of
    product measures in Séjourné, Vialard and Peyré (2021). ``rho=(inf, 0)`` is the semi-relaxed problem of
    Vincent-Cuaz, Flamary, Corneli, Vayer and Courty (2022) with entropy.

    Parameters
    ----------
    M, C1, C2, p, q, alpha, epsilon, loss, tol, validate
        As in `fused_gromov_wasserstein`; the masses of p and q may differ unless both are exact.
    rho : float or Tensor (...), or a pair of them
        Price of a marginal, in units of the costs: infinity makes it exact, zero free. Not zero on both sides.
    init : Tensor or Solution, optional
        First plan; p q^T scaled to the geometric mean of both masses by default.
    max_iter : int
        Outer iterations.

    Returns
    -------
    Solution
        ``value`` is J, with envelope gradients in all arguments; ``potentials`` (f, g) satisfy
        grad E(T) + epsilon log T = f (+) g, and f = -rho1 log(T 1 / p) where rho1 is finite. ``residual`` and
        ``marginal_error`` are relative to the mass of T, the latter that of the exact sides.

    Raises
    ------
    TypeError, ValueError
        On bad input; the message says what arrived and what was expected.

    Warns
    -----
    ConvergenceWarning
        Once per call if a problem did not converge.

    Examples
    --------
    >>> import torch
    >>> x = torch.tensor([[0.0], [1.0], [3.0]], dtype=torch.float64)
    >>> C = torch.cdist(x, x)
    >>> sol = unbalanced_fused_gromov_wasserstein(torch.cdist(x, x + 9), C, C, rho=1.0, epsilon=0.1)
    >>> bool(sol.converged), bool(sol.plan.sum() < 0.5)  # far apart: little mass is worth moving
    (True, True)
    """
    if alpha is None:
        alpha = 1.0 if M is None else 0.5
    sides = rho if isinstance(rho, tuple) else (rho, rho)
    if len(sides) != 2:
        raise ValueError(f"rho must be a number, a tensor or a pair of them, got {len(sides)} values")
    if all(not isinstance(side, Tensor) and side == float("inf") for side in sides):
        return fused_gromov_wasserstein(
            M,
            C1,
            C2,
            p,
            q,
            alpha=alpha,
            epsilon=epsilon,
            loss=loss,
            init=init,
            max_iter=max_iter,
            tol=tol,
            validate=validate,
        )
    if max_iter < 1 or (tol is not None and not tol > 0):
        raise ValueError(f"max_iter must be at least 1 and tol positive, got {max_iter} and {tol}")
    problem = Problem.build(M, C1, C2, p, q, alpha, epsilon, loss)
    problem.dense()
    rho1, rho2 = (_price(side, problem) for side in sides)

    def search(rho1: Tensor, rho2: Tensor, first: Tensor, *tensors: Tensor) -> tuple[Tensor, ...]:
        flat = problem.of(tensors)
        if validate:
            flat.check(equal_mass=False)
            _check_prices(rho1, rho2, flat)
        check_plan(first)
        columns_first = bool(rho2.isinf().any()) and not bool(rho1.isinf().any())
        iteration = _Relaxed(flat, rho1, rho2, columns_first)
        result = iteration.solve(first, 1.0 if init is None else 0.0, tol, max_iter)
        warn(result.status, result.residual)
        result = with_quadratic(flat, result)
        return *iteration.divergences(result.T), *iteration.marginal_gradients(result), *result.tensors

    found = folded(search, rho1, rho2, _first_plan(init, problem), *problem.tensors)
    paid1, paid2, by_p, by_q = found[:4]
    result = Result(*found[4:])
    # The envelope theorem: J's partial derivatives at the fixed plan. In p that is the potential of an exact side.
    value, cost, linear, quad = envelope_values(problem, replace(result, f=by_p, g=by_q), entropic=True)
    value = value + _priced(rho1, paid1) + _priced(rho2, paid2)
    restore = problem.restore
    return Solution(
        plan=restore(result.T),
        potentials=(restore(result.f), restore(result.g)),
        value=restore(value),
        cost=restore(cost),
        value_linear=restore(linear),
        value_quad=restore(quad),
        status=restore(result.status),
        residual=restore(result.residual),
        marginal_error=restore(result.marginal_error),
        n_iter=restore(result.n_iter),
    )


@dataclass(frozen=True)
class _Relaxed(Batch):
    """The iteration for a flat batch of problems, without gradients.

    The inner problem leaves one side without error, the first one: the rows, or if columns are exact and no rows are,
    the columns.
    """

    problem: Problem
    rho1: Tensor
    rho2: Tensor
    columns_first: bool

    @property
    def first(self) -> Tensor:
        """Marginal of the first side."""
        return self.problem.q if self.columns_first else self.problem.p

    @property
    def second(self) -> Tensor:
        """Marginal of the second side."""
        return self.problem.p if self.columns_first else self.problem.q

    def solve(self, T: Tensor, change: float, tol: float | None, max_iter: int) -> Result:
        """Iterate each problem until residual + marginal error <= tol, relative to the mass of its plan.

        `change` is a guess of how far T is from the next plan.
        """
        problem = self.problem
        one = torch.ones_like(problem.alpha)
        infinite = one * torch.inf
        state = _State(
            T, self.gradient(T), torch.zeros_like(self.second), infinite, one, one * change, infinite, 0 * one, one < 0
        )
        tolerance = Tolerance.at(state.G, _per_mass(T), tol)
        result = Result.empty(Marginals(problem.p, problem.q))
        open_ = torch.arange(len(one), device=one.device)
        iteration = self
        for k in range(1, max_iter + 1):
            if k == max_iter:  # an undamped step measures the residual
                state = replace(state, theta=torch.ones_like(state.theta))
            new = iteration.couple(state, tolerance)
            if k == 1:  # the first plan may have mass where costs forbid it, its successor has not
                tolerance = Tolerance.at(state.G, _per_mass(iteration.turned(new.T)), tol, _weighted(new))
            following, ended, found = iteration.step(state, new, tolerance, k, last=k == max_iter)
            at = ended.nonzero()[:, 0]
            if len(at):
                result.fill(open_[at], found.select(at))
                rest = (~ended).nonzero()[:, 0]
                if not len(rest):
                    break
                iteration, following = iteration.select(rest), following.select(rest)
                open_, tolerance = open_[rest], tolerance.select(rest)
            state = following
        return result

    def turned(self, T: Tensor) -> Tensor:
        """Plan of the inner problem, whose rows are the first side, as one of the problem."""
        return T.mT if self.columns_first else T

    def step(
        self, now: "_State", new: Coupling, tolerance: Tolerance, n_iter: int, last: bool
    ) -> tuple["_State", Tensor, Result]:
        """Return the next state, which problems (B,) end, and their results."""
        epsilon, theta = self.problem.epsilon, now.theta
        T = self.turned(new.T)
        mass = now.T.sum((-2, -1)).clamp_min(torch.finfo(theta.dtype).tiny)
        moved = (T - now.T).abs().sum((-2, -1)) / mass
        error = new.error / mass
        G = self.gradient(T)
        potential = new.g / theta[:, None]
        J, rounding = self.objective(T, G, potential)
        slack = 64 * (tolerance.noise * epsilon * mass + rounding)
        accepted = now.J + slack >= J
        certified = (theta == 1) & (moved + error <= tolerance.allowed)
        ended = certified | now.stalled | last
        status = torch.where(now.stalled, Status.STALLED, Status.MAX_ITER)
        status = torch.where(certified, tolerance.status, status)
        status = torch.where(moved.isfinite(), status, Status.NUMERICAL)
        f, g = (new.g, new.f) if self.columns_first else (new.f, new.g)
        gap = torch.where(self.rho2.isinf(), (now.T.sum(-2) - self.problem.q).abs().sum(-1), 0)
        gap = gap + torch.where(self.rho1.isinf(), (now.T.sum(-1) - self.problem.p).abs().sum(-1), 0)
        found = Result(
            T=now.T,
            f=epsilon[:, None] * f.nan_to_num(0.0, neginf=0.0),
            g=epsilon[:, None] * g.nan_to_num(0.0, neginf=0.0),
            status=status.to(torch.int64),
            residual=moved + error,
            marginal_error=gap / mass,
            n_iter=torch.full_like(status, n_iter, dtype=torch.int64),
        )
        change = moved / theta
        # As in the balanced iteration: theta makes the error along the last step vanish, were it to flip its sign.
        delta = T - now.T
        metric = 2 * delta.square() / (T + now.T).clamp_min(torch.finfo(theta.dtype).tiny)
        ratio = (delta * (G - now.G)).sum((-2, -1)) / metric.sum((-2, -1))
        stable = torch.where(ratio > 0.5, 1 / (1 + ratio), 1)
        following = torch.where(change <= 0.5 * tolerance.allowed, 1, torch.minimum(stable, 2 * theta))
        nearer = change + error < 0.9 * now.best
        best = torch.where(nearer, change + error, now.best)
        progress = nearer | (now.J - slack > J)
        lowest = torch.minimum(J, now.J)
        taken = _State(T, G, potential, lowest, following, change, best, 0 * theta, now.stalled)
        after = taken.where(accepted, replace(now, theta=theta / 2, change=change))
        idle = torch.where(accepted & progress, 0, now.idle + 1)
        # A problem that gets no further takes an undamped step, which measures its residual.
        stalled = (after.theta < SMALLEST_THETA) | (idle >= PATIENCE)
        after = replace(after, theta=torch.where(stalled, 1, after.theta), idle=idle, stalled=stalled)
        return after, ended, found

    def gradient(self, T: Tensor) -> Tensor:
        """Gradient of E at T, divided by epsilon; nothing may be left out of it, as the marginals move."""
        problem, (C1, C2) = self.problem, self.problem.dense()
        alpha = problem.alpha[:, None, None]
        quadratic = tensor_term(C1, C2, T, problem.loss) + tensor_term(C1.mT, C2.mT, T, problem.loss)
        return ((1 - alpha) * problem.M + alpha * quadratic) / problem.epsilon[:, None, None]

    def objective(self, T: Tensor, G: Tensor, potential: Tensor) -> tuple[Tensor, Tensor]:
        """J (B,) at T with G = G(T), and its rounding: E = <(1 - alpha) M + grad E, T> / 2, as E is quadratic.

        Where the second side is exact too, its gap enters with its multiplier, as in the Lagrangian.
        """
        problem, epsilon = self.problem, self.problem.epsilon
        linear = (1 - problem.alpha) * (problem.M * T).sum((-2, -1))
        energy = (linear + epsilon * (G * T).sum((-2, -1))) / 2
        entropy = T.sum((-2, -1)) - torch.xlogy(T, T).sum((-2, -1))
        paid1, paid2 = self.divergences(T)
        actual = T.sum(-1 if self.columns_first else -2)
        gap = torch.where(self.second > 0, potential * (actual - self.second), 0).sum(-1)
        multiplied = torch.where(self.rho1.isinf() & self.rho2.isinf(), epsilon * gap, 0)
        value = energy - epsilon * entropy + _priced(self.rho1, paid1) + _priced(self.rho2, paid2) - multiplied
        # A divergence is a small difference of masses, with a large price.
        masses = (T.sum((-2, -1)) + marginal.sum(-1) for marginal in (problem.p, problem.q))
        priced = (_priced(rho, mass) for rho, mass in zip((self.rho1, self.rho2), masses, strict=True))
        return value, torch.finfo(T.dtype).eps * (value.abs() + sum(priced))

    def divergences(self, T: Tensor) -> tuple[Tensor, Tensor]:
        """KL(T 1 | p) and KL(T' 1 | q) (B,)."""
        return _divergence(T.sum(-1), self.problem.p), _divergence(T.sum(-2), self.problem.q)

    def couple(self, now: "_State", tolerance: Tolerance) -> Coupling:
        """Plan of the next step, whose rows are the first side."""
        weight = now.theta[:, None, None]
        kernel = now.T.clamp_min(torch.finfo(weight.dtype).tiny).log()
        X = self.turned(torch.where(weight == 1, now.G, weight * now.G - (1 - weight) * kernel))
        prices = [rho[:, None] * (now.theta / self.problem.epsilon)[:, None] for rho in (self.rho1, self.rho2)]
        r1, r2 = reversed(prices) if self.columns_first else prices
        # J counts an error of the second side squared, times its price: a step must not be lost in it.
        stiffness = (1 + r2[:, 0].nan_to_num(posinf=0.0)).sqrt()
        wanted = ((0.02 * now.change).clamp(max=COARSEST) / stiffness).maximum(0.05 * tolerance.allowed)
        return relaxed(X, Sides(self.first, self.second, r1, r2), now.theta[:, None] * now.potential, wanted)

    def marginal_gradients(self, result: Result) -> tuple[Tensor, Tensor]:
        """Derivatives of J in p (B, n) and q (B, m): rho (1 - T 1 / p), or the potential of an exact side."""

        def side(rho: Tensor, marginal: Tensor, actual: Tensor, potential: Tensor) -> Tensor:
            exact = rho.isinf()[:, None]
            ratio = actual / torch.where(marginal > 0, marginal, 1)
            paid = torch.where(marginal > 0, torch.where(exact, 0, rho[:, None]) * (1 - ratio), 0)
            return torch.where(exact, potential, paid)

        T, problem = result.T, self.problem
        by_p = side(self.rho1, problem.p, T.sum(-1), result.f)
        return by_p, side(self.rho2, problem.q, T.sum(-2), result.g)


@dataclass(frozen=True)
class _State(Batch):
    """Where each problem stands; every tensor starts with the batch dimension.

    Plan T with its gradient G and the second potential of an undamped step; lowest objective J, size of the next step,
    last change as an estimate of the residual, what that was when it last fell by a tenth, steps without progress, and
    whether those ended it.
    """

    T: Tensor
    G: Tensor
    potential: Tensor
    J: Tensor
    theta: Tensor
    change: Tensor
    best: Tensor
    idle: Tensor
    stalled: Tensor


def _per_mass(T: Tensor) -> Tensor:
    return T / T.sum((-2, -1), keepdim=True)


def _weighted(plan: Coupling) -> Tensor:
    """Size (B,) of the potentials where there is mass."""
    rows, columns = plan.T.sum(-1), plan.T.sum(-2)
    f, g = (potential.nan_to_num(0.0, 0.0, 0.0).abs() for potential in (plan.f, plan.g))
    return ((rows * f).sum(-1) + (columns * g).sum(-1)) / rows.sum(-1)


def _divergence(a: Tensor, b: Tensor) -> Tensor:
    return (torch.xlogy(a, a) - torch.xlogy(a, b) - a + b).sum(-1)


def _priced(rho: Tensor, divergence: Tensor) -> Tensor:
    """Rho times a divergence; nothing for an exact side, which has none, and for a free one."""
    return torch.where(rho.isinf() | (rho == 0), 0, rho) * torch.where(rho == 0, 0, divergence).nan_to_num(0.0)


def _price(rho: Weight, problem: Problem) -> Tensor:
    """One rho (B,) per problem."""
    given = torch.as_tensor(rho, dtype=problem.alpha.dtype, device=problem.alpha.device)
    try:
        return given.expand(problem.batch_shape).reshape(-1)
    except RuntimeError:
        raise ValueError(
            f"rho of shape {tuple(given.shape)} does not broadcast to batch shape {tuple(problem.batch_shape)}"
        ) from None


def _check_prices(rho1: Tensor, rho2: Tensor, problem: Problem) -> None:
    for rho in (rho1, rho2):
        if bool((~(rho >= 0)).any()):
            raise ValueError(f"rho must lie in [0, inf], got {rho.detach().amin().item():g}")
    if bool((rho1 + rho2 == 0).any()):
        raise ValueError("rho must not be zero on both sides: no marginal would matter, and neither would p and q")
    mass_p, mass_q = problem.p.sum(-1), problem.q.sum(-1)
    if bool((rho1.isinf() & rho2.isinf() & ((mass_p - mass_q).abs() > 1e-6 * mass_p)).any()):
        raise ValueError("p and q must have equal mass where both marginals are exact")


def _first_plan(init: Tensor | WarmStart | None, problem: Problem) -> Tensor:
    if init is not None:
        if not isinstance(init, Tensor | WarmStart):
            raise TypeError(f"init must be None, a plan or a Solution, got {type(init).__name__}")
        return shaped_plan(init.plan if isinstance(init, WarmStart) else init, problem)
    p, q = problem.p.detach(), problem.q.detach()
    mass = (p.sum(-1) * q.sum(-1)).sqrt()
    return p[:, :, None] * q[:, None, :] / mass[:, None, None]
