"""No kernel keeps arrays beside its result that its description does not name. Needs a CUDA device, which counts."""

import pytest
import torch

pytest.importorskip("triton", reason="triton is not installed")

import fgwot
import fgwot.inner.sweeps
from fgwot.backend import backend

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device: the interpreter counts no memory"),
]
N = 2048
MATRIX = 4 * N * N


def peak(f):
    """Most bytes that a call holds beside what there was before."""
    f()  # compiles, and initialises the library of matrix products
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    f()
    return torch.cuda.max_memory_allocated() - before


def test_direct_contraction():
    n = 256
    C1, C2, T = torch.rand(3, n, n, device="cuda")
    with backend("triton"):
        used = peak(lambda: fgwot.tensor_term(C1, C2, T, "abs"))
    assert used <= 48 * 4 * n * n  # one slice per part of the sum, far from n^4


@pytest.mark.parametrize("op", ["sweeps", "half_sweep"])
def test_sweeps(op):
    """Beside a plan that is asked for: the column sums of 8 rows each."""
    X = torch.rand(1, N, N, device="cuda")
    p = torch.full((1, N), 1 / N, device="cuda")
    how = (2, True) if op == "sweeps" else (True,)
    used = peak(lambda: getattr(torch.ops.fgwot, op)(X, p, p, torch.zeros_like(p), *how))
    assert used <= MATRIX / 8 + (op == "half_sweep") * MATRIX + 2**20
