"""Files that are shipped as they were frozen, checked against ``SHA256SUMS`` whenever they are opened."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import NDArray

_BACKBONE_FILES = (
    "README.md",
    "config.json",
    "open_clip_config.json",
    "open_clip_model.safetensors",
    "tokenizer_config.json",
    "vocab.txt",
)


@dataclass(frozen=True)
class LabelledImages:
    """The images of an embedded benchmark.

    Attributes
    ----------
    images : (N, s, s) uint8
        Grey levels.
    label : (N,) int64
        Index into the classes.
    modality : (N,) str
        "high" or "low".
    split : (N,) str
        "train" and "val" (high only), "test" (both), or "probe" (low only: labelled images for linear probes, which
        no method may see).
    patient : (N,) int64
        A patient belongs to one split.
    """

    images: NDArray[np.uint8]
    label: NDArray[np.int64]
    modality: NDArray[np.str_]
    split: NDArray[np.str_]
    patient: NDArray[np.int64]


@dataclass(frozen=True)
class Frozen:
    """A folder of frozen files with the tiny CLIPs in it.

    Attributes
    ----------
    folder : Path
        Holds ``SHA256SUMS``, whose lines are ``DIGEST  PATH``.
    backbones : tuple of str
        Names of the subfolders that are tiny CLIPs.
    fresh : tuple of str
        More of them, trained later to confirm on what the others had suggested: they are had by name only.
    """

    folder: Path
    backbones: tuple[str, ...]
    fresh: tuple[str, ...] = ()

    def verify(self, *paths: Path) -> None:
        """Raise ValueError unless every one of ``paths`` is the file that was frozen."""
        sums = (self.folder / "SHA256SUMS").read_text(encoding="utf-8")
        expected = {name: digest for digest, name in (line.split() for line in sums.splitlines())}
        for path in paths:
            found = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "missing"
            listed = expected.get(path.relative_to(self.folder).as_posix(), "no such file")
            if found != listed:
                raise ValueError(
                    f"{path} is not the frozen file: its sha256 is {found}, expected {listed}. "
                    "Reinstall the package, or restore the file from the repository."
                )

    def backbone_dir(self, name: str) -> Path:
        """Return the folder of one tiny CLIP, for open_clip's ``local-dir:``.

        Raises
        ------
        ValueError
            If the name is unknown or a file is not the frozen one.
        """
        known = (*self.backbones, *self.fresh)
        if name not in known:
            raise ValueError(f"unknown backbone {name!r}: choose one of {', '.join(known)}")
        folder = self.folder / name
        # An added file counts, too: a tokenizer.json, say, would change what the words mean.
        self.verify(*sorted({folder / file for file in _BACKBONE_FILES} | set(folder.iterdir())))
        return folder

    def load(self, name: str) -> LabelledImages:
        """Read the npz file ``name``.

        Raises
        ------
        ValueError
            If the file is not the frozen one.
        """
        self.verify(self.folder / name)
        with np.load(self.folder / name, allow_pickle=False) as data:
            return LabelledImages(**{field.name: data[field.name] for field in fields(LabelledImages)})


@dataclass(frozen=True)
class Embedded:
    """A benchmark that kmat brings along.

    Attributes
    ----------
    task : str
        What ``--task`` calls it.
    prefix : str
        What ``--backbone PREFIX:NAME`` calls its tiny CLIPs.
    classes : tuple of str
        In the order of the labels.
    modality_names : mapping
        What "high" and "low" are.
    banner : str
        Shown with every number.
    frozen : Frozen
        Its files.
    load : callable
        Reads its images.
    sentences : int
        How many describe a class in a modality; as many as in the paper.
    """

    task: str
    prefix: str
    classes: tuple[str, ...]
    modality_names: Mapping[str, str]
    banner: str
    frozen: Frozen
    load: Callable[[], LabelledImages]
    sentences: int = 50

    @property
    def backbones(self) -> tuple[str, ...]:
        """Names of its tiny CLIPs for `kmat.model.backbone.load_backbone`."""
        return tuple(f"{self.prefix}:{name}" for name in self.frozen.backbones)

    @property
    def descriptions(self) -> Path:
        """The JSON file with sentences per class and modality."""
        return Path(__file__).parents[1] / "descriptions" / f"{self.task.replace('-', '_')}.json"
