"""The yardstick of growth: one step's pair of matrix products C1 T C2."""

from collections.abc import Callable
from typing import Any

from benchmarks.cases import Case
from benchmarks.methods.base import Method, Setting
from benchmarks.methods.tensors import tensors
from benchmarks.problems import Array, Problem


class Product(Method):
    """C1 T C2 in torch."""

    def accepts(self, case: Case) -> bool:
        """Single problems."""
        return not case.batch

    def prepare(self, case: Case, problem: Problem, setting: Setting) -> Callable[[], Any]:  # noqa: ARG002 - the interface
        """Return one evaluation."""
        M, C1, C2, _, _ = tensors(case, problem, self.device)
        return lambda: C1 @ M @ C2

    def plan(self, result: Any) -> Array | None:  # noqa: ARG002 - the interface
        """Nothing is solved."""
        return None
