"""What the runner asks of a solver."""

from collections.abc import Callable
from typing import Any, Protocol

from benchmarks.cases import Case
from benchmarks.problems import Array, Problem

Setting = dict[str, Any]


class Method(Protocol):
    """One way of solving a case.

    Attributes
    ----------
    ladder : tuple of Setting
        The solver's own tolerances, loose to tight.
    device : str
        Where torch's tensors are, "cpu" or "cuda"; a solver without torch finds it in its environment.
    """

    ladder: tuple[Setting, ...]
    device: str

    def accepts(self, case: Case) -> bool:
        """Whether the solver solves this case, and not another problem in its place."""
        ...

    def prepare(self, case: Case, problem: Problem, setting: Setting) -> Callable[[], Any]:
        """Convert the inputs, and return a function that solves the problem once and waits for the result."""
        ...

    def plan(self, result: Any) -> Array | None:
        """Plans (B, n, m) of a result; None if the case is not checked for accuracy."""
        ...
