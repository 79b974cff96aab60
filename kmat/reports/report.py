"""What a grid leaves beside its runs, and the report on finished grids and runs."""

import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from kmat.console import note
from kmat.errors import UserError
from kmat.grids.results import ALL, AVERAGE, MEASURED, METRICS, Results
from kmat.reports import figures, printed
from kmat.reports.cases import Cases, cases, comparison_tables, galleries, interval_table
from kmat.reports.clinical import by_method, class_tables
from kmat.reports.finished import FinishedRun, load, pairs
from kmat.reports.page import Gallery, Picture, Section, render
from kmat.reports.tables import backbone_tables, main_tables, pairings
from kmat.storage import atomic

TITLES = {
    "bench": "Methods (the paper's Table 2)",
    "ablate": "Ablation (the paper's Table 3)",
    "beyond": "Beyond the paper",
    "runs": "Single runs",
}


def write_results(results: Results, folder: Path) -> list[Path]:
    """Write what a grid leaves: its tables, its numbers as JSON, and a figure of its accuracies; returns the files."""
    files = write_tables(results, folder, "results")
    data, figure = folder / "results.json", folder / "results.png"
    atomic.write(data, json.dumps(results.to_json(), indent=2) + "\n")
    drawn = figures.accuracies(results)
    drawn.suptitle(results.banner, fontsize=8, color="#555555")
    picture = io.BytesIO()
    drawn.savefig(picture, dpi=150)
    atomic.write(figure, picture.getvalue())
    return [*files, data, figure]


def write_tables(results: Results, folder: Path, stem: str) -> list[Path]:
    """Write the tables as Markdown and LaTeX, their numbers beside the paper's, and each run's scores."""
    atomic.make_folder(folder)
    names = (f"{stem}.md", f"{stem}.tex", f"{stem}.csv", f"{stem}-runs.csv")
    markdown, latex, summary, runs = files = [folder / name for name in names]
    found = [*main_tables(results), *backbone_tables(results)]
    banner = [f"**{results.banner}**\n"] if results.banner else []
    notes = [*results.notes, *results.failed]
    text = [*banner, *(table.markdown() for table in found), *(f"{note}\n" for note in notes)]
    atomic.write(markdown, "\n".join(text))
    comments = [f"% {line}\n" for line in (results.banner, "needs \\usepackage{booktabs}", *notes) if line]
    atomic.write(latex, "".join(comments) + "\n" + "\n".join(table.latex() for table in found))
    _write_csv(summary, _summary(results))
    _write_csv(runs, [asdict(entry) for entry in results.entries])
    if paired := _paired(results):
        files.append(folder / f"{stem}-paired.csv")
        _write_csv(files[-1], paired)
    return files


def write_shots(benches: Mapping[int, Path], out: Path) -> list[Path]:
    """Write ``shots.csv`` and ``shots.png``, scores by training images per class, of finished benches; the files.

    Raises
    ------
    UserError
        If a bench cannot be read.
    """
    results = {count: Results.read(folder / "results.json") for count, folder in benches.items()}
    table = [{"shots": count, **row} for count, each in results.items() for row in _summary(each)]
    data, figure = out / "shots.csv", out / "shots.png"
    _write_csv(data, table)
    picture = io.BytesIO()
    figures.shots(results).savefig(picture, dpi=150)
    atomic.write(figure, picture.getvalue())
    return [data, figure]


def write_report(folders: Sequence[Path], out: Path, *, images: bool = True) -> list[Path]:
    """Write ``report.html`` and the tables of finished grids and runs; returns the files.

    Without ``images`` it shows no test image: a page with those of patients is not for everyone.

    Raises
    ------
    UserError
        As :func:`kmat.reports.finished.load`.
    """
    found = load(folders)
    files = [file for kind, (results, _) in found.items() for file in write_tables(results, out, kind)]
    sections = [_tables_section(results) for results, _ in found.values()]
    runs = [run for _, members in found.values() for run in members]
    banners = {task: banner for results, _ in found.values() for task, banner in results.banners.items()}
    for task, banner in banners.items():
        members = [run for run in runs if run.entry.task == task]
        pictures = [*_clinical_pictures(members), *_fgw_pictures(members), *_residual_pictures(members)]
        for kind, (_, others) in found.items():
            pictures += _curves([run for run in others if run.entry.task == task], TITLES[kind])
        if pictures:
            sections.append(_task_section(task, banner, members, pictures, images=images))
    page = out / "report.html"
    lead = f"{len(runs)} runs read from {', '.join(map(str, folders))}."
    atomic.write(page, render("K-MaT: report", lead, sections))
    return [page, *files]


def _task_section(
    task: str, banner: str, runs: Sequence[FinishedRun], pictures: Sequence[Picture], *, images: bool
) -> Section:
    found = cases(runs)
    return Section(
        f"Task {task}",
        banner,
        tables=[interval_table(task, found), *comparison_tables(task, found)] if found else (),
        folded=class_tables(runs),
        fold="by class",
        pictures=pictures,
        galleries=_galleries(found, runs[0]) if images else (),
        galleries_caption="test images that each method is most wrong about, and mean probabilities",
    )


def _galleries(found: Mapping[str, Mapping[str, Cases]], run: FinishedRun) -> Sequence[Gallery]:
    """Show images where the run found them; none if the task is there no more."""
    if not found:
        return ()
    try:
        return galleries(found, run.labels, run.config.data.load().images)
    except UserError as error:
        note(f"{error}: a report without images")
        return ()


def _tables_section(results: Results) -> Section:
    pictures = []
    if results.kind in ("bench", "runs"):
        caption = (
            "Test accuracy by task. Bars are means over backbones, dots the backbones' means over seeds. "
            "Training saw no low-end image."
        )
        pictures.append(Picture("Accuracy", figures.svg(figures.accuracies(results)), caption))
    return Section(
        TITLES[results.kind],
        results.banner,
        (*results.notes, *results.failed),
        tables=main_tables(results),
        folded=backbone_tables(results),
        pictures=pictures,
    )


def _fgw_pictures(runs: Sequence[FinishedRun]) -> Iterable[Picture]:
    """Draw what FGW does, without the anchor as in the paper's Figure 2, and with it."""
    matched = pairs(runs)
    for anchored in (False, True):
        members = [pair for pair in matched if pair.anchored == anchored]
        if not members:
            continue
        setting = "with the anchor" if anchored else "without the anchor, as in the paper's Figure 2"
        seeds = len({pair.on.entry.seed for pair in members})
        yield Picture(
            f"Text embeddings, {setting}",
            figures.svg(figures.embeddings(members)),
            f"t-SNE of K-MaT's text embeddings: one point per class and seed ({seeds} seeds), trained with "
            "FGW (filled) and without it (hollow). FGW moves the low end only, so the high end's two coincide. t-SNE "
            "keeps neighbourhoods, not distances.",
        )
        yield Picture(
            f"Low-end accuracy by class, {setting}",
            figures.svg(figures.per_class(members)),
            "Low-end test accuracy within each class, trained without and with FGW. Bars are means over seeds, "
            "dots the seeds.",
        )
        yield Picture(
            f"Transport plans, {setting}",
            figures.svg(figures.plans(members)),
            "Coupling of the classes' text embeddings, trained without and with FGW: the share of each high-end class "
            "(row) that goes to each low-end class (column), mean over seeds, with the runs' own coupling settings "
            "from a cold start. Matched: the share on the diagonal; "
            f"an even spread would match {100 / len(members[0].on.labels):.0f} %.",
        )


def _clinical_pictures(runs: Sequence[FinishedRun]) -> Iterable[Picture]:
    if not by_method(runs):
        return
    for figure in figures.confusions(runs):
        yield Picture(
            "Confusion",
            figures.svg(figure),
            "Test sets: percent of each class's images (row) that a method takes for each class (column), all "
            "backbones and seeds together.",
        )
    yield Picture(
        "Calibration",
        figures.svg(figures.reliabilities(runs)),
        "Test sets: accuracy of images by the confidence in their predicted class, in ten bins, all backbones and "
        "seeds together; dots are as large as their share of the images. ECE: expected calibration error in points, "
        "mean over runs. Below the diagonal a method is too sure.",
    )


def _residual_pictures(runs: Sequence[FinishedRun]) -> Iterable[Picture]:
    """Draw what residual transport does, for each of its rows."""
    names = dict.fromkeys(run.entry.method for run in runs if run.described)
    for name in names:
        yield Picture(
            f"Text embeddings: {name}",
            figures.svg(figures.residuals([run for run in runs if run.entry.method == name and run.described])),
            "From the descriptions (hollow) to the features that classify (filled), a line per class and seed, in the "
            "plane of the first two principal components. The high end's way is learned from images; the low end's is "
            "taken over from it, by the coupling of the descriptions.",
        )


def _curves(runs: Sequence[FinishedRun], title: str) -> list[Picture]:
    drawn = figures.curves(runs)
    if drawn is None:
        return []
    caption = (
        f"{title}: terms of the training loss by epoch, as weighted in it. Lines are means over backbones and seeds, "
        "bands their range; the scale is logarithmic."
    )
    return [Picture("Training curves", figures.svg(drawn), caption)]


def _summary(results: Results) -> list[dict[str, object]]:
    return [
        {
            "task": task,
            "backbone": scope,
            "method": method,
            "metric": metric,
            "mean": cell.mean,
            "standard deviation": cell.spread,
            "paper": printed.beside(results, task, method).get(metric),
        }
        for task, scope in _scopes(results)
        for method in results.methods
        for metric in METRICS
        if (cell := results.cell(task, method, scope, metric))
    ]


def _paired(results: Results) -> list[dict[str, object]]:
    pairs = dict.fromkeys(pair for pairs in pairings(results).values() for pair in pairs)
    return [
        {
            "task": task,
            "backbone": scope,
            "method": method,
            "minus": base,
            "metric": metric,
            "mean": difference.mean,
            "standard error": difference.error,
        }
        for task, scope in _scopes(results)
        for method, base in pairs
        for metric in MEASURED
        if (difference := results.paired(task, method, base, scope, metric))
    ]


def _scopes(results: Results) -> list[tuple[str, str]]:
    average = [(AVERAGE, ALL)] if len(results.tasks) > 1 else []
    return average + [(task, scope) for task in results.tasks for scope in results.scopes(task)]


def _write_csv(path: Path, rows: list[dict[str, object]]) -> None:
    atomic.write_csv(path, list(rows[0]), (row.values() for row in rows))
