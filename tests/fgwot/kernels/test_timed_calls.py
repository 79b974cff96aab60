"""Every call that `python -m benchmarks.gpu` times on a GPU, once: on a CUDA device or in Triton's interpreter."""

import pytest

from benchmarks.kernel_times import large, readable, whole

pytestmark = pytest.mark.gpu


def test_calls_of_large_problems_run(device):
    names = [name for name, call in large(9, device) if call() is not None]
    assert len(names) == len(set(names)) == 8


def test_whole_solves_converge(device):
    calls = dict(whole(3, 2, device))
    *_, status, _ = calls["whole solve"]()
    assert status.tolist() == [0, 0]
    assert all(gradient.isfinite().all() for gradient in calls["its gradients"]())


def test_readable():
    assert [readable(s) for s in (2.5, 0.12, 3.4e-5, 5e-8)] == ["2.5 s", "120 ms", "34 us", "0.05 us"]
