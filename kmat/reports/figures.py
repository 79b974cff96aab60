"""Figures of a grid. Each function draws one from finished runs; none needs a display."""

import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from colorsys import hsv_to_rgb
from itertools import product
from statistics import fmean
from typing import Any, TypeVar

import matplotlib as mpl
import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogFormatter

from kmat.grids.results import FLOOR, Results
from kmat.methods import KMaTConfig
from kmat.methods.kmat import transport_plan
from kmat.modalities import HIGH, LOW
from kmat.reports.clinical import ENDS, by_method, calibration_error, confusion, reliability
from kmat.reports.finished import FinishedRun, Pair

HIGH_COLOUR, LOW_COLOUR = "#4477aa", "#ee6677"
OFF_COLOUR, ON_COLOUR = "#bbbbbb", "#228833"
CLASS_COLOURS = ("#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#994455", "#555555")
SMALL = 5  # classes up to which there is room for two decimals
MARKERS = {HIGH: "o", LOW: "^"}

mpl.rcParams["text.parse_math"] = False  # names of classes are no formulas, whatever "$" is in them

T = TypeVar("T")


def svg(figure: Figure) -> bytes:
    """Draw as SVG, the same bytes each time."""
    buffer = io.BytesIO()
    with mpl.rc_context({"svg.hashsalt": "kmat"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()


def accuracies(results: Results) -> Figure:
    """Bars of high-end and low-end accuracy for every row and task, a dot for each backbone."""
    there = {
        task: [each for each in results.methods if any(results.by_seed(task, each, b, "h_accuracy") for b in backbones)]
        for task in results.tasks
        if (backbones := results.backbones(task))
    }
    heights = [0.45 * len(methods) + 1.2 for methods in there.values()]
    figure, panels = _panels(len(there), 1, width=9, height=fmean(heights), ratios=heights)
    for axes, (task, methods) in zip(panels, there.items(), strict=True):
        for offset, (metric, colour, label) in enumerate(
            (("high_accuracy", HIGH_COLOUR, "high end"), ("low_accuracy", LOW_COLOUR, "low end"))
        ):
            dots = [
                [
                    cell.mean
                    for backbone in results.backbones(task)
                    if (cell := results.cell(task, method, backbone, metric))
                ]
                for method in methods
            ]
            places = [row + 0.4 * offset - 0.2 for row in range(len(dots))]
            means = [fmean(each) if each else 0 for each in dots]
            axes.barh(places, means, height=0.36, color=colour, alpha=0.55, label=label)
            for y, each in zip(places, dots, strict=True):
                axes.plot(each, [y] * len(each), "o", color=colour, markersize=4, markeredgecolor="white")
        axes.set_yticks(range(len(methods)), methods)
        axes.invert_yaxis()
        axes.set_xlim(0, 100)
        axes.set_title(task, loc="left", fontsize=10)
    panels[-1].set_xlabel("test accuracy, %")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False)
    return figure


def shots(results: Mapping[int, Results]) -> Figure:
    """H accuracy of every method by training images per class, a panel per task; bands are the spread of its table."""
    last = list(results.values())[-1]
    figure, panels = _panels(1, len(last.tasks), width=max(8.0, 4.2 * len(last.tasks)), height=3.8)
    methods = [method for method in last.methods if not method.startswith(FLOOR)]
    for axes, task in zip(panels, last.tasks, strict=True):
        for number, method in enumerate(methods):
            points = [
                (count, cell.mean, cell.spread or 0)
                for count, each in results.items()
                if (cell := each.cell(task, method, each.scopes(task)[0], "h_accuracy"))
            ]
            if points:
                counts, means, spreads = map(np.array, zip(*points, strict=True))
                style = {"color": CLASS_COLOURS[number % len(CLASS_COLOURS)], "lw": 1.3}
                dashed = "--" if number >= len(CLASS_COLOURS) else "-"
                axes.plot(counts, means, dashed, marker="o", markersize=3, label=method, **style)
                axes.fill_between(counts, means - spreads, means + spreads, color=style["color"], alpha=0.08, lw=0)
        axes.set_xscale("log", base=2)
        axes.set_xticks(list(results), [str(count) for count in results])
        axes.set_title(task, loc="left", fontsize=10)
        axes.set_xlabel("training images per class, high end")
    panels[0].set_ylabel("H accuracy, %")
    figure.suptitle(last.banner, fontsize=8, color="#555555")
    figure.legend(
        *panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False, fontsize=8
    )
    return figure


def embeddings(pairs: Sequence[Pair]) -> Figure:
    """t-SNE of both modalities' text features with and without FGW, one panel per backbone, all seeds in it."""
    from sklearn.manifold import TSNE

    by_backbone = _group(pairs, lambda pair: pair.on.entry.backbone)
    figure, panels = _panels(1, len(by_backbone), width=max(6.0, 3.6 * len(by_backbone)), height=4.0)
    labels = pairs[0].on.labels
    colours = class_colours(len(labels))
    for axes, (backbone, members) in zip(panels, by_backbone.items(), strict=True):
        points, styles = [], []
        for pair in members:
            for run, filled in ((pair.off, False), (pair.on, True)):
                for modality in (HIGH, LOW):
                    points.append(run.text[modality].double())
                    styles += [(modality, filled, label) for label in range(len(labels))]
        # What FGW does not move is one point, which t-SNE would draw twice with a gap.
        features, index = np.unique(torch.cat(points).numpy().round(6), axis=0, return_inverse=True)
        tsne = TSNE(perplexity=min(10.0, (len(features) - 1) / 3), init="pca", random_state=0)
        for (x, y), (modality, filled, label) in zip(tsne.fit_transform(features)[index], styles, strict=True):
            colour = colours[label]
            axes.plot(
                x,
                y,
                MARKERS[modality],
                color=colour,
                markerfacecolor=colour if filled else "none",
                markersize=6 if filled else 9,
                alpha=0.9,
            )
        axes.set_xticks([])
        axes.set_yticks([])
        axes.set_title(backbone, fontsize=10)
    names = {HIGH: "high end", LOW: "low end"}
    handles = [
        Line2D([], [], linestyle="", marker=MARKERS[modality], color="#333333", label=f"{names[modality]}, {word} FGW")
        if word == "with"
        else Line2D(
            [],
            [],
            linestyle="",
            marker=MARKERS[modality],
            color="#333333",
            markerfacecolor="none",
            markersize=9,
            label=f"{names[modality]}, {word} FGW",
        )
        for modality in (HIGH, LOW)
        for word in ("with", "without")
    ]
    _explain(figure, handles, labels)
    return figure


def _explain(figure: Figure, handles: Sequence[Line2D], labels: Sequence[str]) -> None:
    """Legend of markers, and of the colours of classes."""
    colours = (
        Line2D([], [], linestyle="", marker="s", color=colour, label=label)
        for colour, label in zip(class_colours(len(labels)), labels, strict=True)
    )
    figure.legend(handles=[*handles, *colours], loc="outside lower center", ncols=4, frameon=False, fontsize=8)


def residuals(runs: Sequence[FinishedRun]) -> Figure:
    """Text features of both ends from their descriptions (hollow) to where they classify from, a panel per backbone.

    In the plane of the first two principal components of all that is in the panel, which keeps parallels parallel.
    """
    by_backbone = _group(runs, lambda run: run.entry.backbone)
    figure, panels = _panels(1, len(by_backbone), width=max(6.0, 3.6 * len(by_backbone)), height=4.0)
    labels = runs[0].labels
    colours = class_colours(len(labels))
    for axes, (backbone, members) in zip(panels, by_backbone.items(), strict=True):
        points = torch.cat([each[m].double() for run in members for m in MARKERS for each in (run.described, run.text)])
        centre = points.mean(dim=0)
        plane = torch.linalg.svd(points - centre, full_matrices=False).Vh[:2].T
        for run, modality in product(members, MARKERS):
            start, end = ((each[modality].double() - centre) @ plane for each in (run.described, run.text))
            own = run.present(modality)
            for label, (x0, y0), (x1, y1) in zip(own, start.tolist(), end.tolist(), strict=True):
                colour = colours[label]
                axes.plot([x0, x1], [y0, y1], color=colour, lw=1.2)
                axes.plot(x0, y0, MARKERS[modality], color=colour, markerfacecolor="white", markersize=6)
                axes.plot(x1, y1, MARKERS[modality], color=colour, markersize=4)
        axes.set_xticks([])
        axes.set_yticks([])
        axes.set_aspect("equal", "datalim")
        axes.set_title(backbone, fontsize=10)
    grey = "#333333"
    handles = [
        Line2D([], [], linestyle="", marker=MARKERS[m], color=grey, markerfacecolor=face, label=f"{name}, {word}")
        for m, name in ((HIGH, "high end"), (LOW, "low end"))
        for word, face in (("descriptions", "none"), ("after", grey))
    ]
    _explain(figure, handles, labels)
    return figure


def per_class(pairs: Sequence[Pair]) -> Figure:
    """Low-end accuracy within each class with and without FGW, one panel per backbone; dots are seeds."""
    by_backbone = _group(pairs, lambda pair: pair.on.entry.backbone)
    figure, panels = _panels(1, len(by_backbone), width=max(6.0, 3.6 * len(by_backbone)), height=3.2)
    labels = pairs[0].on.labels
    for axes, (backbone, members) in zip(panels, by_backbone.items(), strict=True):
        for offset, (word, colour) in enumerate((("without FGW", OFF_COLOUR), ("with FGW", ON_COLOUR))):
            runs = [pair.on if offset else pair.off for pair in members]
            places = [index + 0.4 * offset - 0.2 for index in range(len(labels))]
            values = [[v for run in runs if (v := run.low_per_class[i]) is not None] for i in range(len(labels))]
            means = [fmean(each) if each else 0 for each in values]
            axes.bar(places, means, width=0.36, color=colour, alpha=0.7, label=word)
            for x, each in zip(places, values, strict=True):
                axes.plot([x] * len(each), each, "o", color="#333333", markersize=3, alpha=0.6)
        turned = 0 if len(labels) <= 3 else 20 if len(labels) <= SMALL else 90
        axes.set_xticks(range(len(labels)), labels, rotation=turned, fontsize=8)
        axes.set_ylim(0, 100)
        axes.set_title(backbone, fontsize=10)
    panels[0].set_ylabel("low-end accuracy in class, %")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False)
    return figure


def plans(pairs: Sequence[Pair]) -> Figure:
    """Coupling of each high-end class with the low-end ones, mean over seeds; rows without and with FGW."""
    by_backbone = _group(pairs, lambda pair: pair.on.entry.backbone)
    labels = pairs[0].on.labels
    size = max(2.9, 0.3 * len(labels) + 1.6)
    figure, panels = _panels(2, len(by_backbone), width=max(6.0, (size + 0.3) * len(by_backbone)), height=size)
    for column, (backbone, members) in enumerate(by_backbone.items()):
        for row, word in enumerate(("without FGW", "with FGW")):
            shares = len(labels) * np.mean([_plan(pair.on if row else pair.off) for pair in members], axis=0)
            axes = panels[row * len(by_backbone) + column]
            axes.imshow(shares, vmin=0, vmax=1, cmap="Blues")
            for (i, j), share in np.ndenumerate(shares):
                colour = "white" if share > 0.6 else "#333333"
                if len(labels) <= SMALL:
                    axes.text(j, i, f"{share:.2f}", ha="center", va="center", color=colour)
                elif share >= 0.005:
                    axes.text(j, i, f"{100 * share:.0f}", ha="center", va="center", color=colour, fontsize=7)
            axes.set_xticks(range(len(labels)), labels, fontsize=8, rotation=30 if len(labels) <= SMALL else 90)
            axes.set_yticks(range(len(labels)), labels if column == 0 else [], fontsize=8)
            axes.spines[:].set_visible(False)
            axes.set_title(f"{backbone}, {word}\nmatched: {100 * np.trace(shares) / len(labels):.0f} %", fontsize=9)
    panels[0].set_ylabel("high end")
    panels[len(by_backbone)].set_ylabel("high end")
    return figure


def confusions(runs: Sequence[FinishedRun]) -> list[Figure]:
    """Share of each class (row) that is taken for each class (column): a panel for each end and method.

    Two methods share a row, unless their classes are many; then three methods share a figure, which fits a page.
    """
    groups, labels = by_method(runs), runs[0].labels
    few = len(labels) <= SMALL
    columns = 4 if few and len(groups) > 1 else 2
    panels = [(method, members, modality) for method, members in groups.items() for modality in (HIGH, LOW)]
    of_each = len(panels) if few else 3 * columns
    return [_confusions(panels[at : at + of_each], labels, columns) for at in range(0, len(panels), of_each)]


def _confusions(shown: Sequence[tuple[str, Sequence[FinishedRun], str]], labels: Sequence[str], columns: int) -> Figure:
    width = max(3.0, 0.6 * len(labels) + 1.5) * columns
    figure, panels = _panels(-(-len(shown) // columns), columns, width=width, height=0.5 * len(labels) + 1.1)
    for index, (method, members, modality) in enumerate(shown):
        axes, shares = panels[index], np.array(confusion(members, modality))
        axes.imshow(shares, vmin=0, vmax=1, cmap="Blues")
        for (i, j), share in np.ndenumerate(shares):
            colour = "white" if share > 0.6 else "#333333"
            axes.text(j, i, f"{100 * share:.0f}", ha="center", va="center", color=colour, fontsize=7)
        axes.set_xticks(range(len(labels)), labels, fontsize=7, rotation=30 if len(labels) <= SMALL else 90)
        axes.set_yticks(range(len(labels)), labels if index % columns == 0 else [], fontsize=7)
        axes.spines[:].set_visible(False)
        axes.set_title(f"{method}, {ENDS[modality]}", fontsize=8, loc="left")
    for axes in panels[len(shown) :]:
        axes.set_visible(False)
    return figure


def reliabilities(runs: Sequence[FinishedRun]) -> Figure:
    """Accuracy by confidence: a panel per method, a line for each end, dots as large as their share of the images."""
    groups = by_method(runs)
    columns = min(3, len(groups))
    figure, panels = _panels(-(-len(groups) // columns), columns, width=3 * columns, height=2.6)
    for axes, (method, members) in zip(panels, groups.items(), strict=False):
        axes.plot([0, 1], [0, 1], color="#bbbbbb", lw=1)
        for modality, colour in ((HIGH, HIGH_COLOUR), (LOW, LOW_COLOUR)):
            confidence, accuracy, counts = zip(*reliability(members, modality), strict=True)
            error = 100 * calibration_error(members, modality)
            axes.plot(confidence, accuracy, color=colour, lw=1, label=f"{ENDS[modality]}, ECE {error:.0f}")
            axes.scatter(confidence, accuracy, s=[120 * n / sum(counts) + 4 for n in counts], color=colour, alpha=0.7)
        axes.set_xlim(0, 1)
        axes.set_ylim(0, 1)
        axes.set_title(method, fontsize=8, loc="left")
        axes.legend(fontsize=6, frameon=False, loc="upper left")
    for axes in panels[len(groups) :]:
        axes.set_visible(False)
    panels[0].set_ylabel("accuracy")
    for axes in panels[max(0, len(groups) - columns) : len(groups)]:
        axes.set_xlabel("confidence")
    return figure


def curves(runs: Iterable[FinishedRun]) -> Figure | None:
    """Each term of the training loss by epoch: mean and range over backbones and seeds; None if nothing was trained."""
    by_method = _group([run for run in runs if run.epochs], lambda run: run.entry.method)
    if not by_method:
        return None
    columns = min(3, len(by_method))
    figure, panels = _panels(-(-len(by_method) // columns), columns, width=9, height=2.3)
    colours: dict[str, str] = {}
    for axes, (method, members) in zip(panels, by_method.items(), strict=False):
        for term in dict.fromkeys(name for run in members for line in run.epochs for name in line["losses"]):
            colour = colours.setdefault(term, CLASS_COLOURS[len(colours) % len(CLASS_COLOURS)])
            shortest = min(len(run.epochs) for run in members)
            values = np.array([[line["losses"].get(term, np.nan) for line in run.epochs[:shortest]] for run in members])
            axes.plot(values.mean(axis=0), color=colour)
            axes.fill_between(range(shortest), values.min(axis=0), values.max(axis=0), color=colour, alpha=0.15, lw=0)
        axes.set_yscale("log", nonpositive="mask")
        # matplotlib's own would be formulas.
        axes.yaxis.set_major_formatter(LogFormatter())
        axes.yaxis.set_minor_formatter(LogFormatter(minor_thresholds=(1, 0.4)))
        axes.set_title(method, fontsize=9, loc="left")
    for axes in panels[len(by_method) :]:
        axes.set_visible(False)
    for axes in panels[max(0, len(by_method) - columns) : len(by_method)]:
        axes.set_xlabel("epoch")
    handles = [Line2D([], [], color=colour, label=term) for term, colour in colours.items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False)
    return figure


def class_colours(count: int) -> list[str]:
    """As many colours as there are classes, all of them different.

    Examples
    --------
    >>> class_colours(2), len(set(class_colours(30)))
    (['#4477aa', '#ee6677'], 30)
    """
    if count <= len(CLASS_COLOURS):
        return list(CLASS_COLOURS[:count])
    # Neighbours differ in more than hue.
    return [to_hex(hsv_to_rgb(number / count, 0.75, 0.9 if number % 2 else 0.6)) for number in range(count)]


def _panels(
    rows: int, columns: int, *, width: float, height: float, ratios: Sequence[float] | None = None
) -> tuple[Figure, list[Any]]:
    """Return a figure and its axes, row by row; each row is ``height`` inches high, or shares all by its ratio."""
    figure = Figure(figsize=(width, height * rows + 0.5), layout="constrained")
    FigureCanvasAgg(figure)
    panels = list(figure.subplots(rows, columns, squeeze=False, height_ratios=ratios).flat)
    for axes in panels:
        axes.spines[["top", "right"]].set_visible(False)
    return figure, panels


def _group(items: Iterable[T], key: Callable[[T], str]) -> Mapping[str, list[T]]:
    groups: dict[str, list[T]] = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return groups


def _plan(run: FinishedRun) -> Any:
    assert isinstance(run.config.method, KMaTConfig)  # noqa: S101 (pairs are K-MaT's)
    return transport_plan(run.config.method, run.text[HIGH], run.text[LOW]).numpy()
