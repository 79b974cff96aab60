"""Tables and a figure of many runs: means over seeds, and the spread over backbones."""

import csv
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean, stdev

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from rich.table import Table

from kmat.console import plain_table

METRICS = {
    "high_accuracy": "high acc",
    "high_macro_f1": "high F1",
    "low_accuracy": "low acc",
    "low_macro_f1": "low F1",
    "h_accuracy": "H acc",
    "h_macro_f1": "H F1",
}
ALL = "all backbones"


@dataclass(frozen=True)
class Entry:
    """One run's test numbers, in percent. ``h_*`` are harmonic means of this run's two modalities."""

    method: str
    backbone: str
    seed: int
    high_accuracy: float
    high_macro_f1: float
    low_accuracy: float
    low_macro_f1: float
    h_accuracy: float
    h_macro_f1: float


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


class Report:
    """Entries of a complete grid: every method on every backbone with every seed.

    Within a backbone the spread is over seeds. Over all backbones it is the spread of the backbones' means: seeds of
    one backbone are not independent evidence about the method.
    """

    def __init__(self, entries: Sequence[Entry], banner: str, notes: Sequence[str]) -> None:
        self.entries = tuple(entries)
        self.banner = banner
        self.notes = (
            "Test scores in percent, mean ± sample standard deviation; per backbone over seeds, over all backbones "
            "between the backbones' means.",
            "H: mean over seeds of each seed's harmonic mean of high and low (not the harmonic mean of the means).",
            *notes,
        )
        self.methods = tuple(dict.fromkeys(entry.method for entry in entries))
        self.backbones = tuple(dict.fromkeys(entry.backbone for entry in entries))

    def values(self, method: str, backbone: str, metric: str) -> list[float]:
        """A metric of one method on one backbone, by seed."""
        return [
            getattr(entry, metric) for entry in self.entries if (entry.method, entry.backbone) == (method, backbone)
        ]

    def cell(self, method: str, backbone: str, metric: str) -> Cell:
        """Summarise over seeds, or over backbones if ``backbone`` is :data:`ALL`."""
        if backbone == ALL:
            return Cell.of([fmean(self.values(method, each, metric)) for each in self.backbones])
        return Cell.of(self.values(method, backbone, metric))

    def differences(self, method: str, metric: str) -> dict[str, list[float]]:
        """``method`` minus each other method, paired by seed and averaged over seeds: one value per backbone."""
        return {
            other: [
                fmean(self.values(method, backbone, metric)) - fmean(self.values(other, backbone, metric))
                for backbone in self.backbones
            ]
            for other in self.methods
            if other != method
        }

    def tables(self) -> list[tuple[str, list[list[str]]]]:
        """Title and rows, header first: one table over all backbones and one for each."""
        header = ["method", *METRICS.values()]
        scopes = (ALL, *self.backbones) if len(self.backbones) > 1 else self.backbones
        return [
            (scope, [header] + [[m, *(str(self.cell(m, scope, metric)) for metric in METRICS)] for m in self.methods])
            for scope in scopes
        ]

    def comparison(self, method: str) -> tuple[str, list[list[str]]]:
        """Title and rows of ``method`` minus every other; losses and ties stand beside wins."""
        short = [backbone.split(":")[-1].split("/")[-1] for backbone in self.backbones]
        rows = [["minus", "high", "low", "H", *(f"H {name}" for name in short)]]
        high, low, both = (self.differences(method, f"{part}_accuracy") for part in ("high", "low", "h"))
        for other, values in both.items():
            means = (f"{fmean(differences[other]):+.1f}" for differences in (high, low, both))
            rows.append([other, *means, *(f"{value:+.1f}" for value in values)])
        return f"{method} minus the other rows, accuracy in points: mean, then H by backbone", rows

    def console_tables(self, compare: str) -> list[Table]:
        """Return the same tables for rich, narrow enough for 80 columns."""
        rendered = []
        for title, (header, *rows) in [*self.tables(), self.comparison(compare)]:
            table = plain_table(title)
            for position, name in enumerate(header):
                table.add_column(name, justify="right" if position else "left", no_wrap=True)
            for row in rows:
                table.add_row(*row)
            rendered.append(table)
        return rendered

    def write(self, folder: Path, compare: str) -> list[Path]:
        """Write results.md, results.csv, results.json and results.png; the files in that order."""
        markdown, table, data, figure = (folder / f"results.{kind}" for kind in ("md", "csv", "json", "png"))
        markdown.write_text(self._markdown(compare), encoding="utf-8")
        with table.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(asdict(self.entries[0])))
            writer.writeheader()
            writer.writerows(map(asdict, self.entries))
        data.write_text(json.dumps(self._json(), indent=2) + "\n", encoding="utf-8")
        self._figure(figure)
        return [markdown, table, data, figure]

    def _markdown(self, compare: str) -> str:
        parts = [f"**{self.banner}**"] if self.banner else []
        for title, (header, *rows) in [*self.tables(), self.comparison(compare)]:
            lines = [header, ["---"] + ["---:"] * (len(header) - 1), *rows]
            parts += [f"## {title}", "\n".join(f"| {' | '.join(line)} |" for line in lines)]
        return "\n\n".join([*parts, *self.notes]) + "\n"

    def _json(self) -> dict[str, object]:
        scopes = (*self.backbones, ALL)
        return {
            "banner": self.banner,
            "notes": self.notes,
            "entries": [asdict(entry) for entry in self.entries],
            "summary": {
                scope: {m: {metric: asdict(self.cell(m, scope, metric)) for metric in METRICS} for m in self.methods}
                for scope in scopes
            },
        }

    def _figure(self, path: Path) -> None:
        figure = Figure(figsize=(9, 0.55 * len(self.methods) + 1.8), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots()
        for offset, (metric, colour, label) in enumerate(
            (("high_accuracy", "#4477aa", "high end"), ("low_accuracy", "#ee6677", "low end"))
        ):
            heights = [row + 0.4 * offset - 0.2 for row in range(len(self.methods))]
            means = [self.cell(method, ALL, metric).mean for method in self.methods]
            axes.barh(heights, means, height=0.36, color=colour, alpha=0.55, label=label)
            for height, method in zip(heights, self.methods, strict=True):
                dots = [fmean(self.values(method, backbone, metric)) for backbone in self.backbones]
                axes.plot(dots, [height] * len(dots), "o", color=colour, markersize=4, markeredgecolor="white")
        axes.set_yticks(range(len(self.methods)), self.methods)
        axes.invert_yaxis()
        axes.set_xlim(0, 100)
        axes.set_xlabel("test accuracy, %; bars: mean, dots: one backbone each")
        axes.legend(loc="lower right", frameon=False)
        axes.spines[["top", "right"]].set_visible(False)
        figure.suptitle(self.banner, fontsize=8, color="#555555")
        figure.savefig(path, dpi=150)
