"""Tasks: the embedded benchmarks, the paper's four on downloaded data, and a user's own images."""

import os
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path

from kmat.embedded import EMBEDDED
from kmat.errors import UserError
from kmat.modalities import HIGH, LOW
from kmat.tasks.base import Task
from kmat.tasks.embedded import load_embedded
from kmat.tasks.manifest import load_manifest
from kmat.tasks.paper import PAPER_TASKS, SLICES, load_paper_task
from kmat.tasks.window import Window, check_window

TASKS: dict[str, Callable[[Path | None], Task]] = {
    name: partial(load_embedded, bench) for name, bench in EMBEDDED.items()
}
BUILT_IN = (*TASKS, *PAPER_TASKS)

BACKBONES: dict[str, tuple[str, ...]] = {name: bench.backbones for name, bench in EMBEDDED.items()}


def backbones_of(task: str) -> tuple[str, ...]:
    """Return what a grid over a task runs on unless told otherwise.

    Examples
    --------
    >>> backbones_of("chest-phantom"), backbones_of("mine.csv")
    (('phantom:seed0', 'phantom:seed1', 'phantom:seed2'), ('biomedclip',))
    """
    return BACKBONES.get(task, ("biomedclip",))


@dataclass(frozen=True, kw_only=True)
class DataOptions:
    """How to read the images of any task; each has use for some of these."""

    root: Path | None = None
    """Folder that a CSV's paths are relative to, the CSV's own by default; absolute paths must lead into it. For a task
    of the paper, the folder that holds the downloads."""
    follow_links: bool = False
    """Follow links that lead out of that folder too; those that stay in it always are."""
    high: str = "high"
    """What the high-end modality is called in the CSV's column or the folder's name."""
    low: str = "low"
    """What the low-end modality is called there."""
    descriptions: Path | None = None
    """JSON with sentences per class and modality; needed by the anchor. Built-in tasks bring their own."""
    patient_pattern: str | None = None
    """Regular expression whose first group is the patient in an image's path; else each file is its own patient."""
    high_window: tuple[float, float] | None = None
    """Level and width through which DICOM, NIfTI and images of more than 8 bits of the high end are shown: 40 400 for
    soft tissue in CT. By default the window in a DICOM file, else from the 0.5th to the 99.5th percentile."""
    low_window: tuple[float, float] | None = None
    """The same for the low end."""
    split_seed: int = 0
    """Seed of the split by patient, where the data has none."""
    labels: Path | None = None
    """TOML or JSON with other classes or labels for a task of the paper."""
    slices: int = SLICES
    """Of each CT scan of the task chest (the paper does not say)."""

    def __post_init__(self) -> None:
        for modality, window in self.windows.items():
            check_window(f"{modality}_window", window)

    @property
    def windows(self) -> dict[str, Window]:
        """Windows by modality, of those that have one."""
        given = {HIGH: self.high_window, LOW: self.low_window}
        return {modality: window for modality, window in given.items() if window is not None}


@dataclass(frozen=True)
class TaskConfig(DataOptions):
    """Which images, and how to read them."""

    task: str = "chest-phantom"
    """A built-in task, a CSV file (columns path, label, modality, optionally split and patient), or a folder holding
    MODALITY/CLASS/ folders of images."""

    def load(self) -> Task:
        """Read the task.

        Raises
        ------
        UserError
            If there is no such task, no usable image in it, or an option that it has no use for.
        """
        if self.task in TASKS:
            self._accept("descriptions")
            return TASKS[self.task](self.descriptions)
        if self.task in PAPER_TASKS:
            own = ("slices",) if self.task == "chest" else ()
            self._accept("root", "follow_links", "labels", "descriptions", "split_seed", *own)
            return load_paper_task(
                self.task,
                self.root,
                labels=self.labels,
                descriptions=self.descriptions,
                slices=self.slices,
                follow_links=self.follow_links,
                seed=self.split_seed,
            )
        self._accept(
            *("root", "follow_links", "high", "low", "descriptions", "patient_pattern"),
            *("high_window", "low_window", "split_seed"),
        )
        source = Path(self.task)
        if not os.path.exists(source):  # noqa: PTH110 (unlike Path's, false for a name that is too long)
            raise UserError(
                f"--task {self.task!r}: neither a file or folder nor a built-in task ({', '.join(BUILT_IN)})"
            )
        return load_manifest(
            source,
            root=self.root,
            high=self.high,
            low=self.low,
            descriptions=self.descriptions,
            patient_pattern=self.patient_pattern,
            follow_links=self.follow_links,
            windows=self.windows,
            seed=self.split_seed,
        )

    def shown_like(self, other: "TaskConfig") -> "TaskConfig":
        """Show images through the other's windows, where this one says nothing: as what was learned from."""
        if self.task in BUILT_IN:
            return self
        windows = {**other.windows, **self.windows}
        return replace(self, high_window=windows.get(HIGH), low_window=windows.get(LOW))

    def _accept(self, *options: str) -> None:
        """Refuse options that the task has no use for."""
        for option in fields(TaskConfig):
            if option.name not in ("task", *options) and getattr(self, option.name) != option.default:
                name, *taken = (f"--{name}".replace("_", "-") for name in (option.name, *options))
                raise UserError(f"{name} means nothing to --task {self.task}, which takes {', '.join(taken)}")
