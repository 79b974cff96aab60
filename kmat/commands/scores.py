"""The scores of a run, on screen."""

from kmat.console import note, out, plain_table
from kmat.modalities import MODALITIES
from kmat.runs.bootstrap import Judged, intervals
from kmat.runs.result import Result
from kmat.runs.run import Evaluation
from kmat.tasks.base import Task


def show_intervals(found: Evaluation, task: Task) -> None:
    """Print how far chance may have moved the test scores."""
    table = plain_table("95 % intervals in %, bootstrap over patients")
    for name in ("test set", "patients", "accuracy", "macro-F1", "macro AUC"):
        table.add_column(name, justify="left" if name == "test set" else "right")
    for part in found.predictions:
        modality, split = part.records[0].modality, part.records[0].split
        patients = tuple(record.patient for record in part.records)
        ends = intervals(Judged.of(part.probabilities[None], part.labels, patients))
        cells = (ends.get(name) for name in ("accuracy", "macro_f1", "macro_auc"))
        texts = (f"{100 * pair[0]:.1f} to {100 * pair[1]:.1f}" if pair else "-" for pair in cells)
        table.add_row(f"{task.modality_names[modality]} {split}", str(len(set(patients))), *texts)
    out.print(table)


def show_scores(result: Result | Evaluation, task: Task) -> None:
    """Print one column per evaluated part and one row per metric and class."""
    parts = {
        f"{task.modality_names[modality]} {split}": scores
        for modality in MODALITIES
        for split, scores in result.scores[modality].items()
        if scores is not None
    }
    table = plain_table(f"{task.name}: scores in %")
    table.add_column("")
    for name in parts:
        table.add_column(name, justify="right")
    table.add_row("images", *(str(scores.n) for scores in parts.values()))
    for metric, name in (("accuracy", "accuracy"), ("macro_f1", "macro-F1"), ("macro_auc", "macro AUC")):
        values = [getattr(scores, metric) for scores in parts.values()]
        table.add_row(name, *("-" if value is None else f"{100 * value:.1f}" for value in values))
    table.add_row("calibration error (ECE)", *(f"{100 * scores.ece:.1f}" for scores in parts.values()))
    for index, label in enumerate(task.labels):
        recalls = [scores.per_class[index] for scores in parts.values()]
        table.add_row(f"accuracy in {label!r}", *("-" if r is None else f"{100 * r:.1f}" for r in recalls))
    out.print(table)
    if one_sided := task.one_sided():
        out.print(f"classes {one_sided}", highlight=False)
    if result.harmonic:
        accuracy, f1 = 100 * result.harmonic.accuracy, 100 * result.harmonic.macro_f1
        out.print(f"harmonic mean of both test sets: accuracy {accuracy:.1f}, macro-f1 {f1:.1f}", highlight=False)
    else:
        note("no low-end test images: no harmonic mean" if parts else "no images to evaluate on")
