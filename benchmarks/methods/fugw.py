"""The package fugw: block coordinate descent on two plans, with Sinkhorn's sweeps in the log domain.

It prices the product measures of marginals, which is fgwot's problem where every price is infinite or zero. Its entropy
is that of a pair of plans, so that its epsilon counts twice; it weighs by p and q, which changes nothing where both are
uniform.
"""

from collections.abc import Callable
from typing import Any

from fugw.solvers.dense import FUGWSolver
from fugw.utils import console

from benchmarks.cases import Case
from benchmarks.methods.base import Method, Setting
from benchmarks.methods.tensors import tensors
from benchmarks.problems import Array, Problem

console.quiet = True  # it tells each inner solve


class Dense(Method):
    """On torch tensors."""

    ladder = tuple({"tol": tol} for tol in (1e-5, 1e-7, 1e-9))

    def accepts(self, case: Case) -> bool:
        """Single problems."""
        return not case.batch

    def prepare(self, case: Case, problem: Problem, setting: Setting) -> Callable[[], Any]:
        """Return one forward solve."""
        M, C1, C2, p, q = tensors(case, problem, self.device)
        tol = setting["tol"]
        solver = FUGWSolver(nits_bcd=2000, nits_uot=10_000, tol_bcd=tol, tol_uot=tol / 10, eval_bcd=10)
        first, second = problem.rho
        return lambda: solver.solve(
            alpha=case.alpha, rho_s=first, rho_t=second, eps=case.epsilon / 2, F=M, Ds=C1, Dt=C2, ws=p, wt=q
        )["pi"]

    def plan(self, result: Any) -> Array:
        """Plan as a batch."""
        found: Array = result.numpy()[None]
        return found
