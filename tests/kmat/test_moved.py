"""Row 23: a run evaluated from another folder, and on another machine, where data and backbone lie elsewhere."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import LABELS, one_line, shape, write_backbone, write_descriptions, write_shapes

from kmat.runs import run as runs


@pytest.fixture
def away(kmat, tmp_path, monkeypatch, tiny_dir):
    """A run trained by relative paths, and the table of its scores; then everything moves."""
    home = tmp_path / "home"
    write_shapes(home / "data", (("train", 4), ("val", 2), ("test", 3)))
    write_descriptions(home / "d.json")
    shutil.copytree(tiny_dir, home / "tiny")
    monkeypatch.chdir(home)
    code, out, err = kmat("train", "coop", *OPTIONS)
    assert code == 0, err
    table = out[: out.index("run written")]
    monkeypatch.chdir(tmp_path)
    code, evaluated, err = kmat("evaluate", "home/run")  # from another folder
    assert code == 0, err
    assert evaluated.startswith(table)
    return evaluated


OPTIONS = ("--task", "data/manifest.csv", "--descriptions", "d.json", "--backbone", "local-dir:tiny")
OPTIONS += ("--shots", 2, "--epochs", 2, "--out", "run")
THERE = ("--root", "there/data", "--backbone", "local-dir:there/tiny")


def test_a_run_on_another_machine(kmat, away):
    shutil.copytree("home", "there")
    Path("home/run").rename("run")
    shutil.rmtree("home")
    Path("there/data/manifest.csv").unlink()
    code, _, err = kmat("evaluate", "run")
    assert code == 1
    assert "home/tiny" in one_line(err)
    code, out, err = kmat("evaluate", "run", *THERE)
    assert code == 0, err
    assert out == away
    code, first, err = kmat("predict", "run", "there/data/low", "--backbone", "local-dir:there/tiny")
    assert code == 0, err
    assert len(first.splitlines()) == 1 + 2 * 9


@pytest.mark.usefixtures("away")
def test_what_moved_must_be_the_same(kmat, tmp_path):
    shutil.copytree("home", "there")
    write_backbone(tmp_path / "other", seed=1)
    code, _, err = kmat("evaluate", "home/run", *THERE[:3], "local-dir:other")
    assert code == 1
    assert "backbone 'local-dir:other' is not the one that home/run was trained with" in one_line(err)
    learned = next(iter(json.loads(Path("home/run/config.json").read_text())["draw"]))
    shape(0, np.random.default_rng(99)).save(f"there/data/{learned}")
    code, _, err = kmat("evaluate", "home/run", *THERE)
    assert code == 1
    message = one_line(err)
    assert f"--root there/data does not hold the images of home/run: {learned}: another image" in message
    Path(f"there/data/{learned}").unlink()
    code, _, err = kmat("evaluate", "home/run", *THERE)
    assert code == 1
    assert f"{learned}: unreadable: no such file" in one_line(err)
    code, _, err = kmat("evaluate", "home/run", "--root", "nowhere")
    assert code == 1
    assert "image folder nowhere does not exist" in one_line(err)


@pytest.mark.usefixtures("away")
def test_an_interrupted_run_goes_on_after_a_move(kmat, tmp_path, monkeypatch):
    expected = json.loads(Path("home/run/result.json").read_text())
    monkeypatch.chdir(tmp_path / "home")
    with monkeypatch.context() as patch:
        patch.setattr(runs, "evaluate", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        assert kmat("train", "coop", *OPTIONS, "--overwrite")[0] == 130
    monkeypatch.chdir(tmp_path)
    Path("home").rename("there")
    monkeypatch.chdir(tmp_path / "there")
    code, _, err = kmat("train", "coop", *OPTIONS, "--resume")
    assert code == 0, err
    result = json.loads(Path("run/result.json").read_text())
    assert result["scores"] == expected["scores"]
    assert json.loads(Path("run/config.json").read_text())["config"]["data"]["task"] == str(
        tmp_path / "there/data/manifest.csv"
    )
    shutil.copy(f"data/high/{LABELS[0]}-train-0.png", f"data/high/{LABELS[0]}-train-1.png")
    code, _, err = kmat("train", "coop", *OPTIONS[:-4], "--shots", 4, "--epochs", 2, "--out", "run", "--resume")
    assert code == 1
    assert "draw" in one_line(err)


def test_embedded_tasks_do_not_move(kmat, tmp_path):
    code, _, err = kmat("train", "zero-shot", "--task", "chest-phantom", "--out", "run")
    assert code == 0, err
    code, _, err = kmat("evaluate", "run", "--root", tmp_path)
    assert code == 1
    assert "--root means nothing to --task chest-phantom" in one_line(err)


def test_downloads_elsewhere(kmat, everything, tiny_dir, tmp_path):
    options = ("--task", "breast", "--root", everything, "--backbone", f"local-dir:{tiny_dir}", "--out", "run")
    code, out, err = kmat("train", "zero-shot", *options)
    assert code == 0, err
    shutil.copytree(everything, tmp_path / "there")
    code, again, err = kmat("evaluate", "run", "--root", "there")
    assert code == 0, err
    assert again.startswith(out[: out.index("run written")])
