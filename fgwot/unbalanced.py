r"""Unbalanced and semi-relaxed problems: marginals that are paid for instead of met.

With the linearised cost X the inner problem is

    min_T <X, T> - H(T) + r1 KL(T 1 | p) + r2 KL(T' 1 | q),    r = rho / epsilon,

whose solution T = exp(f (+) g - X) satisfies f = tau1 (log p - logsumexp_j(g - X)) with tau = r / (1 + r), and the same
for g: Sinkhorn's updates, shortened (Chizat, Peyré, Schmitzer and Vialard 2018). tau is 1 for an exact marginal and 0
for a free one. Outside, mirror descent as in `fgwot.solver`: a damped step of size theta = epsilon / (epsilon + lambda)
has the cost theta G(T_k) - (1 - theta) log T_k and the entropy weight epsilon / theta.
"""

from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from fgwot.adjoint import envelope_values, with_quadratic
from fgwot.functional import fused_gromov_wasserstein, warn
from fgwot.initial import check_plan, shaped_plan
from fgwot.losses import GroundLoss
from fgwot.operations import folded, outside_graphs, without_autocast
from fgwot.problem import Problem, Weight
from fgwot.result import Result, tolerance
from fgwot.sinkhorn import Marginals
from fgwot.solution import Solution, Status
from fgwot.tensor_term import tensor_term

_SWEEPS = 5000  # of one inner problem
_SMALLEST_THETA = 2.0**-24


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
    init: Tensor | Solution | None = None,
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
        warn(result)
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
class _Coupling:
    """T = exp(f (+) g - X); `error` (B,) is how far the sums of its second side are from those its potential means."""

    T: Tensor
    f: Tensor
    g: Tensor
    error: Tensor


@dataclass(frozen=True)
class _Relaxed:
    """The iteration for a flat batch of problems, without gradients.

    Sinkhorn's last update leaves one side without error, the first one: the rows, or if columns are exact and no rows
    are, the columns.
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
        G = self.gradient(T)
        noise, allowed = tolerance(G, torch.ones_like(problem.alpha), tol)
        one = torch.ones_like(noise)
        state = _State(T, G, torch.zeros_like(self.second), one * torch.inf, theta=one, change=one * change)
        result = Result.empty(Marginals(problem.p, problem.q, noise))
        open_ = torch.arange(len(noise), device=noise.device)
        relaxed = self
        for k in range(1, max_iter + 1):
            state, ended, found = relaxed.step(state, noise, allowed, k, last=k == max_iter)
            at = ended.nonzero()[:, 0]
            if len(at):
                result.put(open_[at], found.select(at))
                rest = (~ended).nonzero()[:, 0]
                if not len(rest):
                    break
                relaxed, state = relaxed.select(rest), state.select(rest)
                open_, noise, allowed = open_[rest], noise[rest], allowed[rest]
        return result

    def select(self, index: Tensor) -> "_Relaxed":
        return replace(self, problem=self.problem.select(index), rho1=self.rho1[index], rho2=self.rho2[index])

    def step(
        self, now: "_State", noise: Tensor, allowed: Tensor, n_iter: int, last: bool
    ) -> tuple["_State", Tensor, Result]:
        """Return the next state, which problems (B,) end, and their results."""
        epsilon = self.problem.epsilon
        # The last step is undamped: it measures the residual.
        theta = torch.ones_like(now.theta) if last else now.theta
        wanted = torch.minimum(0.02 * now.change, torch.full_like(allowed, 1e-3)).maximum(0.05 * allowed)
        new = self.couple(now, theta, wanted)
        mass = now.T.sum((-2, -1)).clamp_min(torch.finfo(noise.dtype).tiny)
        moved = (new.T - now.T).abs().sum((-2, -1)) / mass
        error = new.error / mass
        G = self.gradient(new.T)
        potential = new.f if self.columns_first else new.g
        J = self.objective(new.T, G, potential / theta[:, None])
        accepted = now.J + 16 * noise * (mass * epsilon + J.abs()) >= J
        certified = (theta == 1) & (moved + error <= allowed)
        broken = ~(J.isfinite() & moved.isfinite())
        stalled = ~accepted & (theta < _SMALLEST_THETA)
        ended = certified | broken | stalled | torch.full_like(broken, last)
        status = torch.where(certified, Status.CONVERGED, Status.MAX_ITER)
        status = torch.where(stalled & ~certified, Status.STALLED, status)
        status = torch.where(broken, Status.NUMERICAL, status)
        gap = torch.where(self.rho2.isinf(), (now.T.sum(-2) - self.problem.q).abs().sum(-1), 0)
        gap = gap + torch.where(self.rho1.isinf(), (now.T.sum(-1) - self.problem.p).abs().sum(-1), 0)
        found = Result(
            T=now.T,
            f=epsilon[:, None] * new.f.nan_to_num(0.0, neginf=0.0),
            g=epsilon[:, None] * new.g.nan_to_num(0.0, neginf=0.0),
            status=status.to(torch.int64),
            residual=moved + error,
            marginal_error=gap / mass,
            n_iter=torch.full_like(status, n_iter, dtype=torch.int64),
        )
        change = moved / theta
        # As in the balanced iteration: theta makes the error along the last step vanish, were it to flip its sign.
        delta = new.T - now.T
        metric = 2 * delta.square() / (new.T + now.T).clamp_min(torch.finfo(noise.dtype).tiny)
        ratio = (delta * (G - now.G)).sum((-2, -1)) / metric.sum((-2, -1))
        stable = torch.where(ratio > 0.5, 1 / (1 + ratio), 1)
        following = torch.where(change <= 0.5 * allowed, 1, torch.minimum(stable, 2 * theta))
        taken = _State(new.T, G, potential, J, following, change)
        held = replace(now, theta=theta / 2, change=change)
        return taken.where(accepted, held), ended, found

    def gradient(self, T: Tensor) -> Tensor:
        """Gradient of E at T, divided by epsilon; nothing may be left out of it, as the marginals move."""
        problem, (C1, C2) = self.problem, self.problem.dense()
        alpha = problem.alpha[:, None, None]
        quadratic = tensor_term(C1, C2, T, problem.loss) + tensor_term(C1.mT, C2.mT, T, problem.loss)
        return ((1 - alpha) * problem.M + alpha * quadratic) / problem.epsilon[:, None, None]

    def objective(self, T: Tensor, G: Tensor, potential: Tensor) -> Tensor:
        """J (B,) at T with G = G(T): E = <(1 - alpha) M + grad E, T> / 2, as E is quadratic.

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
        return energy - epsilon * entropy + _priced(self.rho1, paid1) + _priced(self.rho2, paid2) - multiplied

    def divergences(self, T: Tensor) -> tuple[Tensor, Tensor]:
        """KL(T 1 | p) and KL(T' 1 | q) (B,)."""
        return _divergence(T.sum(-1), self.problem.p), _divergence(T.sum(-2), self.problem.q)

    def couple(self, now: "_State", theta: Tensor, tol: Tensor) -> _Coupling:
        """Plan of a step of size theta, right to `tol` (B,) of its mass."""
        problem, weight = self.problem, theta[:, None, None]
        kernel = now.T.clamp_min(torch.finfo(weight.dtype).tiny).log()
        X = torch.where(weight == 1, now.G, weight * now.G - (1 - weight) * kernel)
        r1, r2 = (rho[:, None] * (theta / problem.epsilon)[:, None] for rho in (self.rho1, self.rho2))
        if self.columns_first:
            X, r1, r2 = X.mT, r2, r1
        log_first, log_second = self.first.log(), self.second.log()
        g = now.potential
        for _ in range(_SWEEPS):
            f = _update(r1, log_first - torch.logsumexp(g[:, None, :] - X, -1))
            T = (f[:, :, None] + g[:, None, :] - X).exp()
            actual = T.sum(-2)
            error = (actual - _meant(g, r2, self.second, actual)).abs().sum(-1)
            if bool((error <= tol * actual.sum(-1)).all()):
                break
            g = _update(r2, log_second - torch.logsumexp(f[:, :, None] - X, -2))
            g = g - self._translation(f, g, r1, r2)
        return _Coupling(T.mT, g, f, error) if self.columns_first else _Coupling(T, f, g, error)

    def _translation(self, f: Tensor, g: Tensor, r1: Tensor, r2: Tensor) -> Tensor:
        """Number (B, 1) to take from g, and give to f, so that both sides stand for the same mass.

        Sinkhorn alone is slow at that when rho is large (Séjourné, Vialard and Peyré 2022, translation invariance).
        """
        one = _meant(f, r1, self.first, self.first).sum(-1, keepdim=True)
        two = _meant(g, r2, self.second, self.second).sum(-1, keepdim=True)
        both = r1 * r2 / (r1 + r2)
        price = torch.where(r1.isinf(), r2, torch.where(r2.isinf(), r1, both))
        return torch.where(price.isfinite() & (price > 0), price * (one / two).log(), 0)

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
class _State:
    """Plans with their gradient, second potential / epsilon, objective, next step size and last change."""

    T: Tensor
    G: Tensor
    potential: Tensor
    J: Tensor
    theta: Tensor
    change: Tensor

    def select(self, index: Tensor) -> "_State":
        return _State(*(getattr(self, field.name)[index] for field in fields(self)))

    def where(self, chosen: Tensor, other: "_State") -> "_State":
        """Self for the chosen problems (B,), `other` for the rest."""
        pairs = [(getattr(self, field.name), getattr(other, field.name)) for field in fields(self)]
        return _State(*(torch.where(chosen.view(-1, *[1] * (a.ndim - 1)), a, b) for a, b in pairs))


def _update(r: Tensor, exact: Tensor) -> Tensor:
    """Potential of a side from that of an exact one; zero of a free side."""
    return torch.where(r == 0, 0, torch.where(r.isinf(), 1, r / (1 + r)) * exact)


def _meant(potential: Tensor, r: Tensor, marginal: Tensor, actual: Tensor) -> Tensor:
    """Sums that a potential stands for: marginal exp(-potential / r); the actual ones of a free side."""
    ratio = torch.where(r.isinf() | (marginal == 0), 0, -potential / r)
    return torch.where(r == 0, actual, marginal * ratio.exp())


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


def _first_plan(init: Tensor | Solution | None, problem: Problem) -> Tensor:
    if init is not None:
        if not isinstance(init, Tensor | Solution):
            raise TypeError(f"init must be None, a plan or a Solution, got {type(init).__name__}")
        return shaped_plan(init.plan if isinstance(init, Solution) else init, problem)
    p, q = problem.p.detach(), problem.q.detach()
    mass = (p.sum(-1) * q.sum(-1)).sqrt()
    return p[:, :, None] * q[:, None, :] / mass[:, None, None]
