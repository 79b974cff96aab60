"""The frozen files: what is in them, and that nobody changed them."""

import shutil
import subprocess
import sys

import numpy as np
import pytest

from kmat import phantom
from kmat.phantom import generate
from kmat.phantom.recipe import RECIPES
from kmat.tinyclip.frozen import Frozen


def test_splits_and_modalities():
    chest = phantom.load_chest()
    assert chest.images.shape == (len(chest.label), 64, 64)
    assert chest.images.dtype == np.uint8
    assert chest.label.dtype == chest.patient.dtype == np.int64
    assert set(chest.split) == set(generate.SPLITS)
    for split, (n, modalities) in generate.SPLITS.items():
        assert set(chest.modality[chest.split == split]) == set(modalities)
        for modality in modalities:
            rows = (chest.split == split) & (chest.modality == modality)
            assert np.bincount(chest.label[rows]).tolist() == [n] * len(phantom.CLASSES)
            assert len(np.unique(chest.patient[rows])) == rows.sum()


def test_a_patient_belongs_to_one_split_and_class():
    chest = phantom.load_chest()
    for column in (chest.split, chest.label):
        pairs = {(p, c) for p, c in zip(chest.patient.tolist(), column.tolist(), strict=True)}
        assert len(pairs) == len(np.unique(chest.patient))


def test_no_image_occurs_twice():
    images = phantom.load_chest().images
    assert len(np.unique(images.reshape(len(images), -1), axis=0)) == len(images)


def test_the_generator_draws_the_frozen_images():
    """Up to rounding of the processor; a NumPy that changed its random stream would fail here, and the file remains."""
    drawn, chest = generate.benchmark(RECIPES["chest"]), phantom.load_chest()
    for name in ("label", "patient", "modality", "split"):
        assert np.array_equal(drawn[name], getattr(chest, name))
    off = np.abs(drawn["images"].astype(int) - chest.images)
    assert off.max() <= 2
    assert (off > 0).mean() < 1e-3


def test_images_are_neither_black_nor_saturated():
    chest = phantom.load_chest()
    for modality in ("high", "low"):
        images = chest.images[chest.modality == modality].astype(float)
        assert 60 < images.mean() < 190
        assert images.std(axis=(1, 2)).min() > 30


@pytest.fixture
def copy(tmp_path, monkeypatch):
    shutil.copytree(phantom.FROZEN.folder, tmp_path / "data")
    monkeypatch.setattr(phantom, "FROZEN", Frozen(tmp_path / "data", phantom.backbone_names()))
    return tmp_path / "data"


def test_a_changed_file_is_refused(copy):
    assert phantom.backbone_dir("seed1") == copy / "seed1"
    for name, opened in (("chest.npz", phantom.load_chest), ("seed1/vocab.txt", lambda: phantom.backbone_dir("seed1"))):
        path = copy / name
        path.write_bytes(path.read_bytes() + b"\n")
        with pytest.raises(ValueError, match=r"is not the frozen file: its sha256 is"):
            opened()


def test_a_missing_or_added_file_is_refused(copy):
    (copy / "seed0" / "config.json").unlink()
    with pytest.raises(ValueError, match=r"config.json is not the frozen file: its sha256 is missing"):
        phantom.backbone_dir("seed0")
    (copy / "seed2" / "extra.txt").write_text("x")
    with pytest.raises(ValueError, match=r"extra.txt is not the frozen file"):
        phantom.backbone_dir("seed2")


def test_unknown_backbone():
    with pytest.raises(ValueError, match="unknown backbone 'biomedclip': choose one of seed0, seed1, seed2"):
        phantom.backbone_dir("biomedclip")


def test_import_is_light():
    code = "import sys, kmat.phantom; print([m for m in ('torch', 'open_clip', 'sklearn') if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_sizes():
    weights = [phantom.backbone_dir(n) / "open_clip_model.safetensors" for n in phantom.backbone_names()]
    assert sum(p.stat().st_size for p in weights) < 8e6
    assert (phantom.FROZEN.folder / phantom.CHEST_FILE).stat().st_size < 3.1e6
