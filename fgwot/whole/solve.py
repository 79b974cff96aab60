"""Small problems in one piece: one kernel or compiled loop solves them, a second one differentiates their values."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fgwot.adjoint import ENVELOPE_ONCE
from fgwot.drivers import Call, choose
from fgwot.operations import once
from fgwot.solution import Solution

_Grads = tuple[Tensor | None, ...]


def whole_solve(call: Call) -> Solution | None:
    """Return what the driver finds that `fgwot.drivers` chooses; None where that is torch.

    The drivers' tests are the solver's. The kernel solves its inner problems by Sinkhorn sweeps alone, up to a limit,
    and the loop makes undamped steps alone: what they cannot finish they say in the status, and the solver may go on
    from there. Invalid input is NUMERICAL and has values that are not a number. One step is left to the solver.
    """
    driver = choose(call).driver
    if driver == "torch" or call.flat is None:
        return None
    alpha, epsilon, loss, batch = call.alpha, call.epsilon, call.loss, call.flat.batch
    found = _WholeSolve.apply(
        *call.flat.tensors,
        0.0 if isinstance(alpha, Tensor) else float(alpha),
        0.0 if isinstance(epsilon, Tensor) else float(epsilon),
        loss if isinstance(loss, str) else loss.name,
        float(call.tol or 0.0),
        call.max_iter - 1,
        driver,
    )
    found = [t.reshape(batch + t.shape[1:]) for t in found]
    plan, f, g, value, cost, linear, quad, _, residual, marginal_error, status, n_iter = found
    return Solution(plan, (f, g), value, cost, linear, quad, status, residual, marginal_error, n_iter)


def is_final(solution: Solution) -> bool:
    """Whether all problems converged. One read from the device; none, and true, while a CUDA graph is captured."""
    if solution.status.is_cuda and torch.cuda.is_current_stream_capturing():
        return True
    return not any(solution.status.flatten().tolist())


class _WholeSolve(torch.autograd.Function):
    """The operators below, with the gradients that `fgwot.adjoint.envelope_values` has."""

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> tuple[Tensor, ...]:
        *arguments, ctx.driver = inputs
        ctx.alpha, ctx.loss = inputs[9], inputs[11]
        plan, f, g, _, _, linear, quad, entropy, *rest = found = _solve_and_adjoint(ctx.driver)[0](*arguments)
        ctx.save_for_backward(*inputs[:7], plan, f, g, linear, quad, entropy)
        ctx.mark_non_differentiable(plan, f, g, entropy, *rest)
        ctx.set_materialize_grads(False)
        return tuple(found)

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor | None) -> _Grads:
        *inputs, plan, f, g, linear, quad, entropy = ctx.saved_tensors
        _, C1, C2, _, _, alphas, _ = inputs
        *wanted, dalpha, depsilon = ctx.needs_input_grad[:7]
        of_values = list(cotangents[3:7])
        with torch.no_grad():
            adjoint = _solve_and_adjoint(ctx.driver)[1]
            found = iter(adjoint(plan, C1, C2, f, g, of_values, alphas, ctx.alpha, ctx.loss, wanted))
            grads = [next(found) if asked else None for asked in wanted]
            value, cost = of_values[:2]
            both = [c for c in (value, cost) if c is not None]
            grads.append(sum(both) * (quad - linear) if dalpha and both else None)
            grads.append(-value * entropy if depsilon and value is not None else None)
        return *once(tuple(grads), ENVELOPE_ONCE, *of_values, *inputs), *[None] * 8


def _solve_and_adjoint(driver: str) -> tuple[Callable[..., list[Tensor]], Callable[..., list[Tensor]]]:
    if driver == "triton":
        return _solve, _adjoint
    from fgwot.whole.compiled import solve, solve_adjoint

    return solve, solve_adjoint


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
