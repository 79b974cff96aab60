"""The words of the breast: captions for pretraining, and the vocabulary. No clinical class name occurs in them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kmat.phantom.breast.factors import HIDDEN
from kmat.phantom.grammar import HEDGES, LINKS, describe, frame, pick, vocabulary_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np

    from kmat.phantom.grammar import Grammar, Words

OPENERS: Words = {
    "high": ("mammogram", "a mammogram of the breast", "craniocaudal view", "digital mammogram", "mammographic view"),
    "low": ("breast ultrasound", "an ultrasound image", "sonogram of the breast", "b mode image", "ultrasound scan"),
    "any": ("a photo of a breast", "an image of the breast", "a photo of", "image"),
}
CLEAR = ("no mass", "no focal lesion", "no visible mass", "without a mass", "no nodule", "nothing focal")
NOUNS = ("mass", "lesion", "nodule", "finding")
ADJECTIVES: Grammar = {
    "shape": {
        "oval": ("oval", "ellipsoid", "egg shaped"),
        "round": ("round", "circular"),
        "lobed": ("irregular", "lobed", "uneven"),
    },
    "margin": {
        "sharp": ("smooth", "circumscribed", "well defined"),
        "blurred": ("blurred", "ill defined", "indistinct"),
        "spiculated": ("spiculated", "stellate", "spiky"),
    },
    "size": {
        "small": ("small", "tiny", "little"),
        "medium": ("medium", "medium sized"),
        "large": ("large", "big"),
    },
    "density": {
        "low": ("low density", "faint"),
        "equal": ("equal density", "moderately dense"),
        "high": ("high density", "very dense", "bright"),
    },
    "echo": {
        "dark": ("hypoechoic", "dark", "echo poor"),
        "grey": ("isoechoic", "grey", "nearly isoechoic"),
    },
    "orientation": {
        "wide": ("wider than tall", "parallel", "flat lying"),
        "tall": ("taller than wide", "upright", "not parallel"),
    },
}
PLACES: Grammar = {
    "place": {
        "outer": ("in the outer half", "on the outer side", "lateral"),
        "inner": ("in the inner half", "on the inner side", "medial"),
    },
    "posterior": {
        "plain": ("without posterior features", "no change behind it"),
        "bright": ("with posterior enhancement", "bright behind", "with enhancement"),
        "shadow": ("with posterior shadowing", "dark shadow behind", "with acoustic shadow"),
    },
}
EXTRAS: Grammar = {
    "calcification": {
        "none": ("no calcifications", "without calcifications"),
        "coarse": ("coarse calcifications", "a few large calcifications", "popcorn like calcifications"),
        "fine": ("fine clustered calcifications", "many tiny calcifications", "a cluster of microcalcifications"),
    },
    "tissue": {
        "fatty": ("fatty tissue", "mostly fat"),
        "mixed": ("scattered gland", "mixed tissue"),
        "dense": ("dense gland", "plenty of gland tissue"),
    },
}
_MENTION = {
    "shape": 0.65, "margin": 0.65, "size": 0.5, "density": 0.5, "echo": 0.5,
    "orientation": 0.5, "place": 0.5, "posterior": 0.65, "tissue": 0.35,
}  # fmt: skip


def finding(patient: Mapping[str, str], mention: frozenset[str], rng: np.random.Generator) -> str:
    """Phrase the mass of one patient, naming the factors in ``mention``; or that there is none."""
    if patient["mass"] == "none":
        return pick(CLEAR, rng)
    adjectives, places = describe(ADJECTIVES, PLACES, patient, mention, rng)
    return " ".join([*adjectives, pick(NOUNS, rng), *places])


def caption(patient: Mapping[str, str], modality: str, rng: np.random.Generator) -> str:
    """Write one pretraining caption; factors that this modality hides are never named.

    Examples
    --------
    >>> import numpy as np
    >>> from kmat.phantom.breast.factors import VALUES
    >>> patient = {name: values[0] for name, values in VALUES.items()}
    >>> caption(patient, "high", np.random.default_rng(4))
    'digital mammogram no nodule, without calcifications'
    """
    seen = [f for f in _MENTION if f not in HIDDEN[modality]]
    mention = frozenset(f for f in seen if rng.random() < _MENTION[f])
    parts = [finding(patient, mention, rng)]
    if modality == "high" and rng.random() < (0.2 if patient["calcification"] == "none" else 0.75):
        parts.append(pick(EXTRAS["calcification"][patient["calcification"]], rng))
    if "tissue" in mention:
        parts.append(pick(EXTRAS["tissue"][patient["tissue"]], rng))
    return frame(parts, OPENERS, modality, rng)


def vocabulary() -> list[str]:
    """Return the vocabulary of the breast's text towers: every grammar word."""
    groups: list[tuple[str, ...]] = [*OPENERS.values(), LINKS, HEDGES, CLEAR, NOUNS, ("and",)]
    return vocabulary_of(groups, ADJECTIVES, PLACES, EXTRAS)
