"""What the runner asks of a solver."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar

from benchmarks.cases import Case

Setting = dict[str, Any]


class Method(ABC):
    """One way of solving a case.

    Attributes
    ----------
    ladder : tuple of Setting
        The solver's own tolerances, loose to tight.
    device : str
        Where torch's tensors are, "cpu" or "cuda"; a solver without torch finds it in its environment.
    """

    ladder: ClassVar[tuple[Setting, ...]] = ({},)
    device = "cpu"

    def accepts(self, case: Case) -> bool:  # noqa: ARG002 - every case, unless a solver says otherwise
        """Whether the solver solves this case, and not another problem in its place."""
        return True

    def part(self, case: Case) -> float:  # noqa: ARG002
        """How much of the case one run solves; its time counts as that of the whole."""
        return 1.0

    @abstractmethod
    def prepare(self, case: Case, problem: Any, setting: Setting) -> Callable[[], Any]:
        """Convert the inputs, and return a function that solves the problem once and waits for the result."""

    @abstractmethod
    def plan(self, result: Any) -> Any:
        """What is measured: plans (B, n, m), or what the group has in their place; None if nothing is."""
