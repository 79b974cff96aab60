"""Small problems in one piece: one kernel or compiled loop solves them, a second one differentiates their values."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fgwot.adjoint import ENVELOPE_ONCE, Adjoint, Envelope
from fgwot.backend import uses_triton
from fgwot.initial import Init, MultiInit
from fgwot.losses import BY_NAME, GroundLoss
from fgwot.operations import once, transformed
from fgwot.problem import Weight, flatten
from fgwot.solution import Solution, Status
from fgwot.solver import MirrorDescent, Solver
from fgwot.structure import Structure

_Grads = tuple[Tensor | None, ...]


def whole_solve(
    M: Tensor | None,
    C1: Structure,
    C2: Structure,
    p: Tensor | None,
    q: Tensor | None,
    alpha: Weight,
    epsilon: Weight,
    loss: str | GroundLoss,
    solver: Solver,
    adjoint: str | Adjoint,
    init: Init,
    max_iter: int,
    tol: float | None,
    compiled: bool,
) -> Solution | None:
    """Return what the kernel finds, or the loop on the CPU if `compiled`; None for what they do not know.

    They know square and kl, mirror descent with its own damping, envelope gradients, and nothing of `torch.func`; the
    kernel knows the sizes of `fgwot.kernels.shapes.PACKS`, the loop those up to `fgwot.compiled.LARGEST`.
    Their tests are the solver's. The kernel solves its inner problems by Sinkhorn sweeps alone, up to a limit, and the
    loop makes undamped steps alone: what they cannot finish they say in the status, and the solver may go on from
    there. Invalid input is NUMERICAL and has values that are not a number. One step is left to the solver.
    """
    if not (isinstance(C1, Tensor) and isinstance(C2, Tensor)) or transformed():
        return None
    on_triton = uses_triton(C1.device)
    if not on_triton and not (compiled and C1.device.type == "cpu"):
        return None

    tensors = [t for t in (M, C1, C2, p, q, alpha, epsilon) if isinstance(t, Tensor)]
    name = loss if isinstance(loss, str) else loss.name
    known = (
        max_iter > 1
        and min(C1.ndim, C2.ndim) >= 2
        and (_fits_kernel if on_triton else _fits_loop)(C1.shape[-1], C2.shape[-1], C1.dtype)
        and name in ("square", "kl")
        and loss in (name, BY_NAME[name])
        and solver == MirrorDescent()
        and adjoint in ("envelope", Envelope())
        and not isinstance(init, MultiInit)
        and all(t.dtype == C1.dtype and t.device == C1.device for t in tensors)
        and (M is not None or alpha == 1)
        and (isinstance(alpha, Tensor) or 0 <= alpha <= 1)
        and (isinstance(epsilon, Tensor) or 0 < epsilon < float("inf"))
    )
    if not known:
        return None
    n, m = C1.shape[-1], C2.shape[-1]
    # (tensor, shape of one problem)
    parts = [(M, (n, m)), (C1, (n, n)), (C2, (m, m)), (p, (n,)), (q, (m,)), (alpha, ()), (epsilon, ())]
    given = [(t, own) for t, own in parts if isinstance(t, Tensor)]
    if min(n, m) < 1 or any(t.shape[t.ndim - len(own) :] != own for t, own in given):
        return None
    try:
        batch = torch.broadcast_shapes(*(t.shape[: t.ndim - len(own)] for t, own in given))
        start, potential = _start(init, batch, n, m, C1)
    except (RuntimeError, TypeError):
        return None
    if batch.numel() == 0:
        return None
    flat = (flatten(t, len(own), batch) if isinstance(t, Tensor) else None for t, own in parts)
    found = _WholeSolve.apply(
        *flat,
        start,
        potential,
        0.0 if isinstance(alpha, Tensor) else float(alpha),
        0.0 if isinstance(epsilon, Tensor) else float(epsilon),
        name,
        tol or 0.0,
        max_iter - 1,
        on_triton,
    )
    found = [t.reshape(batch + t.shape[1:]) for t in found]
    plan, f, g, value, cost, linear, quad, _, residual, marginal_error, status, n_iter = found
    return Solution(plan, (f, g), value, cost, linear, quad, status, residual, marginal_error, n_iter)


def _fits_kernel(n: int, m: int, dtype: torch.dtype) -> bool:
    from fgwot.kernels.shapes import pack_for

    return pack_for(n, m, dtype) is not None


def _fits_loop(n: int, m: int, dtype: torch.dtype) -> bool:
    from fgwot.compiled import LARGEST

    return max(n, m) <= LARGEST and dtype in (torch.float32, torch.float64)


def is_final(solution: Solution) -> bool:
    """Whether all problems converged. One read from the device; none, and true, while a CUDA graph is captured."""
    if solution.status.is_cuda and torch.cuda.is_current_stream_capturing():
        return True
    return not any(solution.status.flatten().tolist())


def is_usable(solution: Solution) -> bool:
    """Whether the solver can go on from a solution."""
    return Status.NUMERICAL not in solution.status.flatten().tolist()


def _start(init: Init, batch: torch.Size, n: int, m: int, like: Tensor) -> tuple[Tensor | None, Tensor | None]:
    """First plan (B, n, m), and potentials (B, m) to go on with."""
    if init is None:
        return None, None
    plan = init.plan if isinstance(init, Solution) else init
    if not isinstance(plan, Tensor) or plan.dtype != like.dtype or plan.device != like.device:
        raise TypeError
    plan = flatten(plan.detach().expand(*batch, n, m), 2, batch)
    potential = None
    if isinstance(init, Solution):
        potential = flatten(init.potentials[1].detach().to(like.dtype).expand(*batch, m), 1, batch)
    return plan, potential


class _WholeSolve(torch.autograd.Function):
    """The operators below, with the gradients that `fgwot.adjoint.envelope_values` has."""

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> tuple[Tensor, ...]:
        *arguments, ctx.on_triton = inputs
        ctx.alpha, ctx.loss = inputs[9], inputs[11]
        plan, f, g, _, _, linear, quad, entropy, *rest = found = _solve_and_adjoint(ctx.on_triton)[0](*arguments)
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
            adjoint = _solve_and_adjoint(ctx.on_triton)[1]
            found = iter(adjoint(plan, C1, C2, f, g, of_values, alphas, ctx.alpha, ctx.loss, wanted))
            grads = [next(found) if asked else None for asked in wanted]
            value, cost = of_values[:2]
            both = [c for c in (value, cost) if c is not None]
            grads.append(sum(both) * (quad - linear) if dalpha and both else None)
            grads.append(-value * entropy if depsilon and value is not None else None)
        return *once(tuple(grads), ENVELOPE_ONCE, *of_values, *inputs), *[None] * 8


def _solve_and_adjoint(on_triton: bool) -> tuple[Callable[..., list[Tensor]], Callable[..., list[Tensor]]]:
    if on_triton:
        return _solve, _adjoint
    from fgwot.compiled import solve, solve_adjoint

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
