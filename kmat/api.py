"""kmat from Python: what the commands do, as functions and objects; ``import kmat`` offers them.

Examples
--------
>>> import kmat
>>> task = kmat.load_task("chest-phantom")
>>> run = kmat.fit(task, "coop", backbone="phantom:seed0", shots=2, epochs=2)
>>> run
Run(CoOpConfig on chest-phantom, phantom:seed0, seed 1: H accuracy ...)
>>> image = task.images.read(task.select("low", "test")[0].ref)
>>> run.predict([image], "low").shape, run.text_features("low").shape
(torch.Size([1, 3]), torch.Size([3, 128]))
"""

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from kmat.errors import UserError
from kmat.methods import METHODS, MethodConfig
from kmat.modalities import HIGH, LOW, MODALITIES
from kmat.model.backbone import Backbone, find_device, load_backbone
from kmat.model.features import FeatureCache
from kmat.runs.config import RunConfig
from kmat.runs.folder import RunDir
from kmat.runs.result import Result
from kmat.runs.run import TrainedRun, classify, spread, train
from kmat.runs.run import load_run as load_trained
from kmat.runs.schedule import Schedule
from kmat.tasks import TaskConfig
from kmat.tasks.base import SPLITS, Record, Task, absent_classes
from kmat.tasks.descriptions import in_order
from kmat.tasks.images import ArrayImages, LooseImages, as_rgb
from kmat.tasks.window import Window

Images = NDArray[np.uint8] | Sequence[Image.Image | NDArray[np.uint8] | Path | str]
Part = tuple[NDArray[np.uint8] | Sequence[NDArray[np.uint8]], Sequence[int]]


def load_task(source: str | Path, **options: Any) -> Task:
    """Load a built-in task, a CSV file or a folder.

    Parameters
    ----------
    source, **options
        ``--task`` of the commands and their other options about images, with underscores.

    Raises
    ------
    UserError
        If there is no such task, no usable image in it, or an option that it has no use for.
    """
    return TaskConfig(task=str(source), **options).load()


def task_from_arrays(
    name: str,
    classes: Sequence[str],
    parts: Mapping[tuple[str, str], Part],
    *,
    modality_names: Mapping[str, str] | None = None,
    descriptions: Mapping[str, Mapping[str, Sequence[str]]] | None = None,
    patients: Mapping[tuple[str, str], Sequence[str]] | None = None,
) -> Task:
    """Make a task of images in memory.

    Parameters
    ----------
    name : str
    classes : sequence of str
        Names of the classes, as prompts say them.
    parts : mapping
        By modality ("high" or "low") and split ("train", "val" or "test"): images, uint8 and grey (H, W) or RGB
        (H, W, 3), and their classes as numbers.
    modality_names : mapping, optional
        What "high" and "low" are called, as in ``{"high": "CT", "low": "X-ray"}``.
    descriptions : mapping, optional
        By class and modality its sentences, as in the JSON files of ``--descriptions``.
    patients : mapping, optional
        By modality and split the patient of each image; each image is its own by default.

    Raises
    ------
    UserError
        If a part has another name, its images and labels are not as many, or a label is no class.

    Examples
    --------
    >>> pictures = np.random.default_rng(0).integers(0, 255, (4, 32, 32), dtype=np.uint8)
    >>> task = task_from_arrays("mine", ["mole", "melanoma"], {("high", "train"): (pictures, [0, 1, 0, 1])})
    >>> task.count("high", "train")
    (2, 2)
    """
    images: list[NDArray[np.uint8]] = []
    records: list[Record] = []
    for (modality, split), (pictures, labels) in parts.items():
        if modality not in MODALITIES or split not in SPLITS:
            raise UserError(f"part {modality!r}, {split!r}: expected one of {MODALITIES} and one of {SPLITS}")
        if len(pictures) != len(labels):
            raise UserError(f"{modality} {split}: {len(pictures)} images and {len(labels)} labels")
        owners = (patients or {}).get((modality, split))
        if owners is not None and len(owners) != len(labels):
            raise UserError(f"{modality} {split}: {len(labels)} images of {len(owners)} patients")
        for index, (picture, label) in enumerate(zip(pictures, labels, strict=True)):
            if not 0 <= label < len(classes):
                raise UserError(
                    f"{modality} {split}: image {index} is of class {label}, expected 0 to {len(classes) - 1}"
                )
            owner = owners[index] if owners is not None else f"{modality}-{split}-{index}"
            records.append(Record(str(len(images)), int(label), modality, split, str(owner)))
            images.append(np.asarray(picture))
    absent = absent_classes(((record.modality, record.label) for record in records), len(classes))
    return Task(
        name=name,
        labels=tuple(classes),
        classes=tuple(classes),
        modality_names=modality_names or {HIGH: HIGH, LOW: LOW},
        records=tuple(records),
        images=ArrayImages(images),
        descriptions=in_order(descriptions, classes, name, absent) if descriptions else None,
        absent=absent,
    )


class Run:
    """A trained classifier with its scores.

    Attributes
    ----------
    labels : tuple of str
    scores : mapping
        By modality and split a :class:`kmat.runs.result.PartScores`, with ``accuracy``, ``macro_f1``, ``auc`` and more;
        None where there are no images.
    harmonic : Means or None
        Harmonic means of both test sets.
    """

    def __init__(self, trained: TrainedRun, result: Result, cache: FeatureCache) -> None:
        self._trained, self._cache, self._task = trained, cache, result.task
        self.labels = trained.labels
        self.scores = result.scores
        self.harmonic = result.harmonic

    def __repr__(self) -> str:
        config = self._trained.config
        score = f"H accuracy {100 * self.harmonic.accuracy:.1f}" if self.harmonic else "not tested on both ends"
        kind = type(config.method).__name__
        return f"Run({kind} on {self._task}, {config.backbone}, seed {config.seed}: {score})"

    def predict(self, images: Images, modality: str = LOW) -> Tensor:
        """Class probabilities (N, C) of images: Pillow's, uint8 arrays, or paths of files, of slices too.

        Of a class that the modality lacks it is 0.

        Grey values of more than 8 bits are shown as in training.

        Raises
        ------
        UserError
            If one cannot be read.
        """
        source = _Given(images, self._trained.config.data.windows.get(modality))
        refs = [str(index) for index in range(len(images))]
        views = self._cache.images(self._trained.backbone, source, refs)
        if views.skipped:
            raise UserError(f"image {views.skipped[0].ref}: {views.skipped[0].reason}")
        probabilities = classify(self._trained.logits, self._trained.backbone, views, modality)
        return spread(probabilities, self._trained.present(modality), len(self.labels))

    def text_features(self, modality: str) -> Tensor:
        """Unit text features (C, D) of the modality's classes; CoCoOp, whose depend on the image, has none.

        Raises
        ------
        UserError
            If the method has none.
        """
        if self._trained.text is None:
            raise UserError(f"{type(self._trained.config.method).__name__} has text features of each image only")
        return self._trained.text[modality]


def fit(
    task: Task,
    method: str | MethodConfig = "kmat",
    *,
    backbone: str | Backbone = "phantom:seed0",
    shots: int = 16,
    seed: int = 1,
    epochs: int = 50,
    augment: Literal["auto", "none", "crop"] = "auto",
    views: int | None = None,
    out: str | Path | None = None,
    cache: Path | None = None,
    device: str = "auto",
) -> Run:
    """Draw a few high-end images of each class, learn, and test on both ends.

    Parameters
    ----------
    task : Task
    method : str or a method's configuration
        One of ``kmat.METHODS`` by name, with its default options, or set by hand.
    backbone, shots, seed, epochs, augment, views, cache, device
        As of ``kmat train``.
    out : path, optional
        Folder for all that ``kmat train`` leaves; nothing is kept by default.

    Raises
    ------
    UserError
        As ``kmat train`` ends with an error.
    """
    if isinstance(method, str):
        if method not in METHODS:
            raise UserError(f"unknown method {method!r}; known: {', '.join(METHODS)}")
        method = METHODS[method]()
    loaded = backbone if isinstance(backbone, Backbone) else load_backbone(backbone, find_device(device))
    config = RunConfig(
        method=method,
        data=TaskConfig(task=task.name, high_window=task.windows.get(HIGH), low_window=task.windows.get(LOW)),
        backbone=loaded.name,
        shots=shots,
        seed=seed,
        augment=augment,
        views=views,
        schedule=Schedule(epochs=epochs),
    )
    features = FeatureCache(cache)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(out or temporary)
        train(config, folder, task=task, backbone=loaded, cache=features)
        return Run(load_trained(folder, loaded), RunDir(folder).result(), features)


def load_run(folder: str | Path, *, cache: Path | None = None, device: str = "auto") -> Run:
    """Load what ``kmat train`` or :func:`fit` left in a folder.

    Raises
    ------
    UserError
        If it holds no finished run, or the backbone's weights are others now.
    """
    return Run(load_trained(Path(folder), find_device(device)), RunDir(Path(folder)).result(), FeatureCache(cache))


class _Given:
    """Images as the caller has them, by their number."""

    def __init__(self, images: Images, window: Window | None) -> None:
        self._images, self._window = images, window
        self._files = LooseImages(window)

    def content(self, ref: str) -> bytes:
        """Return the file's, or the pixels and their size."""
        image = self._images[int(ref)]
        if isinstance(image, str | Path):
            return self._files.content(str(image))
        shown = self.read(ref)  # which depends on a palette, a window and more
        return repr(shown.size).encode() + shown.tobytes()

    def read(self, ref: str) -> Image.Image:
        """Return the image as RGB."""
        image = self._images[int(ref)]
        if isinstance(image, str | Path):
            return self._files.read(str(image))
        return as_rgb(image if isinstance(image, Image.Image) else Image.fromarray(image), self._window)
