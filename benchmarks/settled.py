"""What a proximal-point solver should end at: an untimed continuation, so that no timed run is its own yardstick."""

import warnings
from dataclasses import replace

import numpy as np
import torch

import fgwot
from benchmarks.accuracy import Accuracy, measure
from benchmarks.problems import Array, Problem

_LONGER = 50.0  # longer proximal steps than those of the timed solvers
_STEPS = 500


def settle(problem: Problem, T: Array) -> Accuracy:
    """Continue from the plans T (B, n, m) with long proximal steps towards the unregularised limit, and measure it.

    Which solver found T does not matter: the continuation stays in its basin and lowers the objective. Where a mass is
    given no residual is measured: the solution's own says whether it settled.
    """
    inputs = (torch.tensor(a) for a in problem.arrays)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", fgwot.ConvergenceWarning)  # the residual is reported
        solution = fgwot.fused_gromov_wasserstein(
            *inputs,
            alpha=problem.alpha,
            epsilon=problem.epsilon / _LONGER,
            solver=fgwot.ProximalPoint(),
            rho=None if problem.mass or problem.balanced else problem.rho,
            mass=problem.mass,
            init=torch.from_numpy(np.maximum(T, 0)),
            max_iter=_STEPS,
            tol=1e-6,
        )
    found = measure(problem, solution.plan.numpy(), proximal=True)
    return replace(found, r_fix=solution.residual.numpy()) if problem.mass else found
