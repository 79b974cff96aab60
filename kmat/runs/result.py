"""What a run leaves in ``result.json``."""

from dataclasses import asdict, dataclass, field
from typing import Any

from kmat.errors import UserError
from kmat.modalities import HIGH, MODALITIES
from kmat.runs.evaluation import Certainty, Means, Scores
from kmat.storage.schema import misfit, restore


@dataclass(frozen=True)
class PartScores(Certainty, Scores):
    """What a classifier is worth on the images of one part of a task."""


@dataclass(frozen=True)
class Result:
    """A finished run: what it was, and what came of it.

    Attributes
    ----------
    task, backbone : str
    method : dict
        Its name and its options.
    seed : int
    banner : str
        What is to be said with every number; empty for real images.
    labels, classes : tuple of str
        Names of the classes, in the data and in prompts.
    modality_names : dict of str to str
    augmented : bool
        Whether it learned from random crops.
    train_images, skipped : int
        Images learned from, and those left out.
    diagnostics : dict of str to int
        What went less than well in training, counted.
    scores : dict
        By modality and split a :class:`PartScores`, None where there are no images.
    harmonic : Means or None
        Harmonic means of both test sets; None if one has no images.
    floors : dict
        By modality what :func:`kmat.runs.evaluation.floors` says of the test set.
    absent : dict
        By modality the labels of classes that it lacks, where the two do not have the same.

    Examples
    --------
    >>> Result.from_json({"task": "skin", "backbone": 5})
    Traceback (most recent call last):
    ...
    kmat.errors.UserError: backbone is 5, expected str
    """

    task: str
    backbone: str
    method: dict[str, Any]
    seed: int
    banner: str
    labels: tuple[str, ...]
    classes: tuple[str, ...]
    modality_names: dict[str, str]
    augmented: bool
    train_images: int
    skipped: int
    diagnostics: dict[str, int]
    scores: dict[str, dict[str, PartScores | None]]
    harmonic: Means | None
    floors: dict[str, dict[str, Means]]
    absent: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Plain dictionaries and sequences."""
        return asdict(self)

    @classmethod
    def from_json(cls, table: object) -> "Result":
        """Rebuild what :meth:`to_json` gave.

        Raises
        ------
        UserError
            That names the key, if the table has another shape or contradicts itself.
        """
        wrong = misfit(table, cls)
        result: Result | None = None if wrong else restore(table, cls)
        if result is None or (wrong := _contradiction(result)):
            raise UserError(str(wrong))
        return result

    def lacking(self) -> dict[str, frozenset[int]]:
        """Numbers of the classes that a modality lacks, by modality."""
        return {modality: frozenset(map(self.labels.index, some)) for modality, some in self.absent.items()}

    def both_tests(self) -> dict[str, PartScores] | None:
        """Scores of the test set by modality; None if one has no images."""
        found = {m: tested for m in MODALITIES if (tested := self.scores[m]["test"])}
        return found if len(found) == len(MODALITIES) else None


def _contradiction(result: Result) -> str | None:
    """Say in what a result does not fit itself."""
    n_classes = len(result.labels)
    if not n_classes or len(result.classes) != n_classes:
        return f"{n_classes} labels for {len(result.classes)} classes"
    if missing := [modality for modality in MODALITIES if modality not in result.modality_names]:
        return f"no name for modality {missing[0]}"
    if unknown := {label for some in result.absent.values() for label in some} - set(result.labels):
        return f"no class {min(unknown)!r}"
    for modality in MODALITIES:
        for split in ("val", "test") if modality == HIGH else ("test",):
            if split not in result.scores.get(modality, {}):
                return f"scores.{modality}.{split} is missing"
    for modality, splits in result.scores.items():
        for split, tested in splits.items():
            if tested and not _of(n_classes, tested):
                return f"scores.{modality}.{split} is not of {n_classes} classes"
    if result.harmonic and not (result.both_tests() and all(m in result.floors for m in MODALITIES)):
        return "a harmonic mean of one test set"
    return None


def _of(n_classes: int, tested: PartScores) -> bool:
    """Whether scores are of so many classes; runs of earlier versions have only the first of these."""
    rows = (tested.specificity, tested.precision, tested.confusion, tested.auc, *tested.confusion)
    return len(tested.per_class) == n_classes and all(len(row) in (0, n_classes) for row in rows)
