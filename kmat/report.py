"""What a grid leaves beside its runs: its tables as Markdown, CSV and LaTeX, its numbers as JSON, and a figure."""

import csv
import json
from dataclasses import asdict
from pathlib import Path
from statistics import fmean

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from kmat import paper
from kmat.results import ALL, AVERAGE, METRICS, Results
from kmat.tables import tables


def write(results: Results, folder: Path) -> list[Path]:
    """Write the files of a grid; returns them.

    ``results.md`` and ``results.tex`` hold the tables, ``summary.csv`` their numbers, one a row, beside the paper's;
    ``results.csv`` holds the scores of each run, ``results.json`` all of it, and ``results.png`` shows the accuracies.
    """
    folder.mkdir(parents=True, exist_ok=True)
    names = ("results.md", "results.tex", "summary.csv", "results.csv", "results.json", "results.png")
    markdown, latex, summary, runs, data, figure = files = [folder / name for name in names]
    found = tables(results)
    banner = [f"**{results.banner}**\n"] if results.banner else []
    text = [*banner, *(table.markdown() for table in found), *(f"{note}\n" for note in results.notes)]
    markdown.write_text("\n".join(text), encoding="utf-8")
    comments = [f"% {line}\n" for line in (results.banner, "needs \\usepackage{booktabs}", *results.notes) if line]
    latex.write_text("".join(comments) + "\n" + "\n".join(table.latex() for table in found), encoding="utf-8")
    _write_csv(summary, _summary(results))
    _write_csv(runs, [asdict(entry) for entry in results.entries])
    data.write_text(json.dumps(results.to_json(), indent=2) + "\n", encoding="utf-8")
    _accuracies(results, figure)
    return files


def _write_csv(path: Path, rows: list[dict[str, object]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def _summary(results: Results) -> list[dict[str, object]]:
    scopes = [(task, scope) for task in results.tasks for scope in results.scopes(task)]
    if len(results.tasks) > 1:
        scopes.insert(0, (AVERAGE, ALL))
    return [
        {
            "task": task,
            "backbone": scope,
            "method": method,
            "metric": metric,
            "mean": cell.mean,
            "standard deviation": cell.spread,
            "paper": paper.beside(results, task, method).get(metric),
        }
        for task, scope in scopes
        for method in results.methods
        for metric in METRICS
        if (cell := results.cell(task, method, scope, metric))
    ]


def _accuracies(results: Results, path: Path) -> None:
    height = 0.45 * len(results.methods) + 1.2
    figure = Figure(figsize=(9, height * len(results.tasks) + 0.6), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, task in zip(figure.subplots(len(results.tasks), squeeze=False)[:, 0], results.tasks, strict=True):
        backbones = results.backbones(task)
        for offset, (metric, colour, label) in enumerate(
            (("high_accuracy", "#4477aa", "high end"), ("low_accuracy", "#ee6677", "low end"))
        ):
            cells = [[results.cell(task, m, backbone, metric) for backbone in backbones] for m in results.methods]
            dots = [[cell.mean for cell in row if cell] for row in cells]
            heights = [row + 0.4 * offset - 0.2 for row in range(len(results.methods))]
            means = [fmean(each) if each else 0 for each in dots]
            axes.barh(heights, means, height=0.36, color=colour, alpha=0.55, label=label)
            for y, each in zip(heights, dots, strict=True):
                axes.plot(each, [y] * len(each), "o", color=colour, markersize=4, markeredgecolor="white")
        axes.set_yticks(range(len(results.methods)), results.methods)
        axes.invert_yaxis()
        axes.set_xlim(0, 100)
        axes.set_xlabel("test accuracy, %; bars: mean, dots: one backbone each")
        axes.set_title(task, loc="left", fontsize=10)
        axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="lower right", frameon=False)
    figure.suptitle(results.banner, fontsize=8, color="#555555")
    figure.savefig(path, dpi=150)
