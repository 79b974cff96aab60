"""Without triton the kernels cannot be imported: pytest, which looks for doctests, leaves them alone."""

from importlib.util import find_spec

collect_ignore = (
    []
    if find_spec("triton")
    else [
        "adjoint.py",
        "common.py",
        "contraction.py",
        "pack.py",
        "resources.py",
        "sinkhorn.py",
        "solve.py",
        "solve_adjoint.py",
        "solve_memory.py",
        "solve_phases.py",
    ]
)
