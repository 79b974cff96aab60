"""What a run says of each image of its test and validation sets, as CSV."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

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
