"""What a case of each group is, and how its results are measured.

Libraries are imported for the groups that need them: a solver's process has its own, and no other.
"""

from typing import TYPE_CHECKING, Any

from benchmarks.cases import Case
from benchmarks.problems import build

if TYPE_CHECKING:
    from benchmarks.accuracy import Accuracy


def draw(case: Case) -> Any:
    """Draw the problem of a case, the same in every process."""
    match case.group:
        case "barycenters" | "pairs":
            from benchmarks.sets import spaces

            return spaces(case)
        case "templates":
            from benchmarks.templates import split

            return split(case)
        case _:
            return build(case)


def measure(case: Case, problem: Any, found: Any) -> "Accuracy":
    """Measure what a solver has found: plans, or what the group has in their place."""
    match case.group:
        case "barycenters":
            from benchmarks.sets import measure_barycenter

            return measure_barycenter(problem, found)
        case "pairs":
            from benchmarks.sets import measure_pairs

            return measure_pairs(problem, found)
        case "templates":
            from benchmarks.templates import measured

            return measured(found)
        case _:
            from benchmarks import accuracy

            return accuracy.measure(problem, found, proximal=case.proximal)
