"""Run the tests of the kernels in Triton's interpreter.

The interpreter is chosen when triton is imported, and a process that has chosen it cannot compile: hence a new one.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton", reason="triton is not installed")

FOLDER = Path(__file__).parent
FILES = (
    "test_whole_solve.py",
    "test_stress_kernels.py",
    "test_kernels.py",
    "test_sinkhorn_kernels.py",
    "test_timed_calls.py",
)


def interpret(marks, *paths):
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-rs", "--durations=10", "-m", marks, *paths],
        env={k: v for k, v in os.environ.items() if not k.startswith("PYTEST")} | {"TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert "skipped" not in done.stdout.splitlines()[-1], done.stdout[-4000:]


def test_a_sample_of_the_kernels_tests():
    interpret("gpu and sample", *(FOLDER / name for name in FILES))


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", FILES)
def test_all_others(name):
    interpret("gpu and not sample", FOLDER / name)
