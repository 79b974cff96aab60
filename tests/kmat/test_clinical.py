"""What a report says of classes, by hand-made runs."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from kmat.grids.results import Entry
from kmat.methods import CoOpConfig
from kmat.reports.clinical import by_method, calibration_error, class_tables, confusion, reliability
from kmat.reports.finished import FinishedRun
from kmat.runs.config import RunConfig
from kmat.runs.evaluation import certainty, score
from kmat.runs.result import PartScores

LABELS = ("mole", "melanoma")


def judged(predicted, labels, sure):
    """Scores of predictions that are all as sure as told."""
    p = torch.full((len(labels), 2), 1 - sure)
    p[range(len(labels)), predicted] = sure
    labels = torch.tensor(labels)
    return PartScores(**vars(score(torch.tensor(predicted), labels, 2)), **vars(certainty(p, labels)))


def run(high, low, seed=1):
    parts = {"high": high, "low": low}
    entry = Entry.of("skin", "CoOp", "tiny", seed, "run", parts)
    return FinishedRun(entry, RunConfig(method=CoOpConfig()), LABELS, {}, parts, {}, {}, (), Path("run"))


@pytest.fixture
def two():
    right = judged([0, 0, 1, 1], [0, 0, 1, 1], 0.95)
    half = judged([0, 1, 1, 1], [0, 0, 1, 0], 0.65)
    return [run(right, right), run(right, half, seed=2)]


def test_shares_of_all_runs_together(two):
    assert confusion(two, "high") == [[1, 0], [0, 1]]
    assert confusion(two, "low") == [[3 / 5, 2 / 5], [0, 1]]


def test_bins_of_all_runs_together(two):
    assert reliability(two, "low") == [
        (pytest.approx(0.65), pytest.approx(0.5), 4),
        (pytest.approx(0.95), pytest.approx(1.0), 4),
    ]
    assert calibration_error(two, "low") == pytest.approx((0.15 + 0.05) / 2)


def test_a_table_per_method(two):
    (table,) = class_tables(two)
    assert table.header[:3] == ("class", "sensitivity, high end", "specificity, high end")
    cells = {name: [cell.text for cell in row] for name, row in table.rows}
    # Low end, second run: of three moles one is called a mole, the one melanoma is found.
    assert cells["mole"][4:] == [f"{100 * (1 + 1 / 3) / 2:.1f}", "100.0", "100.0", cells["mole"][7]]
    assert cells["melanoma"][4:7] == ["100.0", f"{100 * (1 + 1 / 3) / 2:.1f}", f"{100 * (1 + 1 / 3) / 2:.1f}"]
    assert "high end 2 mole, 2 melanoma" in table.caption


def test_runs_of_earlier_versions_are_left_out(two):
    old = dict.fromkeys(("high", "low"), PartScores(4, 1.0, 1.0, (1.0, 1.0)))
    assert by_method([FinishedRun(two[0].entry, two[0].config, LABELS, {}, old, {}, {}, (), Path("run"))]) == {}


def test_the_report_shows_them_where_runs_have_them(kmat, trained, tmp_path):
    shutil.copytree(trained, tmp_path / "runs" / "one")
    assert kmat("report", "runs", "--out", "new")[0] == 0
    page = (tmp_path / "new" / "report.html").read_text()
    assert "Confusion" in page
    assert "Calibration" in page
    assert "1 tables by class" in page
    assert "prefers-color-scheme: dark" in page
    assert "95 % intervals" in page
    assert "data:image/png" in page
    assert kmat("report", "runs", "--out", "bare", "--without-images")[0] == 0
    assert "data:image/png" not in (tmp_path / "bare" / "report.html").read_text()
    file = tmp_path / "runs" / "one" / "result.json"
    result = json.loads(file.read_text())
    for splits in result["scores"].values():
        for scores in splits.values():
            for name in ("auc", "reliability", "specificity"):
                scores and scores.pop(name)
    file.write_text(json.dumps(result))
    assert kmat("report", "runs", "--out", "old")[0] == 0
    assert "Calibration" not in (tmp_path / "old" / "report.html").read_text()


def test_a_report_on_images_that_are_gone(kmat, trained, tmp_path):
    run = tmp_path / "runs" / "one"
    shutil.copytree(trained, run)
    config = json.loads((run / "config.json").read_text())
    config["config"]["data"]["task"] = str(tmp_path / "gone.csv")
    (run / "config.json").write_text(json.dumps(config))
    code, _, err = kmat("report", "runs", "--out", "new")
    assert code == 0
    assert "a report without images" in err
    page = (tmp_path / "new" / "report.html").read_text()
    assert "95 % intervals" in page
    assert "data:image/png" not in page
