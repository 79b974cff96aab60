"""Class probabilities of loose images, as CSV."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

import torch

from kmat.errors import UserError
from kmat.features import FeatureCache
from kmat.run import TrainedRun
from kmat.tasks.base import Skipped
from kmat.tasks.images import SUFFIXES, LooseImages


def find_images(paths: Sequence[Path]) -> list[str]:
    """Image files among ``paths`` and, by name, in the folders among them.

    Raises
    ------
    UserError
        If a path does not exist or there is no image at all.
    """
    found: list[str] = []
    for path in paths:
        if path.is_dir():
            found += sorted(str(file) for file in path.rglob("*") if file.suffix.lower() in SUFFIXES)
        elif path.is_file():
            found.append(str(path))
        else:
            raise UserError(f"{path} does not exist")
    if not found:
        raise UserError(f"no images in {', '.join(map(str, paths))}")
    return found


def predict(run: TrainedRun, files: Sequence[str], modality: str, out: TextIO, cache: FeatureCache) -> list[Skipped]:
    """Write ``path, predicted`` and a probability per class for each readable image.

    Returns
    -------
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
    writer = csv.writer(out)
    writer.writerow(("path", "predicted", *run.labels))
    for index, row in zip(views.kept, probabilities, strict=True):
        writer.writerow((files[index], run.labels[int(row.argmax())], *(f"{value:.6f}" for value in row.tolist())))
    return list(views.skipped)
