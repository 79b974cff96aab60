"""What the solvers in torch share."""

from torch import Tensor, cuda, float32, float64, tensor

from benchmarks.cases import Case
from benchmarks.problems import Problem

DTYPES = {"float64": float64, "float32": float32}


def tensors(case: Case, problem: Problem, device: str) -> tuple[Tensor, ...]:
    """M, C1, C2, p, q in the case's precision, without a batch dimension where the case has none."""
    arrays = problem.arrays if case.batch else problem.first
    return tuple(tensor(a, dtype=DTYPES[case.dtype], device=device) for a in arrays)


def wait(device: str) -> None:
    """Let the device finish."""
    if device == "cuda":
        cuda.synchronize()
