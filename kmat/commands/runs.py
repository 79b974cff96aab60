"""Commands that do one run, or use what it has learned."""

import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from tyro.conf import OmitArgPrefixes, Positional

from kmat.console import AS_STORED, counted, encode_with, err, note, out, plain_table, show_banner
from kmat.errors import UserError, WriteError
from kmat.modalities import MODALITIES
from kmat.model.backbone import find_device, load_backbone
from kmat.model.features import FeatureCache
from kmat.runs import run as runs
from kmat.runs.config import PUBLISHED, RunConfig
from kmat.runs.evaluation import intervals
from kmat.runs.folder import RunDir, slug
from kmat.runs.moved import own_task
from kmat.runs.predict import find_images, predict
from kmat.runs.predictions import as_csv
from kmat.runs.result import Result
from kmat.runs.run import Evaluation
from kmat.runs.training import Schedule
from kmat.storage import atomic
from kmat.tasks import TaskConfig
from kmat.tasks.base import Task
from kmat.tasks.window import check_window

ITS_OWN = "its own"


@dataclass(frozen=True)
class Train:
    """Train one method on one task and evaluate it on both modalities."""

    run: OmitArgPrefixes[RunConfig] = field(default_factory=RunConfig)
    config: Path | None = None
    """Take all settings of the run from a config.json that another run left; none may be given beside it."""
    published: bool = False
    """Epochs, batch size and learning rate of the baseline's own publication instead of the K-MaT paper's, which are
    the defaults for every method."""
    out: Path | None = None
    """Folder of the run; runs/TASK/BACKBONE/METHOD-seedSEED by default."""
    cache: Path | None = None
    """Folder of the feature cache; $XDG_CACHE_HOME/kmat or ~/.cache/kmat by default."""
    device: str = "auto"
    """Where the backbone runs: auto is CUDA if there is any."""
    resume: bool = False
    """Go on with an interrupted run in the same folder."""
    overwrite: bool = False
    """Delete an earlier run in the same folder first."""

    def __call__(self) -> None:
        """Run it."""
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
        folder = self.out or Path(
            "runs", slug(task.name), slug(config.backbone), f"{config.method_name}-seed{config.seed}"
        )
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
        _show_scores(result, task)
        out.print(f"run written to {folder}")


@dataclass(frozen=True)
class Evaluate:
    """Evaluate a trained run on its own task or on another one with the same classes."""

    run: Positional[Path]
    """Folder of the run."""
    data: OmitArgPrefixes[TaskConfig] = field(default_factory=lambda: TaskConfig(task=ITS_OWN))
    backbone: str | None = None
    """Where the run's backbone is now, if not where it was in training; its weights must be the same."""
    cache: Path | None = None
    """Folder of the feature cache; $XDG_CACHE_HOME/kmat or ~/.cache/kmat by default."""
    device: str = "auto"
    """Where the backbone runs: auto is CUDA if there is any."""
    out: Path | None = None
    """CSV file for the probabilities of every image, with its label and patient."""

    def __call__(self) -> None:
        """Run it."""
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
        task = _with_labels(task, trained)
        found = runs.evaluate(trained.logits, task, trained.backbone, FeatureCache(self.cache))
        runs.say_skipped((*task.skipped, *found.unreadable))
        show_banner(task.banner or trained.banner)
        _show_scores(found, task)
        _show_intervals(found, task)
        if self.out:
            atomic.write(self.out, as_csv(found.predictions, task.labels))


@dataclass(frozen=True)
class Predict:
    """Write the class probabilities of images as CSV, with the prompts of a trained run, or the mean of several."""

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
    backbone: str | None = None
    """Where the run's backbone is now, if not where it was in training; its weights must be the same."""
    cache: Path | None = None
    """Folder of the feature cache; $XDG_CACHE_HOME/kmat or ~/.cache/kmat by default."""
    device: str = "auto"
    """Where the backbone runs: auto is CUDA if there is any."""

    def __call__(self) -> None:
        """Run it."""
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
        runs.say_skipped((*left_out, *skipped))
        if self.out:
            atomic.write(self.out, table)
        else:
            encode_with(AS_STORED, sys.stdout)
            sys.stdout.write(table)


def _load(run: Path, backbone: str | None, device: str) -> runs.TrainedRun:
    """Load a run, with its backbone from where it is now."""
    on = find_device(device)
    return runs.load_run(run, load_backbone(backbone, on) if backbone else on)


def _as_published(config: RunConfig) -> RunConfig:
    """Replace the schedule by the one that the method was published with."""
    if config.method_name not in PUBLISHED:
        raise UserError(f"--published: expected one of the methods {', '.join(PUBLISHED)}, not {config.method_name}")
    if config.schedule != Schedule():
        raise UserError("--published sets the whole schedule: leave out --epochs, --batch-size, --lr and the like")
    return replace(config, schedule=PUBLISHED[config.method_name])


def _with_labels(task: Task, run: runs.TrainedRun) -> Task:
    """Number a task's classes as a run does, and let each modality have those that it has in the run."""
    labels = run.labels
    if unknown := sorted(set(task.labels) - set(labels)):
        raise UserError(f"{task.name} has classes that the run does not know: {', '.join(unknown)}")
    records = tuple(replace(record, label=labels.index(task.labels[record.label])) for record in task.records)
    for modality in MODALITIES:
        there = {record.label for record in records if record.modality == modality}
        if strange := sorted(there - set(run.present(modality))):
            named = ", ".join(labels[label] for label in strange)
            raise UserError(
                f"{task.name} has {modality}-end images of classes that the run does not know there: {named}"
            )
    return replace(task, labels=labels, classes=labels, records=records, absent=run.absent)


def _show_intervals(found: Evaluation, task: Task) -> None:
    """Print how far chance may have moved the test scores."""
    table = plain_table("95 % intervals in %, bootstrap over patients")
    for name in ("test set", "patients", "accuracy", "macro-F1", "macro AUC"):
        table.add_column(name, justify="left" if name == "test set" else "right")
    for part in found.predictions:
        modality, split = part.records[0].modality, part.records[0].split
        patients = [record.patient for record in part.records]
        ends = intervals(part.probabilities, part.labels, patients)
        cells = (ends.get(name) for name in ("accuracy", "macro_f1", "macro_auc"))
        texts = (f"{100 * pair[0]:.1f} to {100 * pair[1]:.1f}" if pair else "-" for pair in cells)
        table.add_row(f"{task.modality_names[modality]} {split}", str(len(set(patients))), *texts)
    out.print(table)


def _show_scores(result: Result | Evaluation, task: Task) -> None:
    """Print one column per evaluated part and one row per metric and class."""
    parts = {
        f"{task.modality_names[modality]} {split}": scores
        for modality in MODALITIES
        for split, scores in result.scores[modality].items()
        if scores is not None
    }
    table = plain_table(f"{task.name}: scores in %")
    table.add_column("")
    for name in parts:
        table.add_column(name, justify="right")
    table.add_row("images", *(str(scores.n) for scores in parts.values()))
    for metric, name in (("accuracy", "accuracy"), ("macro_f1", "macro-F1"), ("macro_auc", "macro AUC")):
        values = [getattr(scores, metric) for scores in parts.values()]
        table.add_row(name, *("-" if value is None else f"{100 * value:.1f}" for value in values))
    table.add_row("calibration error (ECE)", *(f"{100 * scores.ece:.1f}" for scores in parts.values()))
    for index, label in enumerate(task.labels):
        recalls = [scores.per_class[index] for scores in parts.values()]
        table.add_row(f"accuracy in {label!r}", *("-" if r is None else f"{100 * r:.1f}" for r in recalls))
    out.print(table)
    if one_sided := task.one_sided():
        out.print(f"classes {one_sided}", highlight=False)
    if result.harmonic:
        accuracy, f1 = 100 * result.harmonic.accuracy, 100 * result.harmonic.macro_f1
        out.print(f"harmonic mean of both test sets: accuracy {accuracy:.1f}, macro-f1 {f1:.1f}", highlight=False)
    else:
        note("no low-end test images: no harmonic mean" if parts else "no images to evaluate on")
