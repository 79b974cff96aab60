"""Class probabilities of loose images, as CSV."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from kmat.errors import UserError
from kmat.model.features import FeatureCache
from kmat.runs.run import TrainedRun, classify
from kmat.storage import atomic
from kmat.tasks.base import Skipped, UnreadableImageError
from kmat.tasks.files import NOT_AN_IMAGE, images_in, kind, split_ref
from kmat.tasks.images import LooseImages
from kmat.tasks.tree import walk
from kmat.tasks.window import Window


def find_images(paths: Sequence[Path]) -> tuple[list[str], list[Skipped]]:
    """Image files among ``paths`` and, through links, in the folders among them; slices where they hold several.

    Returns
    -------
    list of str
    list of Skipped
        Folders that could not be entered, and files in them that are no images or cannot be read.

    Raises
    ------
    UserError
        If a path does not exist or there is no image at all.
    """
    files: list[str] = []
    skipped: list[Skipped] = []
    for path in paths:
        if path.is_dir():
            for level in walk(path, path, follow=True):
                skipped += [Skipped(str(lost), reason) for lost, reason in level.left_out]
                for file in (level.path / name for name in level.files):
                    if kind(file):
                        files.append(str(file))
                    else:
                        skipped.append(Skipped(str(file), NOT_AN_IMAGE))
        elif path.is_file() or Path(split_ref(str(path))[0]).is_file():
            files.append(str(path))
        else:
            raise UserError(f"{path} does not exist")
    found: list[str] = []
    for ref in files:
        try:
            found += images_in(Path(split_ref(ref)[0]), ref).refs
        except UnreadableImageError as error:
            skipped.append(Skipped(ref, str(error)))
    if not found:
        first = f"; the first of {len(skipped)} skipped: {skipped[0].ref}, {skipped[0].reason}" if skipped else ""
        raise UserError(f"no images in {', '.join(map(str, paths))}{first}")
    return found, skipped


def predict(
    runs: Sequence[TrainedRun], files: Sequence[str], modality: str, cache: FeatureCache, window: Window | None = None
) -> tuple[str, list[Skipped]]:
    """Classify images by the mean of the runs' probabilities.

    Images are shown through ``window``, by default as each run's own images of that modality were.

    Returns
    -------
    str
        CSV with ``path, predicted`` and a probability per class of the modality for each readable image.
    list of Skipped
        The unreadable ones.

    Raises
    ------
    UserError
        If none can be read, or the runs have other classes.
    """
    labels = [runs[0].labels[label] for label in runs[0].present(modality)]
    found: list[Tensor] = []
    for run in runs:
        own = [run.labels[label] for label in run.present(modality)]
        if own != labels:
            raise UserError(f"no mean of runs with other classes: {', '.join(labels)} and {', '.join(own)}")
        views = cache.images(run.backbone, LooseImages(window or run.config.data.windows.get(modality)), files)
        if len(views.skipped) == len(files):
            raise UserError(f"none of the {len(files)} images can be read; the first: {views.skipped[0].reason}")
        found.append(classify(run.logits, run.backbone, views, modality))
    rows = (
        (files[index], labels[int(row.argmax())], *(f"{value:.6f}" for value in row.tolist()))
        for index, row in zip(views.kept, torch.stack(found).mean(dim=0), strict=True)
    )
    return atomic.csv_text(("path", "predicted", *labels), rows), list(views.skipped)
