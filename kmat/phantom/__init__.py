"""The embedded benchmark: synthetic chests in two modalities, and tiny CLIPs pretrained by this project.

Images and weights are frozen files, checked against ``SHA256SUMS`` whenever they are opened.
"""

from __future__ import annotations

from pathlib import Path

from kmat.tinyclip.frozen import Embedded, Frozen, LabelledImages

__all__ = [
    "BANNER",
    "CHEST",
    "CLASSES",
    "CLINICAL_NAMES",
    "backbone_dir",
    "backbone_names",
    "load_chest",
]

BANNER = "synthetic phantoms, project-trained tiny model: not evidence about clinical images or about BiomedCLIP"

#: Class strings, in the order of the labels. They are words that the backbones know; the clinical names are not.
CLASSES: tuple[str, ...] = ("clear lungs", "dense opacity", "hazy opacities")

#: What each class mimics.
CLINICAL_NAMES: tuple[str, ...] = ("normal", "pneumonia", "COVID-19-like")

FROZEN = Frozen(Path(__file__).parent / "data", ("seed0", "seed1", "seed2"))
CHEST_FILE = "chest.npz"


def backbone_names() -> tuple[str, ...]:
    """Return the names of the chest's tiny CLIPs, one per pretraining seed.

    Examples
    --------
    >>> backbone_names()
    ('seed0', 'seed1', 'seed2')
    """
    return FROZEN.backbones


def backbone_dir(name: str) -> Path:
    """Return the folder of one tiny CLIP; see `kmat.tinyclip.frozen.Frozen.backbone_dir`.

    Examples
    --------
    >>> backbone_dir("seed0").name
    'seed0'
    """
    return FROZEN.backbone_dir(name)


def load_chest() -> LabelledImages:
    """Load the frozen images: high is CT-like, low X-ray-like.

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
    return FROZEN.load(CHEST_FILE)


CHEST = Embedded("chest-phantom", "phantom", CLASSES, {"high": "CT", "low": "X-ray"}, BANNER, FROZEN, load_chest)
