"""What a grid compares, and where its runs are done."""

import os
from dataclasses import dataclass, field
from typing import NamedTuple

from tyro.conf import OmitArgPrefixes

from kmat.errors import UserError
from kmat.options import Machine
from kmat.runs.config import RunConfig
from kmat.runs.schedule import Schedule
from kmat.tasks import BACKBONES, TASKS, DataOptions, TaskConfig, backbones_of


class Place(NamedTuple):
    """Where methods meet."""

    task: TaskConfig
    backbone: str


@dataclass(frozen=True)
class GridConfig:
    """What to compare on."""

    task: tuple[str, ...] = tuple(BACKBONES)
    """Built-in tasks, CSV files or folders; each gives a table, and all of them their average."""
    backbone: tuple[str, ...] = ()
    """Backbones of every task; by default each task's own."""
    seeds: tuple[int, ...] = (1, 2, 3)
    """One run each."""
    shots: int = RunConfig.shots
    """Training images per class (paper)."""
    epochs: int = Schedule.epochs
    """Passes over the training images (paper)."""
    views: int | None = RunConfig.views
    """Different crops of a training image, which the epochs take in turn; by default each epoch has its own."""
    data: OmitArgPrefixes[DataOptions] = field(default_factory=DataOptions)

    def __post_init__(self) -> None:
        for name in ("task", "seeds"):
            if not (values := getattr(self, name)):
                raise UserError(f"--{name}: expected at least one")
            if len(set(values)) < len(values):
                raise UserError(f"--{name}: {', '.join(map(str, values))} names one twice")

    def places(self) -> list[Place]:
        """Every task on every backbone of it."""
        embedded = DataOptions(descriptions=self.data.descriptions)
        return [
            Place(TaskConfig(task=task, **vars(embedded if task in TASKS else self.data)), backbone)
            for task in self.task
            for backbone in self.backbone or backbones_of(task)
        ]


@dataclass(frozen=True)
class Resources(Machine):
    """Where the runs of a grid are done."""

    workers: int = min(2, os.cpu_count() or 1)
    """Processes, one thread each; 1 is this process. With --ray local, as many CPUs; with --slurm, jobs at once."""
    ray: str | None = None
    """Address of a Ray cluster to send the runs to, or local to start Ray on this machine. All its machines must see
    --out, --cache and the data under the same paths."""
    slurm: tuple[str, ...] | None = None
    """Send each run to SLURM, with these options of sbatch: partition=gpu gpus_per_node=1 time=240 (minutes), or none.
    All its machines must see --out, --cache and the data under the same paths."""

    def __post_init__(self) -> None:
        if self.workers < 1:
            raise UserError(f"--workers {self.workers}: expected at least 1")
        if self.ray is not None and self.slurm is not None:
            raise UserError("--ray and --slurm exclude each other")
