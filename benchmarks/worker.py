"""One process per library: it solves what it is sent and reports times, plans and memory."""

import ctypes
import gc
import statistics
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from benchmarks.cases import Case
from benchmarks.families import draw
from benchmarks.methods import Method, load
from benchmarks.problems import build

_M_MMAP_THRESHOLD, _MEGABYTES = -3, 4 << 20  # of malloc.h, in bytes
_WARM_UP_SIZE = 50  # of the problem solved before memory is measured


@dataclass(frozen=True)
class Task:
    """Solve `case` at one rung of the ladder, for at least one and about `seconds` of timed repetitions."""

    case: Case
    rung: int
    seconds: float = 0.1
    repeats: int = 50
    want_plan: bool = True


@dataclass(frozen=True)
class MemoryTask:
    """Solve `case` once and report the rise of the peak memory."""

    case: Case
    rung: int


@dataclass(frozen=True)
class Timing:
    """Seconds of the first call (None if it was an earlier task's) and of the timed ones; the plans if wanted.

    `part` is how much of the case one call solves.
    """

    cold: float | None
    times: list[float]
    plan: Any = None
    part: float = 1.0

    @property
    def median(self) -> float:
        """Median of the timed calls."""
        return statistics.median(self.times)


def serve(connection: Connection, name: str, device: str) -> None:
    """Answer until None arrives: a Case with the ladder for it (None if it is not accepted), a task with its result.

    Whatever the library raises is answered as a text.
    """
    warnings.simplefilter("ignore")  # unfinished loops and underflow: accuracy is measured instead
    server = _Server(load(name, device))
    connection.send(None)
    while (task := connection.recv()) is not None:
        try:
            connection.send(server.answer(task))
        except Exception as error:
            connection.send(f"{type(error).__name__}: {error}")


@dataclass
class _Server:
    """A solver and the prepared runs of the present case, so that repeated tasks compile nothing twice."""

    method: Method
    case: Case | None = None
    runs: dict[int, Callable[[], Any]] = field(default_factory=dict)

    def answer(self, task: Case | Task | MemoryTask) -> object:
        if isinstance(task, Case):
            return self.method.ladder if self.method.accepts(task) else None
        return self.memory(task) if isinstance(task, MemoryTask) else self.time(task)

    def time(self, task: Task) -> Timing:
        if task.case != self.case:
            self.case, self.runs = task.case, {}
        cold = None
        if task.rung not in self.runs:
            setting = self.method.ladder[task.rung]
            self.runs[task.rung] = self.method.prepare(task.case, draw(task.case), setting)
            cold, _ = _timed(self.runs[task.rung])
        times: list[float] = []
        while not times or (sum(times) < task.seconds and len(times) < task.repeats):
            seconds, result = _timed(self.runs[task.rung])
            times.append(seconds)
        plan = self.method.plan(result) if task.want_plan else None
        return Timing(cold, times, plan, self.method.part(task.case))

    def memory(self, task: MemoryTask) -> int:
        setting = self.method.ladder[task.rung]
        small = replace(task.case, n=_WARM_UP_SIZE, m=_WARM_UP_SIZE)
        self.method.prepare(small, build(small), setting)()
        run = self.method.prepare(task.case, build(task.case), setting)
        gc.collect()
        # Blocks of megabytes go back when freed: glibc's heap else keeps holes as large as the blocks between them,
        # which depend on all that the process did before. What is in it stays resident, and would hide what is taken.
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_MMAP_THRESHOLD, _MEGABYTES)
        libc.malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")  # the peak restarts from what is in use
        before = _kilobytes("VmRSS")
        run()
        return (_kilobytes("VmHWM") - before) * 1024


def _timed(run: Callable[[], Any]) -> tuple[float, Any]:
    start = time.perf_counter()
    result = run()
    return time.perf_counter() - start, result


def _kilobytes(entry: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(entry + ":"))
