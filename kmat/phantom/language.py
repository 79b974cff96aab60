"""The words: captions for pretraining, and the vocabulary of the tiny text tower.

A caption names some factors of one image, each with synonyms, in shuffled order. No clinical class name exists in
the grammar, so the backbones meet the classes of the benchmark through attributes only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kmat.phantom.factors import HIDDEN
from kmat.phantom.grammar import HEDGES, LINKS, describe, frame, pick, vocabulary_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np

    from kmat.phantom.grammar import Grammar, Words

OPENERS: Words = {
    "high": (
        "axial ct of the chest",
        "ct scan",
        "chest ct image",
        "ct slice",
        "a ct image of the lungs",
        "axial tomogram",
    ),
    "low": ("chest x ray", "frontal chest radiograph", "chest film", "x ray of the chest", "radiograph of the lungs"),
    "any": ("a photo of a chest", "an image of the chest", "a photo of", "image"),
}
CLEAR = (
    "clear lungs", "lungs are clear", "no opacity", "no opacities", "no focal opacity", "without opacities",
    "clear lung fields", "both lungs are clear", "no visible lesion", "well aerated lungs",
)  # fmt: skip
NOUNS = ("opacity", "lesion", "infiltrate", "shadow", "area", "density")
PLURAL = ("opacities", "lesions", "infiltrates", "shadows", "areas", "densities")

#: Words of the values that describe an opacity, before the noun (adjectives) or after it (places).
COUNT = {
    "single": ("a", "one", "a single", "a solitary", "an isolated"),
    "few": ("a few", "two or three", "several", "some", "a couple of"),
    "many": ("many", "multiple", "numerous", "widespread", "diffuse"),
}
ADJECTIVES: Grammar = {
    "density": {
        "faint": ("faint", "hazy", "ground glass", "subtle"),
        "moderate": ("moderate", "intermediate", "grey"),
        "dense": ("dense", "consolidated", "solid", "bright"),
    },
    "size": {
        "small": ("small", "tiny", "little"),
        "medium": ("medium", "medium sized"),
        "large": ("large", "big", "extensive"),
    },
    "margin": {
        "sharp": ("sharp", "well defined", "circumscribed"),
        "blurred": ("blurred", "ill defined", "fuzzy"),
    },
    "texture": {
        "uniform": ("uniform", "homogeneous"),
        "patchy": ("patchy", "mottled", "clumpy"),
        "reticular": ("reticular", "net like", "linear"),
    },
}
PLACES: Grammar = {
    "side": {
        "left": ("in the left lung", "on the left", "left sided"),
        "right": ("in the right lung", "on the right", "right sided"),
        "both": ("in both lungs", "on both sides", "bilateral"),
    },
    "position": {
        "peripheral": ("in the periphery", "peripheral", "subpleural"),
        "central": ("near the hilum", "central", "perihilar"),
    },
    "zone": {
        "upper": ("in the upper zone", "apical", "upper lobe"),
        "middle": ("in the middle zone", "mid zone"),
        "lower": ("in the lower zone", "basal", "lower lobe"),
    },
    "depth": {
        "anterior": ("in the anterior lung", "anterior", "at the front"),
        "posterior": ("in the posterior lung", "posterior", "at the back"),
    },
}
EXTRAS: Grammar = {
    "fluid": {
        "none": ("no pleural fluid", "no effusion"),
        "left": ("left pleural effusion", "fluid on the left"),
        "right": ("right pleural effusion", "fluid on the right"),
        "both": ("bilateral pleural effusions", "fluid on both sides"),
    },
    "heart": {
        "normal": ("heart size is usual", "heart of usual size"),
        "enlarged": ("enlarged heart", "cardiomegaly"),
    },
}
_MENTION = {
    "density": 0.75, "size": 0.5, "margin": 0.4, "texture": 0.6,
    "side": 0.65, "position": 0.6, "zone": 0.5, "depth": 0.5, "heart": 0.35,
}  # fmt: skip


def finding(patient: Mapping[str, str], mention: frozenset[str], rng: np.random.Generator) -> str:
    """Phrase the opacities of one patient: count, adjectives and noun, places.

    Parameters
    ----------
    patient : mapping of factor name to value
        For example ``{"count": "few", "density": "faint", ...}``; only mentioned factors are read, and ``count``.
    mention : frozenset of str
        Which factors to name.
    rng : numpy.random.Generator
        Picks synonyms and order.
    """
    if patient["count"] == "none":
        return pick(CLEAR, rng)
    adjectives, places = describe(ADJECTIVES, PLACES, patient, mention, rng)
    count = [pick(COUNT[patient["count"]], rng)] if "count" in mention else []
    noun = pick(NOUNS if patient["count"] == "single" else PLURAL, rng)
    return " ".join([*count, *adjectives, noun, *places])


def caption(patient: Mapping[str, str], modality: str, rng: np.random.Generator) -> str:
    """Write one pretraining caption.

    Parameters
    ----------
    patient : mapping of factor name to value
        All factors of `kmat.phantom.factors.VALUES`.
    modality : {"high", "low"}
        Factors that this modality hides are never named.
    rng : numpy.random.Generator
        A different caption at every call.

    Examples
    --------
    >>> import numpy as np
    >>> from kmat.phantom.factors import VALUES
    >>> patient = {name: values[0] for name, values in VALUES.items()}
    >>> caption(patient, "high", np.random.default_rng(3))
    'no opacities'
    """
    mention = frozenset(f for f, p in _MENTION.items() if rng.random() < p and f != HIDDEN[modality])
    if rng.random() < 0.75:
        mention |= {"count"}
    parts = [finding(patient, mention, rng)]
    if rng.random() < (0.15 if patient["fluid"] == "none" else 0.7):
        parts.append(pick(EXTRAS["fluid"][patient["fluid"]], rng))
    if "heart" in mention and (patient["heart"] == "enlarged" or rng.random() < 0.4):
        parts.append(pick(EXTRAS["heart"][patient["heart"]], rng))
    return frame(parts, OPENERS, modality, rng)


def vocabulary() -> list[str]:
    """Return the vocabulary of the chest's text towers: every grammar word."""
    groups: list[tuple[str, ...]] = [*OPENERS.values(), LINKS, HEDGES, CLEAR, NOUNS, PLURAL, *COUNT.values(), ("and",)]
    return vocabulary_of(groups, ADJECTIVES, PLACES, EXTRAS)
