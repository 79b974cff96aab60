"""What the tests of the kernels share: where they run, and outputs that start as NaN."""

import os

import pytest
import torch


@pytest.fixture(scope="session")
def device():
    if os.environ.get("TRITON_INTERPRET") == "1":
        return torch.device("cpu")
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device; test_interpreter.py runs the same tests in Triton's interpreter")
    return torch.device("cuda")


@pytest.fixture(scope="module")
def poison():
    """Fill what torch.empty returns with NaN: a value that a kernel forgets to write is noticed."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # without it, deterministic CUDA products raise
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(before)
