"""Time to the same accuracy: climb each solver's ladder, measure its plans, time the cheapest rungs that suffice."""

import statistics
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from benchmarks import clouds, methods
from benchmarks.accuracy import Accuracy
from benchmarks.cases import Case
from benchmarks.families import draw, measure
from benchmarks.pool import LibraryError, Pool
from benchmarks.problems import Array
from benchmarks.results import bounds
from benchmarks.settled import settle
from benchmarks.worker import MemoryTask, Task, Timing

_ROUNDS = 3
# Seconds that a task may take beyond its budget, for compilation; n / 1000 times that above n = 1000, and twice that
# for barycenters, of which OTT compiles the whole loop.
_GRACE = 10.0
_SAME_BASIN = 1e-6
_NO_BASIN = ("barycenters", "templates")
_SETTLED = 1e-4  # residual at which the untimed reference of proximal point counts as settled


@dataclass
class Rung:
    """One setting of a solver on one case."""

    setting: methods.Setting
    cold: float
    times: list[float]
    accuracy: Accuracy | None
    plan: Any
    bounds: tuple[float, ...]
    part: float = 1.0
    gap: float | None = None

    @property
    def time(self) -> float:
        """Median of the timed calls, for the whole case."""
        return statistics.median(self.times) / self.part

    @property
    def error(self) -> float:
        """What is compared with bounds: the excess of the objective, or the largest residual; zero without either."""
        return self.gap if self.gap is not None else 0.0 if self.accuracy is None else self.accuracy.worst

    def to_dict(self) -> dict[str, object]:
        """Summary for results.json."""
        found: dict[str, object] = {
            "setting": self.setting,
            "first_call": self.cold,
            "time": self.time,
            "fastest": min(self.times) / self.part,
            "repetitions": len(self.times),
        }
        if self.accuracy is not None:
            found |= {
                "r_marg": float(self.accuracy.r_marg.max()),
                "r_fix": float(self.accuracy.r_fix.max()),
                "objective": float(self.accuracy.objective.mean()),
                "share": {f"{bound:.0e}": self.accuracy.share(bound) for bound in self.bounds},
            }
        if self.gap is not None:
            found["gap"] = self.gap
        return found


@dataclass
class Climb:
    """What a solver did on one case: its rungs, the cheapest that reaches each bound, and why it stopped early."""

    rungs: list[Rung] = field(default_factory=list)
    reached: dict[float, int] = field(default_factory=dict)
    stopped: str | None = None
    basin: float | None = None

    @property
    def most_accurate(self) -> Rung | None:
        """The rung with the smallest error; None without any."""
        return min(self.rungs, key=lambda rung: rung.error, default=None)

    def to_dict(self) -> dict[str, object]:
        """Entry of results.json."""
        best = self.most_accurate
        return {
            "ladder": [rung.to_dict() for rung in self.rungs],
            "reached": {f"{bound:.0e}": index for bound, index in self.reached.items()},
            "most_accurate": None if best is None else self.rungs.index(best),
            "stopped": self.stopped,
            "same_basin": self.basin,
        }


def run_case(pool: Pool, case: Case, budget: float) -> dict[str, object]:
    """Measure every solver of the case's group, each for about `budget` seconds; entry of results.json."""
    if case.group == "streamed":
        return case.to_dict() | {"figures": clouds.figures(case.n, case.epsilon, threads=pool.threads, processes=1)}
    names = methods.GROUPS[case.group]
    if case.group == "memory":
        return case.to_dict() | {"memory": {name: _memory(pool, name, case, budget) for name in names}}
    problem = draw(case)
    attempts = {name: _climb(pool, name, case, problem, budget) for name in names}
    climbs = {name: climb for name, climb in attempts.items() if climb is not None}
    _choose(case, problem, climbs)
    _time_again(pool, case, climbs, budget)
    return case.to_dict() | {"methods": {name: climb.to_dict() for name, climb in climbs.items()}}


def _climb(pool: Pool, name: str, case: Case, problem: Any, budget: float) -> Climb | None:
    """Go up a solver's ladder until it is accurate enough or out of time; None if the case is not for it."""
    climb, spent = Climb(), 0.0
    try:
        ladder = pool.call(name, case, _GRACE)
    except LibraryError as error:
        climb.stopped = str(error)
        return climb
    if ladder is None:
        return None
    for index, setting in enumerate(ladder):
        try:
            timing: Timing = pool.call(name, Task(case, index), _patience(case, budget))
        except LibraryError as error:
            climb.stopped = str(error)
            break
        accuracy = None
        if timing.plan is not None:
            accuracy = measure(case, problem, timing.plan)
        limits = _limits(case)
        climb.rungs.append(Rung(setting, timing.cold or 0.0, timing.times, accuracy, timing.plan, limits, timing.part))
        if accuracy is not None and accuracy.worst <= min(limits):
            break
        spent += timing.median + sum(timing.times)  # compilation is not charged
        if spent > budget and index < len(ladder) - 1:
            climb.stopped = f"out of its {budget:.0f} s"
            break
    return climb


def _patience(case: Case, budget: float) -> float:
    """Seconds after which a task is killed."""
    return 2 * budget + _GRACE * (2.0 if case.group == "barycenters" else max(1.0, case.n / 1000))


def _choose(case: Case, problem: Any, climbs: dict[str, Climb]) -> None:
    """Find each solver's cheapest rung for each bound, and which basin it ended in."""
    best = _best_objective(case, problem, climbs.values())
    for climb in climbs.values():
        if case.by_objective:
            # The basin in which a solver ends is luck: on a single problem it is timed to the end of its own.
            local = case.proximal and not case.batch
            goal = _best_objective(case, problem, [climb]) if local else best
            for rung in climb.rungs:
                rung.gap = None if goal is None else _gap(rung, goal)
        for bound in _limits(case):
            enough = [index for index, rung in enumerate(climb.rungs) if _suffices(case, rung, bound)]
            if enough:
                climb.reached[bound] = min(enough, key=[rung.time for rung in climb.rungs].__getitem__)
        final = climb.most_accurate
        if best is not None and final is not None and final.accuracy is not None and case.group not in _NO_BASIN:
            # Costs are at most 1: marginals missed by r change the objective by about r.
            missed = _SETTLED * np.abs(best) if case.proximal and not case.batch else final.accuracy.worst
            near = np.abs(final.accuracy.objective - best) <= _SAME_BASIN * np.abs(best) + missed
            climb.basin = float(near.mean())


def _suffices(case: Case, rung: Rung, bound: float) -> bool:
    return rung.error <= bound and not (case.by_objective and rung.gap is None)


def _limits(case: Case) -> tuple[float, ...]:
    return tuple(map(float, bounds(case.group)))


def _gap(rung: Rung, best: Array) -> float | None:
    """Relative excess of the objectives over the best known ones, on average."""
    if rung.accuracy is None or not np.isfinite(rung.accuracy.objective).all():
        return None
    return float(((rung.accuracy.objective - best) / np.abs(best)).mean())


def _best_objective(case: Case, problem: Any, climbs: Iterable[Climb]) -> Array | None:
    """Lowest objective of each problem over all couplings found; None if some problem has none."""
    rungs = [rung for climb in climbs for rung in climb.rungs if rung.accuracy is not None]
    if not rungs:
        return None
    found = np.array([np.where(r.accuracy.feasible(min(r.bounds)), r.accuracy.objective, np.inf) for r in rungs])
    lowest: Array = found.min(0)
    if not np.isfinite(lowest).all():
        return None
    if not case.proximal:
        return lowest
    winners = found.argmin(0)
    settled = settle(problem, np.stack([rungs[winner].plan[b] for b, winner in enumerate(winners)]))
    return np.minimum(lowest, settled.objective) if settled.worst <= _SETTLED else None


def _time_again(pool: Pool, case: Case, climbs: dict[str, Climb], budget: float) -> None:
    """Time the chosen rungs in turns, so that a change of the machine's load meets every solver alike."""
    for name, climb in list(climbs.items()) * _ROUNDS:
        for rung in _chosen(climb):
            if min(rung.times) > budget / 10 or name not in pool.workers:
                continue
            try:
                again = pool.call(name, Task(case, climb.rungs.index(rung), want_plan=False), _patience(case, budget))
            except LibraryError as error:
                climb.stopped = str(error)
                break
            rung.times += again.times


def _chosen(climb: Climb) -> Iterator[Rung]:
    for index in sorted(set(climb.reached.values())):
        yield climb.rungs[index]


def _memory(pool: Pool, name: str, case: Case, budget: float) -> dict[str, object]:
    """Rise of the peak memory over one solve in a fresh process, in bytes and in n x m float64 matrices."""
    pool.stop(name)
    try:
        rise = pool.call(name, MemoryTask(case, rung=1), 2 * _patience(case, budget))
    except LibraryError as error:
        return {"stopped": str(error)}
    finally:
        pool.stop(name)
    return {"bytes": rise, "matrices": rise / (8 * case.n * case.m)}
