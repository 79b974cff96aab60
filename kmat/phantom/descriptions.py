"""Writes ``kmat/descriptions/chest_phantom.json``: what a language model might say about each class.

Real descriptions mention what is typical, now and then something that is not, and much that does not help. These come
from a seeded grammar that imitates this; no language model wrote them.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from kmat.phantom import CLASSES
from kmat.phantom.factors import CLASS_TABLE, HIDDEN, VALUES
from kmat.phantom.language import EXTRAS, HEDGES, OPENERS, finding

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

PATH = Path(__file__).parents[1] / "descriptions" / "chest_phantom.json"
PER_CLASS = 50
_SEED = 20261124
_MODALITIES = ("high", "low")
#: A writer thinks of textbook cases: probabilities are sharpened by this power, then mixed with ignorance.
_SHARPEN = 1.5
_IGNORANCE = 0.25
_FACTORS = ("count", "density", "size", "margin", "texture", "side", "position", "zone", "depth")
_LINKS = ("with", "showing", "demonstrates", "reveals")


def _believed(table: Mapping[str, tuple[float, ...]], factor: str) -> NDArray[np.float64]:
    p = np.array(table[factor], np.float64) ** _SHARPEN
    believed: NDArray[np.float64] = (1 - _IGNORANCE) * p / p.sum() + _IGNORANCE / len(p)
    return believed


def sentence(label: int, modality: str, rng: np.random.Generator) -> str:
    """Write one description of class ``label`` as seen in ``modality``: one to three findings and some filler."""
    table = CLASS_TABLE[label]
    patient = {name: VALUES[name][rng.choice(len(VALUES[name]), p=_believed(table, name))] for name in VALUES}
    visible = [name for name in _FACTORS if name != HIDDEN[modality]]
    mention = frozenset(rng.choice(visible, size=rng.integers(1, 4), replace=False).tolist())
    parts = [finding(patient, mention, rng)]
    if rng.random() < 0.3:
        extra = rng.choice(list(EXTRAS))
        phrases = EXTRAS[extra][patient[extra]]
        parts.append(phrases[rng.integers(len(phrases))])
    text = " and ".join(parts)
    if rng.random() < 0.5:
        text = f"{HEDGES[rng.integers(len(HEDGES))]} {text}"
    if rng.random() < 0.6:
        openers = OPENERS[modality]
        text = f"{openers[rng.integers(len(openers))]} {_LINKS[rng.integers(len(_LINKS))]} {text}"
    return text[0].upper() + text[1:] + "."


def write_all() -> dict[str, dict[str, list[str]]]:
    """Return 50 distinct sentences for every class and modality; the same ones at every call.

    Examples
    --------
    >>> {len(set(s)) for by_modality in write_all().values() for s in by_modality.values()}
    {50}
    """
    rng = np.random.default_rng(_SEED)
    book: dict[str, dict[str, list[str]]] = {}
    for label, name in enumerate(CLASSES):
        book[name] = {}
        for modality in _MODALITIES:
            distinct: dict[str, None] = {}
            while len(distinct) < PER_CLASS:
                text = sentence(label, modality, rng)
                if not any(other in text.lower() for other in CLASSES):  # a description must not name its class
                    distinct[text] = None
            book[name][modality] = list(distinct)
    return book


def main() -> None:
    """Write the file."""
    content = {
        "task": "chest-phantom",
        "provenance": (
            "Written by the seeded grammar in kmat/phantom/descriptions.py to imitate the noise of sentences by a "
            "language model; not written by a language model or a physician."
        ),
        "descriptions": write_all(),
    }
    PATH.parent.mkdir(exist_ok=True)
    PATH.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
