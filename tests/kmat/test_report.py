import csv
import json
from statistics import fmean, stdev

import pytest
from PIL import Image

from kmat.evaluation import harmonic_mean
from kmat.report import ALL, Cell, Entry, Report


def entry(method, backbone, seed, high, low):
    h = harmonic_mean(high, low)
    return Entry(method, backbone, seed, high, high - 1, low, low - 1, h, h - 1)


@pytest.fixture
def report():
    table = {
        ("ours", "a:one"): [(60, 40), (64, 44)],
        ("ours", "b"): [(70, 30), (72, 32)],
        ("theirs", "a:one"): [(50, 50), (50, 50)],
        ("theirs", "b"): [(71, 31), (71, 31)],
    }
    entries = [entry(*key, seed, *values) for key, seeds in table.items() for seed, values in enumerate(seeds)]
    return Report(entries, banner="only a test", notes=("a note",))


def test_means_over_seeds_and_spread_over_backbones(report):
    assert report.cell("ours", "a:one", "high_accuracy") == Cell(62, pytest.approx(stdev([60, 64])))
    per_seed = [harmonic_mean(60, 40), harmonic_mean(64, 44)]
    assert report.cell("ours", "a:one", "h_accuracy").mean == pytest.approx(fmean(per_seed))
    overall = report.cell("ours", ALL, "low_accuracy")
    assert overall == Cell(36.5, pytest.approx(stdev([42, 31])))
    assert str(Cell.of([1.25])) == "1.2"
    assert str(Cell.of([1.0, 2.0])) == "1.5±0.7"


def test_losses_stand_beside_wins(report):
    assert report.differences("ours", "low_accuracy") == {"theirs": [-8, 0]}
    title, (header, row) = report.comparison("ours")
    assert "ours minus" in title
    assert header == ["minus", "high", "low", "H", "H one", "H b"]
    assert row[:3] == ["theirs", "+6.0", "-4.0"]


def test_files(report, tmp_path):
    markdown, table, data, figure = report.write(tmp_path, compare="ours")
    text = markdown.read_text(encoding="utf-8")
    assert text.startswith("**only a test**")
    assert "| ours | 66.5±6.4 |" in text
    assert "a note" in text
    with table.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 8
    assert float(rows[0]["high_accuracy"]) == 60
    saved = json.loads(data.read_text(encoding="utf-8"))
    assert saved["banner"] == "only a test"
    assert saved["summary"][ALL]["ours"]["low_accuracy"]["mean"] == 36.5
    with Image.open(figure) as image:
        assert image.size[0] > 1000


def test_console_tables_fit_eighty_columns(report):
    from rich.console import Console

    for table in report.console_tables(compare="ours"):
        assert Console(width=200).measure(table).maximum <= 80


def test_one_backbone_has_no_overall_table(report):
    one = Report([e for e in report.entries if e.backbone == "b"], banner="", notes=())
    assert [title for title, _ in one.tables()] == ["b"]
