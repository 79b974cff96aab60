"""Figures of a run."""

from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.methods import GROUPS
from benchmarks.results import COMPARED, Entry, cases, geometric_mean, ratio, seconds


def draw(results: Entry, folder: Path) -> list[Path]:
    """Write time over n per epsilon, speed-ups of all comparisons, and growth, as far as measured; return the files."""
    figures = {"times.png": _times(results), "speedups.png": _speedups(results), "growth.png": _growth(results)}
    found = {folder / name: figure for name, figure in figures.items() if figure is not None}
    for path, figure in found.items():
        figure.tight_layout()
        figure.savefig(path, dpi=120)
        plt.close(figure)
    return list(found)


def _times(results: Entry) -> Figure | None:
    measured = cases(results, "single", alpha=(0.5,), seed=(0,))
    epsilons = sorted({entry["epsilon"] for entry in measured}, reverse=True)
    if not epsilons:
        return None
    figure, axes = plt.subplots(1, len(epsilons), figsize=(4 * len(epsilons), 4), sharey=True, squeeze=False)
    for axis, epsilon in zip(axes[0], epsilons, strict=True):
        _lines(axis, "single", [entry for entry in measured if entry["epsilon"] == epsilon])
        axis.set_title(f"epsilon {epsilon:g}, alpha 0.5")
    axes[0][0].set_ylabel("ms to r <= 1e-6 (no marker: not reached)")
    return figure


def _speedups(results: Entry) -> Figure | None:
    found = [(entry["name"], r) for group in COMPARED for entry in cases(results, group) if (r := ratio(entry))]
    if not found:
        return None
    figure, axis = plt.subplots(figsize=(9, 1 + 0.2 * len(found)))
    colours = ["tab:blue" if r >= 1 else "tab:red" for _, r in found]
    axis.barh([name for name, _ in found], [r for _, r in found], color=colours)
    axis.axvline(1, color="black", linewidth=0.8)
    mean = geometric_mean([r for _, r in found])
    axis.set(xscale="log", title=f"fastest peer's time / fgwot's, both at the tight bound (geometric mean {mean:.2f})")
    axis.tick_params(axis="y", labelsize=7)
    axis.invert_yaxis()
    return figure


def _growth(results: Entry) -> Figure | None:
    measured = cases(results, "growth")
    if not measured:
        return None
    figure, axis = plt.subplots(figsize=(5, 4))
    _lines(axis, "growth", measured)
    axis.set_ylabel("ms")
    return figure


def _lines(axis: Axes, group: str, entries: list[Entry]) -> None:
    """Time over n, one line for each solver of the group."""
    for name in GROUPS[group]:
        points = [(entry["n"], time) for entry in entries if (time := seconds(entry, name)) is not None]
        axis.loglog([n for n, _ in points], [t * 1e3 for _, t in points], marker="o", label=name)
    axis.set_xlabel("n")
    axis.grid(alpha=0.3)
    axis.legend()
