"""kmat from Python."""

import numpy as np
import pytest
import torch
from PIL import Image

import kmat
from kmat.errors import UserError
from kmat.methods import CoCoOpConfig


@pytest.fixture
def pictures():
    """Bright and dark squares, grey and RGB."""

    def part(n, seed):
        rng = np.random.default_rng(seed)
        labels = [index % 2 for index in range(n)]
        noise = rng.integers(0, 40, (n, 32, 32))
        return (noise + np.array([20, 180])[labels][:, None, None]).astype(np.uint8), labels

    low, labels = part(8, 3)
    return {
        ("high", "train"): part(8, 0),
        ("high", "val"): part(4, 1),
        ("high", "test"): part(8, 2),
        ("low", "test"): ([np.stack([image] * 3, -1) for image in low], labels),
    }


def test_arrays_go_from_task_to_scores_and_back_from_a_folder(pictures, tiny, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    task = kmat.task_from_arrays("squares", ["dark", "bright"], pictures, modality_names={"high": "grey", "low": "RGB"})
    run = kmat.fit(task, "coop", backbone=tiny, shots=4, epochs=3, augment="none", out=tmp_path / "run")
    assert run.scores["low"]["test"].n == 8
    assert "CoOpConfig on squares" in repr(run)
    low, labels = pictures["low", "test"]
    probabilities = run.predict(low)
    assert probabilities.shape == (8, 2)
    torch.testing.assert_close(probabilities.sum(1), torch.ones(8))
    hits = (probabilities.argmax(1) == torch.tensor(labels)).double().mean()
    assert float(hits) == pytest.approx(run.scores["low"]["test"].accuracy)
    Image.fromarray(low[0]).save(tmp_path / "one.png")
    mixed = run.predict([tmp_path / "one.png", Image.fromarray(low[0]), low[0]])
    torch.testing.assert_close(mixed, probabilities[:1].expand(3, 2))
    again = kmat.load_run(tmp_path / "run")
    assert torch.equal(again.text_features("low"), run.text_features("low"))
    assert again.scores == run.scores


def test_nothing_is_kept_unasked(shapes, tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = kmat.fit(shapes, "zero-shot", backbone=tiny, cache=tmp_path / "cache")
    assert run.harmonic is not None
    assert [path.name for path in tmp_path.iterdir()] == ["cache"]


def test_text_features_of_each_image_are_no_text_features_of_classes(shapes, tiny, tmp_path):
    run = kmat.fit(shapes, CoCoOpConfig(), backbone=tiny, shots=2, epochs=1, cache=tmp_path)
    with pytest.raises(UserError, match="of each image only"):
        run.text_features("low")


def test_what_does_not_fit_is_said(pictures, shapes, tiny, tmp_path):
    images, labels = pictures["high", "train"]
    for parts, message in (
        ({("high", "testing"): (images, labels)}, "expected one of"),
        ({("high", "train"): (images, labels[1:])}, "8 images and 7 labels"),
        ({("high", "train"): (images, [2] * 8)}, "image 0 is of class 2, expected 0 to 1"),
    ):
        with pytest.raises(UserError, match=message):
            kmat.task_from_arrays("squares", ["dark", "bright"], parts)
    with pytest.raises(UserError, match="8 images of 1 patients"):
        kmat.task_from_arrays(
            "squares", ["dark", "bright"], {("high", "train"): (images, labels)}, patients={("high", "train"): ["a"]}
        )
    with pytest.raises(UserError, match="no sentences for class 'dark'"):
        kmat.task_from_arrays(
            "squares", ["dark", "bright"], pictures, descriptions={"dark": {"high": "a string", "low": ["x"]}}
        )
    with pytest.raises(UserError, match="unknown method 'magic'"):
        kmat.fit(shapes, "magic", backbone=tiny)
    run = kmat.fit(shapes, "zero-shot", backbone=tiny, cache=tmp_path)
    with pytest.raises(UserError, match="image 0: unreadable"):
        run.predict([tmp_path / "absent.png"])
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = kmat.nothing
