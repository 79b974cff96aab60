"""Small problems in one piece: one kernel or compiled loop solves them, a second one differentiates their values."""

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from fgwot.adjoint import ENVELOPE_ONCE
from fgwot.call import Call
from fgwot.drivers import choose
from fgwot.iteration.initial import MultiInit
from fgwot.operations import once
from fgwot.solution import Solution, Status
from fgwot.solvers import Solver

_Grads = tuple[Tensor | None, ...]


class Setting(NamedTuple):
    """What is not a tensor of a call.

    Attributes
    ----------
    numbers : tuple of float or None
        alpha, epsilon, rho of either side, and the mass, where they are the same for all problems; else None.
    """

    numbers: tuple[float | None, ...]
    loss: str
    solver: Solver
    starts: MultiInit | None
    tol: float
    max_iter: int


class Found(NamedTuple):
    """What a driver returns: a solution, and derivatives of its value; (B, ...).

    Those in rho and the mass are None where there is none.
    """

    plan: Tensor
    f: Tensor
    g: Tensor
    value: Tensor
    cost: Tensor
    linear: Tensor
    quad: Tensor
    residual: Tensor
    marginal_error: Tensor
    status: Tensor
    n_iter: Tensor
    entropy: Tensor
    by_p: Tensor
    by_q: Tensor
    by_rest: tuple[Tensor | None, ...] = (None, None, None)


class Driver(Protocol):
    """A way to solve a flat batch, and to differentiate its values."""

    def solve(self, tensors: Sequence[Tensor | None], setting: Setting) -> Found:
        """Solve M (B, n, m), C1, C2, p, q, five weights (B,), a plan to start with and its potential."""

    def adjoint(
        self,
        found: tuple[Tensor, Tensor, Tensor],
        structures: tuple[Tensor, Tensor],
        cotangents: Sequence[Tensor | None],
        alphas: Tensor | None,
        setting: Setting,
        wanted: Sequence[bool],
    ) -> list[Tensor]:
        """Gradients in those of M, C1, C2, p and q that are wanted, from the plan and derivatives in p and q."""


def whole_solve(call: Call) -> Solution | None:
    """Return what the driver finds that `fgwot.drivers` chooses; None where that is torch.

    The drivers' tests are the solver's. The kernel solves its inner problems by Sinkhorn sweeps alone, up to a limit,
    and undamped steps may be all that is made: what cannot be finished is said in the status, and the solver may go on
    from there. Invalid input is NUMERICAL and has values that are not a number. One step is left to the solver.
    """
    driver = choose(call).driver
    if driver == "torch" or call.flat is None:
        return None
    batch, tensors = call.flat
    numbers = tuple(None if w is None or isinstance(w, Tensor) else float(w) for w in call.weights)
    loss = call.loss if isinstance(call.loss, str) else call.loss.name
    starts = call.init if isinstance(call.init, MultiInit) else None
    setting = Setting(numbers, loss, call.solver, starts, float(call.tol or 0.0), call.max_iter - 1)
    found = _WholeSolve.apply(*tensors, setting, _driver(driver))
    plan, f, g, *rest = (t.reshape(batch + t.shape[1:]) for t in found)
    value, cost, linear, quad, residual, marginal_error, status, n_iter = rest
    if starts is not None and bool((status == Status.NUMERICAL).any()):
        return None  # what goes on after it starts once
    return Solution(plan, (f, g), value, cost, linear, quad, status, residual, marginal_error, n_iter)


def is_final(solution: Solution) -> bool:
    """Whether all problems converged. One read from the device; none, and true, while a CUDA graph is captured."""
    if solution.status.is_cuda and torch.cuda.is_current_stream_capturing():
        return True
    return not any(solution.status.flatten().tolist())


class _WholeSolve(torch.autograd.Function):
    """A driver's solve, with the gradients that `fgwot.adjoint.envelope_values` has."""

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> tuple[Tensor, ...]:
        *tensors, ctx.setting, ctx.driver = inputs
        found = ctx.driver.solve(tensors, ctx.setting)
        ctx.save_for_backward(
            *tensors[:10], found.plan, found.by_p, found.by_q, found.linear, found.quad, found.entropy, *found.by_rest
        )
        ctx.mark_non_differentiable(*found[:3], *found[7:11])
        ctx.set_materialize_grads(False)
        return tuple(found[:11])

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor | None) -> _Grads:
        *inputs, plan, by_p, by_q, linear, quad, entropy, by_rho1, by_rho2, by_mass = ctx.saved_tensors
        _, C1, C2, _, _, alphas, *_ = inputs
        *wanted, dalpha, depsilon, drho1, drho2, dmass = ctx.needs_input_grad[:10]
        of_values = list(cotangents[3:7])
        value, cost = of_values[:2]
        with torch.no_grad():
            found = iter(ctx.driver.adjoint((plan, by_p, by_q), (C1, C2), of_values, alphas, ctx.setting, wanted))
            grads = [next(found) if asked else None for asked in wanted]
            both = [c for c in (value, cost) if c is not None]
            grads.append(sum(both) * (quad - linear) if dalpha and both else None)
            grads.append(-value * entropy if depsilon and value is not None else None)
            rest = ((drho1, by_rho1), (drho2, by_rho2), (dmass, by_mass))
            grads += [value * by if asked and value is not None else None for asked, by in rest]
        return *once(tuple(grads), ENVELOPE_ONCE, *of_values, *inputs), *[None] * 4


def _driver(name: str) -> Driver:
    if name == "triton":
        return _Triton()
    from fgwot.whole.compiled import Loops

    return Loops()


class _Triton:
    """The kernels, as operators of torch."""

    def solve(self, tensors: Sequence[Tensor | None], setting: Setting) -> Found:
        *seven, _, _, _, start, potential = tensors
        alpha, epsilon = (number or 0.0 for number in setting.numbers[:2])
        plan, f, g, value, cost, linear, quad, entropy, *rest = _solve(
            *seven, start, potential, alpha, epsilon, setting.loss, setting.tol, setting.max_iter
        )
        residual, error, status, n_iter = rest
        return Found(plan, f, g, value, cost, linear, quad, residual, error, status, n_iter, entropy, f, g)

    def adjoint(
        self,
        found: tuple[Tensor, Tensor, Tensor],
        structures: tuple[Tensor, Tensor],
        cotangents: Sequence[Tensor | None],
        alphas: Tensor | None,
        setting: Setting,
        wanted: Sequence[bool],
    ) -> list[Tensor]:
        (plan, *potentials), alpha = found, setting.numbers[0] or 0.0
        gradients: list[Tensor] = _adjoint(
            plan, *structures, *potentials, list(cotangents), alphas, alpha, setting.loss, list(wanted)
        )
        return gradients


@torch.library.custom_op("fgwot::whole_solve", mutates_args=())
def _solve(
    M: Tensor | None,
    C1: Tensor,
    C2: Tensor,
    p: Tensor | None,
    q: Tensor | None,
    alphas: Tensor | None,
    epsilons: Tensor | None,
    start: Tensor | None,
    potential: Tensor | None,
    alpha: float,
    epsilon: float,
    loss: str,
    tol: float,
    max_iter: int,
) -> list[Tensor]:
    from fgwot.kernels.solve import solve

    return solve(M, C1, C2, p, q, alphas, epsilons, start, potential, alpha, epsilon, loss, tol, max_iter)


@torch.library.custom_op("fgwot::whole_solve_adjoint", mutates_args=())
def _adjoint(
    plan: Tensor,
    C1: Tensor,
    C2: Tensor,
    f: Tensor,
    g: Tensor,
    cotangents: list[Tensor | None],
    alphas: Tensor | None,
    alpha: float,
    loss: str,
    wanted: list[bool],
) -> list[Tensor]:
    from fgwot.kernels.solve_adjoint import solve_adjoint

    return solve_adjoint(plan, C1, C2, f, g, cotangents, alphas, alpha, loss, wanted)


@_solve.register_fake
def _(_M: Tensor | None, C1: Tensor, C2: Tensor, *_others: Any) -> list[Tensor]:
    batch, n, m = len(C1), C1.shape[-1], C2.shape[-1]
    floating = [C1.new_empty(batch, *shape) for shape in ((n, m), (n,), (m,), *[()] * 7)]
    return floating + [C1.new_empty(batch, dtype=torch.int64) for _ in range(2)]


@_adjoint.register_fake
def _(plan: Tensor, *others: Any) -> list[Tensor]:
    batch, n, m = plan.shape
    shapes = ((n, m), (n, n), (m, m), (n,), (m,))
    return [plan.new_empty(batch, *shape) for shape, asked in zip(shapes, others[-1], strict=True) if asked]
