"""The package under test."""

import itertools
from collections.abc import Callable
from typing import Any

import torch

import fgwot
from benchmarks.cases import Case
from benchmarks.methods.base import Method, Setting
from benchmarks.methods.tensors import tensors, wait
from benchmarks.problems import Array, Problem, drift
from fgwot.drivers import LARGEST


class Entropic(Method):
    """A plain call of `fused_gromov_wasserstein` at several tolerances."""

    backend = "auto"
    ladder = ({"tol": 3e-5}, {"tol": 5e-7}, {"tol": 1e-7}, {"tol": 1e-9})

    def prepare(self, case: Case, problem: Problem, setting: Setting) -> Callable[[], Any]:
        """Return one forward solve."""
        inputs = tensors(case, problem, self.device)

        def run() -> fgwot.Solution:
            solution = _solve(problem, inputs, setting, self.backend)
            wait(self.device)
            return solution

        return run

    def plan(self, result: Any) -> Array | None:
        """Plan as a batch."""
        T: Array = result.plan.detach().cpu().numpy()
        return T.reshape(-1, *T.shape[-2:])


class InTorch:
    """The torch path, in the sizes that the plain call leaves to compiled loops."""

    backend = "torch"

    def accepts(self, case: Case) -> bool:
        """Small problems."""
        return max(case.n, case.m) <= LARGEST


class TorchEntropic(InTorch, Entropic):
    """The same in torch alone."""


class Graphs(Entropic):
    """The same with steps that CUDA records and replays."""

    backend = "graphs"


class Cloud(Entropic):
    """The same with squared distances as `LowRank`: from 1,000 points on no plan is stored before it is solved."""

    def accepts(self, case: Case) -> bool:
        """Clouds."""
        return case.structure == "cloud"

    def prepare(self, case: Case, problem: Problem, setting: Setting) -> Callable[[], Any]:
        """Return one forward solve, from the points on."""
        _, _, _, p, q = tensors(case, problem, self.device)
        x, y = torch.tensor(problem.x), torch.tensor(problem.y)
        distances = fgwot.LowRank.squared_distances

        def run() -> fgwot.Solution:
            return _solve(problem, (distances(x, y), distances(x), distances(y), p, q), setting)

        return run


class Backward(Entropic):
    """Value, and its gradient in M, C1 and C2."""

    def prepare(self, case: Case, problem: Problem, setting: Setting) -> Callable[[], Any]:
        """Return one forward solve followed by one backward pass."""
        *costs, p, q = tensors(case, problem, self.device)
        for cost in costs:
            cost.requires_grad_()

        def run() -> fgwot.Solution:
            solution = _solve(problem, (*costs, p, q), setting, self.backend)
            torch.autograd.grad(solution.value.sum(), costs)
            wait(self.device)
            return solution

        return run


class TorchBackward(InTorch, Backward):
    """The same in torch alone."""


class Proximal(Entropic):
    """`ProximalPoint`, whose limit is unregularised FGW."""

    ladder = tuple({"tol": tol, "max_iter": 20_000} for tol in (1e-2, 1e-3, 1e-4, 1e-5))

    def prepare(self, case: Case, problem: Problem, setting: Setting) -> Callable[[], Any]:
        """Return one forward solve."""
        inputs = tensors(case, problem, self.device)
        return lambda: _solve(problem, inputs, setting, solver=fgwot.ProximalPoint())


class Training(Entropic):
    """`FGWLoss`, forward and backward, warm-started from the step before, on slowly changing costs."""

    ladder = ({},)
    steps = 200

    def prepare(self, case: Case, problem: Problem, setting: Setting) -> Callable[[], Any]:
        """Return one step of a training; successive calls go through changing costs, back and forth."""
        path = [tensors(case, step, self.device) for step in drift(problem, self.steps)]
        sequence = itertools.cycle(path + path[-2:0:-1])
        criterion = fgwot.FGWLoss(alpha=problem.alpha, epsilon=problem.epsilon, **setting)
        for *costs, _, _ in path:
            for cost in costs:
                cost.requires_grad_()

        def run() -> None:
            *costs, p, q = next(sequence)
            with fgwot.backend(self.backend):
                torch.autograd.grad(criterion(*costs, p, q), costs)

        return run

    def plan(self, result: Any) -> Array | None:  # noqa: ARG002 - the interface
        """Nothing: every step solves another problem."""
        return None


class TorchTraining(InTorch, Training):
    """The same in torch alone."""


def _solve(
    problem: Problem, inputs: tuple[torch.Tensor, ...], setting: Setting, backend: str = "auto", **more: Any
) -> fgwot.Solution:
    if problem.mass is not None:
        more["mass"] = problem.mass
    elif not problem.balanced:
        more["rho"] = problem.rho
    with fgwot.backend(backend):
        return fgwot.fused_gromov_wasserstein(*inputs, alpha=problem.alpha, epsilon=problem.epsilon, **setting, **more)
