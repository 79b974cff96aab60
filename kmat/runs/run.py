"""One run from images to scores: train, evaluate, and load again."""

import hashlib
import platform
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from kmat.console import note
from kmat.errors import UserError
from kmat.methods.base import Method, Setting
from kmat.modalities import HIGH, LOW, MODALITIES
from kmat.model.backbone import Backbone, load_backbone
from kmat.model.features import FeatureCache, Views
from kmat.model.names import SHIPPED
from kmat.runs.config import RunConfig
from kmat.runs.evaluation import Means, certainty, floors, harmonic_mean, score
from kmat.runs.folder import RunDir
from kmat.runs.predictions import Predictions, as_csv
from kmat.runs.result import PartScores, Result
from kmat.runs.training import fit
from kmat.storage import atomic
from kmat.storage.tensors import save_tensors
from kmat.tasks.base import Skipped, Task, present
from kmat.tasks.files import say_skipped
from kmat.tasks.images import LooseImages
from kmat.tasks.manifest import write_manifest
from kmat.tasks.splits import Draw, draw_few_shot

# Low-end images are for testing only; the high-end validation set is where settings may be chosen.
EVALUATED = ((HIGH, "val"), (HIGH, "test"), (LOW, "test"))

_PACKAGES = (
    *("fgwot", "torch", "numba", "open_clip_torch", "transformers", "timm", "safetensors", "pillow"),
    *("pydicom", "nibabel"),
)

Logits = Callable[[Tensor, str], Tensor]


def train(
    config: RunConfig,
    folder: Path,
    *,
    task: Task,
    backbone: Backbone,
    cache: FeatureCache,
    resume: bool = False,
    overwrite: bool = False,
    after_epoch: Callable[[], None] = lambda: None,
) -> Result:
    """Draw the shots, learn the prompts, evaluate them, and leave it all in ``folder``.

    Returns
    -------
    Result
        As in ``result.json``; read back, with ``resume``, if the run was finished.

    Raises
    ------
    UserError
        If the folder is taken (see :meth:`RunDir.check`) or another process is at work in it, or the task does not
        suit the method.
    """
    run = RunDir(folder)
    draw = draw_few_shot(task, config.shots, config.seed)
    if len({record.label for record in draw.records}) < 2:
        raise UserError(
            f"{task.name}: need readable training images of modality {task.modality_names[HIGH]!r} in at least two "
            f"classes, found {len(draw.records)} images; see `kmat tasks` with the same options"
        )
    for label, found in draw.short:
        note(f"class {task.labels[label]!r} has {found} readable training images, fewer than {config.shots}")
    identity = {
        "config": config.to_json(),
        "task": task.fingerprint,
        "backbone": backbone.fingerprint,
        "draw": {r.ref: hashlib.sha256(task.images.content(r.ref)).hexdigest() for r in draw.records},
    }
    run.check(identity, resume=resume, overwrite=overwrite)
    if run.finished and not overwrite:
        return run.result()
    if backbone.name.partition(":")[0] in SHIPPED and not task.banner:
        note(f"{backbone.name} is a tiny model that has seen no image like these: choose a --backbone, biomedclip say")
    setting = Setting(backbone, task, cache, config.seed)
    method = config.method.build(setting).to(backbone.device)
    with run.lock:
        run.check(identity, resume=resume, overwrite=overwrite)  # again: another process may have been faster
        if run.finished and not overwrite:
            return run.result()
        run.begin(identity, overwrite=overwrite)
        return _learn(run, config, draw, setting, method, after_epoch)


def _learn(
    run: RunDir, config: RunConfig, draw: Draw, setting: Setting, method: Method, after_epoch: Callable[[], None]
) -> Result:
    """Do what :func:`train` does once the folder is ours."""
    backbone, task, cache = setting.backbone, setting.task, setting.cache
    write_manifest(run.split, task, draw.records + tuple(r for key in EVALUATED for r in task.select(*key)))
    run.write("versions.json", _versions())

    augmented = config.augment == "crop" or (config.augment == "auto" and task.augment)
    views = cache.images(
        backbone,
        task.images,
        [record.ref for record in draw.records],
        crop=config.crop if augmented else None,
        seed=config.seed,
        epochs=min(config.views or config.schedule.epochs, config.schedule.epochs),
    )
    number = {label: position for position, label in enumerate(task.present(HIGH))}
    labels = torch.tensor([number[record.label] for record in draw.records], device=backbone.device)
    fit(
        method,
        views.features.to(backbone.device),
        labels,
        config.schedule,
        config.seed,
        run.checkpoint,
        run.metrics,
        after_epoch,
    )
    diagnostics = _total_diagnostics(run.epochs())
    for name, count in diagnostics.items():
        if count:
            note(f"{run.path}: {name.replace('_', ' ')}: {count}")
    with torch.no_grad():
        found = evaluate(method.logits, task, backbone, cache)
        fixed = () if method.image_conditional else MODALITIES
        text = {f"text_features.{modality}": method.text_features(modality).clone() for modality in fixed}
    save_tensors(run.prompts, {**method.state_dict(), **text})
    atomic.write(run.predictions, as_csv(found.predictions, task.labels))
    _say_collapsed(found.predictions, task)
    skipped = (*task.skipped, *draw.skipped, *found.unreadable)
    run.write_skipped(skipped)
    say_skipped(skipped, run.path / "skipped.csv")
    result = Result(
        task=task.name,
        backbone=config.backbone,
        method=config.to_json()["method"],
        seed=config.seed,
        banner=task.banner,
        labels=task.labels,
        classes=task.classes,
        modality_names=dict(task.modality_names),
        augmented=augmented,
        train_images=len(draw.records),
        skipped=len(skipped),
        diagnostics=diagnostics,
        scores=found.scores,
        harmonic=found.harmonic,
        floors=found.floors,
        absent={modality: tuple(task.labels[c] for c in sorted(some)) for modality, some in task.absent.items()},
    )
    run.write("result.json", result.to_json())
    run.checkpoint.unlink(missing_ok=True)
    return result


class Evaluation(NamedTuple):
    """What a classifier is worth on a task.

    Attributes
    ----------
    scores, harmonic, floors
        As of :class:`kmat.runs.result.Result`.
    predictions : tuple of Predictions
        Of each part that has images.
    unreadable : tuple of Skipped
        Images that could not be read.
    """

    scores: dict[str, dict[str, PartScores | None]]
    harmonic: Means | None
    floors: dict[str, dict[str, Means]]
    predictions: tuple[Predictions, ...]
    unreadable: tuple[Skipped, ...]


def evaluate(logits: Logits, task: Task, backbone: Backbone, cache: FeatureCache) -> Evaluation:
    """Score a classifier on every evaluated part of a task that has images."""
    n_classes = len(task.classes)
    table: dict[str, dict[str, PartScores | None]] = {HIGH: {}, LOW: {}}
    lowest: dict[str, dict[str, Means]] = {}
    skipped: list[Skipped] = []
    parts: list[Predictions] = []
    for modality, split in EVALUATED:
        records = task.select(modality, split)
        views = cache.images(backbone, task.images, [record.ref for record in records])
        skipped += views.skipped
        if not views.kept:
            table[modality][split] = None
            continue
        own = task.present(modality)
        probabilities = spread(classify(logits, backbone, views, modality), own, n_classes)
        part = Predictions(tuple(records[index] for index in views.kept), probabilities)
        parts.append(part)
        plain, sure = score(part.predicted, part.labels, n_classes), certainty(probabilities, part.labels)
        specificity = tuple(value if label in own else None for label, value in enumerate(plain.specificity))
        table[modality][split] = PartScores(**vars(replace(plain, specificity=specificity)), **vars(sure))
        if split == "test":
            lowest[modality] = floors(torch.tensor([own.index(label) for label in part.labels.tolist()]), len(own))
    high, low = table[HIGH]["test"], table[LOW]["test"]
    harmonic = (
        Means(harmonic_mean(high.accuracy, low.accuracy), harmonic_mean(high.macro_f1, low.macro_f1))
        if high and low
        else None
    )
    return Evaluation(table, harmonic, lowest, tuple(parts), tuple(skipped))


def classify(logits: Logits, backbone: Backbone, views: Views, modality: str) -> Tensor:
    """Probabilities (N, C) of the classes that the modality has, of images without crops, on the CPU."""
    with torch.no_grad():
        return logits(views.features[0].to(backbone.device), modality).softmax(dim=1).cpu()


def spread(probabilities: Tensor, own: Sequence[int], n_classes: int) -> Tensor:
    """Put probabilities of some classes into columns of all; the others' are 0.

    Examples
    --------
    >>> spread(torch.tensor([[0.25, 0.75]]), (0, 2), 3).tolist()
    [[0.25, 0.0, 0.75]]
    """
    whole = probabilities.new_zeros(len(probabilities), n_classes)
    whole[:, list(own)] = probabilities
    return whole


@dataclass(frozen=True)
class TrainedRun:
    """A finished run, ready to classify.

    Attributes
    ----------
    config : RunConfig
    labels : tuple of str
    absent : mapping
        Classes that a modality lacks, by modality, where the two do not have the same.
    banner : str
    backbone : Backbone
    logits : callable
        Scores (B, C) of unit image features (B, D) of a modality, of the classes that it has.
    text : mapping, optional
        Unit text features (C, D) by modality, of its classes; None if they depend on the image.
    """

    config: RunConfig
    labels: tuple[str, ...]
    absent: Mapping[str, frozenset[int]]
    banner: str
    backbone: Backbone
    logits: Logits
    text: Mapping[str, Tensor] | None

    def present(self, modality: str) -> tuple[int, ...]:
        """Numbers of the classes that a modality has."""
        return present(len(self.labels), self.absent, modality)

    def number(self, task: Task) -> Task:
        """Number a task's classes as the run does, and let each modality have those that it has in the run.

        Raises
        ------
        UserError
            If a modality has images of a class that it does not have in the run.
        """
        if unknown := sorted(set(task.labels) - set(self.labels)):
            raise UserError(f"{task.name} has classes that the run does not know: {', '.join(unknown)}")
        records = tuple(replace(each, label=self.labels.index(task.labels[each.label])) for each in task.records)
        for modality in MODALITIES:
            there = {record.label for record in records if record.modality == modality}
            if strange := sorted(there - set(self.present(modality))):
                named = ", ".join(self.labels[label] for label in strange)
                raise UserError(
                    f"{task.name} has {modality}-end images of classes that the run does not know there: {named}"
                )
        return replace(task, labels=self.labels, classes=self.labels, records=records, absent=self.absent)


def load_run(folder: Path, on: str | torch.device | Backbone = "cpu") -> TrainedRun:
    """Load a finished run, its backbone to a device if it is not given.

    Raises
    ------
    UserError
        If the folder holds no finished run, or its backbone's weights are no longer those it was trained with.
    """
    run = RunDir(folder)
    if not run.finished:
        raise UserError(f"{folder} holds no finished run")
    config, result = run.config(), run.result()
    backbone = on if isinstance(on, Backbone) else load_backbone(config.backbone, on)
    if backbone.fingerprint != run.identity()["backbone"]:
        raise UserError(f"backbone {backbone.name!r} is not the one that {folder} was trained with")
    try:
        text, logits = _classifier(config, backbone, result, run.tensors())
    except (KeyError, RuntimeError) as error:  # whole, but of another configuration
        raise UserError(f"{run.prompts} does not belong to {folder / 'config.json'} ({error})") from error
    return TrainedRun(config, result.labels, result.lacking(), result.banner, backbone, logits, text)


def _classifier(
    config: RunConfig, backbone: Backbone, result: Result, tensors: dict[str, Tensor]
) -> tuple[Mapping[str, Tensor] | None, Logits]:
    """Classify by the stored text features; without them, by the method itself, rebuilt from its state."""
    if f"text_features.{HIGH}" in tensors:
        text = {modality: tensors[f"text_features.{modality}"].to(backbone.device) for modality in MODALITIES}
        for modality, features in text.items():
            if len(features) != (n := len(present(len(result.labels), result.lacking(), modality))):
                raise RuntimeError(f"text features that are not of {n} classes")
        return text, lambda images, modality: backbone.logit_scale * images @ text[modality].T
    task = Task(
        name=result.task,
        labels=result.labels,
        classes=result.classes,
        modality_names=result.modality_names,
        records=(),
        images=LooseImages(),
        absent=result.lacking(),
    )
    method = config.method.build(Setting(backbone, task, FeatureCache(), config.seed)).to(backbone.device)
    method.load_state_dict(tensors)
    return None, method.requires_grad_(False).logits


def _say_collapsed(parts: Sequence[Predictions], task: Task) -> None:
    """Tell of parts with several classes that are all taken for one."""
    for part in parts:
        chosen = part.predicted.unique()
        if len(chosen) == 1 and len(part.labels.unique()) > 1:
            record = part.records[0]
            where = f"{task.modality_names[record.modality]} {record.split}"
            note(f"{task.name}: all {len(part.records)} {where} images are taken for {task.labels[int(chosen)]!r}")


def _total_diagnostics(epochs: Sequence[dict[str, Any]]) -> dict[str, int]:
    """Sum each count that :meth:`Method.diagnostics` gave, over all epochs, those before an interruption included."""
    total: Counter[str] = Counter()
    for line in epochs:
        total.update(line["diagnostics"])
    return dict(total)


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version(), "platform": platform.platform()}
    for package in _PACKAGES:
        with suppress(PackageNotFoundError):  # there are machines without Numba, and without extras
            found[package] = version(package)
    return found
