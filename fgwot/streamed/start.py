"""Where the iteration starts: with p q', or with the plan of a solution."""

from math import log, sqrt
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fgwot.iteration.initial import Init
from fgwot.iteration.result import Start
from fgwot.iteration.undamped import State
from fgwot.solution import WarmStart
from fgwot.streamed.passes import Kernel
from fgwot.streamed.reduced import ReducedLinearisation
from fgwot.streamed.sides import Side
from fgwot.streamed.sweeps import StreamedPlan, Sweeps

if TYPE_CHECKING:
    from fgwot.streamed.plan import LazyPlan


def begin(
    init: Init, shape: torch.Size, at: tuple[Tensor, Tensor], linearise: ReducedLinearisation, sweeps: Sweeps
) -> State:
    """State before the first step, for the rows and columns `at` of a plan of that shape.

    Raises
    ------
    ValueError
        If `init` has a plan of another shape.
    """
    plan = _of_solution(init, shape, at, sweeps) if isinstance(init, WarmStart) else None
    change = 1.0 if plan is None else 0.0
    plan = _product(linearise, sweeps) if plan is None else plan
    G = linearise(plan.T)
    return State.at(plan, G, Start(G, plan.g, plan.g, change))


def _of_solution(init: WarmStart, shape: torch.Size, at: tuple[Tensor, Tensor], sweeps: Sweeps) -> StreamedPlan | None:
    """Return its plan, if the same points have mass."""
    plan: LazyPlan = init.plan  # type: ignore[assignment]  # as the driver was asked for
    if plan.shape != shape:
        raise ValueError(
            f"init has a plan of shape {tuple(plan.shape)}, but there are {shape[0]} and {shape[1]} points"
        )
    rows, columns = sweeps.sides
    kernel = plan.kernel_at(at, rows.marginal if rows.exact else None)
    nothing = torch.zeros_like(rows.marginal), torch.zeros_like(columns.marginal)
    return None if kernel is None else sweeps.plan(kernel, None, nothing)


def _product(linearise: ReducedLinearisation, sweeps: Sweeps) -> StreamedPlan:
    """Plan p q' of the mass of an exact side, or the geometric mean of both masses."""
    (rows, columns), bases = sweeps.sides, linearise.bases
    masses = float(rows.marginal.sum()), float(columns.marginal.sum())
    mass = masses[0] if rows.exact else masses[1] if columns.exact else sqrt(masses[0] * masses[1])
    log_p, log_q = _log_share(rows) + log(mass), _log_share(columns)
    V = log_q.new_zeros(bases.U.shape[1], len(log_q))
    kernel = Kernel(bases.U, V, log_q, log_p, 1.0, sweeps.dtype)
    sums = log_p.exp(), log_q.exp() * mass
    # Costs of which it is the plan: what it misses of marginals is paid for.
    parts = rows.part_of(log_p, sums[0]), columns.part_of(log_q, sums[1])
    X = bases.costs(log_q.new_zeros(bases.P.shape[1], bases.Q.shape[1]), *parts)
    error = torch.zeros_like(linearise.epsilon)
    return StreamedPlan(linearise.of_product(*sums), log_q[None], error, kernel, log_p, sums, X, parts)


def _log_share(side: Side) -> Tensor:
    """Logarithm of the marginal as a part of its mass; points without mass, which a free side has, have very little."""
    return (side.marginal / side.marginal.sum()).clamp_min(torch.finfo(side.marginal.dtype).tiny).log()
