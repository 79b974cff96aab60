"""Solves a call without an array of the plan's size."""

from dataclasses import replace
from math import inf

import torch
from torch import Tensor

from fgwot.call import Call
from fgwot.inner.plan import Marginals
from fgwot.iteration.result import Result, Tolerance
from fgwot.iteration.undamped import Limits
from fgwot.problem import Problem
from fgwot.solution import Solution, Status
from fgwot.streamed.checkpoint import Checkpoint
from fgwot.streamed.identity import identity, same
from fgwot.streamed.iteration import Streamed
from fgwot.streamed.lazy import Lazy
from fgwot.streamed.passes import one_pass, threads_for_loops
from fgwot.streamed.plan import LazyPlan
from fgwot.streamed.ranks import Ranks
from fgwot.streamed.reduced import Bases, ReducedLinearisation, mass_of_plans
from fgwot.streamed.sides import Side
from fgwot.streamed.start import begin
from fgwot.streamed.sweeps import StreamedPlan, Sweeps
from fgwot.streamed.values import Constants, Source, moments_of, values
from fgwot.streamed.watch import Watch
from fgwot.structure import LowRank

_At = tuple[Tensor, Tensor]


def streamed_solve(call: Call, validate: bool) -> Solution:
    """Solve a call to which `fgwot.streamed.conditions.against_streaming` has no objection."""
    with threads_for_loops(call.C1.device):
        return _streamed_solve(call, validate)


def _streamed_solve(call: Call, validate: bool) -> Solution:
    M = call.low_rank
    # Zeros that stand for M take no memory, and have its shape, dtype and device checked.
    zeros = None if M is None else M.A.new_zeros(()).expand(M.shape)
    problem = replace(call, M=zeros).problem()
    if validate:
        replace(problem, M=problem.M[:, :1, :1]).check()
        if M is not None and not bool(M.A.isfinite().all() and M.B.isfinite().all()):
            raise ValueError("M has entries that are not finite (NaN or infinite)")
    problem = _with_exact_sides(problem)
    exact, M = _in_double(problem), None if M is None else M.map(Tensor.double)
    ranks = Ranks.of(call.plan)
    with torch.no_grad():
        result, plan, known = _solved(exact, M, call, ranks)
    dtype, source = plan.dtype, Source(plan, ranks.one_pass if ranks else one_pass)
    value, cost, linear, quad = (v.to(dtype) for v in values(source, known, exact, M))
    return Solution(
        plan=plan,  # type: ignore[arg-type]  # which offers some of what a tensor does
        potentials=(known.f.to(dtype), known.g.to(dtype)),
        value=value,
        cost=cost,
        value_linear=linear,
        value_quad=quad,
        status=result.status[0],
        residual=result.residual[0].to(dtype),
        marginal_error=result.marginal_error[0].to(dtype),
        n_iter=result.n_iter[0],
    )


def _with_exact_sides(problem: Problem) -> Problem:
    """The same problem without prices, if all are infinite."""
    return problem if problem.rho is None or not all(r.isinf() for r in problem.rho) else replace(problem, rho=None)


def _in_double(problem: Problem) -> Problem:
    """The same problem in float64; zeros that stand for M stay one number."""
    M, *rest = problem.tensors
    return problem.of([M.new_zeros((), dtype=torch.float64).expand_as(M), *(t.double() for t in rest)])


def _solved(problem: Problem, M: LowRank | None, call: Call, ranks: Ranks | None) -> tuple[Result, LazyPlan, Constants]:
    """Iterate without the points that have no mass, unless their side is free."""
    rho1, rho2 = (inf, inf) if problem.rho is None else (float(rho / problem.epsilon) for rho in problem.rho)
    at = rows, columns = _with_mass(problem.p[0], rho1), _with_mass(problem.q[0], rho2)
    small = _part(problem, at)
    inside = None if M is None else LowRank(M.A[rows], M.B[columns])
    dtype = call.C1.dtype
    shares = Marginals.of(small.p, small.q)
    marginals = Marginals(small.p, small.q) if small.moving else shares
    sides = Side(marginals.p[0], rho1), Side(marginals.q[0], rho2)
    moving = not sides[0].exact, not sides[1].exact
    linearise = ReducedLinearisation(small, inside, torch.finfo(dtype).eps, moving)
    lazy = call.plan if isinstance(call.plan, Lazy) else Lazy()
    # Of tau and 1 - tau the small one tells prices apart.
    prices = small.p.new_tensor([x for side in sides for x in (side.tau, 1 - side.tau)])
    weights = small.alpha, small.epsilon, small.p.sum(-1), small.q.sum(-1), prices
    this = identity(linearise, marginals, torch.cat(weights))
    if ranks:
        _compare(ranks, call, this)
    checkpoint = Checkpoint(lazy.checkpoint, linearise, this, ranks)
    sweeps = Sweeps(linearise.bases, sides, dtype, Watch(lazy, ranks), checkpoint.potentials)
    shape = torch.Size([problem.p.shape[1], problem.q.shape[1]])
    now, theta = checkpoint.load(sweeps) or (begin(call.init, shape, at, linearise, sweeps), 1.0)
    limits = _limits(linearise.size(now.G, shares), dtype, call.tol)
    result, found = Streamed(linearise, marginals, sweeps, limits, checkpoint).solve(now, theta, call.max_iter)
    sweeps.watch.ended(Status(int(result.status)))
    moments = moments_of(linearise.bases.core(result.T[0]), linearise.bases, small, inside)
    result = result if small.moving else result.scaled(small)
    mass = mass_of_plans(small)[0]
    plan = LazyPlan(found.kernel, found.a, found.sums, float(mass), at, shape)
    logarithms = found.a @ found.sums[0] + found.kernel.b @ found.sums[1] - _exponent(linearise.bases, found)
    entropy = mass * ((1 - mass.log()) * found.sums[0].sum() - logarithms)
    p, q = problem.p[0], problem.q[0]
    f, g = _spread(result.f[0], rows, p), _spread(result.g[0], columns, q)
    own = (
        p if sides[0].exact else _spread(found.sums[0], rows, p),
        q if sides[1].exact else _spread(found.sums[1], columns, q),
    )
    return result, plan, Constants(mass * moments, entropy, *own, f, g)


def _with_mass(marginal: Tensor, price: float) -> Tensor:
    """Points that a plan may have mass at: those of a free side all may."""
    return ((marginal > 0) | (price == 0)).nonzero()[:, 0]


def _part(problem: Problem, at: _At) -> Problem:
    """Problem of some rows and columns."""
    rows, columns = at
    if (len(rows), len(columns)) == problem.M.shape[1:]:
        return problem
    C1, C2 = problem.low_rank
    return replace(
        problem,
        M=problem.M[:, : len(rows), : len(columns)],
        C1=C1.map(lambda t: t[:, rows]),
        C2=C2.map(lambda t: t[:, columns]),
        p=problem.p[:, rows],
        q=problem.q[:, columns],
    )


def _spread(x: Tensor, at: Tensor, like: Tensor) -> Tensor:
    return torch.zeros_like(like).index_copy_(0, at, x)


def _exponent(bases: Bases, plan: StreamedPlan) -> Tensor:
    """<T, U V> of a plan."""
    if plan.X is not None:
        return bases.along(plan.X, plan.T[0])
    kernel = plan.kernel
    return (kernel.U * one_pass(kernel, kernel.V.T).products).sum()


def _limits(size: Tensor, dtype: torch.dtype, tol: float | None) -> Limits:
    """Limits for exponents of that size, computed in `dtype`; in float64 themselves."""
    number = torch.zeros(1, 1, 1, dtype=dtype, device=size.device)
    found = Tolerance.at(number, number, tol, size.to(dtype))
    return Limits.within(Tolerance(found.noise.double(), found.allowed.double(), found.blurred))


def _compare(ranks: Ranks, call: Call, this: Tensor) -> None:
    """Check that all ranks were given the same call."""
    shape = " x ".join(str(C.shape[-1]) for C in (call.C1, call.C2))
    start = "no init" if call.init is None else "an init"
    limit = None if not isinstance(call.plan, Lazy) else call.plan.time_limit
    text = f"{shape} points, {call.C1.dtype}, {start}, max_iter {call.max_iter}, tol {call.tol}, time_limit {limit}"
    theirs = ranks.all((text, this.cpu()))
    for rank, (other, numbers) in enumerate(theirs):
        if other != theirs[0][0] or not same(theirs[0][1], numbers):
            what = (
                "other costs, marginals, alpha, epsilon or rho" if other == theirs[0][0] else f"{theirs[0][0]}; {other}"
            )
            raise ValueError(f"ranks 0 and {rank} were given different calls: {what}")
