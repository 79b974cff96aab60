"""Solves a call without an array of the plan's size."""

from dataclasses import replace

import torch
from torch import Tensor

from fgwot.drivers import Call
from fgwot.inner.plan import Marginals
from fgwot.iteration.result import Result, Start, Tolerance
from fgwot.iteration.undamped import Limits, State
from fgwot.problem import Problem
from fgwot.solution import Solution, Status, WarmStart
from fgwot.streamed.checkpoint import Checkpoint
from fgwot.streamed.identity import identity, same
from fgwot.streamed.iteration import Streamed
from fgwot.streamed.lazy import Lazy
from fgwot.streamed.passes import Kernel, one_pass
from fgwot.streamed.plan import LazyPlan
from fgwot.streamed.ranks import Ranks
from fgwot.streamed.reduced import ReducedLinearisation
from fgwot.streamed.sweeps import StreamedPlan, Sweeps
from fgwot.streamed.values import Constants, Source, moments_of, values
from fgwot.streamed.watch import Watch
from fgwot.structure import LowRank

_At = tuple[Tensor, Tensor]


def streamed_solve(call: Call, validate: bool) -> Solution:
    """Solve a call to which `fgwot.drivers.against_streaming` has no objection."""
    M = call.low_rank
    # Zeros that stand for M take no memory, and have its shape, dtype and device checked.
    zeros = None if M is None else M.A.new_zeros(()).expand(M.shape)
    problem = replace(call, M=zeros).problem()
    if validate:
        replace(problem, M=problem.M[:, :1, :1]).check()
        if M is not None and not bool(M.A.isfinite().all() and M.B.isfinite().all()):
            raise ValueError("M has entries that are not finite (NaN or infinite)")
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


def _in_double(problem: Problem) -> Problem:
    """The same problem in float64; zeros that stand for M stay one number."""
    M, *rest = problem.tensors
    return problem.of([M.new_zeros((), dtype=torch.float64).expand_as(M), *(t.double() for t in rest)])


def _solved(problem: Problem, M: LowRank | None, call: Call, ranks: Ranks | None) -> tuple[Result, LazyPlan, Constants]:
    """Iterate without the points that have no mass."""
    at = rows, columns = (problem.p[0] > 0).nonzero()[:, 0], (problem.q[0] > 0).nonzero()[:, 0]
    small = _part(problem, at)
    inside = None if M is None else LowRank(M.A[rows], M.B[columns])
    dtype = call.C1.dtype
    linearise = ReducedLinearisation(small, inside, torch.finfo(dtype).eps)
    marginals = Marginals.of(small.p, small.q)
    lazy = call.plan if isinstance(call.plan, Lazy) else Lazy()
    this = identity(linearise, marginals, torch.cat([small.alpha, small.epsilon, small.p.sum(-1)]))
    if ranks:
        _compare(ranks, call, this)
    checkpoint = Checkpoint(lazy.checkpoint, linearise, this, ranks)
    sweeps = Sweeps(linearise.bases, marginals, dtype, Watch(lazy, ranks), checkpoint.potentials)
    now, theta = checkpoint.load(sweeps) or (_begin(call, linearise, sweeps, at), 1.0)
    limits = _limits(linearise.size(now.G, marginals), dtype, call.tol)
    result, found = Streamed(linearise, marginals, sweeps, limits, checkpoint).solve(now, theta, call.max_iter)
    sweeps.watch.ended(Status(int(result.status)))
    result = result.scaled(small)
    f, g = (_spread(x[0], i, k[0]) for x, i, k in ((result.f, rows, problem.p), (result.g, columns, problem.q)))
    mass = small.p.sum()
    shape = torch.Size([problem.p.shape[1], problem.q.shape[1]])
    plan = LazyPlan(found.kernel, found.a, found.columns, float(mass), at, shape)
    bases, logarithms = linearise.bases, found.a @ found.kernel.p + found.kernel.b @ found.columns - _exponent(found)
    entropy = mass * (1 - mass.log() - logarithms)
    moments = moments_of(result.T[0], bases.P, bases.Q, small, inside)
    return result, plan, Constants(moments, entropy, f, g)


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


def _exponent(plan: StreamedPlan) -> Tensor:
    """<T, U V> of a plan."""
    if plan.X is not None:
        return (plan.X * plan.T[0])[1:, 1:].sum()
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
            what = "other costs, marginals, alpha or epsilon" if other == theirs[0][0] else f"{theirs[0][0]}; {other}"
            raise ValueError(f"ranks 0 and {rank} were given different calls: {what}")


def _begin(call: Call, linearise: ReducedLinearisation, sweeps: Sweeps, at: _At) -> State:
    start, change = _start(call, linearise, sweeps, at)
    G = linearise(start.T)
    return State.at(start, G, Start(G, start.g, start.g, change))


def _start(call: Call, linearise: ReducedLinearisation, sweeps: Sweeps, at: _At) -> tuple[StreamedPlan, float]:
    """First plan, p q' or that of a solution if the same points have mass; and how far the next may be."""
    marginals, bases = sweeps.marginals, linearise.bases
    p, q, U = marginals.p[0], marginals.q[0], bases.U
    if isinstance(call.init, WarmStart):
        plan: LazyPlan = call.init.plan  # type: ignore[assignment]  # as the driver was asked for
        if plan.shape != torch.Size([call.C1.shape[-1], call.C2.shape[-1]]):
            raise ValueError(
                f"init has a plan of shape {tuple(plan.shape)}, but there are {call.C1.shape[-1]} and "
                f"{call.C2.shape[-1]} points"
            )
        if (kernel := plan.kernel_at(at, p)) is not None:
            return sweeps.plan(kernel, None), 0.0
    kernel = Kernel(U, q.new_zeros(U.shape[1], len(q)), q.log(), p, sweeps.dtype)
    K = linearise.product_core(marginals)
    zero = torch.zeros_like(linearise.epsilon)
    return StreamedPlan(K, kernel.b[None], zero, kernel, p.log(), q, torch.zeros_like(K[0])), 1.0
