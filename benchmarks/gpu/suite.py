"""The tests of the kernels: on the card, or one file of them in Triton's interpreter."""

import os
import re
import subprocess
import sys
import threading
import time
from importlib.util import find_spec
from pathlib import Path

from benchmarks.gpu.section import Run

_ROOT = Path(__file__).parents[2]
_SPARE = 5.0  # seconds before the section's end at which pytest is stopped, so that its failures are kept
_PROCESSES = 14
_DONE = re.compile(r"\b(PASSED|FAILED|ERROR|SKIPPED)\b")
_SUMMARY = re.compile(r"=+ (.*\b(?:passed|failed|errors?)\b.* in .*) =+")


def measure(run: Run) -> None:
    """Add pytest's summary, the number of tests that ended and those that failed.

    Meanwhile Numba compiles the loops of the CPU drivers, which later sections time: only a card leaves cores for it.
    """
    on_card = run.device == "cuda"
    warmup = [sys.executable, "-m", "fgwot.warmup"]
    compiling = subprocess.Popen(warmup, cwd=_ROOT) if on_card and find_spec("numba") else None  # noqa: S603
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-v",
        "--tb=short",
        "-rfE",
        "--color=no",
        "--continue-on-collection-errors",
    ]
    if on_card:
        command += ["-m", "gpu", "tests/fgwot/kernels"]
        if find_spec("xdist"):
            command += ["-n", str(max(1, min(_PROCESSES, (os.cpu_count() or 1) - 2)))]
    else:
        command += ["-m", "gpu and sample", "tests/fgwot/kernels/test_factored.py"]
    start = time.monotonic()
    summary, ended, failures = None, 0, []
    with subprocess.Popen(  # noqa: S603
        command,
        cwd=_ROOT,
        env=os.environ | {"COLUMNS": "200"} | ({} if on_card else {"TRITON_INTERPRET": "1"}),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        timer = threading.Timer(max(run.left - _SPARE, 1), process.kill)
        timer.start()
        for line in process.stdout or ():
            print(line, end="")
            if found := _SUMMARY.search(line):
                summary = found[1]
            elif line.startswith(("FAILED ", "ERROR ")):
                failures.append(line.strip())
            elif "::" in line and _DONE.search(line):
                ended += 1
        timer.cancel()
    seconds = time.monotonic() - start
    run.add(summary=summary or "stopped before its end", ended=ended, failures=failures, seconds=seconds)
    if compiling:
        compiling.wait()
        run.add(warmup=time.monotonic() - start)
