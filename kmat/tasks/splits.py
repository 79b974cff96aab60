"""Seeded splits by patient, and the seeded few-shot draw."""

import random
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from kmat.modalities import HIGH, MODALITIES
from kmat.tasks.base import SPLITS, Record, Skipped, Task, UnreadableImageError

# Train and val, by modality; the rest is for testing. CoOp's convention for data without official splits.
SHARES = dict.fromkeys(MODALITIES, (0.5, 0.2))


def assign_splits(
    records: Sequence[Record], seed: int, shares: Mapping[str, tuple[float, float]] = SHARES
) -> tuple[Record, ...]:
    """Fill in missing splits, class by class, so that no patient is in two of them.

    A patient's class is that of the first of their images; a patient with some images already in a split follows them.
    Each class of a modality is divided by patients, in those shares.
    """
    known = {record.patient: record.split for record in records if record.split}
    by_class: dict[tuple[str, int], list[str]] = defaultdict(list)
    for record in records:
        if record.patient not in known:
            known[record.patient] = ""
            by_class[record.modality, record.label].append(record.patient)
    for stratum in sorted(by_class):
        patients = sorted(by_class[stratum])
        random.Random(f"{seed} {stratum}").shuffle(patients)  # noqa: S311
        train, val = shares[stratum[0]]
        n_train, n_val = max(1, round(train * len(patients))), round(val * len(patients))
        for position, patient in enumerate(patients):
            known[patient] = SPLITS[(position >= n_train) + (position >= n_train + n_val)]
    return tuple(replace(record, split=record.split or known[record.patient]) for record in records)


def patients_in_several_splits(records: Iterable[Record]) -> tuple[str, ...]:
    """Patients that a given split tears apart: a leak from training into testing."""
    splits: dict[str, set[str]] = defaultdict(set)
    for record in records:
        splits[record.patient].add(record.split)
    return tuple(sorted(patient for patient, where in splits.items() if len(where) > 1))


@dataclass(frozen=True)
class Draw:
    """The few training images of a run.

    Attributes
    ----------
    records : tuple of Record
        By class, in the order drawn.
    short : tuple of (int, int)
        Classes that have fewer readable images than asked for, with what they have.
    skipped : tuple of Skipped
        Images that were drawn but could not be read; the next one took their place.
    """

    records: tuple[Record, ...]
    short: tuple[tuple[int, int], ...]
    skipped: tuple[Skipped, ...]


def draw_few_shot(task: Task, shots: int, seed: int) -> Draw:
    """Draw ``shots`` high-end training images per class without replacement; all of them where there are fewer."""
    drawn: list[Record] = []
    short: list[tuple[int, int]] = []
    skipped: list[Skipped] = []
    for label in task.present(HIGH):
        pool = [record for record in task.select(HIGH, "train") if record.label == label]
        random.Random(f"{seed} {label}").shuffle(pool)  # noqa: S311
        taken: list[Record] = []
        for record in pool:
            if len(taken) == shots:
                break
            try:
                task.images.read(record.ref)
            except UnreadableImageError as error:
                skipped.append(Skipped(record.ref, str(error)))
            else:
                taken.append(record)
        if len(taken) < shots:
            short.append((label, len(taken)))
        drawn += taken
    return Draw(tuple(drawn), tuple(short), tuple(skipped))
