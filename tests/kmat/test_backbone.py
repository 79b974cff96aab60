"""Text features from context vectors equal open_clip's encode_text, on every kind of text tower."""

import json
import shutil

import open_clip
import pytest
import torch
from conftest import write_backbone

from benchmarks.kmat_step import random_biomedclip
from kmat.errors import UserError
from kmat.model import backbone as module
from kmat.model.backbone import Backbone, load_backbone

NAMES = ("round shape.", "square.", "dark edge xyz.")
TEXTS = ["round", "a photo of the square shape with an edge.", "xyz " * 6, "dark , bright."]


def encode_text(backbone, texts):
    ids = backbone._tokenizer(list(texts)).to(backbone.device)
    with torch.no_grad():
        return backbone.model.encode_text(ids)


def agreement(backbone, words):
    """Largest differences to encode_text: of strings, and of the words put in as context vectors."""
    strings = (backbone.encode_texts(TEXTS, batch_size=3) - encode_text(backbone, TEXTS)).abs().max()
    n_ctx = len(backbone.word_vectors(words))
    context = backbone.word_vectors(words).expand(len(NAMES), -1, -1)
    features = backbone.encode_context(context, backbone.frame(NAMES, n_ctx))
    contexts = (features - encode_text(backbone, [f"{words} {name}" for name in NAMES])).abs().max()
    return float(strings), float(contexts)


def native(custom_text, context_length=32, **text):
    torch.manual_seed(0)
    kind = open_clip.model.CustomTextCLIP if custom_text else open_clip.model.CLIP
    vision = {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 16}
    text = {"context_length": context_length, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2, **text}
    tokenizer = open_clip.tokenizer.SimpleTokenizer(context_length=context_length)
    return Backbone("native", kind(16, vision, text), None, tokenizer)


def test_bert_tower_equals_encode_text(tiny):
    assert max(agreement(tiny, "a photo of the")) < 1e-6


@pytest.mark.parametrize("custom_text", [False, True])
def test_native_tower_equals_encode_text(custom_text):
    assert max(agreement(native(custom_text), "a photo of the")) < 2e-6


def test_native_tower_with_eos_pooling_and_linear_projection():
    eot = open_clip.tokenizer.SimpleTokenizer().eot_token_id
    backbone = native(True, pool_type="eos", eos_id=eot, proj_bias=True)
    assert max(agreement(backbone, "a photo of")) < 2e-6


@pytest.mark.slow
def test_full_biomedclip_architecture_equals_encode_text(tmp_path, tiny_dir):
    """Random weights, real shapes, from a snapshot without BERT's config.json, as the published one is."""
    backbone = random_biomedclip(tiny_dir, tmp_path)
    model = backbone.model
    assert backbone.token_dim == 768
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(195.9e6, rel=1e-3)
    assert backbone.image_size == (224, 224)
    assert max(agreement(backbone, "a photo of the")) < 5e-6
    frame = backbone.frame(NAMES, 4)
    assert frame.ids.shape[1] < 16, "prompts are cut to the longest, not padded to 256"
    context = torch.zeros(len(NAMES), 4, 768, requires_grad=True)
    backbone.encode_context(context, frame).sum().backward()
    assert context.grad.abs().max() > 0


def test_encoders_are_frozen_and_in_eval_mode(tiny):
    assert not any(p.requires_grad for p in tiny.model.parameters())
    assert not any(m.training for m in tiny.model.modules())
    assert torch.equal(tiny.encode_texts(["round"]), tiny.encode_texts(["round"])), "dropout is off"


def test_gradient_reaches_the_context(tiny):
    context = torch.zeros(3, 2, tiny.token_dim, requires_grad=True)
    tiny.encode_context(context, tiny.frame(NAMES, 2)).square().sum().backward()
    assert (context.grad.abs().amax(dim=(1, 2)) > 0).all()


def test_image_features_are_unit_vectors_of_encode_image(tiny):
    pixels = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    features = tiny.encode_images(pixels)
    torch.testing.assert_close(features.norm(dim=1), torch.ones(3))
    torch.testing.assert_close(features, torch.nn.functional.normalize(tiny.model.encode_image(pixels), dim=-1))


def test_word_pieces_are_counted_not_words(tiny):
    assert len(tiny.word_vectors("round")) == 1
    assert len(tiny.word_vectors("xyz")) == 3
    frame = tiny.frame(["round.", "xyz."], 4)
    assert frame.ids.shape == (2, 1 + 4 + 3 + 1 + 1)
    assert frame.ids[0, -2:].tolist() == [0, 0], "the shorter prompt is padded"


def test_temperature_is_the_models(tiny):
    assert tiny.logit_scale == pytest.approx(float(tiny.model.logit_scale.exp()))


def test_fingerprint_follows_weights_and_preprocessing(tiny, tmp_path):
    same = load_backbone(f"local-dir:{write_backbone(tmp_path / 'same')}")
    other = load_backbone(f"local-dir:{write_backbone(tmp_path / 'other', seed=1)}")
    assert same.fingerprint == tiny.fingerprint != other.fingerprint
    file = tmp_path / "same" / "open_clip_config.json"
    file.write_text(file.read_text().replace("[0.5, 0.5, 0.5]", "[0.4, 0.5, 0.5]"))
    assert load_backbone(f"local-dir:{file.parent}").fingerprint != tiny.fingerprint


def test_too_long_a_prompt_is_an_error_and_a_long_text_a_warning(tiny):
    with pytest.raises(UserError, match="longer than 48 tokens"):
        tiny.frame(["dark " * 60], 4)
    with pytest.warns(UserWarning, match="1 of 2 texts are longer than 48 tokens"):
        tiny.encode_texts(["round", "dark " * 60])
    assert tiny.encode_texts(["dark " * 46]).shape == (1, 16), "46 words and two special tokens just fit"


def test_a_tokenizer_that_splits_the_placeholder_is_refused(tiny, monkeypatch):
    monkeypatch.setattr(module, "PLACEHOLDER", "xy")
    with pytest.raises(UserError, match="splits the placeholder"):
        tiny.frame(["round."], 2)


def test_towers_that_see_their_padding_are_refused():
    with pytest.raises(UserError, match="not supported"):
        native(True, no_causal_mask=True, pool_type="last")


def test_unusable_names_are_user_errors(tmp_path, tiny_dir, monkeypatch):
    for name, message in (
        ("ViT-B-32", "expected biomedclip"),
        ("no-such-model:tag", "no-such-model"),
        (f"local-dir:{tmp_path / 'absent'}", "no open_clip model folder"),
        ("phantom:seed9", "choose one of"),
        ("digits:seed9", "choose one of"),
    ):
        with pytest.raises(UserError, match=message):
            load_backbone(name)
    damaged = shutil.copytree(tiny_dir, tmp_path / "damaged")
    (damaged / "open_clip_model.safetensors").write_bytes(b"12345678 not a model")
    with pytest.raises(UserError, match="cannot load backbone"):
        load_backbone(f"local-dir:{damaged}")
    (damaged / "config.json").unlink()
    with pytest.raises(UserError, match=r"lacks config\.json"):
        load_backbone(f"local-dir:{damaged}")
    (damaged / "open_clip_config.json").write_text("{}")
    with pytest.raises(UserError, match="no open_clip model folder"):
        load_backbone(f"local-dir:{damaged}")

    def offline(name, *_args, **_options):
        raise RuntimeError(f"Failed initial config/weights load from HF Hub {name}\nand a long story")

    monkeypatch.setattr(open_clip, "create_model_from_pretrained", offline)
    with pytest.raises(UserError, match=r"backbone 'biomedclip': Failed .*BiomedCLIP\S+; .*--backbone local-dir:DIR$"):
        load_backbone("biomedclip")


def test_a_snapshot_without_bert_configuration_gets_biomedberts(tmp_path):
    from transformers import AutoConfig, BertConfig

    text_cfg = {"hf_model_name": module.BIOMEDBERT}
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": {"text_cfg": text_cfg}}))
    with module.ExitStack() as stack:
        source = module.text_overrides(tmp_path, stack)["text_cfg"]["hf_model_name"]
        assert AutoConfig.from_pretrained(source).hidden_size == BertConfig().hidden_size == 768
    assert list(tmp_path.iterdir()) == [tmp_path / "open_clip_config.json"], "the user's folder is left as it was"
