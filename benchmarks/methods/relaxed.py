"""POT where marginals need not be met, in the functions that solve fgwot's problems.

Two that look as if they did are left out (docs/correctness.md): its fused entropic partial plans do not depend on M,
and its unbalanced Gromov-Wasserstein prices the product measures of the plan's marginals.
"""

from collections.abc import Callable
from typing import Any

import ot

from benchmarks.cases import Case
from benchmarks.methods.base import Method, Setting
from benchmarks.problems import Array, Problem


class _OfPot(Method):
    """A function of POT's on NumPy arrays, with one tolerance."""

    ladder = tuple({"tol": tol} for tol in (1e-4, 1e-6, 1e-8, 1e-10, 1e-12))

    def plan(self, result: Any) -> Array:
        """Plan as a batch."""
        found: Array = result[None]
        return found


class SemiRelaxed(_OfPot):
    """Mirror descent, whose limit has no entropy; epsilon is its step."""

    def prepare(self, case: Case, problem: Problem, setting: Setting) -> Callable[[], Any]:
        """Return one forward solve."""
        M, C1, C2, p, _ = problem.first
        return lambda: ot.gromov.entropic_semirelaxed_fused_gromov_wasserstein(
            M, C1, C2, p, symmetric=True, epsilon=case.epsilon, alpha=case.alpha, max_iter=10**5, **setting
        )


class ExactSemiRelaxed(_OfPot):
    """Conditional gradients, without entropy."""

    def prepare(self, case: Case, problem: Problem, setting: Setting) -> Callable[[], Any]:
        """Return one forward solve."""
        M, C1, C2, p, _ = problem.first
        tol = setting["tol"]
        return lambda: ot.gromov.semirelaxed_fused_gromov_wasserstein(
            M, C1, C2, p, symmetric=True, alpha=case.alpha, max_iter=10**5, tol_rel=tol, tol_abs=tol
        )


class Partial(_OfPot):
    """Dykstra's algorithm for linear costs, mirror descent around it without them."""

    def accepts(self, case: Case) -> bool:
        """Not fused problems."""
        return case.alpha in (0.0, 1.0)

    def prepare(self, case: Case, problem: Problem, setting: Setting) -> Callable[[], Any]:
        """Return one forward solve."""
        M, C1, C2, p, q = problem.first
        reg, tol = case.epsilon, setting["tol"]
        if case.alpha:
            return lambda: ot.gromov.entropic_partial_gromov_wasserstein(
                C1, C2, p, q, reg=reg, m=problem.mass, symmetric=True, numItermax=10**4, tol=tol
            )
        return lambda: ot.partial.entropic_partial_wasserstein(
            p, q, M, reg, m=problem.mass, numItermax=10**5, stopThr=tol
        )


class ExactPartial(_OfPot):
    """Conditional gradients, without entropy."""

    def prepare(self, case: Case, problem: Problem, setting: Setting) -> Callable[[], Any]:
        """Return one forward solve."""
        M, C1, C2, p, q = problem.first
        return lambda: ot.gromov.partial_fused_gromov_wasserstein(
            M, C1, C2, p, q, m=problem.mass, alpha=case.alpha, symmetric=True, numItermax=10**4, **setting
        )


class Unbalanced(_OfPot):
    """Scaling, for linear costs."""

    def accepts(self, case: Case) -> bool:
        """Linear problems."""
        return not case.alpha

    def prepare(self, case: Case, problem: Problem, setting: Setting) -> Callable[[], Any]:
        """Return one forward solve."""
        M, _, _, p, q = problem.first
        return lambda: ot.unbalanced.sinkhorn_unbalanced(
            p, q, M, case.epsilon, problem.rho, reg_type="entropy", numItermax=10**5, stopThr=setting["tol"]
        )
