"""Class probabilities of loose images, as CSV."""

from collections.abc import Sequence
from pathlib import Path

import torch

from kmat import atomic
from kmat.errors import UserError
from kmat.features import FeatureCache
from kmat.run import TrainedRun
from kmat.tasks.base import Skipped
from kmat.tasks.images import SUFFIXES, LooseImages
from kmat.tasks.tree import walk


def find_images(paths: Sequence[Path]) -> tuple[list[str], list[Skipped]]:
    """Image files among ``paths`` and, by name and through links, in the folders among them.

    Returns
    -------
    list of str
    list of Skipped
        Folders that could not be entered.

    Raises
    ------
    UserError
        If a path does not exist or there is no image at all.
    """
    found: list[str] = []
    skipped: list[Skipped] = []
    for path in paths:
        if path.is_dir():
            for level in walk(path, path, follow=True):
                found += [str(level.path / name) for name in level.files if Path(name).suffix.lower() in SUFFIXES]
                skipped += [Skipped(str(lost), reason) for lost, reason in level.left_out]
        elif path.is_file():
            found.append(str(path))
        else:
            raise UserError(f"{path} does not exist")
    if not found:
        raise UserError(f"no images in {', '.join(map(str, paths))}")
    return found, skipped


def predict(run: TrainedRun, files: Sequence[str], modality: str, cache: FeatureCache) -> tuple[str, list[Skipped]]:
    """Classify images.

    Returns
    -------
    str
        CSV with ``path, predicted`` and a probability per class for each readable image.
    list of Skipped
        The unreadable ones.

    Raises
    ------
    UserError
        If none can be read.
    """
    views = cache.images(run.backbone, LooseImages(), files)
    if len(views.skipped) == len(files):
        raise UserError(f"none of the {len(files)} images can be read; the first: {views.skipped[0].reason}")
    with torch.no_grad():
        probabilities = run.logits(views.features[0].to(run.backbone.device), modality).softmax(dim=1).cpu()
    rows = (
        (files[index], run.labels[int(row.argmax())], *(f"{value:.6f}" for value in row.tolist()))
        for index, row in zip(views.kept, probabilities, strict=True)
    )
    return atomic.csv_text(("path", "predicted", *run.labels), rows), list(views.skipped)
