"""What a run says of each image of its test and validation sets, as CSV."""

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from kmat.errors import UserError
from kmat.storage.atomic import csv_text
from kmat.tasks.base import Record

COLUMNS = ("modality", "split", "path", "patient", "label", "predicted")


class Predictions(NamedTuple):
    """Probabilities (N, C) of the images of one part of a task, and their records."""

    records: tuple[Record, ...]
    probabilities: Tensor

    @property
    def labels(self) -> Tensor:
        """The right classes (N,)."""
        return torch.tensor([record.label for record in self.records], dtype=torch.int64)

    @property
    def predicted(self) -> Tensor:
        """The likeliest classes (N,)."""
        return self.probabilities.argmax(dim=1)


def as_csv(parts: Iterable[Predictions], labels: Sequence[str]) -> str:
    """Write a row per image: the columns of :data:`COLUMNS`, then a probability per class."""
    rows = (
        (
            record.modality,
            record.split,
            record.ref,
            record.patient,
            labels[record.label],
            labels[predicted],
            *(f"{value:.6f}" for value in probabilities),
        )
        for part in parts
        for record, predicted, probabilities in zip(
            part.records, part.predicted.tolist(), part.probabilities.tolist(), strict=True
        )
    )
    return csv_text((*COLUMNS, *labels), rows)


def read_csv(path: Path, labels: Sequence[str], split: str = "test") -> dict[str, Predictions]:
    """Read what :func:`as_csv` wrote: the images of one split by modality; none of a run that wrote no such file.

    Raises
    ------
    UserError
        If the file is damaged, or of other classes.
    """
    if not path.exists():
        return {}
    found: dict[str, list[tuple[Record, list[float]]]] = {}
    try:
        with path.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
            rows = csv.reader(file)
            if next(rows, None) != [*COLUMNS, *labels]:
                raise ValueError("other columns")
            for modality, part, ref, patient, label, _, *cells in rows:
                if part == split:
                    record = Record(ref, labels.index(label), modality, part, patient)
                    found.setdefault(modality, []).append((record, [float(cell) for cell in cells]))
        return {
            modality: Predictions(tuple(record for record, _ in each), torch.tensor([p for _, p in each]).double())
            for modality, each in found.items()
        }
    except (OSError, ValueError, csv.Error) as error:
        raise UserError(f"cannot read {path}: {error}") from error
