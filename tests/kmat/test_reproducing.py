"""The paper's setting from downloads to scores, on generated images and random weights: the scores mean nothing."""

import csv
import json

import pytest

from kmat.cli import main
from kmat.tasks import TaskConfig

CLASSES = ("COVID-19", "pneumonia", "normal")


@pytest.fixture
def options(everything, tiny_dir, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    sentences = {m: [f"a {m} shape with an edge", f"the {m} photo"] for m in ("high", "low")}
    (tmp_path / "d.json").write_text(json.dumps({"descriptions": dict.fromkeys(CLASSES, sentences)}), encoding="utf-8")
    options = ["--task", "chest", "--root", str(everything), "--descriptions", "d.json"]
    return [*options, "--backbone", f"local-dir:{tiny_dir}", "--cache", "cache", "--out", "run"]


def test_train_in_the_papers_setting(everything, options, tmp_path, capsys):
    """Fifty epochs, batches of four, 16 shots: on noise and random weights, so its scores mean nothing."""
    assert main(["train", "kmat", *options]) == 0, capsys.readouterr().err
    result = json.loads((tmp_path / "run" / "result.json").read_text(encoding="utf-8"))
    config = json.loads((tmp_path / "run" / "config.json").read_text(encoding="utf-8"))["config"]
    assert (config["schedule"]["epochs"], config["schedule"]["batch_size"], config["schedule"]["lr"]) == (50, 4, 0.0025)
    assert config["data"]["root"] == str(everything)
    task = TaskConfig(task="chest", root=everything).load()
    assert result["labels"] == list(CLASSES)
    assert result["modality_names"] == {"high": "CT", "low": "chest X-ray"}
    assert result["train_images"] == sum(min(16, count) for count in task.count("high", "train"))
    assert result["scores"]["low"]["test"]["n"] == len(task.select("low", "test"))
    capsys.readouterr()
    assert main(["evaluate", "run", "--cache", "cache"]) == 0
    assert "harmonic mean of both test sets" in capsys.readouterr().out


def test_bench_on_a_task_of_the_paper(options, tmp_path, capsys):
    code = main(
        ["bench", *options, "--epochs", "2", "--seeds", "1", "--workers", "1", "--methods", "zero-shot", "kmat"]
    )
    captured = capsys.readouterr()
    assert code == 0, captured.err
    table = (tmp_path / "run" / "results.md").read_text(encoding="utf-8")
    assert "[54.5]" in table, "the paper's accuracy of K-MaT on CT stands beside ours"
    with (tmp_path / "run" / "results.csv").open(newline="", encoding="utf-8") as file:
        assert {row["task"] for row in csv.DictReader(file)} == {"chest"}
