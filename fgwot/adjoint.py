r"""How the answer of a solve is differentiated."""

import warnings
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from fgwot.gradient.linearisation import Linearisation
from fgwot.inner.partial import split
from fgwot.inner.relaxed import priced
from fgwot.iteration.result import Result
from fgwot.losses import GroundLoss
from fgwot.operations import folded, once, without_autocast
from fgwot.problem import Problem
from fgwot.solution import ConvergenceWarning
from fgwot.solvers import Solver
from fgwot.structure import LowRank, low_rank_quadratic
from fgwot.tensor_term import contract, structure_adjoints, tensor_term

_Grads = tuple[Tensor | None, ...]
_Values = tuple[Tensor, Tensor, Tensor, Tensor]


@dataclass(frozen=True)
class Envelope:
    """Gradients of the minimised value by the envelope theorem; the plan is detached."""


@dataclass(frozen=True)
class Implicit:
    """Gradients of the plan, and of all that is computed from it, by the implicit function theorem.

    Parameters
    ----------
    tol : float
        Relative accuracy of the linear solve (conjugate gradients) in the backward pass.
    max_iter : int
        Its largest number of iterations; a warning is issued if they do not suffice.
    """

    tol: float = 1e-10
    max_iter: int = 500


@dataclass(frozen=True)
class Unrolled:
    """Gradients of the plan by autograd through `steps` mirror descent steps from the solution.

    Memory grows with steps times sweeps. Correct where undamped mirror descent contracts; meant for tests.
    """

    steps: int = 30
    sweeps: int = 50


Adjoint = Envelope | Implicit | Unrolled
ENVELOPE_ONCE = (
    "the envelope gradient cannot be differentiated again: its formula holds the plan fixed. "
    "Differentiate an expression of the plan of adjoint='implicit' instead"
)
_BY_NAME: dict[str, Adjoint] = {"envelope": Envelope(), "implicit": Implicit(), "unrolled": Unrolled()}


def differentiable(problem: Problem, result: Result, solver: Solver, adjoint: str | Adjoint) -> tuple[Tensor, _Values]:
    """Plan (B, n, m) and (value, cost, value_linear, value_quad) (B,), with gradients as `adjoint` says."""
    if isinstance(adjoint, str):
        if adjoint not in _BY_NAME:
            raise ValueError(f"unknown adjoint {adjoint!r}; known: {', '.join(_BY_NAME)}")
        adjoint = _BY_NAME[adjoint]
    if not isinstance(adjoint, Adjoint):
        raise TypeError(f"adjoint must be a name or an fgwot adjoint, got {type(adjoint).__name__}")
    values = envelope_values(problem, result, solver.entropic)
    if isinstance(adjoint, Envelope):
        return result.T, values
    if problem.moving:
        raise ValueError("plans with rho or mass are not differentiated; use adjoint='envelope'")
    if not solver.entropic:
        raise ValueError("ProximalPoint has no smooth plan to differentiate; use adjoint='envelope' or MirrorDescent")
    if isinstance(adjoint, Implicit):
        plan = implicit_plan(problem, result, adjoint)
    else:
        plan = _unrolled_plan(problem, result, adjoint)
    linear = (problem.M * plan).sum((-2, -1))
    quad = (contract(*problem.dense(), plan, problem.loss) * plan).sum((-2, -1))
    cost = (1 - problem.alpha) * linear + problem.alpha * quad
    return plan, (values[0], cost, linear, quad)


def envelope_values(problem: Problem, result: Result, entropic: bool) -> _Values:
    r"""Value, cost, linear and quadratic part (B,) at the plan, with envelope gradients.

    By the envelope theorem the derivative of the minimised objective is its partial derivative at the fixed plan:

    - dJ/dM = (1 - alpha) T;  dJ/dC1, dJ/dC2 = alpha times the adjoint contraction of <L (x) T, T>
    - dJ/dp = f, dJ/dq = g (the potentials, up to one constant)
    - dJ/dalpha = <L (x) T, T> - <M, T>;  dJ/depsilon = -H(T)
    - of a side with a price: dJ/dp = rho (1 - T 1 / p), dJ/drho = KL(T 1 | p)
    - of plans of a given mass: dJ/dp = f, dJ/dq = g - max g, dJ/dmass = max g, where the largest multiplier g is zero

    Exact for the value. Cost and parts get the same partial derivatives in M, C1, C2 and alpha with the plan
    held fixed, which ignores how the plan moves.
    """
    p, T, quad = problem, result.T, result.value_quad
    by_p, by_q, paid = _of_marginals(problem, result)
    args = (p.p, p.q, p.alpha, p.epsilon, T, by_p, by_q)
    if isinstance(p.C1, LowRank) and isinstance(p.C2, LowRank):
        quad = low_rank_quadratic(p.C1, p.C2, T)
        value, cost, linear, fixed, _ = _Envelope.apply(p.M, None, None, *args, quad.detach(), p.loss, entropic)
        moved = quad - fixed  # zero, with the gradients in the factors
        weighted = p.alpha.detach() * moved
        return value + weighted + paid, cost + weighted, linear, fixed + moved
    value, *rest, _ = _Envelope.apply(p.M, *p.dense(), *args, quad, p.loss, entropic)
    return value + paid, *rest


def _of_marginals(problem: Problem, result: Result) -> tuple[Tensor, Tensor, Tensor | float]:
    """Derivatives (B, n), (B, m) of the minimised objective in p and q, and what is paid for marginals (B,).

    That has its derivative in rho; where the mass of the plan is given it is zero, with the derivative in the mass.
    """
    if problem.rho is not None:
        pairs = ((problem.p.detach(), result.T.sum(-1), result.f), (problem.q.detach(), result.T.sum(-2), result.g))
        (by_p, one), (by_q, two) = (of_side(rho, *pair) for rho, pair in zip(problem.rho, pairs, strict=True))
        return by_p, by_q, one + two
    if problem.mass is not None:
        g, h = split(result.g, problem.q.detach())
        return result.f, g, h * (problem.mass - problem.mass.detach())
    return result.f, result.g, 0.0


def of_side(rho: Tensor, marginal: Tensor, sums: Tensor, potential: Tensor) -> tuple[Tensor, Tensor]:
    """Derivative (B, n) of the minimised objective in the marginal of one side, and what is paid for it (B,)."""
    by_marginal = torch.where(marginal > 0, rho[:, None] * (1 - sums / marginal), 0).detach()
    return torch.where(rho.isinf()[:, None], potential, by_marginal), priced(rho, sums, marginal)


def with_quadratic(problem: Problem, result: Result) -> Result:
    """Result with `value_quad`."""
    if result.value_quad is not None:
        return result
    if isinstance(problem.C1, LowRank) and isinstance(problem.C2, LowRank):
        return replace(result, value_quad=low_rank_quadratic(problem.C1, problem.C2, result.T))
    quad = (tensor_term(*problem.dense(), result.T, problem.loss) * result.T).sum((-2, -1))
    return replace(result, value_quad=quad)


class _Envelope(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(
        M: Tensor,
        _C1: Tensor | None,
        _C2: Tensor | None,
        _p: Tensor,
        _q: Tensor,
        alpha: Tensor,
        epsilon: Tensor,
        T: Tensor,
        _f: Tensor,
        _g: Tensor,
        quad: Tensor,
        _loss: GroundLoss,
        entropic: bool,
    ) -> tuple[Tensor, ...]:
        """Value, cost, linear and quadratic part, and the entropy."""
        linear = (M * T).sum((-2, -1))
        cost = (1 - alpha) * linear + alpha * quad
        # H(T) = -sum T (log T - 1); the proximal point method minimises E alone.
        entropy = T.sum((-2, -1)) - torch.xlogy(T, T).sum((-2, -1)) if entropic else torch.zeros_like(cost)
        return cost - epsilon * entropy, cost, linear, quad.clone(), entropy

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        *tensors, ctx.loss, _ = inputs
        ctx.mark_non_differentiable(output[4])
        ctx.save_for_backward(*tensors, output[2], output[4])

    @staticmethod
    @without_autocast
    def backward(ctx: Any, dvalue: Tensor, dcost: Tensor, dlinear: Tensor, dquad: Tensor, _: Tensor) -> _Grads:
        *inputs, T, f, g, quad, linear, entropy = ctx.saved_tensors
        _, C1, C2, _, _, alpha, _ = inputs
        with torch.no_grad():
            both = dvalue + dcost
            dM = ((1 - alpha) * both + dlinear)[:, None, None] * T
            dC1 = dC2 = None
            if ctx.needs_input_grad[1] or ctx.needs_input_grad[2]:
                weight = (alpha * both + dquad)[:, None, None]
                dC1, dC2 = folded(partial(structure_adjoints, loss=ctx.loss), C1, C2, weight * T, T)
            df, dg = dvalue[:, None] * f, dvalue[:, None] * g
            grads = (dM, dC1, dC2, df, dg, both * (quad - linear), -dvalue * entropy)
        return *once(grads, ENVELOPE_ONCE, dvalue, dcost, dlinear, dquad, *inputs), *(None,) * 6


def implicit_plan(problem: Problem, result: Result, adjoint: Implicit) -> Tensor:
    r"""The plan (B, n, m), differentiable in all seven arguments.

    Differentiating grad E(T) + epsilon log T = f (+) g and the marginal constraints, a cotangent Z of T is pulled
    back by lam, the solution of (Hessian of E + epsilon diag(1/T)) lam = Z on matrices with zero row and column sums;
    then dM = -(1 - alpha) lam, and so on by the chain rule. At a strict local minimum the operator is positive
    definite there, and conjugate gradients apply, preconditioned by its entropic part.
    """
    plan: Tensor = _ImplicitPlan.apply(problem, adjoint, result.T, *problem.tensors)
    return plan


class _ImplicitPlan(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(_problem: Problem, _adjoint: Implicit, T: Tensor, *_tensors: Tensor) -> Tensor:
        return T.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:  # noqa: ARG004
        ctx.problem, ctx.adjoint, *tensors = inputs
        ctx.save_for_backward(*tensors)

    @staticmethod
    @without_autocast
    def backward(ctx: Any, Z: Tensor) -> _Grads:
        T, *tensors = ctx.saved_tensors
        with torch.no_grad():
            grads = folded(partial(_pull_back, ctx.problem, ctx.adjoint), Z, T, *tensors)
        reason = "the implicit derivative of the plan cannot be differentiated again"
        return None, None, None, *once(grads, reason, Z, *tensors)


def _pull_back(like: Problem, adjoint: Implicit, Z: Tensor, T: Tensor, *tensors: Tensor) -> tuple[Tensor, ...]:
    """Gradients of <Z, plan> in the seven arguments."""
    problem = like.of(tensors)
    alpha, loss = problem.alpha[:, None, None], problem.loss
    lam, dp, dq = _solve_tangent(problem, T, Z, adjoint)
    C1, C2 = problem.dense()
    quadratic = tensor_term(C1, C2, T, loss) + tensor_term(C1.mT, C2.mT, T, loss)
    one = structure_adjoints(C1, C2, -alpha * lam, T, loss)
    two = structure_adjoints(C1, C2, -alpha * T, lam, loss)
    dalpha = (lam * (problem.M - quadratic)).sum((-2, -1))
    depsilon = -(lam * T.clamp_min(torch.finfo(T.dtype).tiny).log()).sum((-2, -1))
    return -(1 - alpha) * lam, one[0] + two[0], one[1] + two[1], dp, dq, dalpha, depsilon


class _Centring:
    """Subtract a (+) b from a matrix Z so that T * (Z - a (+) b) has zero row and column sums."""

    def __init__(self, T: Tensor) -> None:
        self._T, p, q = T, T.sum(-1), T.sum(-2)
        self._inverse_p = torch.where(p > 0, 1 / p, 0)
        S = torch.diag_embed(torch.where(q > 0, q, 1)) - T.mT @ (self._inverse_p[:, :, None] * T)
        S += (q.mean(-1) / q.shape[-1])[:, None, None]  # S 1 = 0: (a, b) are defined up to a constant
        self._factor = torch.linalg.cholesky(S)

    def __call__(self, Z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return Z - a (+) b, a and b."""
        TZ = self._T * Z
        rows = TZ.sum(-1) * self._inverse_p
        right = TZ.sum(-2) - (self._T.mT @ rows[:, :, None])[:, :, 0]
        b = torch.cholesky_solve(right[:, :, None], self._factor)[:, :, 0]
        a = rows - (self._T @ b[:, :, None])[:, :, 0] * self._inverse_p
        return Z - a[:, :, None] - b[:, None, :], a, b


def _solve_tangent(problem: Problem, T: Tensor, Z: Tensor, adjoint: Implicit) -> tuple[Tensor, Tensor, Tensor]:
    """Projected conjugate gradients for (Hessian + epsilon diag(1/T)) lam = Z - a (+) b; return lam, a, b."""
    linearise, centre = Linearisation(problem), _Centring(T)
    epsilon = problem.epsilon[:, None, None]
    residual, a, b = centre(Z / epsilon)
    lam = torch.zeros_like(Z)
    scaled = residual  # direction divided by T
    norm = (T * residual.square()).sum((-2, -1))
    target = adjoint.tol**2 * norm
    for _ in range(adjoint.max_iter):
        going = norm > target
        if not bool(going.any()):
            break
        direction = T * scaled
        image = scaled + linearise(direction) - linearise.linear
        curvature = (direction * image).sum((-2, -1))
        step = torch.where(going, norm / curvature, 0)[:, None, None]
        lam = lam + step * direction
        residual, da, db = centre(residual - step * image)
        a, b = a + da, b + db
        before, norm = norm, (T * residual.square()).sum((-2, -1))
        scaled = residual + torch.where(going, norm / before, 0)[:, None, None] * scaled
        if bool((going & (curvature <= 0)).any()):
            warnings.warn(
                "the plan is not a strict local minimum of the objective; its implicit derivative is not defined",
                ConvergenceWarning,
                stacklevel=2,
            )
            break
    else:
        warnings.warn(
            f"the implicit derivative did not reach its tolerance in {adjoint.max_iter} iterations",
            ConvergenceWarning,
            stacklevel=2,
        )
    return lam, problem.epsilon[:, None] * a, problem.epsilon[:, None] * b


def _unrolled_plan(problem: Problem, result: Result, adjoint: Unrolled) -> Tensor:
    T = result.T
    epsilon, alpha = problem.epsilon[:, None, None], problem.alpha[:, None, None]
    C1, C2 = problem.dense()
    minus_inf = torch.where(problem.q > 0, 0, -torch.inf)
    for _ in range(adjoint.steps):
        quadratic = tensor_term(C1, C2, T, problem.loss) + tensor_term(C1.mT, C2.mT, T, problem.loss)
        X = ((1 - alpha) * problem.M + alpha * quadratic) / epsilon
        g = result.g / problem.epsilon.detach()[:, None] + minus_inf
        P = torch.softmax(g[:, None, :] - X, -1)
        for _ in range(adjoint.sweeps):
            c = (problem.p[:, None, :] @ P)[:, 0]
            g = g + torch.where(problem.q > 0, problem.q / torch.where(problem.q > 0, c, 1), 1).log()
            P = torch.softmax(g[:, None, :] - X, -1)
        T = problem.p[:, :, None] * P
    return T
