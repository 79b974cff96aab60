"""Writes the phantoms' files in ``kmat/descriptions``: what a language model might say about each class.

Real descriptions mention what is typical, now and then something that is not, and much that does not help. These come
from a seeded grammar that imitates this; no language model wrote them.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np

from kmat.phantom.grammar import HEDGES
from kmat.phantom.recipe import RECIPES, Recipe

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

PER_CLASS = 50
_SEED = 20261124
_MODALITIES = ("high", "low")
#: A writer thinks of textbook cases: probabilities are sharpened by this power, then mixed with ignorance.
_SHARPEN = 1.5
_IGNORANCE = 0.25
_LINKS = ("with", "showing", "demonstrates", "reveals")


def _believed(table: Mapping[str, tuple[float, ...]], factor: str) -> NDArray[np.float64]:
    p = np.array(table[factor], np.float64) ** _SHARPEN
    believed: NDArray[np.float64] = (1 - _IGNORANCE) * p / p.sum() + _IGNORANCE / len(p)
    return believed


def sentence(recipe: Recipe, label: int, modality: str, rng: np.random.Generator) -> str:
    """Write one description of class ``label`` as seen in ``modality``: one to three findings and some filler."""
    table = recipe.classes[label]
    patient = {
        name: recipe.values[name][rng.choice(len(recipe.values[name]), p=_believed(table, name))]
        for name in recipe.values
    }
    visible = [name for name in recipe.told if name not in recipe.hidden[modality]]
    mention = frozenset(rng.choice(visible, size=rng.integers(1, 4), replace=False).tolist())
    parts = [recipe.finding(patient, mention, rng)]
    if rng.random() < 0.3:
        extra = rng.choice(list(recipe.extras[modality]))
        phrases = recipe.extras[modality][extra][patient[extra]]
        parts.append(phrases[rng.integers(len(phrases))])
    text = " and ".join(parts)
    if rng.random() < 0.5:
        text = f"{HEDGES[rng.integers(len(HEDGES))]} {text}"
    if rng.random() < 0.6:
        openers = recipe.openers[modality]
        text = f"{openers[rng.integers(len(openers))]} {_LINKS[rng.integers(len(_LINKS))]} {text}"
    return text[0].upper() + text[1:] + "."


def write_all(recipe: Recipe) -> dict[str, dict[str, list[str]]]:
    """Return 50 distinct sentences for every class and modality; the same ones at every call.

    Examples
    --------
    >>> {len(set(s)) for by_modality in write_all(RECIPES["chest"]).values() for s in by_modality.values()}
    {50}
    """
    rng = np.random.default_rng(_SEED)
    book: dict[str, dict[str, list[str]]] = {}
    for label, name in enumerate(recipe.bench.classes):
        book[name] = {}
        for modality in _MODALITIES:
            distinct: dict[str, None] = {}
            while len(distinct) < PER_CLASS:
                text = sentence(recipe, label, modality, rng)
                if not any(
                    other in text.lower() for other in recipe.bench.classes
                ):  # a description must not name its class
                    distinct[text] = None
            book[name][modality] = list(distinct)
    return book


def main() -> None:
    """Write the files."""
    for recipe in RECIPES.values():
        content = {
            "task": recipe.bench.task,
            "provenance": (
                "Written by the seeded grammar in kmat/phantom/descriptions.py to imitate the noise of sentences by a "
                "language model; not written by a language model or a physician."
            ),
            "descriptions": write_all(recipe),
        }
        recipe.bench.descriptions.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
