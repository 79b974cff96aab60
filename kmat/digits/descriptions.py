"""Writes ``kmat/descriptions/digits.json``: sentences about the shapes of the digits, which never name one."""

from __future__ import annotations

import json

import numpy as np

from kmat.digits import CLASSES, DIGITS
from kmat.digits.glyphs import LINKS, OPENERS, SHAPES, SHARPNESS, STYLES

PER_CLASS = 20
_SEED = 20261124
_STYLES = tuple(word for words in STYLES.values() for word in words)


def sentence(digit: int, modality: str, rng: np.random.Generator) -> str:
    """Write one description: an opener of the modality, now and then a style, one to three shapes."""
    openers = OPENERS[modality] if rng.random() < 0.8 else OPENERS["any"]
    style = [str(rng.choice(_STYLES if rng.random() < 0.5 else SHARPNESS[modality]))] if rng.random() < 0.3 else []
    shapes = rng.permutation(SHAPES[str(digit)])[: rng.integers(1, 4)].tolist()
    text = " ".join([str(rng.choice(openers)), *style, str(rng.choice(LINKS)), " and ".join(shapes)])
    return text[0].upper() + text[1:] + "."


def write_all() -> dict[str, dict[str, list[str]]]:
    """Return 20 distinct sentences for every class and modality; the same ones at every call."""
    rng = np.random.default_rng(_SEED)
    book: dict[str, dict[str, list[str]]] = {}
    for digit, name in enumerate(CLASSES):
        book[name] = {}
        for modality in ("high", "low"):
            distinct: dict[str, None] = {}
            while len(distinct) < PER_CLASS:
                distinct[sentence(digit, modality, rng)] = None
            book[name][modality] = list(distinct)
    return book


def main() -> None:
    """Write the file."""
    content = {
        "task": DIGITS.task,
        "provenance": (
            "Written by the seeded grammar in kmat/digits/descriptions.py, from the phrases about shapes that the "
            "pretraining captions use; not written by a language model."
        ),
        "descriptions": write_all(),
    }
    DIGITS.descriptions.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
