"""The two functions users call."""

import sys
import warnings
from dataclasses import replace
from traceback import walk_stack
from typing import Literal

import torch
from torch import Tensor

from fgwot.adjoint import Adjoint, Envelope, differentiable, envelope_values, with_quadratic
from fgwot.arrays import any_array
from fgwot.batch import take
from fgwot.call import Call
from fgwot.iteration.initial import Init, MultiInit, random_starts, start_from, tensors_of
from fgwot.iteration.result import Result
from fgwot.iteration.solve import solve
from fgwot.losses import GroundLoss
from fgwot.operations import folded, outside_graphs, transformed, without_autocast
from fgwot.problem import Problem, Weight
from fgwot.solution import ConvergenceWarning, Solution, Status, WarmStart
from fgwot.solvers import Solver
from fgwot.streamed.conditions import against_streaming, stays_lazy
from fgwot.streamed.lazy import Lazy
from fgwot.streamed.plan import stored
from fgwot.streamed.ranks import together
from fgwot.streamed.solve import streamed_solve
from fgwot.structure import Structure
from fgwot.whole.solve import is_final, whole_solve


@outside_graphs
@any_array
@without_autocast
def fused_gromov_wasserstein(
    M: Structure | None,
    C1: Structure,
    C2: Structure,
    p: Tensor | None = None,
    q: Tensor | None = None,
    *,
    alpha: Weight | None = None,
    epsilon: Weight = 0.05,
    rho: Weight | tuple[Weight, Weight] | None = None,
    mass: Weight | None = None,
    loss: str | GroundLoss = "square",
    solver: Solver | None = None,
    adjoint: str | Adjoint = "envelope",
    init: Init = None,
    max_iter: int = 1000,
    tol: float | None = None,
    plan: Literal["dense", "lazy"] | Lazy | None = None,
    validate: bool = True,
) -> Solution:
    r"""Entropic Fused Gromov-Wasserstein between one pair of spaces or a batch of pairs.

    Find a stationary point of

    .. math:: J(T) = (1-\alpha) \langle M, T \rangle + \alpha \sum_{ijkl} L(C1_{ik}, C2_{jl}) T_{ij} T_{kl}
              - \varepsilon H(T), \qquad H(T) = -\sum_{ij} T_{ij} (\log T_{ij} - 1)

    over couplings T of p and q. J is not convex: the result depends on `init`.

    Marginals need not be met. With prices `rho`, T may be any plan and
    :math:`\rho_1 \mathrm{KL}(T 1 | p) + \rho_2 \mathrm{KL}(T^\top 1 | q)` is added to J, with
    :math:`\mathrm{KL}(a|b) = \sum a \log(a/b) - a + b`: unbalanced problems, and semi-relaxed ones if one price is
    infinite. With `mass` T has that mass, :math:`T 1 \le p` and :math:`T^\top 1 \le q`: partial problems.

    Small problems are solved as a whole where Numba (on the CPU) or Triton (on CUDA) is installed: the same iteration
    and the same certificate, many times faster. `fgwot.backend` switches that off, `fgwot.explain` tells what is used.

    Parameters
    ----------
    M : Tensor (..., n, m), LowRank or None
        Linear cost. None is the pure Gromov-Wasserstein problem.
    C1, C2 : Tensor (..., n, n), (..., m, m), or LowRank
        Structures, symmetric or not; both of low rank cost O(n m r), for the square loss. Leading shapes of all
        arguments broadcast to the batch shape.
    p, q : Tensor (..., n), (..., m), optional
        Marginals of equal mass, with `rho` or `mass` of any; uniform by default. Points of zero mass change nothing,
        which makes ragged batches possible by padding.
    alpha : float or Tensor (...), optional
        Weight of the quadratic term, in [0, 1]. By default 0.5, and 1 without M.
    epsilon : float or Tensor (...)
        Weight of the entropy, in units of the costs; positive.
    rho : float or Tensor (...), or a pair of them, optional
        Price of a marginal, in units of the costs: infinity makes it exact, zero free. Not zero on both sides.
    mass : float or Tensor (...), optional
        Mass of the plan, positive, at most that of p and of q. Not with `rho`.
    loss : str or GroundLoss
        L: "square", "kl", "abs", "huber" or your own.
    solver : MirrorDescent or ProximalPoint, optional
        MirrorDescent() by default. ProximalPoint() drops the entropy from J; epsilon is then only its step.
    adjoint : str or Adjoint
        "envelope" (exact for value; the plan is detached), "implicit" (also differentiates the plan and all that
        is computed from it) or "unrolled". With `rho` or `mass` only "envelope".
    init : Tensor, WarmStart or MultiInit, optional
        First plan, or a previous solution to continue from, or its plan and potentials; p q^T by default, scaled to the
        mass of the plan or, with `rho`, to the geometric mean of both masses.
    max_iter : int
        Outer iterations.
    tol : float, optional
        Bound on residual + marginal error of a converged plan, relative to the mass: by default 1e-7 in float64
        and 1e-5 in float32, plus what rounding makes unattainable.
    plan : {"dense", "lazy"} or Lazy, optional
        A lazy plan is not stored: `Solution.plan` is a `fgwot.LazyPlan`, and the solve takes O((n + m) r) memory. For
        one problem with M, C1 and C2 of low rank, square loss, MirrorDescent() and envelope gradients, not with `mass`.
        By default such problems get it from 2^24 pairs of points on (n = m = 4096), and others a tensor, which is
        built at the end where that takes less time. `fgwot.Lazy` has a callback, a time limit and a checkpoint for long
        solves.
    validate : bool
        Check values (finite, sign, mass) as well as shapes. Costs a few host synchronisations on CUDA.

    Returns
    -------
    Solution
        Without batch dimensions if no argument has any. In the dtype of the inputs, but float32 for half and bfloat16:
        values of half precision can overflow, and entries of plans vanish. Gradients are in the dtype of the inputs.

    Raises
    ------
    TypeError, ValueError
        On bad input; the message says what arrived and what was expected.
    ImportError
        If `fgwot.backend` asks for what is not installed.

    Warns
    -----
    ConvergenceWarning
        Once per call if a problem did not converge; `Solution.status` says which and how.

    References
    ----------
    Vayer, Chapel, Flamary, Tavenard and Courty, "Fused Gromov-Wasserstein distance for structured objects", 2020.
    Peyré, Cuturi and Solomon, "Gromov-Wasserstein averaging of kernel and distance matrices", ICML 2016.
    Vincent-Cuaz, Flamary, Corneli, Vayer and Courty, "Semi-relaxed Gromov-Wasserstein divergence", ICLR 2022.
    Chapel, Alaya and Gasso, "Partial optimal transport with applications on positive-unlabeled learning", NeurIPS 2020.
    Séjourné, Vialard and Peyré, "The unbalanced Gromov Wasserstein distance", NeurIPS 2021: its divergence is that of
    product measures, the one here the plain one.

    Examples
    --------
    >>> import torch
    >>> x = torch.tensor([[0.0], [1.0], [3.0]], dtype=torch.float64)
    >>> y = x[[2, 0, 1]]
    >>> sol = fused_gromov_wasserstein(torch.cdist(x, y), torch.cdist(x, x), torch.cdist(y, y), epsilon=0.02)
    >>> sol.plan.argmax(1).tolist(), bool(sol.converged)
    ([1, 2, 0], True)

    Far apart, little mass is worth moving; or as much is moved as is asked for:

    >>> C = torch.cdist(x, x)
    >>> sol = fused_gromov_wasserstein(torch.cdist(x, x + 9), C, C, rho=1.0, epsilon=0.1)
    >>> bool(sol.plan.sum() < 0.5)
    True
    >>> sol = fused_gromov_wasserstein(torch.cdist(x, x + 9), C, C, mass=0.6)
    >>> round(sol.plan.sum().item(), 6)
    0.6
    """
    with together(plan):
        call = Call.of(M, C1, C2, p, q, alpha, epsilon, loss, solver, adjoint, init, max_iter, tol, plan, rho, mass)
        found = streamed_solve(call, validate) if against_streaming(call) is None else None
    if found is not None and not stays_lazy(call):
        found = replace(found, plan=stored(found.plan))
    if found is not None and (stays_lazy(call) or is_final(found) or int(found.n_iter) >= call.max_iter):
        warn(found.status, found.residual)
        return found
    call = call.built()
    direct = adjoint in ("envelope", Envelope()) and not transformed()  # other drivers' solves have these gradients
    begun = found
    if begun is None and direct:
        begun = whole_solve(call)
    if begun is not None and is_final(begun):
        return begun
    return _solve(call, begun, direct, validate)


def gromov_wasserstein(
    C1: Structure,
    C2: Structure,
    p: Tensor | None = None,
    q: Tensor | None = None,
    *,
    epsilon: Weight = 0.05,
    rho: Weight | tuple[Weight, Weight] | None = None,
    mass: Weight | None = None,
    loss: str | GroundLoss = "square",
    solver: Solver | None = None,
    adjoint: str | Adjoint = "envelope",
    init: Init = None,
    max_iter: int = 1000,
    tol: float | None = None,
    plan: Literal["dense", "lazy"] | Lazy | None = None,
    validate: bool = True,
) -> Solution:
    """Entropic Gromov-Wasserstein: `fused_gromov_wasserstein` without a linear cost (alpha = 1).

    Examples
    --------
    >>> import torch
    >>> x = torch.tensor([[0.0], [1.0], [3.0]], dtype=torch.float64)
    >>> C = torch.cdist(x, x)
    >>> sol = gromov_wasserstein(C, C, epsilon=0.02)
    >>> sol.plan.argmax(1).tolist()
    [0, 1, 2]
    """
    return fused_gromov_wasserstein(
        None,
        C1,
        C2,
        p,
        q,
        alpha=1.0,
        epsilon=epsilon,
        rho=rho,
        mass=mass,
        loss=loss,
        solver=solver,
        adjoint=adjoint,
        init=init,
        max_iter=max_iter,
        tol=tol,
        plan=plan,
        validate=validate,
    )


def _solve(call: Call, whole: Solution | None, tried: bool, validate: bool) -> Solution:
    """Solve everything, or what another driver has left open if one was tried, with every kind of gradient."""
    solver, init, tol, max_iter = call.solver, call.init, call.tol, call.max_iter
    problem = call.problem()
    first, count = tensors_of(init, problem), len(problem.tensors)
    left = None if whole is None else _flattened(problem, whole)

    def search(*tensors: Tensor) -> tuple[Tensor, ...]:
        flat, given = problem.of(tensors[:count]), tensors[count:]
        if validate:
            flat.check()
        begun = left if tried else _begun(flat, call, given)
        if begun is not None:
            result = _completed(flat, call, given, begun)
        elif isinstance(init, MultiInit):
            result = _best(flat, solver, init, tol, max_iter)
        else:
            result = solve(flat, solver, start_from(flat, *given), tol, max_iter)
        warn(result.status, result.residual)
        return with_quadratic(flat, result).tensors

    result = Result(*folded(search, *problem.tensors, *first))
    plan, values = differentiable(problem, result, solver, call.adjoint)
    restore = problem.restore
    value, cost, linear, quad = (restore(v) for v in values)
    return Solution(
        plan=restore(plan),
        potentials=(restore(result.f), restore(result.g)),
        value=value,
        cost=cost,
        value_linear=linear,
        value_quad=quad,
        status=restore(result.status),
        residual=restore(result.residual),
        marginal_error=restore(result.marginal_error),
        n_iter=restore(result.n_iter),
    )


def _begun(problem: Problem, call: Call, given: tuple[Tensor, ...]) -> Result | None:
    """Result of a whole solve of a flat batch; None where torch is to solve it from the start."""
    p, init = problem, call.init
    if given:
        init = given[0] if len(given) == 1 else WarmStart(given[0], (torch.zeros_like(p.p), given[1]))
    flat = (p.M, p.C1, p.C2, p.p, p.q, p.alpha, p.epsilon, p.loss)
    rest = ("envelope", init, call.max_iter, call.tol, "dense", p.rho, p.mass)
    whole = whole_solve(Call(*flat, call.solver, *rest))
    return None if whole is None else _flattened(replace(p, batch_shape=p.alpha.shape), whole)


def _flattened(problem: Problem, solution: Solution) -> Result:
    """Return a solution of the problem as one flat batch, without gradients."""
    s, flat = solution.detach(), problem.flat
    f, g = (flat(potential) for potential in s.potentials)
    status, residual, error, n_iter = (flat(t) for t in (s.status, s.residual, s.marginal_error, s.n_iter))
    return Result(flat(s.plan), f, g, status, residual, error, n_iter, flat(s.value_quad))


def _completed(problem: Problem, call: Call, given: tuple[Tensor, ...], result: Result) -> Result:
    """Go on with the problems that a whole solve left open, from where they stand; afresh with those it broke at."""
    broken = result.status == Status.NUMERICAL
    open_ = ~broken & (result.status != Status.CONVERGED)
    steps = result.n_iter.masked_fill(broken, 0)
    for mask, start in ((broken, given), (open_, (result.T, result.g))):
        at = mask.nonzero()[:, 0]
        if len(at):
            rest, spent = problem.select(at), steps[at]
            begin = start_from(rest, *(take(t, at) for t in start))
            found = with_quadratic(rest, solve(rest, call.solver, begin, call.tol, call.max_iter - int(spent.max())))
            result.fill(at, replace(found, n_iter=found.n_iter + spent))
    return result


def _best(problem: Problem, solver: Solver, init: MultiInit, tol: float | None, max_iter: int) -> Result:
    batch = torch.arange(len(problem.p), device=problem.p.device)
    repeated = problem.select(batch.repeat_interleave(init.k))
    results = with_quadratic(repeated, solve(repeated, solver, random_starts(init, repeated), tol, max_iter))
    value, *_ = envelope_values(repeated, results, solver.entropic)
    best = value.nan_to_num(torch.inf).view(-1, init.k).argmin(1)
    return results.select(batch * init.k + best)


def warn(status: Tensor, residual: Tensor) -> None:
    """Tell once how many problems did not converge, and why."""
    failed = status[status != Status.CONVERGED]
    if not len(failed):
        return
    counts = {Status(int(s)).sentence: int((failed == s).sum()) for s in failed.unique()}
    reasons = "; ".join(f"{count} {sentence}" for sentence, count in counts.items())
    warnings.warn(
        f"{len(failed)} of {status.numel()} FGW problems did not converge: {reasons} "
        f"(largest residual {float(residual.max()):.1e}). Raise max_iter, epsilon or tol",
        ConvergenceWarning,
        stacklevel=_level_of_the_caller(),
    )


def _level_of_the_caller() -> int:
    """Level, for the function above, of the first frame that is neither fgwot's nor torch's."""
    frames = walk_stack(sys._getframe(1))
    packages = (frame.f_globals.get("__name__", "").partition(".")[0] for frame, _ in frames)
    return next((level for level, package in enumerate(packages, 1) if package not in ("fgwot", "torch")), 1)
