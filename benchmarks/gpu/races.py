"""fgwot on the card against the CPU and its peers on the same card: time to the same residual."""

import time
import traceback
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from importlib.util import find_spec
from os import cpu_count

from benchmarks import accuracy
from benchmarks.cases import Case
from benchmarks.gpu.section import Run
from benchmarks.pool import LibraryError, Pool
from benchmarks.problems import build
from benchmarks.worker import Task, Timing

BOUNDS = {"float64": 1e-6, "float32": 1e-4}
_TIMED = 0.2  # seconds of repetitions
_SHARE = 4  # times its even share of what is left that a solver may take for a case
_GRACE = 8.0  # seconds more for a case's first run, which compiles; half of it for later ones


@dataclass(frozen=True)
class Entrant:
    """A solver in a race: how the page calls it, its pool, its name in `benchmarks.methods`, what it imports."""

    label: str
    pool: str
    method: str
    module: str = "fgwot"
    proximal: bool = False


OURS = Entrant("fgwot", "cuda", "fgwot")
GRAPHS = Entrant("fgwot graphs", "cuda", "fgwot graphs")
ON_THREADS = Entrant("fgwot on the CPU", "threads", "fgwot")
ON_ONE_THREAD = Entrant("fgwot on one CPU thread", "thread", "fgwot")
OTT = Entrant("OTT", "cuda", "OTT", "ott")
POT = Entrant("POT", "cuda", "POT torch", "ot")
OT_BATCH = Entrant("ot.batch", "cuda", "POT batch", "ot", proximal=True)
ENTRANTS = (OURS, GRAPHS, OTT, POT, OT_BATCH, ON_THREADS, ON_ONE_THREAD)


@dataclass(frozen=True)
class Field:
    """The processes of the solvers, and why some take no part, by their labels."""

    pools: dict[str, Pool]
    absent: dict[str, str]


def run_all(run: Run) -> None:
    """Run the races one after the other, in the same processes; one that fails leaves the others alone."""
    threads = cpu_count() or 1
    with ExitStack() as stack:
        if run.device == "cuda":
            pools = {"cuda": Pool(threads, "cuda"), "threads": Pool(threads), "thread": Pool(1)}
        else:
            pools = dict.fromkeys(("cuda", "threads", "thread"), Pool(1))
        for pool in pools.values():
            stack.callback(pool.close)
        field = Field(pools, _absent(pools, run.left))  # before any race: starting is charged to none
        for index, (name, race, _) in enumerate(RACES):
            share = RACES[index][2] / sum(weight for *_, weight in RACES[index:])
            part = replace(run, section=name, end=time.time() + share * run.left)
            try:
                race(part, field)
            except Exception as error:
                traceback.print_exc()
                part.add(error=f"{type(error).__name__}: {error}")


def _absent(pools: dict[str, Pool], seconds: float) -> dict[str, str]:
    """Start all solvers at once, and say which cannot."""
    absent = {e.label: f"{e.module} is not installed" for e in ENTRANTS if find_spec(e.module) is None}
    there = [entrant for entrant in ENTRANTS if entrant.label not in absent]
    for entrant in there:
        pools[entrant.pool].start(entrant.method)
    for entrant in there:
        try:
            pools[entrant.pool].call(entrant.method, Case("single", "points", 2, 2, 1.0), seconds)
        except LibraryError as error:
            absent[entrant.label] = str(error)
    return absent


def single(run: Run, field: Field) -> None:
    """Race on single problems, in the precision that ends the section's name."""
    dtype = run.section.split()[-1]
    sizes = (8,) if run.small else (64, 256, 1000, 2000, 4000)
    epsilons = (0.05,) if run.small else (0.05, 0.01)
    cases = [Case("single", "points", n, n, e, dtype=dtype) for n in sizes for e in epsilons]
    # What the targets compare comes first, then what takes longest.
    _race(run, field, cases, [(OURS, GRAPHS, OTT), (ON_THREADS,), (POT,)])


def batches(run: Run, field: Field) -> None:
    """Race on batches in both precisions.

    ot.batch solves another problem, without entropy: its residual is that of its own.
    """
    sizes = ((4, 3),) if run.small else ((4096, 4), (1024, 6), (1024, 16), (256, 32), (64, 64))
    cases = [
        Case("batches", "points", n, n, 0.1 if n <= 4 else 0.05, batch=b, dtype=dtype)
        for b, n in sizes
        for dtype in (("float32",) if run.small else ("float32", "float64"))
    ]
    _race(run, field, cases, [(OURS, GRAPHS, ON_ONE_THREAD), (OT_BATCH,), (OTT,)])


# name, race, seconds in proportion to the section's
RACES = (("single float64", single, 100), ("batches", batches, 50), ("single float32", single, 60))


def _race(run: Run, field: Field, cases: Iterable[Case], heats: Iterable[tuple[Entrant, ...]]) -> None:
    """Add a row per case and solver, heat by heat."""
    starts = [(case, entrant) for heat in heats for case in cases for entrant in heat]
    slow: list[tuple[Case, Entrant]] = []
    for index, (case, entrant) in enumerate(starts):
        row = {"case": case.to_dict(), "solver": entrant.label}
        if entrant.label in field.absent:
            run.add(**row, stopped=field.absent[entrant.label])
        elif run.left <= 0:
            run.add(**row, stopped="not tried: no time was left")
        elif any(entrant == other and _harder(case, earlier) for earlier, other in slow):
            run.add(**row, stopped="not tried: killed at a smaller problem")
        else:
            budget = _SHARE * run.left / (len(starts) - index)
            found = _climb(run, field.pools[entrant.pool], case, entrant, budget)
            run.add(**row, **found)
            if str(found["stopped"]).startswith("killed"):
                slow.append((case, entrant))


def _climb(run: Run, pool: Pool, case: Case, entrant: Entrant, budget: float) -> dict[str, object]:
    """Go up a solver's ladder to the bound, or until its time is up; the last rung's time and residuals."""
    found: dict[str, object] = {"reached": False, "stopped": None}
    problem = build(case)
    try:
        ladder = pool.call(entrant.method, case, _GRACE)
        end = time.monotonic() + budget
        for rung, setting in enumerate(ladder[:2] if run.small else ladder):
            patience = max(end - time.monotonic(), 0) + (_GRACE / 2 if rung else _GRACE)
            timing: Timing = pool.call(entrant.method, Task(case, rung, 0.0 if run.small else _TIMED), patience)
            assert timing.plan is not None
            quality = accuracy.measure(problem, timing.plan, proximal=entrant.proximal, device=run.device)
            found |= {
                "setting": setting,
                "seconds": timing.median,
                "repetitions": len(timing.times),
                "first_call": timing.cold,
                "r_marg": float(quality.r_marg.max()),
                "r_fix": float(quality.r_fix.max()),
                "objective": float(quality.objective.mean()),
            }
            if quality.worst <= BOUNDS[case.dtype]:
                return found | {"reached": True}
            if time.monotonic() > end:
                return found | {"stopped": "out of its time"}
    except LibraryError as error:
        found["stopped"] = str(error)
    return found


def _harder(case: Case, other: Case) -> bool:
    """Whether a case is another one with at least as many points and at most the epsilon."""
    return (
        case.dtype == other.dtype
        and case.n * max(case.batch, 1) >= other.n * max(other.batch, 1)
        and case.epsilon <= other.epsilon
    )
