"""Words: every one is known, and none is a diagnosis."""

import json
import re

import numpy as np
import pytest

from kmat.methods.configs import TEMPLATE
from kmat.phantom import CHEST, CLASSES, CLINICAL_NAMES, backbone_dir, backbone_names, factors, language
from kmat.phantom.descriptions import write_all
from kmat.phantom.recipe import RECIPES
from kmat.tinyclip import layout
from kmat.tinyclip.layout import load

FORBIDDEN = re.compile(
    "|".join((*CLINICAL_NAMES, "covid", "corona", "sars", "healthy", "infect", "virus", "viral")), re.I
)
BOOK = json.loads(CHEST.descriptions.read_text(encoding="utf-8"))
SENTENCES = [s for by_modality in BOOK["descriptions"].values() for group in by_modality.values() for s in group]


@pytest.fixture(scope="module")
def captions():
    rng = np.random.default_rng(0)
    drawn = factors.draw(factors.pretraining_table(), 4000, rng)
    patients = [{f: factors.VALUES[f][v[i]] for f, v in drawn.items()} for i in range(4000)]
    return [language.caption(p, "high" if i % 2 else "low", rng) for i, p in enumerate(patients)]


def grammar_words():
    return language.vocabulary()[len(layout.SPECIAL) :]


def test_no_clinical_name_in_captions_vocabulary_or_descriptions(captions):
    for text in (*captions, *grammar_words(), *SENTENCES):
        assert not FORBIDDEN.search(text), text


def test_vocabulary_has_no_duplicates_and_is_the_shipped_one():
    words = language.vocabulary()
    assert len(set(words)) == len(words)
    for name in backbone_names():
        assert (backbone_dir(name) / "vocab.txt").read_text(encoding="utf-8").split() == words


def test_every_word_is_one_known_token(captions):
    _, tokenizer = load(backbone_dir("seed0"), weights=False)
    texts = [*captions, *SENTENCES, *CLASSES, *(TEMPLATE.replace("{name}", c) for c in CLASSES)]
    vocabulary = language.vocabulary()
    used = {vocabulary[i] for i in set(tokenizer(texts).flatten().tolist())}
    assert "[UNK]" not in used
    assert not {piece for piece in used if piece.startswith("##")}
    seen = {word for text in captions for word in text.split()}
    asked = {word for text in texts for word in text.lower().rstrip(".").split()}
    assert asked - seen <= {"."}, "a word of the task was never in a caption"


def test_texts_fit_the_context(captions):
    assert max(len(text.replace(".", " . ").replace(",", " , ").split()) for text in (*captions, *SENTENCES)) <= 62


def test_hidden_factors_are_never_named():
    rng = np.random.default_rng(1)
    words = {f: re.compile("|".join(p for v in language.PLACES[f].values() for p in v)) for f in ("zone", "depth")}
    patient = {name: values[0] for name, values in factors.VALUES.items()} | {"count": "few"}
    for modality, hidden in factors.HIDDEN.items():
        assert not any(words[hidden].search(language.caption(patient, modality, rng)) for _ in range(300))


def test_descriptions_are_the_seeded_ones():
    assert BOOK["task"] == "chest-phantom"
    assert "not written by a language model" in BOOK["provenance"]
    assert BOOK["descriptions"] == write_all(RECIPES["chest"])


@pytest.mark.parametrize("modality", ["high", "low"])
@pytest.mark.parametrize("name", CLASSES)
def test_fifty_distinct_descriptions_that_do_not_name_a_class(name, modality):
    sentences = BOOK["descriptions"][name][modality]
    assert len(sentences) == len(set(sentences)) == 50
    assert not any(c in s.lower() for s in sentences for c in CLASSES)
