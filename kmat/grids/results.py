"""Test scores of a grid's runs, and what is made of them: means, spreads, and H by two conventions."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, Literal, TypedDict

from kmat.errors import UserError
from kmat.modalities import MODALITIES
from kmat.runs.evaluation import Means, Scores, harmonic_mean
from kmat.storage.schema import misfit, read_json

FLOORS = ("chance", "largest class")
FLOOR = "floor: "

MEASURED = {
    "high_accuracy": "Hi acc",
    "high_macro_f1": "Hi F1",
    "low_accuracy": "Lo acc",
    "low_macro_f1": "Lo F1",
    "h_accuracy": "H acc",
    "h_macro_f1": "H F1",
}
OF_MEANS = {"hm_accuracy": "H* acc", "hm_macro_f1": "H* F1"}
METRICS = MEASURED | OF_MEANS

ALL = "all backbones"
AVERAGE = "average over tasks"


@dataclass(frozen=True)
class Entry:
    """One run's test scores, in percent. ``h_*`` are harmonic means of this run's two modalities.

    ``run`` is the run's folder, relative to that of the results; empty for a floor, which needs none.
    """

    task: str
    method: str
    backbone: str
    seed: int
    run: str
    high_accuracy: float
    high_macro_f1: float
    low_accuracy: float
    low_macro_f1: float
    h_accuracy: float
    h_macro_f1: float

    @classmethod
    def of(
        cls, task: str, method: str, backbone: str, seed: int, run: str, scores: Mapping[str, Means | Scores]
    ) -> "Entry":
        """Take accuracy and macro-F1, in [0, 1], by modality."""
        percent: dict[str, float] = {}
        for metric in ("accuracy", "macro_f1"):
            high, low = (getattr(scores[modality], metric) for modality in MODALITIES)
            percent |= {f"high_{metric}": high, f"low_{metric}": low, f"h_{metric}": harmonic_mean(high, low)}
        return cls(task, method, backbone, seed, run, **{name: 100 * value for name, value in percent.items()})


@dataclass(frozen=True)
class Cell:
    """Mean of a metric and its spread: the sample standard deviation, None of a single value."""

    mean: float
    spread: float | None

    @classmethod
    def of(cls, values: Sequence[float]) -> "Cell":
        """Summarise values."""
        return cls(fmean(values), stdev(values) if len(values) > 1 else None)

    def __str__(self) -> str:
        return f"{self.mean:.1f}" if self.spread is None else f"{self.mean:.1f}±{self.spread:.1f}"


@dataclass(frozen=True)
class Difference:
    """Mean of paired differences and its standard error over seeds, None of a single seed."""

    mean: float
    error: float | None

    @classmethod
    def of(cls, values: Sequence[float]) -> "Difference":
        """Summarise one difference per seed."""
        return cls(fmean(values), stdev(values) / math.sqrt(len(values)) if len(values) > 1 else None)

    def __str__(self) -> str:
        return f"{self.mean:+.1f}" if self.error is None else f"{self.mean:+.1f}±{self.error:.1f}"


class Saved(TypedDict):
    """What is read of ``results.json``."""

    kind: Literal["bench", "ablate", "beyond"]
    banners: dict[str, str]
    notes: list[str]
    failed: list[str]
    entries: list[dict[str, Any]]


class Results:
    """Entries of a grid: every method on every task, on every backbone of the task, with every seed.

    Within a backbone the spread is over seeds. Over all backbones it is the spread of the backbones' means: seeds of
    one backbone are not independent evidence about the method. Over tasks it is the spread over seeds of the mean
    over tasks.

    Parameters
    ----------
    kind : str
        ``bench``, ``ablate`` or ``beyond``, or ``runs`` that are of no grid: how the tables are set.
    entries : sequence of Entry
    banners : mapping
        By task, what is to be said with every number; empty for real images.
    notes : sequence of str
        What a reader of the tables should know about the grid.
    failed : sequence of str
        The runs that could not be done, and why: they are missing in ``entries``.
    """

    def __init__(
        self,
        kind: str,
        entries: Sequence[Entry],
        banners: Mapping[str, str],
        notes: Sequence[str],
        failed: Sequence[str] = (),
    ) -> None:
        self.kind = kind
        self.entries = tuple(entries)
        self.banners = dict(banners)
        self.notes = tuple(notes)
        self.failed = tuple(failed)
        self.tasks = tuple(dict.fromkeys(entry.task for entry in entries))
        self.methods = tuple(dict.fromkeys(entry.method for entry in entries))
        self._values: dict[tuple[str, str, str], dict[int, Entry]] = {}
        for entry in entries:
            self._values.setdefault((entry.task, entry.method, entry.backbone), {})[entry.seed] = entry

    @property
    def banner(self) -> str:
        """The banners of all tasks, each a sentence."""
        return ". ".join(dict.fromkeys(filter(None, self.banners.values())))

    def backbones(self, task: str) -> tuple[str, ...]:
        """Backbones of a task."""
        return tuple(dict.fromkeys(entry.backbone for entry in self.entries if entry.task == task))

    def scopes(self, task: str) -> tuple[str, ...]:
        """What to make a table over: all backbones and each, or the only one."""
        backbones = self.backbones(task)
        return (ALL, *backbones) if len(backbones) > 1 else backbones

    def by_seed(self, task: str, method: str, backbone: str, metric: str) -> dict[int, float]:
        """A measured metric of one method on one backbone."""
        entries = self._values.get((task, method, backbone), {})
        return {seed: getattr(entry, metric) for seed, entry in entries.items()}

    def cell(self, task: str, method: str, scope: str, metric: str) -> Cell | None:
        r"""Summarise a metric; None if a run is missing.

        Parameters
        ----------
        task : str
            Or :data:`AVERAGE`, then over all backbones.
        method : str
        scope : str
            A backbone, or :data:`ALL`.
        metric : str
            ``h_*`` is the mean over seeds of each run's :math:`2ab / (a + b)`, ``hm_*`` is :math:`2ab / (a + b)` of
            the seeds' means on each backbone. Both are then averaged over backbones, and over tasks.
        """
        if task == AVERAGE:
            return self._average(method, metric)
        if scope == ALL:
            cells = [self.cell(task, method, backbone, metric) for backbone in self.backbones(task)]
            means = [cell.mean for cell in cells if cell]
            return Cell.of(means) if means and len(means) == len(cells) else None
        if metric in OF_MEANS:
            name = metric.removeprefix("hm_")
            high, low = (self.cell(task, method, scope, f"{modality}_{name}") for modality in MODALITIES)
            return Cell(harmonic_mean(high.mean, low.mean), None) if high and low else None
        values = self.by_seed(task, method, scope, metric)
        return Cell.of(list(values.values())) if values else None

    def _average(self, method: str, metric: str) -> Cell | None:
        cells = [self.cell(task, method, ALL, metric) for task in self.tasks]
        means = [cell.mean for cell in cells if cell]
        if not means or len(means) < len(cells):
            return None
        if metric in OF_MEANS:
            return Cell(fmean(means), None)
        tables = [
            [self.by_seed(task, method, backbone, metric) for backbone in self.backbones(task)] for task in self.tasks
        ]
        seeds = {frozenset(values) for table in tables for values in table}
        if len(seeds) > 1:
            return Cell(fmean(means), None)
        return Cell.of([fmean(fmean(values[seed] for values in table) for table in tables) for seed in min(seeds)])

    def paired(self, task: str, method: str, base: str, scope: str, metric: str) -> Difference | None:
        """``method`` minus ``base``, seed by seed, in the mean over backbones (and tasks, for :data:`AVERAGE`).

        Seeds of which a run is missing on any backbone are left out; None if that leaves none. The standard error is
        that of the seeds, on these backbones: it does not tell what others would give.
        """
        tables = [
            [
                tuple(self.by_seed(each, name, backbone, metric) for name in (method, base))
                for backbone in (self.backbones(each) if scope == ALL else (scope,))
            ]
            for each in (self.tasks if task == AVERAGE else (task,))
        ]
        seeds = set.intersection(*(set(runs) for table in tables for pair in table for runs in pair))
        by_seed = [
            fmean(fmean(ours[seed] - theirs[seed] for ours, theirs in table) for table in tables)
            for seed in sorted(seeds)
        ]
        return Difference.of(by_seed) if by_seed else None

    def to_json(self) -> dict[str, Any]:
        """Entries, and the summary of every table."""
        scopes = [(task, scope) for task in self.tasks for scope in self.scopes(task)]
        summary: dict[str, dict[str, Any]] = {}
        for task, scope in [*scopes, (AVERAGE, ALL)]:
            summary.setdefault(task, {})[scope] = {
                method: {metric: asdict(cell) for metric in METRICS if (cell := self.cell(task, method, scope, metric))}
                for method in self.methods
            }
        return {
            "kind": self.kind,
            "banners": self.banners,
            "notes": self.notes,
            "failed": self.failed,
            "entries": [asdict(entry) for entry in self.entries],
            "summary": summary,
        }

    @classmethod
    def read(cls, path: Path) -> "Results":
        """Read what :meth:`to_json` gave.

        Raises
        ------
        UserError
            If the file is damaged, or of another version.
        """
        table = read_json(path, "the results in")
        if wrong := misfit(table, Saved):
            raise UserError(f"cannot read the results in {path}: {wrong}")
        try:
            entries = [Entry(**entry) for entry in table["entries"]]
        except TypeError as error:
            raise UserError(f"cannot read the results in {path}: {error}") from error
        if wrong := misfit(entries, list[Entry], "entries") or (None if entries else "no entries"):
            raise UserError(f"cannot read the results in {path}: {wrong}")
        return cls(table["kind"], entries, table["banners"], table["notes"], table["failed"])
