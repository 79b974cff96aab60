"""The shipped sentences, the command that lists and checks them, and one clear line for each bad file."""

import json

import pytest

from kmat.cli import main
from kmat.embedded import EMBEDDED
from kmat.modalities import MODALITIES
from kmat.tasks.descriptions import described_classes, examine, load_descriptions
from kmat.tasks.paper import PAPER_TASKS, read_table, shipped_sentences

WRITTEN = [name for name in PAPER_TASKS if shipped_sentences(name).exists()]


@pytest.fixture
def check(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")

    def run(*arguments):
        code = main(["descriptions", *map(str, arguments)])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


@pytest.fixture
def write(tmp_path):
    def as_file(high, low=("Hazy shadow.", "Round mass."), label="big_nodule"):
        path = tmp_path / "mine.json"
        path.write_text(json.dumps({"descriptions": {label: {"high": list(high), "low": list(low)}}}))
        return path

    return as_file


@pytest.mark.parametrize("task", WRITTEN)
def test_shipped_sentences(task):
    path = shipped_sentences(task)
    labels = described_classes(path)
    assert labels == read_table(task).classes
    assert json.loads(path.read_text(encoding="utf-8"))["provenance"]
    sentences = load_descriptions(path, labels)
    everything = [text for modality in MODALITIES for texts in sentences[modality] for text in texts]
    assert len(set(everything)) == len(labels) * len(MODALITIES) * 50
    for modality in MODALITIES:
        for label, texts in zip(labels, sentences[modality], strict=True):
            found = examine(texts, label, 0.7)
            assert (len(texts), found.repeated, found.near, found.leaking) == (50, (), (), ())
            assert min(found.words) >= 8
            assert max(found.words) <= 35
            assert all(text == text.strip() and text[0].isupper() and text.endswith(".") for text in texts)


def test_examine_counts_words_and_finds_repeats_overlaps_and_class_names():
    texts = [
        "Round mass, left lung.",
        "round MASS left lung",
        "Round mass right lung",
        "A big  nodule; dense.",
        "Bigger nodules abound.",
    ]
    found = examine(texts, "big_nodule", 0.5)
    assert found.words == (4, 4, 4, 4, 3)
    assert found.repeated == ("round MASS left lung",)
    assert found.near == (("Round mass, left lung.", "Round mass right lung", 3 / 5),)
    assert found.leaking == ("A big  nodule; dense.",)
    assert examine(texts, "big_nodule", 0.6).near == ()


def test_lists_sentences_by_class_and_modality(check, write):
    path = write(["Dense focus."])
    assert check(path)[1].splitlines()[1] == "Dense focus."
    code, out, _ = check(path, "--modality", "low", "--classes", "big_nodule")
    assert code == 0
    assert out.splitlines() == [f"{path}: big_nodule, low", "Hazy shadow.", "Round mass."]


def test_check_of_the_built_in_files(check):
    code, out, err = check("--check")
    assert code == 0, err
    assert all(f"{name}: sentences" in out for name in (*EMBEDDED, *WRITTEN))
    code, _, _ = check("--check", "chest-phantom", "--expect", 51)
    assert code == 1


def test_check_counts_tokens_with_a_tokenizer_on_disk(check, write, tiny_dir):
    path = write(["a photo of the round shape", "dark edge"])
    tower = f"local-dir:{tiny_dir}"
    code, out, _ = check(path, "--check", "--expect", 2, "--modality", "high", "--tokenizer", tower)
    assert code == 0
    assert out.split()[-8:] == ["big_nodule", "high", "2", "0", "0", "0", "2-6", "4-8"]
    code, _, err = check(write(["a photo " * 24, "dark edge"]), "--check", "--expect", 2, "--tokenizer", tower)
    assert code == 1
    assert "50 tokens, longer than 48" in err


def test_check_says_that_biomedclips_tokenizer_is_not_on_disk(check, write, monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    code, _, err = check(write(["Dense focus.", "Bright rim."]), "--check", "--expect", 2)
    assert code == 0
    assert "not on disk: words are counted, not tokens" in err


@pytest.mark.parametrize(
    ("high", "options", "problem"),
    [
        (["Dense focus."], (), "1 sentences, expected 2"),
        (["Dense focus.", "dense focus"], (), "repeated: dense focus"),
        (["Dense focus.", "A big nodule."], ("--no-class-names",), "names its class: A big nodule."),
    ],
)
def test_check_fails_on_problems(check, write, high, options, problem):
    code, out, err = check(write(high), "--check", "--expect", 2, "--tokenizer", "phantom:seed0", *options)
    assert code == 1
    assert "big_nodule" in out
    assert problem in err
    assert "error: problems in the descriptions: 1," in err


def test_near_duplicates_and_class_names_are_shown_but_pass(check, write):
    path = write(["The big nodule is dense.", "The big nodule is very dense."])
    code, out, err = check(path, "--check", "--expect", 2, "--modality", "high", "--tokenizer", "phantom:seed0")
    assert code == 0
    assert out.split()[-8:-2] == ["big_nodule", "high", "2", "0", "1", "2"]
    assert "near duplicates (0.83)" in err


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "cannot read descriptions"),
        ("[]", "expected {"),
        ('{"descriptions": []}', "expected {"),
        ('{"descriptions": {}}', "describes no class"),
        ('{"descriptions": {"a": []}}', "no sentences for class 'a', modality 'high'"),
        ('{"descriptions": {"a": {"high": ["x"]}}}', "no sentences for class 'a', modality 'low'"),
        ('{"descriptions": {"a": {"high": ["x"], "low": [" "]}}}', "no sentences for class 'a', modality 'low'"),
    ],
)
def test_bad_files(check, tmp_path, content, message):
    path = tmp_path / "bad.json"
    path.write_text(content)
    code, _, err = check(path, "--check")
    assert (code, err.count("error: ")) == (1, 1)
    assert message in err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("skin1",), "the task skin1 comes without descriptions"),
        (("nowhere.json",), "cannot read descriptions nowhere.json"),
        (("chest-phantom", "--classes", "lump"), "--classes 'lump': expected some of clear lungs"),
        (("--near", "2"), "expected a number from 0 to 1"),
        (("--check", "--tokenizer", "ViT-B-32"), "expected biomedclip, phantom:NAME, "),
        (("--check", "--tokenizer", "local-dir:nowhere"), "cannot load the tokenizer"),
        (("--check", "--tokenizer", "phantom:seed9"), "choose one of seed0"),
    ],
)
def test_bad_options(check, options, message, tmp_path, monkeypatch):
    monkeypatch.setattr("kmat.tasks.paper._DESCRIPTIONS", tmp_path)
    code, _, err = check(*options)
    assert (code, err.count("error: ")) == (1, 1)
    assert message in err
