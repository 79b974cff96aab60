"""Tasks: the embedded phantom, and a user's own images."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from kmat.errors import UserError
from kmat.tasks.base import Task
from kmat.tasks.manifest import load_manifest
from kmat.tasks.phantom import chest_phantom

TASKS: dict[str, Callable[[Path | None], Task]] = {"chest-phantom": chest_phantom}


@dataclass(frozen=True)
class TaskConfig:
    """Which images, and how to read them."""

    task: str = "chest-phantom"
    """A built-in task, a CSV file (columns path, label, modality, optionally split and patient), or a folder holding
    MODALITY/CLASS/ folders of images."""
    root: Path | None = None
    """Folder that a CSV's paths are relative to; the CSV's own by default."""
    high: str = "high"
    """What the high-end modality is called in the CSV's column or the folder's name."""
    low: str = "low"
    """What the low-end modality is called there."""
    descriptions: Path | None = None
    """JSON with sentences per class and modality; needed by the anchor. Built-in tasks bring their own."""
    patient_pattern: str | None = None
    """Regular expression whose first group is the patient in an image's path; else each file is its own patient."""
    split_seed: int = 0
    """Seed of the 50/20/30 split by patient, where the data has none."""

    def load(self) -> Task:
        """Read the task.

        Raises
        ------
        UserError
            If there is no such task, no usable image in it, or an option that it has no use for.
        """
        if self.task in TASKS:
            if replace(self, descriptions=None) != TaskConfig(task=self.task):
                raise UserError(f"{self.task} is built in: of the options about images, it takes --descriptions only")
            return TASKS[self.task](self.descriptions)
        source = Path(self.task)
        if not source.exists():
            raise UserError(f"--task {self.task!r}: neither a file or folder nor a built-in task ({', '.join(TASKS)})")
        return load_manifest(
            source,
            root=self.root,
            high=self.high,
            low=self.low,
            descriptions=self.descriptions,
            patient_pattern=self.patient_pattern,
            seed=self.split_seed,
        )
