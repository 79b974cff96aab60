"""Sentences that describe each class as it looks in each modality: read from JSON, and examined."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

from kmat.console import is_text
from kmat.errors import UserError
from kmat.modalities import MODALITIES
from kmat.storage.schema import misfit, read_json
from kmat.tasks.base import Descriptions, present


def load_descriptions(
    path: Path, labels: Sequence[str], absent: Mapping[str, frozenset[int]] | None = None
) -> Descriptions:
    """Read ``{"descriptions": {CLASS: {"high": [...], "low": [...]}}}``, keyed by the data's class names.

    A class that a modality lacks (``absent``) needs no sentences for it.

    Raises
    ------
    UserError
        If the file cannot be read, or a class or modality has no sentences.
    """
    return in_order(_read(path), labels, str(path), absent)


def in_order(
    table: Mapping[str, Any], labels: Sequence[str], where: str, absent: Mapping[str, frozenset[int]] | None = None
) -> Descriptions:
    """Order sentences by class and modality as a task has them; errors say that they are from ``where``.

    Raises
    ------
    UserError
        If a class or modality has no sentences.
    """

    def sentences(label: str, modality: str) -> tuple[str, ...]:
        pair = table.get(label)
        found = pair.get(modality) if isinstance(pair, Mapping) else None
        texts = list(found) if isinstance(found, list | tuple) else []
        if not (texts and misfit(texts, list[str]) is None and all(text.strip() and is_text(text) for text in texts)):
            raise UserError(f"{where}: no sentences for class {label!r}, modality {modality!r}")
        return tuple(texts)

    return {
        modality: tuple(sentences(labels[index], modality) for index in present(len(labels), absent or {}, modality))
        for modality in MODALITIES
    }


def described_classes(path: Path) -> tuple[str, ...]:
    """Return the classes of a file, in its order.

    Raises
    ------
    UserError
        If the file cannot be read or names no class.
    """
    if not (table := _read(path)):
        raise UserError(f"{path}: describes no class")
    return tuple(table)


def _read(path: Path) -> dict[str, Any]:
    whole = read_json(path, "descriptions")
    table = whole.get("descriptions") if isinstance(whole, dict) else None
    if not isinstance(table, dict):
        raise UserError(f'{path}: expected {{"descriptions": {{CLASS: {{"high": [...], "low": [...]}}}}}}')
    return table


@dataclass(frozen=True)
class Findings:
    """What can be said of the sentences of one class and modality without knowing medicine.

    Attributes
    ----------
    words : tuple of int
        Length of each sentence.
    repeated : tuple of str
        Sentences that say, but for case and punctuation, what an earlier one says.
    near : tuple of (str, str, float)
        Other pairs whose sets of words overlap by more than the threshold, and by how much (Jaccard).
    leaking : tuple of str
        Sentences that contain the class name.
    """

    words: tuple[int, ...]
    repeated: tuple[str, ...]
    near: tuple[tuple[str, str, float], ...]
    leaking: tuple[str, ...]


def examine(sentences: Sequence[str], label: str, threshold: float) -> Findings:
    """Examine the sentences of one class and modality.

    Parameters
    ----------
    sentences : sequence of str
    label : str
        The class name, ``_`` read as a space, as in a prompt.
    threshold : float
        Of the Jaccard index |A & B| / |A | B| of two sentences' sets of words.
    """
    words = [_words(text) for text in sentences]
    first: dict[tuple[str, ...], int] = {}
    for index, key in enumerate(words):
        first.setdefault(tuple(key), index)
    distinct = [(sentences[index], set(key)) for key, index in first.items()]
    name = f" {' '.join(_words(label))} "
    overlaps = (
        (a, b, len(left & right) / max(len(left | right), 1)) for (a, left), (b, right) in combinations(distinct, 2)
    )
    return Findings(
        words=tuple(map(len, words)),
        repeated=tuple(sentences[index] for index, key in enumerate(words) if first[tuple(key)] != index),
        near=tuple(pair for pair in overlaps if pair[2] > threshold),
        leaking=tuple(text for text, key in zip(sentences, words, strict=True) if name in f" {' '.join(key)} "),
    )


def _words(text: str) -> list[str]:
    return re.findall(r"[^\W_]+", text.casefold())
