"""Run the tests of the kernels in Triton's interpreter.

The interpreter is chosen when triton is imported, and a process that has chosen it cannot compile: hence a new one.
"""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

pytest.importorskip("triton", reason="triton is not installed")


FILES = (
    "test_whole_solve.py",
    "test_kernels.py",
    "test_factored.py",
    "test_sinkhorn_kernels.py",
    "test_timed_calls.py",
)


@pytest.fixture(scope="module")
def runs(request):
    """Run the files that the selected tests ask for, as many at once as there are cores."""

    def run(name):
        return subprocess.run(
            [
                sys.executable,
                "-m",
                "pytest",
                "-q",
                "-rs",
                "-m",
                "gpu and not exhaustive",
                str(Path(__file__).with_name(name)),
            ],
            env=os.environ | {"TRITON_INTERPRET": "1"},
            capture_output=True,
            text=True,
        )

    asked = [item.callspec.params["name"] for item in request.session.items if item.path == request.path]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        yield {name: pool.submit(run, name) for name in asked}
        pool.shutdown(cancel_futures=True)


@pytest.mark.slow
@pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") == "1", reason="already in the interpreter")
@pytest.mark.parametrize("name", FILES)
def test_kernels_in_the_interpreter(name, runs):
    done = runs[name].result()
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert "skipped" not in done.stdout.splitlines()[-1], done.stdout[-4000:]
