"""Undamped and extrapolated steps for all problems, guarded ones for those that need them."""

import torch

from fgwot.backend import uses_graphs
from fgwot.gradient.linearisation import gradient, linearisation
from fgwot.inner.plan import Marginals
from fgwot.inner.problems import Balanced, inner_problem
from fgwot.iteration.captured import Programs, graphs
from fgwot.iteration.eager import undamped
from fgwot.iteration.guarded import guarded
from fgwot.iteration.result import Result, Start
from fgwot.problem import Problem
from fgwot.solvers import MirrorDescent, Solver

_PART = 0.1  # of a device's memory, for what is recorded


def _room(device: torch.device) -> float:
    return _PART * torch.cuda.get_device_properties(device).total_memory


_graphs = Programs(graphs, _room)


def solve(problem: Problem, solver: Solver, start: Start, tol: float | None, max_iter: int) -> Result:
    """Iterate each problem until residual + marginal error <= tol, relative to the mass.

    ``tol=None`` is 1e-7 in float64 and 1e-5 in float32, plus what the rounding of G makes unattainable. Inside, all
    couplings have mass one.
    """
    plain = solver == MirrorDescent() and not problem.moving
    replayed = _graphs.run(problem, start, tol, max_iter) if plain and uses_graphs(problem.M.device) else None
    if replayed is not None and not replayed[1]:  # all in one: nothing is built for others
        return replayed[0][0][1].scaled(problem)
    if not plain:
        found = guarded(solver, gradient(problem), inner_problem(problem), start, tol, range(1, max_iter + 1))
        return found if problem.moving else found.scaled(problem)
    marginals, linearise = Marginals.of(problem.p, problem.q), linearisation(problem)
    solved, left, n_iter = replayed or undamped(linearise, marginals, start, tol, max_iter)
    if len(solved) == 1 and not left:
        return solved[0][1].scaled(problem)
    result = Result.empty(marginals)
    for index, found in solved:
        result.fill(index, found)
    if left:
        index, order = torch.cat([at for at, _ in left]).sort()
        T, g = (torch.cat([getattr(plan, name) for _, plan in left])[order] for name in ("T", "g"))
        start = Start.at(T, g)
        steps = range(n_iter + 1, max_iter + 1)
        rest, inner = linearise.select(index), Balanced(marginals.select(index))
        result.fill(index, guarded(solver, rest, inner, start, tol, steps))
    return result.scaled(problem)
