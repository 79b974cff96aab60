"""The embedded benchmark: synthetic chests in two modalities, and tiny CLIPs pretrained by this project.

Images and weights are frozen files, checked against ``SHA256SUMS`` whenever they are opened.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = [
    "BANNER",
    "CLASSES",
    "CLINICAL_NAMES",
    "Phantom",
    "backbone_dir",
    "backbone_names",
    "load_chest",
]

BANNER = "synthetic phantoms, project-trained tiny model: not evidence about clinical images or about BiomedCLIP"

#: Class strings, in the order of the labels. They are words that the backbones know; the clinical names are not.
CLASSES: tuple[str, ...] = ("clear lungs", "dense opacity", "hazy opacities")

#: What each class mimics.
CLINICAL_NAMES: tuple[str, ...] = ("normal", "pneumonia", "COVID-19-like")

DATA = Path(__file__).parent / "data"
CHEST_FILE = DATA / "chest.npz"
CHECKSUMS = DATA / "SHA256SUMS"
_BACKBONE_FILES = (
    "README.md",
    "config.json",
    "open_clip_config.json",
    "open_clip_model.safetensors",
    "tokenizer_config.json",
    "vocab.txt",
)
_BACKBONES: tuple[str, ...] = ("seed0", "seed1", "seed2")


@dataclass(frozen=True)
class Phantom:
    """The frozen images.

    Attributes
    ----------
    images : (N, 64, 64) uint8
        Grey levels.
    label : (N,) int64
        Index into `CLASSES`.
    modality : (N,) str
        "high" (CT-like) or "low" (X-ray-like).
    split : (N,) str
        "train" and "val" (high only), "test" (both, same patients), or "probe" (low only: labelled images for
        linear probes, which no method may see).
    patient : (N,) int64
        A patient belongs to one split.
    """

    images: NDArray[np.uint8]
    label: NDArray[np.int64]
    modality: NDArray[np.str_]
    split: NDArray[np.str_]
    patient: NDArray[np.int64]


def _verify(*paths: Path) -> None:
    """Raise ValueError unless every one of ``paths`` is the file that was frozen."""
    lines = (line.split() for line in CHECKSUMS.read_text(encoding="utf-8").splitlines())
    expected = {name: digest for digest, name in lines}
    for path in paths:
        found = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "missing"
        listed = expected.get(path.relative_to(DATA).as_posix(), "no such file")
        if found != listed:
            raise ValueError(
                f"{path} is not the frozen file: its sha256 is {found}, expected {listed}. "
                "Reinstall the package, or restore the file from the repository."
            )


def backbone_names() -> tuple[str, ...]:
    """Return the names of the tiny CLIPs, one per pretraining seed.

    Examples
    --------
    >>> backbone_names()
    ('seed0', 'seed1', 'seed2')
    """
    return _BACKBONES


def backbone_dir(name: str) -> Path:
    """Return the folder of one tiny CLIP, for open_clip's ``local-dir:``.

    Parameters
    ----------
    name : str
        One of `backbone_names`.

    Raises
    ------
    ValueError
        If the name is unknown or a file is not the frozen one.

    Examples
    --------
    >>> backbone_dir("seed0").name
    'seed0'
    """
    if name not in _BACKBONES:
        raise ValueError(f"unknown backbone {name!r}: choose one of {', '.join(_BACKBONES)}")
    folder = DATA / name
    # An added file counts, too: a tokenizer.json, say, would change what the words mean.
    _verify(*sorted({folder / file for file in _BACKBONE_FILES} | set(folder.iterdir())))
    return folder


def load_chest() -> Phantom:
    """Load the frozen images.

    Raises
    ------
    ValueError
        If the file is not the frozen one.

    Examples
    --------
    >>> chest = load_chest()
    >>> chest.images.shape[1:], chest.images.dtype
    ((64, 64), dtype('uint8'))
    """
    _verify(CHEST_FILE)
    with np.load(CHEST_FILE, allow_pickle=False) as data:
        return Phantom(**{name: data[name] for name in ("images", "label", "modality", "split", "patient")})
