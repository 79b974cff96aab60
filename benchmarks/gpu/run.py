"""Sections one after the other, each in a process group of its own that is killed at its limit."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from benchmarks.gpu.section import append

RESULTS, LOG = "results.jsonl", "log.txt"


@dataclass(frozen=True)
class Section:
    """A part of the measurement.

    Attributes
    ----------
    name : str
    target : str
        MODULE:FUNCTION, called with a `benchmarks.gpu.section.Run`.
    seconds : float
        What it may take; more where earlier sections left some of theirs, less where they took more.
    """

    name: str
    target: str
    seconds: float


SECTIONS = (
    Section("environment", "benchmarks.gpu.environment:measure", 20),
    Section("tests", "benchmarks.gpu.suite:measure", 95),
    Section("ceilings", "benchmarks.gpu.ceilings:measure", 20),
    Section("kernels", "benchmarks.gpu.kernels:measure", 65),
    Section("races", "benchmarks.gpu.races:run_all", 200),
    Section("solves", "benchmarks.gpu.solves:measure", 35),
    Section("clouds", "benchmarks.gpu.clouds:measure", 40),
    Section("training", "benchmarks.gpu.training:measure", 35),
)


def run_sections(sections: Sequence[Section], folder: Path, seconds: float, small: bool) -> bool:
    """Run all of them within `seconds`; return whether all completed.

    Rows go to ``results.jsonl`` as they are found, and after those of a section how it ended; all output to
    ``log.txt``.
    """
    results = folder / RESULTS
    end, completed = time.time() + seconds, True
    for index, section in enumerate(sections):
        share = section.seconds / sum(later.seconds for later in sections[index:])
        start = time.time()
        outcome, said = _run(section, folder, share * (end - start), small)
        took = time.time() - start
        append(results, {"section": section.name, "outcome": outcome, "seconds": took, "said": said})
        print(f"{section.name}: {outcome}, {took:.0f} s", flush=True)
        completed &= outcome == "completed"
    return completed


def _run(section: Section, folder: Path, limit: float, small: bool) -> tuple[str, str]:
    """Say how a section ended, and what its process said last if that was not well."""
    command = [sys.executable, "-m", "benchmarks.gpu.section", section.name, section.target]
    command += [str(folder / RESULTS), str(time.time() + limit), *(["--small"] if small else [])]
    with (folder / LOG).open("ab") as log:
        log.write(f"\n== {section.name}\n".encode())
        log.flush()
        begin = log.tell()
        process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)  # noqa: S603
        try:
            code = process.wait(limit)
            outcome = "completed" if code == 0 else f"failed with exit code {code}"
        except subprocess.TimeoutExpired:
            outcome = f"killed at its limit of {limit:.0f} s"
        finally:
            with suppress(ProcessLookupError):  # also what a section that ended has left running
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    said = (folder / LOG).read_bytes()[begin:].decode(errors="replace")
    return outcome, "" if outcome == "completed" else said[-2000:]
