"""What a reviewer of a clinical paper asks of finished runs: by class and method, both ends of a task."""

from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean

from kmat.modalities import HIGH, LOW, MODALITIES
from kmat.reports.finished import FinishedRun
from kmat.reports.tables import Table, TableCell

ENDS = {HIGH: "high end", LOW: "low end"}
COLUMNS = {"per_class": "sensitivity", "specificity": "specificity", "precision": "precision", "auc": "AUC"}


def class_tables(runs: Sequence[FinishedRun]) -> list[Table]:
    """One table per method of a task: classes by the columns of :data:`COLUMNS`, means over backbones and seeds."""
    return [
        Table(
            title=f"{method}: by class",
            header=("class", *(f"{name}, {ENDS[modality]}" for modality in MODALITIES for name in COLUMNS.values())),
            rows=tuple(
                (label, tuple(_cell(members, modality, field, index) for modality in MODALITIES for field in COLUMNS))
                for index, label in enumerate(members[0].labels)
            ),
            caption=(
                f"Test sets, in percent, mean over {len(members)} runs; each class against all others. "
                f"Images: {_sizes(members[0])}."
            ),
        )
        for method, members in by_method(runs).items()
    ]


def by_method(runs: Iterable[FinishedRun]) -> Mapping[str, list[FinishedRun]]:
    """Group runs whose scores have all that is shown here: those of earlier versions have not."""
    groups: dict[str, list[FinishedRun]] = {}
    for run in runs:
        if all(getattr(run.tested[modality], field) for modality in MODALITIES for field in (*COLUMNS, "reliability")):
            groups.setdefault(run.entry.method, []).append(run)
    return groups


def confusion(runs: Iterable[FinishedRun], modality: str) -> list[list[float]]:
    """Share of each class's images (row) that is taken for each class (column), all runs together."""
    counts = [run.tested[modality].confusion for run in runs]
    total = [[sum(cells) for cells in zip(*rows, strict=True)] for rows in zip(*counts, strict=True)]
    return [[cell / (sum(row) or 1) for cell in row] for row in total]


def reliability(runs: Iterable[FinishedRun], modality: str) -> list[tuple[float, float, int]]:
    """Mean confidence, accuracy and images of each bin that has any, all runs together."""
    bins = zip(*(run.tested[modality].reliability for run in runs), strict=True)
    found = []
    for each in bins:
        count = sum(n for n, *_ in each)
        if count:
            confidence, accuracy = (sum(row[0] * row[column] for row in each) / count for column in (1, 2))
            found.append((confidence, accuracy, count))
    return found


def calibration_error(runs: Sequence[FinishedRun], modality: str) -> float:
    """Mean of the runs' expected calibration errors."""
    return fmean(run.tested[modality].ece for run in runs)


def _cell(runs: Iterable[FinishedRun], modality: str, field: str, index: int) -> TableCell:
    values = [value for run in runs if (value := getattr(run.tested[modality], field)[index]) is not None]
    return TableCell(f"{100 * fmean(values):.1f}" if values else "-")


def _sizes(run: FinishedRun) -> str:
    def of(modality: str) -> str:
        counts = [sum(row) for row in run.tested[modality].confusion]
        return ", ".join(f"{counts[label]} {run.labels[label]}" for label in run.present(modality))

    return "; ".join(f"{ENDS[modality]} {of(modality)}" for modality in MODALITIES)
