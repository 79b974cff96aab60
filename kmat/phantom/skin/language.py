"""The words of the skin: captions for pretraining, and the vocabulary. No clinical class name occurs in them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kmat.phantom.grammar import HEDGES, LINKS, describe, frame, pick, vocabulary_of
from kmat.phantom.skin.factors import HIDDEN

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np

    from kmat.phantom.grammar import Grammar, Words

OPENERS: Words = {
    "high": (
        "dermoscopy",
        "a dermoscopic image",
        "dermatoscope view",
        "polarised dermoscopy",
        "magnified view of the skin",
    ),
    "low": (
        "clinical photo",
        "a photo of the skin",
        "close up of the skin",
        "overview photo",
        "photograph of a lesion",
    ),
    "any": ("an image of the skin", "a photo of", "image", "a picture of the skin"),
}
FLAT_NOUNS = ("spot", "macule", "patch", "lesion")
RAISED_NOUNS = ("bump", "plaque", "papule", "lesion")
NOUNS = ("spot", "lesion", "area", "bump", "plaque")
ADJECTIVES: Grammar = {
    "shape": {
        "round": ("round", "circular"),
        "oval": ("oval", "ellipsoid"),
        "irregular": ("irregular", "asymmetric", "ragged"),
    },
    "border": {
        "sharp": ("sharp", "well defined", "stuck on"),
        "blurred": ("blurred", "ill defined", "fading"),
    },
    "tone": {
        "pale": ("pale", "pink", "skin coloured"),
        "brown": ("brown", "tan"),
        "dark": ("dark", "black", "deeply pigmented"),
    },
    "colour": {
        "even": ("even", "uniform", "one coloured"),
        "mottled": ("uneven", "mottled", "many coloured"),
    },
    "size": {
        "small": ("small", "tiny", "little"),
        "medium": ("medium", "medium sized"),
        "large": ("large", "big"),
    },
    "surface": {
        "smooth": ("smooth", "plain"),
        "scaly": ("scaly", "flaky", "rough"),
        "warty": ("warty", "furrowed", "verrucous"),
    },
    "height": {
        "flat": ("flat", "not raised"),
        "raised": ("raised", "elevated", "dome shaped"),
    },
    "shine": {
        "dull": ("dull", "matt"),
        "shiny": ("shiny", "pearly", "glossy"),
    },
}
PLACES: Grammar = {
    "pattern": {
        "none": ("without a pattern", "structureless"),
        "net": ("with a network", "netlike inside", "with a pigment net"),
        "globules": ("with globules", "with large dots", "with clods"),
        "streaks": ("with streaks at the edge", "with radial lines", "with pseudopods"),
    },
    "vessels": {
        "none": ("without vessels", "no vessels in it"),
        "branched": ("with branched vessels", "with arborising vessels", "with treelike vessels"),
        "dotted": ("with dotted vessels", "with glomerular vessels", "with pinpoint vessels"),
    },
    "cysts": {
        "none": ("without cysts", "no white points"),
        "many": ("with white cysts", "with milia", "with white points"),
    },
}
EXTRAS: Grammar = {
    "skin": {
        "light": ("light skin", "fair skin"),
        "tanned": ("tanned skin", "skin of darker type"),
    },
}
_MENTION = {
    "shape": 0.5, "border": 0.5, "tone": 0.65, "colour": 0.55, "size": 0.4, "surface": 0.6,
    "height": 0.5, "shine": 0.5, "pattern": 0.7, "vessels": 0.5, "cysts": 0.4, "skin": 0.3,
}  # fmt: skip


def finding(patient: Mapping[str, str], mention: frozenset[str], rng: np.random.Generator) -> str:
    """Phrase the spot of one patient, naming the factors in ``mention``; the noun tells its height, too, if that is."""
    adjectives, places = describe(ADJECTIVES, PLACES, patient, mention, rng)
    nouns = (FLAT_NOUNS if patient["height"] == "flat" else RAISED_NOUNS) if "height" in mention else NOUNS
    return " ".join([*adjectives, pick(nouns, rng), *places])


def caption(patient: Mapping[str, str], modality: str, rng: np.random.Generator) -> str:
    """Write one pretraining caption; factors that this modality hides are never named.

    Examples
    --------
    >>> import numpy as np
    >>> from kmat.phantom.skin.factors import VALUES
    >>> patient = {name: values[0] for name, values in VALUES.items()}
    >>> caption(patient, "low", np.random.default_rng(4))
    'uniform plain dull bump'
    """
    seen = [f for f in _MENTION if f not in HIDDEN[modality]]
    mention = frozenset(f for f in seen if rng.random() < _MENTION[f])
    parts = [finding(patient, mention, rng)]
    if "skin" in mention:
        parts.append(pick(EXTRAS["skin"][patient["skin"]], rng))
    return frame(parts, OPENERS, modality, rng)


def vocabulary() -> list[str]:
    """Return the vocabulary of the skin's text towers: every grammar word."""
    groups: list[tuple[str, ...]] = [*OPENERS.values(), LINKS, HEDGES, FLAT_NOUNS, RAISED_NOUNS, NOUNS, ("and",)]
    return vocabulary_of(groups, ADJECTIVES, PLACES, EXTRAS)
