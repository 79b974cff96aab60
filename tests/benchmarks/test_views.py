"""The study of few crops, on little."""

import pytest

from benchmarks import views
from kmat.model.backbone import load_backbone


def test_tables_of_few_views(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(views, "random_biomedclip", lambda *_: load_backbone("phantom:seed0"))
    monkeypatch.setattr(views, "BACKBONES", {"chest-phantom": ("phantom:seed0",)})
    monkeypatch.setattr(views, "ROWS", ("zero-shot template",))
    monkeypatch.setattr(views, "VIEWS", (1, None))
    views.main(["--tasks", "chest-phantom", "--seeds", "2", "--repeats", "1", "--out", str(tmp_path)])
    out = capsys.readouterr().out
    assert "| 50, one an epoch | 2400 |" in out
    assert "| zero-shot template | 1 | 64.0 | 62.2 | 63.1 | +0.0±0.0 | +0.0±0.0 | +0.0±0.0 |" in out
    assert "| zero-shot template | 50 | 64.0 |" in out


def test_differences_are_paired_by_seed():
    few = {("a", 1): {"h": 50.0}, ("b", 1): {"h": 60.0}, ("a", 2): {"h": 40.0}, ("b", 2): {"h": 30.0}}
    every = {("a", 1): {"h": 48.0}, ("b", 1): {"h": 58.0}, ("a", 2): {"h": 44.0}, ("b", 2): {"h": 34.0}}
    found = views.against_all(few, every, "h")
    assert (found.mean, found.error) == (pytest.approx(-1.0), pytest.approx(3.0))
