"""What a task is: two modalities under one class list."""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from PIL import Image

from kmat.modalities import HIGH, LOW, MODALITIES

SPLITS = ("train", "val", "test")

MAX_PIXELS = 100_000_000
"""A mammogram has 30 million; whole slides must be cut into tiles."""

MAX_SLICES = 10_000
"""Of one file; what a damaged header says may be without end."""

# Sentences by modality, then by class in the task's order, of the classes that the modality has.
Descriptions = Mapping[str, tuple[tuple[str, ...], ...]]


class UnreadableImageError(Exception):
    """An image that cannot be decoded; the message says why."""


@dataclass(frozen=True)
class Skipped:
    """A file or row that was left out, and why."""

    ref: str
    reason: str


@dataclass(frozen=True)
class Record:
    """One labelled image.

    Attributes
    ----------
    ref : str
        Where the task's image source finds it.
    label : int
        Index into the task's classes.
    modality, split : str
        ``high`` or ``low``; ``train``, ``val`` or ``test``.
    patient : str
        Images of one patient never lie in different splits.
    """

    ref: str
    label: int
    modality: str
    split: str
    patient: str


class ImageSource(Protocol):
    """Reads the images of a task by reference."""

    def read(self, ref: str) -> Image.Image:
        """Decode an image; raises :class:`UnreadableImageError`."""

    def content(self, ref: str) -> bytes:
        """Return what identifies the image's content, for cache keys; raises :class:`UnreadableImageError`."""


@dataclass(frozen=True)
class Task:
    """A labelled set of images of a high-end and, if there is one, a low-end modality.

    Attributes
    ----------
    name : str
    labels : tuple of str
        Class names as the data has them.
    classes : tuple of str
        The same classes as they are written in a prompt.
    modality_names : mapping
        What ``high`` and ``low`` are: ``{"high": "CT", "low": "chest X-ray"}``.
    records : tuple of Record
    images : ImageSource
    descriptions : mapping, optional
        Sentences by modality and class, for the anchor and the description ensemble.
    banner : str
        Shown with every number that comes from this task; empty for a user's own data.
    augment : bool
        Whether training images are cropped at random unless the user says otherwise.
    skipped : tuple of Skipped
        What the data holds but the task leaves out.
    windows : mapping
        Level and width that grey values are shown through, of those modalities that have one given.
    tags : mapping
        What DICOM files call their modality, by reference.
    absent : mapping
        Classes that a modality lacks, by modality, where the two do not have the same: their numbers.
    """

    name: str
    labels: tuple[str, ...]
    classes: tuple[str, ...]
    modality_names: Mapping[str, str]
    records: tuple[Record, ...]
    images: ImageSource
    descriptions: Descriptions | None = None
    banner: str = ""
    augment: bool = True
    skipped: tuple[Skipped, ...] = ()
    windows: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)
    absent: Mapping[str, frozenset[int]] = field(default_factory=dict)

    def present(self, modality: str) -> tuple[int, ...]:
        """Numbers of the classes that a modality has."""
        return present(len(self.classes), self.absent, modality)

    def one_sided(self) -> str:
        """Say which classes only one modality has; empty if both have the same."""
        return "; ".join(
            f"only in {self.modality_names[other]}: {', '.join(self.labels[c] for c in sorted(self.absent[modality]))}"
            for modality, other in ((LOW, HIGH), (HIGH, LOW))
            if self.absent.get(modality)
        )

    def select(self, modality: str, split: str) -> tuple[Record, ...]:
        """Records of one modality and split, in the task's order."""
        return tuple(record for record in self.records if (record.modality, record.split) == (modality, split))

    def count(self, modality: str, split: str) -> tuple[int, ...]:
        """Images per class."""
        labels = [record.label for record in self.select(modality, split)]
        return tuple(labels.count(label) for label in range(len(self.classes)))

    @property
    def fingerprint(self) -> str:
        """SHA-256 of everything but pixels, which are in the feature cache's keys."""
        digest = hashlib.sha256(repr((self.name, self.labels, self.classes, self.records)).encode())
        digest.update(repr(sorted(self.descriptions.items()) if self.descriptions else None).encode())
        if self.windows:
            digest.update(repr(sorted(self.windows.items())).encode())
        if self.absent:
            digest.update(repr(sorted((modality, sorted(some)) for modality, some in self.absent.items())).encode())
        return digest.hexdigest()


def present(n_classes: int, absent: Mapping[str, frozenset[int]], modality: str) -> tuple[int, ...]:
    """Numbers of the classes that a modality has.

    Examples
    --------
    >>> present(3, {"low": frozenset({1})}, "low"), present(3, {"low": frozenset({1})}, "high")
    ((0, 2), (0, 1, 2))
    """
    return tuple(label for label in range(n_classes) if label not in absent.get(modality, ()))


def absent_classes(images: Iterable[tuple[str, int]], n_classes: int) -> dict[str, frozenset[int]]:
    """Which classes a modality lacks: those without an image, unless it has no image at all.

    Parameters
    ----------
    images : iterable of (str, int)
        Modality and class of each.
    n_classes : int

    Examples
    --------
    >>> absent_classes([("high", 0), ("high", 1), ("low", 0)], 2), absent_classes([("high", 0), ("high", 1)], 2)
    ({'low': frozenset({1})}, {})
    """
    found: dict[str, set[int]] = {modality: set() for modality in MODALITIES}
    for modality, label in images:
        found[modality].add(label)
    return {
        modality: frozenset(range(n_classes)) - some
        for modality, some in found.items()
        if some and len(some) < n_classes
    }
