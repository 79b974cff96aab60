"""Run the tests of the kernels in Triton's interpreter.

The interpreter is chosen when triton is imported, and a process that has chosen it cannot compile: hence a new one.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton", reason="triton is not installed")


@pytest.mark.slow
@pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") == "1", reason="already in the interpreter")
@pytest.mark.parametrize(
    "name",
    ["test_kernels.py", "test_factored.py", "test_sinkhorn_kernels.py", "test_whole_solve.py", "test_timed_calls.py"],
)
def test_kernels_in_the_interpreter(name):
    kernels = Path(__file__).with_name(name)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-rs", "--strict-markers", str(kernels)],
        env=os.environ | {"TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert "skipped" not in done.stdout.splitlines()[-1], done.stdout[-4000:]
