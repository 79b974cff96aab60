"""Grids of methods, tasks, backbones and seeds: the paper's Table 2 and Table 3, and the demo."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import TypeGuard

from kmat.errors import UserError
from kmat.grids.config import GridConfig, Place, Resources
from kmat.grids.pool import Job, Pool, open_pool, run_all
from kmat.grids.results import FLOOR, FLOORS, Entry, Results
from kmat.grids.rows import describe
from kmat.methods import KMaTConfig, MethodConfig, ResidualConfig
from kmat.modalities import HIGH, MODALITIES
from kmat.runs.config import PUBLISHED, RunConfig
from kmat.runs.folder import slug
from kmat.runs.result import Result
from kmat.runs.schedule import Schedule
from kmat.tasks.base import Task

# Chosen per task and backbone by mean high-end validation accuracy over seeds of K-MaT without FGW, whose high end all
# anchored rows share; a tie goes to the first. lambda_fgw cannot be chosen that way, high-end predictions do not depend
# on it: it stays at its default.
LAMBDA_ANC = (10.0, 1.0)


def announce(rows: Mapping[str, MethodConfig], grid: GridConfig) -> str:
    """Say how many runs a grid has, at most: those of one setting are done once.

    Examples
    --------
    >>> from kmat.methods import CoOpConfig
    >>> announce({"K-MaT": KMaTConfig(), "CoOp": CoOpConfig()}, GridConfig(task=("digits",), seeds=(1, 2)))
    'at most 24 runs: 2 rows on 3 backbones of digits, seeds 1, 2; 12 of them choose lambda_anc'
    """
    places = grid.places()
    each = len(places) * len(grid.seeds)
    choosing = len(LAMBDA_ANC) * each if any(map(_has_anchor, rows.values())) else 0
    on = "; ".join(f"{sum(place.task.task == task for place in places)} backbones of {task}" for task in grid.task)
    seeds = ", ".join(map(str, grid.seeds))
    chosen = f"; {choosing} of them choose lambda_anc" if choosing else ""
    return f"at most {len(rows) * each + choosing} runs: {len(rows)} rows on {on}, seeds {seeds}{chosen}"


def run_grid(
    kind: str,
    rows: Mapping[str, MethodConfig],
    grid: GridConfig,
    resources: Resources,
    out: Path,
    *,
    published: bool = False,
) -> Results:
    """Run every row on every task, backbone and seed.

    Parameters
    ----------
    kind : str
        As in :class:`kmat.grids.results.Results`.
    rows : mapping
        Methods by the names of their rows. Where one has an anchor, its weight is chosen.
    grid : GridConfig
    resources : Resources
    out : Path
        Runs go to ``out/runs``, in folders named by their settings: rows that come to the same method share its runs.
    published : bool
        Train each baseline by the schedule that it was published with.

    Returns
    -------
    Results
        Of the runs that could be done; the others are its ``failed``.

    Raises
    ------
    UserError
        If a task cannot be loaded, no run could be done, or a task has no test images of one modality.
    """
    base = RunConfig(shots=grid.shots, views=grid.views, schedule=Schedule(epochs=grid.epochs))
    runs = _Runs(base, out, published)
    places = grid.places()
    tasks = {task: task.load() for task in {place.task for place in places}}  # refused before a worker starts
    fixed = [method for method in rows.values() if not _has_anchor(method)]
    candidates = {place: _candidates(tasks[place.task]) for place in places if len(fixed) < len(rows)}
    with open_pool(resources, out / "slurm") as pool:
        runs.do(pool, [(p, seed, m) for p in places for seed in grid.seeds for m in (*fixed, *candidates.get(p, ()))])
        weights = {place: _choose(runs, some, place, grid.seeds) for place, some in candidates.items()}
        chosen = {place: weight for place, weight in weights.items() if weight is not None}
        methods = {
            (name, place): replace(row, lambda_anc=chosen[place]) if _has_anchor(row) else row
            for name, row in rows.items()
            for place in places
            if place in chosen or not _has_anchor(row)
        }
        runs.do(
            pool,
            [(p, seed, methods[n, p]) for p in places for seed in grid.seeds for n in rows if (n, p) in methods],
        )

    entries: dict[str, list[Entry]] = {}
    banners: dict[str, str] = {}
    for (name, place), method in methods.items():
        for seed in grid.seeds:
            folder, result = runs.of(place, seed, method)
            if result is None:
                continue
            tested = result.both_tests()
            if tested is None:
                raise UserError(f"{result.task} lacks readable test images of one modality: nothing to compare")
            banners[result.task] = result.banner
            run = folder.relative_to(out).as_posix()
            key = place.backbone, seed
            entries.setdefault(name, []).append(Entry.of(result.task, name, *key, run, tested))
            for floor in FLOORS if kind == "bench" and name == next(iter(rows)) else ():
                scores = {modality: result.floors[modality][floor] for modality in MODALITIES}
                row = FLOOR + floor
                entries.setdefault(row, []).append(Entry.of(result.task, row, *key, "", scores))
    failed = runs.failed()
    if not entries:
        raise UserError("; ".join(failed))
    order = sorted(entries, key=lambda name: not name.startswith(FLOOR))
    notes = _notes(grid, chosen, published)
    if lost := [f"{place.task.task} on {place.backbone}" for place, weight in weights.items() if weight is None]:
        notes.append(f"Without anchored rows, runs to choose lambda_anc by having failed: {', '.join(lost)}.")
    return Results(kind, [each for name in order for each in entries[name]], banners, notes, failed)


class _Runs:
    """The runs of a grid, each done once."""

    def __init__(self, base: RunConfig, out: Path, published: bool) -> None:
        self._base = base
        self._out = out
        self._published = published
        self._results: dict[Path, Result | UserError] = {}

    def do(self, pool: Pool, wanted: Sequence[tuple[Place, int, MethodConfig]]) -> None:
        """Do those that are not done yet."""
        jobs = {job.folder: job for job in (self._job(*each) for each in wanted)}
        self._results |= run_all(pool, [job for folder, job in jobs.items() if folder not in self._results])

    def of(self, place: Place, seed: int, method: MethodConfig) -> tuple[Path, Result | None]:
        """Return the folder and result of a run that is done, None if it failed."""
        folder = self._job(place, seed, method).folder
        result = self._results[folder]
        return folder, None if isinstance(result, UserError) else result

    def failed(self) -> list[str]:
        """Say why runs failed, each reason once, and which."""
        reasons: dict[str, list[str]] = {}
        for folder, result in self._results.items():
            if isinstance(result, UserError):
                reasons.setdefault(str(result), []).append(folder.relative_to(self._out / "runs").as_posix())
        return [f"{why} (the end of {len(runs)} runs, the first {runs[0]})" for why, runs in reasons.items()]

    def _job(self, place: Place, seed: int, method: MethodConfig) -> Job:
        config = replace(self._base, method=method, data=place.task, backbone=place.backbone, seed=seed)
        name = describe(method)
        if self._published and type(method) in PUBLISHED:
            config = replace(config, schedule=PUBLISHED[type(method)])
            name += ", as published"
        folders = slug(place.task.task), slug(place.backbone), f"{slug(name)}-seed{seed}"
        return Job(config, self._out.joinpath("runs", *folders))


def _has_anchor(method: MethodConfig) -> TypeGuard[KMaTConfig | ResidualConfig]:
    return isinstance(method, KMaTConfig | ResidualConfig) and method.lambda_anc > 0


def _candidates(task: Task) -> list[KMaTConfig | ResidualConfig]:
    """K-MaT without FGW at each weight; where the ends differ in classes residual transport, whose high end is that."""
    if task.absent:
        return [ResidualConfig(lambda_anc=weight) for weight in LAMBDA_ANC]
    return [KMaTConfig(lambda_anc=weight, lambda_fgw=0) for weight in LAMBDA_ANC]


def _choose(
    runs: _Runs, candidates: Sequence[KMaTConfig | ResidualConfig], place: Place, seeds: Sequence[int]
) -> float | None:
    """Return the lambda_anc of the best mean high-end validation accuracy, the first of equals.

    None if a run failed that it would have to be chosen by.
    """
    accuracies = {}
    for method in candidates:
        results = [result for seed in seeds if (result := runs.of(place, seed, method)[1])]
        if len(results) < len(seeds):
            return None
        scores = [scores for result in results if (scores := result.scores[HIGH]["val"])]
        if len(scores) < len(results):
            raise UserError(f"{place.task.task} has no high-end validation images to choose lambda_anc on")
        accuracies[method.lambda_anc] = fmean(score.accuracy for score in scores)
    return max(accuracies, key=accuracies.__getitem__)


def _notes(grid: GridConfig, chosen: Mapping[Place, float], published: bool) -> list[str]:
    notes = [
        f"{len(grid.seeds)} seeds, {grid.epochs} epochs, "
        f"{grid.shots} shots per class of the high end, none of the low end."
    ]
    if published:
        notes.append("CoOp, CoCoOp, KgCoOp and BiomedCoOp by the schedules they were published with.")
    if chosen:
        weights = ", ".join(f"{place.task.task} on {place.backbone} {weight:g}" for place, weight in chosen.items())
        notes.append(
            f"lambda_anc, one of {', '.join(f'{w:g}' for w in LAMBDA_ANC)}, by high-end validation accuracy of K-MaT "
            f"without FGW: {weights}. lambda_fgw is 1 unless a row says otherwise: no high-end image can choose it."
        )
    return notes
