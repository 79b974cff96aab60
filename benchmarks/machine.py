"""Where and with what a run was made."""

import argparse
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

_PACKAGES = ("fgwot", "torch", "triton", "POT", "torch_geometric", "fugw", "ott-jax", "jax", "jaxlib", "numba", "numpy")


def timed(run: Callable[[], object]) -> float:
    """Seconds that a call takes."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def describe(threads: int, command: str = "python -m benchmarks") -> dict[str, object]:
    """Processor, cores, threads, versions, time, commit and command with its arguments."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": threads,
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in _PACKAGES},
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": _commit(),
        "load": os.getloadavg()[0],
        "command": " ".join([command, *_what_was_asked(sys.argv[1:])]),
    }


def _what_was_asked(arguments: list[str]) -> list[str]:
    """Leave out where the results went: a path of one machine, which changes no number.

    Examples
    --------
    >>> _what_was_asked(["--quick", "--out", "/tmp/here"])
    ['--quick']
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--out")
    return parser.parse_known_args(arguments)[1]


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown")


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _commit() -> str:
    def git(*arguments: str) -> str:
        program = shutil.which("git")
        if program is None:
            return ""
        found = subprocess.run(  # noqa: S603
            [program, *arguments],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            check=False,
        )
        return found.stdout.strip()

    commit = git("rev-parse", "--short", "HEAD") or "unknown"
    return commit + (" with uncommitted changes in fgwot/" if git("status", "--porcelain", "../fgwot") else "")
