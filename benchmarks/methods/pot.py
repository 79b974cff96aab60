"""POT: `ot.gromov.entropic_fused_gromov_wasserstein` and `ot.batch.solve_gromov_batch`.

fgwot shares POT's conventions, so alpha and epsilon pass unchanged. `ot.solve_gromov` is not used: it ignores `reg`
and its tolerances for fused problems (POT 0.9.7).
"""

from collections.abc import Callable
from typing import Any

import ot
import torch

from benchmarks.cases import Case
from benchmarks.methods.base import Method, Setting
from benchmarks.methods.tensors import tensors, wait
from benchmarks.problems import Array, Problem


class Entropic(Method):
    """Projected gradient with scaling Sinkhorn, on NumPy arrays."""

    ladder = tuple(
        {"tol": tol, "stopThr": stop, "max_iter": 3000, "numItermax": 20_000}
        for tol, stop in ((1e-5, 1e-6), (1e-7, 1e-8), (1e-9, 1e-9), (1e-11, 1e-11))
    )

    def accepts(self, case: Case) -> bool:
        """Single problems; there is no batch dimension."""
        return not case.batch

    def prepare(self, case: Case, problem: Problem, setting: Setting) -> Callable[[], Any]:
        """Return one forward solve."""
        arrays, weights = problem.first, {"alpha": problem.alpha, "epsilon": problem.epsilon}
        return lambda: ot.gromov.entropic_fused_gromov_wasserstein(
            *arrays, symmetric=case.symmetric, **weights, **setting
        )

    def plan(self, result: Any) -> Array | None:
        """Plan as a batch."""
        T: Array = result[None]
        return T


class Torch(Entropic):
    """The same on torch tensors, through POT's torch backend."""

    def prepare(self, case: Case, problem: Problem, setting: Setting) -> Callable[[], Any]:
        """Return one forward solve."""
        inputs, weights = tensors(case, problem, self.device), {"alpha": problem.alpha, "epsilon": problem.epsilon}

        def run() -> torch.Tensor:
            T: torch.Tensor = ot.gromov.entropic_fused_gromov_wasserstein(
                *inputs, symmetric=case.symmetric, **weights, **setting
            )
            wait(self.device)
            return T

        return run

    def plan(self, result: Any) -> Array | None:
        """Plan as a batch."""
        T: Array = result.cpu().numpy()[None]
        return T


class Backward(Entropic):
    """Value without entropy, differentiated by unrolling every iteration, on torch tensors."""

    ladder = Entropic.ladder[:3]

    def accepts(self, case: Case) -> bool:
        """Sizes at which the unrolled graph is small."""
        return not case.batch and case.n <= 64

    def prepare(self, case: Case, problem: Problem, setting: Setting) -> Callable[[], Any]:
        """Return one forward solve followed by one backward pass."""
        *costs, p, q = tensors(case, problem, self.device)
        weights = {"alpha": problem.alpha, "epsilon": problem.epsilon}
        for cost in costs:
            cost.requires_grad_()

        def run() -> torch.Tensor:
            value, log = ot.gromov.entropic_fused_gromov_wasserstein2(
                *costs, p, q, symmetric=case.symmetric, log=True, **weights, **setting
            )
            torch.autograd.grad(value, costs)
            plan: torch.Tensor = log["T"]
            return plan

        return run

    def plan(self, result: Any) -> Array | None:
        """Plan as a batch."""
        T: Array = result.detach().cpu().numpy()[None]
        return T


class Batch(Method):
    """Proximal point in the log domain; `reg` is the step."""

    ladder = (
        {},
        *(
            {"tol": tol, "tol_inner": inner, "max_iter": 20_000, "max_iter_inner": sweeps}
            for tol, inner, sweeps in ((1e-5, 1e-5, 50), (1e-6, 1e-6, 500), (1e-7, 1e-7, 2000))
        ),
    )

    def accepts(self, case: Case) -> bool:
        """Batches."""
        return bool(case.batch)

    def prepare(self, case: Case, problem: Problem, setting: Setting) -> Callable[[], Any]:
        """Return one forward solve."""
        M, C1, C2, p, q = tensors(case, problem, self.device)

        def run() -> Any:
            result = ot.batch.solve_gromov_batch(
                C1,
                C2,
                reg=problem.epsilon,
                a=p,
                b=q,
                M=M,
                alpha=problem.alpha,
                symmetric=case.symmetric,
                grad="detach",
                **setting,
            )
            wait(self.device)
            return result

        return run

    def plan(self, result: Any) -> Array | None:
        """Plans."""
        T: Array = result.plan.cpu().numpy()
        return T
