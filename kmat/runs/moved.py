"""A run's own images, where they lie now: a run may be evaluated on another machine than it was trained on."""

import hashlib
from dataclasses import replace
from pathlib import Path

from kmat.errors import UserError
from kmat.runs.folder import RunDir
from kmat.tasks import BUILT_IN, TaskConfig
from kmat.tasks.base import Task, UnreadableImageError


def own_task(folder: Path, data: TaskConfig, root: Path) -> Task:
    """Read the images that a run used from another folder.

    Of a user's images those in the run's ``split.csv`` are read, so that neither the CSV file nor the names of folders
    need be there.

    Parameters
    ----------
    folder : Path
        Of the run.
    data : TaskConfig
        Its own.
    root : Path
        What the paths in ``split.csv`` are relative to; for a task of the paper, the folder of the downloads.

    Raises
    ------
    UserError
        If the images that the run learned from are not there, or are not the same.
    """
    run = RunDir(folder)
    moved = replace(data, root=root, descriptions=None)
    if data.task in BUILT_IN:
        task = moved.load()
    else:
        task = replace(replace(moved, task=str(run.split)).load(), name=Path(data.task).stem)
    for ref, digest in run.identity()["draw"].items():
        try:
            same = hashlib.sha256(task.images.content(ref)).hexdigest() == digest
            reason = "another image than the one that was learned from, or read by other versions"
        except UnreadableImageError as error:
            same, reason = False, str(error)
        if not same:
            raise UserError(f"--root {root} does not hold the images of {folder}: {ref}: {reason}")
    return task
