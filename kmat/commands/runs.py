"""Commands that do one run, or use what it has learned. What needs torch is imported when one is done."""

import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from tyro.conf import OmitArgPrefixes, Positional

from kmat.commands.base import Command
from kmat.console import AS_STORED, counted, encode_with, err, note, out, show_banner
from kmat.errors import UserError, WriteError
from kmat.options import Machine
from kmat.runs.config import PUBLISHED, RunConfig
from kmat.runs.schedule import Schedule
from kmat.storage import atomic
from kmat.tasks import TaskConfig
from kmat.tasks.files import say_skipped
from kmat.tasks.window import check_window

if TYPE_CHECKING:
    from kmat.runs.run import TrainedRun

ITS_OWN = "its own"


@dataclass(frozen=True, kw_only=True)
class Trained(Machine):
    """Options of whatever uses a run."""

    backbone: str | None = None
    """Where the run's backbone is now, if not where it was in training; its weights must be the same."""


@dataclass(frozen=True)
class Train(Machine, Command):
    """Train one method on one task and evaluate it on both modalities."""

    example: ClassVar[str] = "kmat train kmat --task mine.csv --descriptions mine.json --backbone biomedclip"
    usual: ClassVar[str] = (
        "task root descriptions backbone shots seed epochs augment views published config out resume overwrite"
    )

    run: OmitArgPrefixes[RunConfig] = field(default_factory=RunConfig)
    config: Path | None = None
    """Take all settings of the run from a config.json that another run left; none may be given beside it."""
    published: bool = False
    """Epochs, batch size and learning rate of the baseline's own publication instead of the K-MaT paper's, which are
    the defaults for every method."""
    out: Path | None = None
    """Folder of the run; runs/TASK/BACKBONE/METHOD-seedSEED by default."""
    resume: bool = False
    """Go on with an interrupted run in the same folder."""
    overwrite: bool = False
    """Delete an earlier run in the same folder first."""

    def __call__(self) -> None:
        """Run it."""
        from kmat.commands.scores import show_scores
        from kmat.model.backbone import find_device, load_backbone
        from kmat.model.features import FeatureCache
        from kmat.runs import run as runs
        from kmat.runs.folder import RunDir, slug

        if self.resume and self.overwrite:
            raise UserError("--resume and --overwrite exclude each other")
        config = self.run
        if self.config:
            if self.published or self.run != RunConfig():
                raise UserError("--config has all settings of the run: leave out the others, or change a copy of it")
            config = RunConfig.read(self.config)
        elif self.published:
            config = _as_published(self.run)
        task = config.data.load()
        name = f"{config.method.name}-seed{config.seed}"
        folder = self.out or Path("runs", slug(task.name), slug(config.backbone), name)
        if self.resume and RunDir(folder).finished:
            note(f"{folder} is already finished")
        backbone = load_backbone(config.backbone, find_device(self.device))
        with counted("training, epochs", config.schedule.epochs) as advance:
            try:
                result = runs.train(
                    config,
                    folder,
                    task=task,
                    backbone=backbone,
                    cache=FeatureCache(self.cache),
                    resume=self.resume,
                    overwrite=self.overwrite,
                    after_epoch=lambda: advance(1),
                )
            except WriteError as error:
                kept = "; what was learned is kept: go on with --resume" if RunDir(folder).checkpoint.exists() else ""
                raise WriteError(f"{error}{kept}") from error
        show_banner(task.banner)
        show_scores(result, task)
        out.print(f"run written to {folder}")


@dataclass(frozen=True)
class Evaluate(Trained, Command):
    """Evaluate a trained run on its own task or on another one with the same classes."""

    example: ClassVar[str] = "kmat evaluate runs/mine --out probabilities.csv"
    usual: ClassVar[str] = "run task root backbone out"

    run: Positional[Path]
    """Folder of the run."""
    data: OmitArgPrefixes[TaskConfig] = field(default_factory=lambda: TaskConfig(task=ITS_OWN))
    out: Path | None = None
    """CSV file for the probabilities of every image, with its label and patient."""

    def __call__(self) -> None:
        """Run it."""
        from kmat.commands.scores import show_intervals, show_scores
        from kmat.model.features import FeatureCache
        from kmat.runs import run as runs
        from kmat.runs.moved import own_task
        from kmat.runs.predictions import as_csv

        root = self.data.root
        if self.data.task == ITS_OWN and self.data != TaskConfig(task=ITS_OWN, root=root):
            raise UserError(
                "options about images need --task, but for --root; without it a run is evaluated on its own task"
            )
        trained = _load(self.run, self.backbone, self.device)
        own = trained.config.data
        if self.data.task != ITS_OWN:
            task = self.data.shown_like(own).load()
        else:
            task = own_task(self.run, own, root) if root else own.load()
        task = trained.number(task)
        found = runs.evaluate(trained.logits, task, trained.backbone, FeatureCache(self.cache))
        say_skipped((*task.skipped, *found.unreadable))
        show_banner(task.banner or trained.banner)
        show_scores(found, task)
        show_intervals(found, task)
        if self.out:
            atomic.write(self.out, as_csv(found.predictions, task.labels))


@dataclass(frozen=True)
class Predict(Trained, Command):
    """Write the class probabilities of images as CSV, with the prompts of a trained run, or the mean of several."""

    example: ClassVar[str] = "kmat predict runs/mine new-images/ --modality low --out probabilities.csv"

    run: Positional[Path]
    """Folder of the run."""
    images: Positional[tuple[Path, ...]]
    """Image files, or folders of them."""
    also: tuple[Path, ...] = ()
    """Folders of more runs, those of other seeds say: probabilities are the mean of all."""
    modality: Literal["high", "low"] = "low"
    """Which of the two the images are."""
    window: tuple[float, float] | None = None
    """Level and width through which grey values of more than 8 bits are shown; by default as in the run's training."""
    out: Path | None = None
    """CSV file; standard output by default."""

    def __call__(self) -> None:
        """Run it."""
        from kmat.model.features import FeatureCache
        from kmat.runs import run as runs
        from kmat.runs.folder import RunDir
        from kmat.runs.predict import find_images, predict

        if self.window:
            check_window("window", self.window)
        files, left_out = find_images(self.images)
        trained: list[runs.TrainedRun] = []
        for folder in (self.run, *self.also):
            known = {run.config.backbone: run.backbone for run in trained}
            loaded = known.get(RunDir(folder).config().backbone) if trained else None
            trained.append(runs.load_run(folder, loaded) if loaded else _load(folder, self.backbone, self.device))
        show_banner(". ".join(dict.fromkeys(run.banner for run in trained if run.banner)), err)
        table, skipped = predict(trained, files, self.modality, FeatureCache(self.cache), self.window)
        say_skipped((*left_out, *skipped))
        if self.out:
            atomic.write(self.out, table)
        else:
            encode_with(AS_STORED, sys.stdout)
            sys.stdout.write(table)


def _as_published(config: RunConfig) -> RunConfig:
    """Replace the schedule by the one that the method was published with."""
    schedule = PUBLISHED.get(type(config.method))
    if schedule is None:
        known = ", ".join(kind.name for kind in PUBLISHED)
        raise UserError(f"--published: expected one of the methods {known}, not {config.method.name}")
    if config.schedule != Schedule():
        raise UserError("--published sets the whole schedule: leave out --epochs, --batch-size, --lr and the like")
    return replace(config, schedule=schedule)


def _load(run: Path, backbone: str | None, device: str) -> "TrainedRun":
    """Load a run, with its backbone from where it is now."""
    from kmat.model.backbone import find_device, load_backbone
    from kmat.runs.run import load_run

    on = find_device(device)
    return load_run(run, load_backbone(backbone, on) if backbone else on)
