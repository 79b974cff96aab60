"""The package under test."""

import itertools
from collections.abc import Callable
from typing import Any

import torch

import fgwot
from benchmarks.cases import Case
from benchmarks.methods.base import Setting
from benchmarks.problems import Array, Problem, drift
from fgwot.drivers import LARGEST


class Entropic:
    """A plain call of `fused_gromov_wasserstein` at several tolerances."""

    backend = "auto"
    ladder: tuple[Setting, ...] = ({"tol": 3e-5}, {"tol": 5e-7}, {"tol": 1e-7}, {"tol": 1e-9})

    def accepts(self, case: Case) -> bool:  # noqa: ARG002 - the interface
        """Every case."""
        return True

    def prepare(self, case: Case, problem: Problem, setting: Setting) -> Callable[[], Any]:
        """Return one forward solve."""
        inputs = _tensors(case, problem)
        return lambda: _solve(problem, inputs, setting, self.backend)

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


class Cuda(Entropic):
    """The same on a CUDA device."""

    def accepts(self, case: Case) -> bool:  # noqa: ARG002 - the interface
        """Every case, where there is such a device."""
        return torch.cuda.is_available()

    def prepare(self, case: Case, problem: Problem, setting: Setting) -> Callable[[], Any]:
        """Return one forward solve of inputs that are on the device."""
        inputs = tuple(t.cuda() for t in _tensors(case, problem))

        def run() -> fgwot.Solution:
            solution = _solve(problem, inputs, setting)
            torch.cuda.synchronize()
            return solution

        return run


class Cloud(Entropic):
    """The same with squared distances as `LowRank`."""

    def accepts(self, case: Case) -> bool:
        """Clouds."""
        return case.structure == "cloud"

    def prepare(self, case: Case, problem: Problem, setting: Setting) -> Callable[[], Any]:
        """Return one forward solve, from the points on."""
        M, _, _, p, q = _tensors(case, problem)
        x, y = torch.from_numpy(problem.x), torch.from_numpy(problem.y)

        def run() -> fgwot.Solution:
            C1, C2 = fgwot.LowRank.squared_distances(x), fgwot.LowRank.squared_distances(y)
            return _solve(problem, (M, C1, C2, p, q), setting)

        return run


class Backward(Entropic):
    """Value, and its gradient in M, C1 and C2."""

    def prepare(self, case: Case, problem: Problem, setting: Setting) -> Callable[[], Any]:
        """Return one forward solve followed by one backward pass."""
        *costs, p, q = _tensors(case, problem)
        for cost in costs:
            cost.requires_grad_()

        def run() -> fgwot.Solution:
            solution = _solve(problem, (*costs, p, q), setting, self.backend)
            torch.autograd.grad(solution.value.sum(), costs)
            return solution

        return run


class TorchBackward(InTorch, Backward):
    """The same in torch alone."""


class Proximal(Entropic):
    """`ProximalPoint`, whose limit is unregularised FGW."""

    ladder = tuple({"tol": tol, "max_iter": 20_000} for tol in (1e-2, 1e-3, 1e-4, 1e-5))

    def prepare(self, case: Case, problem: Problem, setting: Setting) -> Callable[[], Any]:
        """Return one forward solve."""
        inputs = _tensors(case, problem)
        return lambda: _solve(problem, inputs, setting, solver=fgwot.ProximalPoint())


class Training(Entropic):
    """`FGWLoss`, forward and backward, warm-started from the step before, on slowly changing costs."""

    ladder = ({},)
    steps = 200

    def prepare(self, case: Case, problem: Problem, setting: Setting) -> Callable[[], Any]:
        """Return one step of a training; successive calls go through changing costs, back and forth."""
        path = [_tensors(case, step) for step in drift(problem, self.steps)]
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


def _tensors(case: Case, problem: Problem) -> tuple[torch.Tensor, ...]:
    arrays = problem.arrays if case.batch else problem.first
    return tuple(torch.tensor(a) for a in arrays)


def _solve(
    problem: Problem, inputs: tuple[torch.Tensor, ...], setting: Setting, backend: str = "auto", **more: Any
) -> fgwot.Solution:
    with fgwot.backend(backend):
        return fgwot.fused_gromov_wasserstein(*inputs, alpha=problem.alpha, epsilon=problem.epsilon, **setting, **more)
