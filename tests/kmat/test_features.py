import dataclasses
import threading
from pathlib import Path
from threading import Event

import numpy as np
import pytest
import torch
from conftest import write_backbone
from PIL import Image

from kmat.errors import UserError
from kmat.model import encoding
from kmat.model.backbone import Backbone, load_backbone
from kmat.model.crop import Crop
from kmat.model.features import FeatureCache
from kmat.tasks.images import FolderImages


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "images"
    root.mkdir()
    rng = np.random.default_rng(0)
    for index in range(4):
        Image.fromarray(rng.integers(0, 255, (40, 50, 3)).astype(np.uint8)).save(root / f"{index}.png")
    return root


REFS = ["0.png", "1.png", "2.png"]


@pytest.fixture
def encoded(monkeypatch):
    """How many images went through the encoder."""
    counts = []
    original = Backbone.encode_images
    monkeypatch.setattr(Backbone, "encode_images", lambda self, x: counts.append(len(x)) or original(self, x))
    return counts


def test_features_are_those_of_the_preprocessed_images(tiny, cache, folder):
    views = cache.images(tiny, FolderImages(folder), REFS)
    expected = tiny.encode_images(torch.stack([tiny.preprocess(Image.open(folder / ref)) for ref in REFS]))
    torch.testing.assert_close(views.features, expected[None])
    assert views.kept == (0, 1, 2)
    assert views.skipped == ()


def test_a_batch_is_decoded_while_the_one_before_is_encoded(tiny, cache, folder, monkeypatch):
    """The model waits in its first batch until images of the second are asked for."""
    monkeypatch.setattr(encoding, "BATCH", 1)
    second, read, encode = Event(), [], tiny.encode_images

    class Source(FolderImages):
        def read(self, ref):
            read.append(ref)
            if len(read) > 1:
                second.set()
            return super().read(ref)

    def wait(pixels):
        assert second.wait(timeout=10)
        return encode(pixels)

    monkeypatch.setattr(tiny, "encode_images", wait)
    views = cache.images(tiny, Source(folder), REFS)
    assert sorted(read) == REFS
    monkeypatch.undo()
    torch.testing.assert_close(
        views.features, FeatureCache(folder / "other").images(tiny, FolderImages(folder), REFS)[0]
    )


def test_nothing_is_decoded_any_more_once_encoding_has_failed(tiny, cache, folder, monkeypatch):
    monkeypatch.setattr(encoding, "BATCH", 1)
    monkeypatch.setattr(tiny, "encode_images", lambda pixels: torch.full((len(pixels), 4), torch.nan))
    with pytest.raises(UserError, match="not finite"):
        cache.images(tiny, FolderImages(folder), REFS)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("ThreadPoolExecutor")]


def test_views_are_those_of_their_own_seed_epoch_and_image(tiny, cache, folder):
    crop = Crop()
    views = cache.images(tiny, FolderImages(folder), REFS, crop, seed=7, epochs=3)
    image = Image.open(folder / "2.png")
    expected = tiny.encode_images(tiny.preprocess(crop.view(image, (32, 32), 7, 1, 2))[None])
    torch.testing.assert_close(views.features[1, 2], expected[0])
    assert views.features.shape[:2] == (3, 3)
    assert len({tuple(row.tolist()) for row in views.features.flatten(0, 1)}) == 9


def test_crops_follow_their_ranges():
    image = Image.fromarray(np.arange(64 * 64, dtype=np.float32).reshape(64, 64))
    whole = Crop(crop_scale=(1.0, 1.0), crop_ratio=(1.0, 1.0)).view(image, (64, 64), 0)
    np.testing.assert_allclose(np.asarray(whole), np.asarray(image), atol=0.5)
    small = np.asarray(Crop(crop_scale=(0.01, 0.01), crop_ratio=(1.0, 1.0)).view(image, (8, 8), 0))
    assert np.ptp(small / 64) < 12, "a tenth of the height"
    long = Image.new("L", (400, 4))
    assert Crop(crop_scale=(0.9, 1.0)).view(long, (8, 8), 0).size == (8, 8)
    assert Crop().view(image, (16, 24), 1).size == (24, 16)


def test_second_use_encodes_nothing(tiny, cache, folder, encoded):
    first = cache.images(tiny, FolderImages(folder), REFS)
    second = FeatureCache(cache.folder).images(tiny, FolderImages(folder), REFS)
    assert encoded == [3]
    assert torch.equal(first.features, second.features)


def test_without_crops_seed_and_epochs_share_one_entry(tiny, cache, folder, encoded):
    cache.images(tiny, FolderImages(folder), REFS, seed=1, epochs=5)
    cache.images(tiny, FolderImages(folder), REFS, seed=2, epochs=9)
    assert encoded == [3]


def test_any_change_is_encoded_anew(tiny, cache, folder, encoded, tmp_path):
    source = FolderImages(folder)
    crop = Crop()

    def fresh(backbone=tiny, refs=REFS, crop=crop, seed=1, epochs=2):
        before = sum(encoded)
        cache.images(backbone, source, refs, crop, seed, epochs)
        return sum(encoded) > before

    assert fresh()
    assert not fresh()
    assert fresh(seed=2)
    assert fresh(epochs=3)
    assert fresh(refs=REFS[:2])
    assert fresh(refs=REFS[::-1])
    assert fresh(crop=None)
    assert fresh(crop=dataclasses.replace(crop, crop_scale=(0.5, 1.0)))
    assert fresh(crop=dataclasses.replace(crop, crop_ratio=(1.0, 1.0)))
    assert fresh(backbone=load_backbone(f"local-dir:{write_backbone(tmp_path / 'other', seed=1)}"))
    config = write_backbone(tmp_path / "same") / "open_clip_config.json"
    config.write_text(config.read_text().replace("[0.5, 0.5, 0.5]", "[0.4, 0.5, 0.5]"))
    assert fresh(backbone=load_backbone(f"local-dir:{config.parent}")), "preprocessing"
    Image.new("RGB", (40, 50), "red").save(folder / "0.png")
    assert fresh(), "the same path with other content"


def test_a_damaged_or_foreign_file_is_not_used(tiny, cache, folder, encoded):
    first = cache.images(tiny, FolderImages(folder), REFS)
    (file,) = cache.folder.iterdir()
    content = file.read_bytes()
    for damage in (b"", content[: len(content) // 2], content.replace(b"images", b"imagez")):
        file.write_bytes(damage)
        again = cache.images(tiny, FolderImages(folder), REFS)
        assert torch.equal(again.features, first.features)
    assert encoded == [3] * 4
    assert [path.suffix for path in cache.folder.iterdir()] == [".safetensors"], "no temporary file is left"


def test_unreadable_images_are_reported_from_the_cache_too(tiny, cache, folder, encoded):
    (folder / "1.png").write_bytes((folder / "1.png").read_bytes()[:100])
    refs = [*REFS, "absent.png"]
    for _ in range(2):
        views = cache.images(tiny, FolderImages(folder), refs)
        assert views.kept == (0, 2)
        assert [item.ref for item in views.skipped] == ["1.png", "absent.png"]
        assert all(item.reason.startswith("unreadable: ") for item in views.skipped)
    assert encoded == [2]
    assert cache.images(tiny, FolderImages(folder), []).features.shape == (1, 0, 0)


def test_texts_are_cached_by_backbone_and_wording(tiny, cache, monkeypatch):
    calls = []
    original = Backbone.encode_texts
    monkeypatch.setattr(Backbone, "encode_texts", lambda self, texts: calls.append(texts) or original(self, texts))
    for texts in (["round", "dark"], ["round", "dark"], ["dark", "round"]):
        torch.testing.assert_close(cache.texts(tiny, texts), original(tiny, texts))
    assert calls == [["round", "dark"], ["dark", "round"]]


def test_default_folder_follows_xdg(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert FeatureCache().folder == tmp_path / "kmat"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert FeatureCache().folder == Path.home() / ".cache" / "kmat"
