"""What a reviewer asks of single images: how sure a difference is, and which images go wrong."""

import io
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image

from kmat.console import note
from kmat.errors import UserError
from kmat.grids.rows import OURS, TRANSPORT
from kmat.modalities import MODALITIES
from kmat.reports.clinical import ENDS
from kmat.reports.finished import FinishedRun
from kmat.reports.page import Gallery, Thumbnail
from kmat.reports.tables import BLANK, Table, TableCell
from kmat.runs.bootstrap import FLIPS, RESAMPLES, Comparison, Judged, compare, holm, intervals
from kmat.runs.predictions import Predictions
from kmat.tasks.base import ImageSource, Record, UnreadableImageError

MEASURES = {"accuracy": "acc", "macro_f1": "F1", "macro_auc": "AUC"}
WRONGEST = 8
"""Images of a gallery."""
SIDE = 96
"""Longer side of a thumbnail, in pixels."""

Where = tuple[str, int]  # backbone and seed


class Cases(NamedTuple):
    """What the runs of a method say of the same test images, run by run."""

    runs: tuple[Where, ...]
    records: tuple[Record, ...]
    judged: Judged

    def of(self, runs: Iterable[Where]) -> Judged:
        """Select some of the runs."""
        at = [self.runs.index(run) for run in runs]
        return self.judged._replace(probabilities=self.judged.probabilities[at])


def cases(runs: Iterable[FinishedRun]) -> dict[str, dict[str, Cases]]:
    """By method and modality; without methods whose runs were not all tested on the same images, or do not say."""
    groups: dict[str, dict[Where, FinishedRun]] = {}
    for run in runs:
        groups.setdefault(run.entry.method, {}).setdefault((run.entry.backbone, run.entry.seed), run)
    found = {method: _by_end(members) for method, members in groups.items()}
    return {method: ends for method, ends in found.items() if ends}


def _by_end(runs: Mapping[Where, FinishedRun]) -> dict[str, Cases]:
    try:
        read = [run.predictions() for run in runs.values()]
    except UserError as error:
        note(f"{error}: no intervals")
        return {}
    ends = {modality: [parts.get(modality) for parts in read] for modality in MODALITIES}
    return {modality: each for modality, parts in ends.items() if (each := _together(tuple(runs), parts))}


def _together(runs: tuple[Where, ...], parts: Sequence[Predictions | None]) -> Cases | None:
    known = [part for part in parts if part]
    records = known[0].records if known else ()
    if len(known) < len(runs) or any(part.records != records for part in known):
        return None
    judged = Judged.of(
        torch.stack([part.probabilities for part in known]), known[0].labels, [record.patient for record in records]
    )
    return Cases(runs, records, judged)


def interval_table(task: str, found: Mapping[str, Mapping[str, Cases]]) -> Table:
    """Mean scores of each method with their 95 % intervals."""
    rows = []
    for method, ends in found.items():
        cells = []
        for modality in MODALITIES:
            each = intervals(ends[modality].judged) if modality in ends else {}
            cells += [
                f"{100 * each[name][0]:.1f} to {100 * each[name][1]:.1f}" if name in each else BLANK
                for name in MEASURES
            ]
        rows.append((method, tuple(map(TableCell, cells))))
    return Table(
        f"{task}: 95 % intervals",
        ("method", *(f"{name}, {ENDS[modality]}" for modality in MODALITIES for name in MEASURES.values())),
        tuple(rows),
        f"Test scores in percent: where the mean over all runs of a method lies in 95 of 100 bootstrap samples of the "
        f"test patients ({RESAMPLES}). Other seeds and backbones are not in it. AUC: macro, one against the rest.",
    )


def comparison_tables(task: str, found: Mapping[str, Mapping[str, Cases]]) -> list[Table]:
    """Each of this project's two rows against all others on the same images."""
    return [_tests(task, ours, found) for ours in (OURS, TRANSPORT) if ours in found and len(found) > 1]


def _tests(task: str, ours: str, found: Mapping[str, Mapping[str, Cases]]) -> Table:
    others = [method for method in found if method != ours]
    cells: dict[str, list[str]] = {other: [] for other in others}
    for modality in MODALITIES:
        compared = {
            other: each for other in others if (each := _compare(found[ours].get(modality), found[other].get(modality)))
        }
        adjusted = dict(zip(compared, holm([each.p for each in compared.values()]), strict=True))
        for other in others:
            cells[other] += [_points(compared[other]), _share(adjusted[other])] if other in compared else [BLANK, BLANK]
    return Table(
        f"{task}: {ours} tested against the other rows",
        ("against", *(text for modality in MODALITIES for text in (ENDS[modality], "p"))),
        tuple((other, tuple(map(TableCell, texts))) for other, texts in cells.items()),
        "Accuracy in points on the same test images, mean over the runs with the same backbone and seed, with its 95 % "
        f"bootstrap interval by patient. p: share of {FLIPS} exchanges of the two methods' answers, patient by "
        "patient, that differ as much, adjusted for the number of rows (Holm). Both speak of other patients, not of "
        "other seeds or backbones.",
    )


def _compare(one: Cases | None, other: Cases | None) -> Comparison | None:
    """Compare on the runs that both have; None if there are none, or not of the same images."""
    if one is None or other is None or one.records != other.records:
        return None
    common = [run for run in one.runs if run in other.runs]
    return compare(one.of(common), other.of(common)) if common else None


def _points(found: Comparison) -> str:
    return f"{100 * found.difference:+.1f} ({100 * found.low:+.1f} to {100 * found.high:+.1f})"


def _share(p: float) -> str:
    return f"{p:.3f}" if p >= 0.001 else "< 0.001"


def galleries(found: Mapping[str, Mapping[str, Cases]], labels: Sequence[str], images: ImageSource) -> list[Gallery]:
    """Test images that each method is most wrong about, as thumbnails."""
    return [
        Gallery(f"{method}, {ENDS[modality]}", tuple(_wrongest(each, labels, images)))
        for method, ends in found.items()
        for modality, each in ends.items()
    ]


def _wrongest(found: Cases, labels: Sequence[str], images: ImageSource) -> Iterable[Thumbnail]:
    """Those of the least mean probability of the right class; fewer if fewer are wrong."""
    p, truth = found.judged.probabilities.mean(0), found.judged.labels
    own = p[np.arange(len(truth)), truth]
    wrong = np.flatnonzero(p.argmax(1) != truth)
    for index in wrong[np.argsort(own[wrong], kind="stable")][:WRONGEST].tolist():
        said = int(p[index].argmax())
        text = (
            f"is {labels[truth[index]]} ({100 * own[index]:.0f} %)",
            f"taken for {labels[said]} ({100 * p[index, said]:.0f} %)",
            found.records[index].ref,
        )
        yield Thumbnail(_small(images, found.records[index].ref), text)


def _small(images: ImageSource, ref: str) -> bytes | None:
    try:
        image = images.read(ref)
    except UnreadableImageError:
        return None
    image.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    image.convert("L" if _is_grey(image) else "RGB").save(file, "PNG", optimize=True)
    return file.getvalue()


def _is_grey(image: Image.Image) -> bool:
    red, green, blue = image.convert("RGB").split()
    return red.tobytes() == green.tobytes() == blue.tobytes()
