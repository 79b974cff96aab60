"""The tiny CLIPs: what is on disk, what open_clip makes of it, and what the shipped ones can do."""

import json

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from safetensors import safe_open

from kmat.levels import measure
from kmat.modalities import MODALITIES
from kmat.phantom import CHEST, CLASSES, backbone_dir, backbone_names, load_chest
from kmat.phantom.pretrain import pretrain
from kmat.phantom.recipe import RECIPES
from kmat.tinyclip.layout import WEIGHTS, load, pixels


@pytest.mark.parametrize("name", backbone_names())
def test_the_file_is_the_model_in_half_precision(name):
    folder = backbone_dir(name)
    model, _ = load(folder)
    state = model.state_dict()
    with safe_open(folder / WEIGHTS, "pt") as file:
        assert set(file.keys()) == set(state)
        for key in state:
            stored = file.get_tensor(key)
            assert stored.dtype == (torch.float16 if state[key].is_floating_point() else state[key].dtype)
            assert torch.equal(stored.to(state[key].dtype), state[key])
            assert torch.isfinite(stored.float()).all()


def test_it_is_of_biomedclips_family():
    model, tokenizer = load(backbone_dir("seed0"))
    assert type(model).__name__ == "CustomTextCLIP"
    assert type(model.visual).__name__ == "TimmModel"
    assert type(model.text.transformer).__name__ == "BertModel"
    assert type(model.text.pooler).__name__ == "ClsLastHiddenStatePooler"
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(0.57e6, rel=0.02)
    assert 10 < model.logit_scale.exp().item() < 100
    assert tokenizer("dense opacity").shape == (1, 64)


def test_forgetting_eval_shows():
    model, tokenizer = load(backbone_dir("seed0"))
    tokens = tokenizer(list(CLASSES))
    with torch.no_grad():
        assert torch.equal(model.encode_text(tokens), model.encode_text(tokens))
        model.train()
        assert not torch.allclose(model.encode_text(tokens), model.encode_text(tokens))


def test_pixels_are_those_of_open_clips_preprocessing():
    folder = backbone_dir("seed0")
    text = json.loads((folder / "open_clip_config.json").read_text(encoding="utf-8"))["model_cfg"]["text_cfg"]
    _, preprocess = open_clip.create_model_from_pretrained(
        f"local-dir:{folder}", text_cfg={**text, "hf_model_name": str(folder)}
    )
    images = load_chest().images[:5]
    theirs = torch.stack([preprocess(Image.fromarray(image)) for image in images])
    assert torch.allclose(pixels(images), theirs, atol=1e-6)


@pytest.mark.exhaustive
@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_smoke_pretraining_learns_and_writes_a_loadable_folder(recipe, tmp_path):
    losses = pretrain(recipe, 7, tmp_path / "tiny", pairs={"high": 2000, "low": 500}, epochs=5)
    assert losses[0] < 5.4  # ln 192 = 5.26
    assert losses[-1] < losses[0] - 0.3
    assert losses == sorted(losses, reverse=True)
    model, tokenizer = load(tmp_path / "tiny")
    with torch.no_grad():
        assert torch.isfinite(model.encode_text(tokenizer(list(recipe.bench.classes)))).all()
    card = (tmp_path / "tiny" / "README.md").read_text(encoding="utf-8")
    assert "not evidence about clinical images" in card


def test_pretraining_is_deterministic(tmp_path):
    runs = [pretrain(RECIPES["chest"], 3, tmp_path / name, pairs={"high": 300, "low": 100}, epochs=1) for name in "ab"]
    assert runs[0] == runs[1]
    assert (tmp_path / "a" / WEIGHTS).read_bytes() == (tmp_path / "b" / WEIGHTS).read_bytes()


#: Lowest and highest accuracy over backbones and modalities that the shipped files may show; docs/phantom.md has the
#: measured ones.
BANDS = {
    "zero-shot, template": (55, 80),
    "zero-shot, descriptions": (53, 73),
    "linear probe": (70, 85),
}


@pytest.mark.parametrize("name", backbone_names())
def test_levels_of_the_shipped_files(name):
    book = json.loads(CHEST.descriptions.read_text(encoding="utf-8"))["descriptions"]
    rows = measure(backbone_dir(name), load_chest(), book)
    for row, (low, high) in BANDS.items():
        for modality in MODALITIES:
            assert low < rows[row][modality].accuracy < high, (row, modality)
    for modality in MODALITIES:
        head_room = rows["linear probe"][modality].accuracy - rows["zero-shot, descriptions"][modality].accuracy
        assert head_room > 5
        assert np.mean(rows["linear probe"][modality].recall) == pytest.approx(rows["linear probe"][modality].accuracy)
