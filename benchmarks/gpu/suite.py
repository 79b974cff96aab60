"""The tests of the kernels: on the card, or one file of them in Triton's interpreter."""

import os
import re
import subprocess
import sys
import tempfile
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
    command = [sys.executable, "-m", "pytest", "-v", "--tb=short", "-rfE", "--color=no"]
    command += ["--continue-on-collection-errors"]
    if on_card:
        command += ["-m", "gpu", "tests/fgwot/kernels"]
        if find_spec("xdist"):
            command += ["-n", str(max(1, min(_PROCESSES, (os.cpu_count() or 1) - 2)))]
    else:
        command += ["-m", "gpu and sample", "tests/fgwot/kernels/test_kernels.py"]
    start = time.monotonic()
    with tempfile.TemporaryFile("w+") as output:  # no pipe, which would stay open as long as pytest's own processes
        process = subprocess.Popen(  # noqa: S603
            command,
            cwd=_ROOT,
            env=os.environ
            | {"COLUMNS": "200", "PYTHONUNBUFFERED": "1"}
            | ({} if on_card else {"TRITON_INTERPRET": "1"}),
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        try:
            process.wait(max(run.left - _SPARE, 1))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        output.seek(0)
        lines = output.read().splitlines()
    print(*lines, sep="\n")
    summaries = [found[1] for line in lines if (found := _SUMMARY.search(line))]
    last = [line.strip() for line in lines if line.startswith(("FAILED ", "ERROR "))]
    ended = [line.strip() for line in lines if "::" in line and _DONE.search(line) and line.strip() not in last]
    run.add(
        summary=summaries[-1] if summaries else "stopped before its end",
        ended=len(ended),
        failures=last or [line for line in ended if "FAILED" in line or "ERROR" in line],
        seconds=time.monotonic() - start,
    )
    if compiling:
        compiling.wait()
        run.add(warmup=time.monotonic() - start)
