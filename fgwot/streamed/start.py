"""Where the iteration starts: with p q', or with the plan of a solution."""

from math import log
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fgwot.iteration.initial import Init
from fgwot.iteration.result import Start
from fgwot.iteration.undamped import State
from fgwot.solution import WarmStart
from fgwot.streamed.passes import Kernel
from fgwot.streamed.reduced import ReducedLinearisation
from fgwot.streamed.sides import positive
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
    plan = _independent(linearise, sweeps) if plan is None else plan
    G = linearise(plan.T)
    return State.at(plan, G, Start(G, plan.g, plan.g, change))


def _of_solution(init: WarmStart, shape: torch.Size, at: tuple[Tensor, Tensor], sweeps: Sweeps) -> StreamedPlan | None:
    """Return its plan, if the same points have mass."""
    plan: LazyPlan = init.plan  # type: ignore[assignment]  # as the driver was asked for
    if plan.shape != shape:
        raise ValueError(
            f"init has a plan of shape {tuple(plan.shape)}, but there are {shape[0]} and {shape[1]} points"
        )
    sides = sweeps.sides
    kernel = plan.kernel_at(at, sides.restored)
    nothing = torch.zeros_like(sides.p), torch.zeros_like(sides.q)
    return None if kernel is None else sweeps.plan(kernel, None, nothing)


def _independent(linearise: ReducedLinearisation, sweeps: Sweeps) -> StreamedPlan:
    """Plan p q', of the mass that plans start with."""
    sides, bases = sweeps.sides, linearise.bases
    a, b = _log_share(sides.p) + log(sides.mass), _log_share(sides.q)
    sums = a.exp(), b.exp() * sides.mass
    V = b.new_zeros(bases.U.shape[1], len(b))
    kernel = Kernel(bases.U, V, b, a, 1.0, torch.full_like(a, torch.inf), sweeps.dtype)
    # Costs of which it is the plan: what it misses of marginals is paid for.
    parts = sides.parts((a, b), sums)
    X = bases.costs(b.new_zeros(bases.P.shape[1], bases.Q.shape[1]), *parts)
    error = torch.zeros_like(linearise.epsilon)
    return StreamedPlan(bases.independent(*sums)[None], b[None], error, kernel, a, sums, X, parts)


def _log_share(marginal: Tensor) -> Tensor:
    """Logarithm of a marginal as a part of its mass; points without mass, which a free side has, have very little."""
    return positive(marginal / marginal.sum()).log()
