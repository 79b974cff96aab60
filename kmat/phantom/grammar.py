"""How captions of all phantoms are made of words; each phantom's `language` has its own words."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kmat.tinyclip import layout

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np

    Words = Mapping[str, tuple[str, ...]]
    Grammar = Mapping[str, Words]

LINKS = ("showing", "with", "there is", "demonstrates", "reveals", ":", "")
HEDGES = ("often", "typically", "commonly", "usually", "may be", "likely", "occasionally", "sometimes")


def pick(words: tuple[str, ...], rng: np.random.Generator) -> str:
    """Choose one of ``words``."""
    return words[int(rng.random() * len(words))]


def describe(
    adjectives: Grammar, places: Grammar, patient: Mapping[str, str], mention: frozenset[str], rng: np.random.Generator
) -> tuple[list[str], list[str]]:
    """Phrase the mentioned factors of two kinds, each kind in any order: what stands before a noun and what after."""
    both = tuple([pick(table[f][patient[f]], rng) for f in table if f in mention] for table in (adjectives, places))
    for phrases in both:
        rng.shuffle(phrases)
    return both[0], both[1]


def frame(parts: Sequence[str], openers: Words, modality: str, rng: np.random.Generator) -> str:
    """Make a caption of its parts: joined, perhaps hedged, opened as its modality or any is, and ended."""
    text = pick((" and ", ", ", " . "), rng).join(parts)
    if rng.random() < 0.15:
        text = f"{pick(HEDGES, rng)} {text}"
    if rng.random() < 0.7:
        opener = pick(openers["any" if rng.random() < 0.3 else modality], rng)
        text = f"{opener} {pick(LINKS, rng)} {text}"
    if rng.random() < 0.3:
        text += " ."
    return " ".join(text.split())


def vocabulary_of(groups: Sequence[tuple[str, ...]], *tables: Grammar) -> list[str]:
    """Vocabulary of phrases, and of those in tables."""
    listed = [words for table in tables for values in table.values() for words in values.values()]
    return layout.vocabulary(phrase for group in (*groups, *listed) for phrase in group)
