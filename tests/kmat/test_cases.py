"""What a report says of single test images, by hand-made runs."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from kmat.errors import UserError
from kmat.grids.results import Entry
from kmat.methods import CoOpConfig
from kmat.reports.cases import cases, comparison_tables, galleries, interval_table
from kmat.reports.finished import FinishedRun
from kmat.reports.page import Section, render
from kmat.runs.config import RunConfig
from kmat.runs.predictions import Predictions, as_csv, read_csv
from kmat.runs.result import PartScores
from kmat.tasks.base import Record, UnreadableImageError

LABELS = ("mole", "melanoma")
ALL_RIGHT = dict.fromkeys(("high", "low"), PartScores(4, 1.0, 1.0, (1.0, 1.0)))


def parts(sure, *, refs="abcdef"):
    """Six images of three patients at either end; ``sure`` is the probability of the right class."""
    return [
        Predictions(
            tuple(Record(f"{modality}-{ref}", i % 2, modality, "test", f"p{i // 2}") for i, ref in enumerate(refs)),
            torch.tensor([[p, 1 - p] if i % 2 == 0 else [1 - p, p] for i, p in enumerate(sure)]).double(),
        )
        for modality in ("high", "low")
    ]


@pytest.fixture
def make(tmp_path):
    """A function that writes a run's predictions and returns the run."""

    def run(method, sure, seed=1, **options):
        folder = tmp_path / f"{method}-{seed}"
        folder.mkdir()
        (folder / "predictions.csv").write_text(as_csv(parts(sure, **options), LABELS))
        entry = Entry.of("skin", method, "tiny", seed, "run", ALL_RIGHT)
        return FinishedRun(entry, RunConfig(method=CoOpConfig()), LABELS, {}, ALL_RIGHT, {}, {}, (), folder)

    return run


def test_predictions_come_back_as_they_were_written(tmp_path):
    """Names too that hold commas, quotes, or bytes that are not UTF-8."""
    written = [
        Predictions((Record('a,"b"\udcff', 1, "low", "test", "x"), Record("c", 0, "low", "val", "y")), torch.rand(2, 2))
    ]
    file = tmp_path / "predictions.csv"
    file.write_text(as_csv(written, LABELS), encoding="utf-8", errors="surrogateescape")
    found = read_csv(file, LABELS)
    assert found["low"].records == written[0].records[:1]
    torch.testing.assert_close(found["low"].probabilities, written[0].probabilities[:1].double(), atol=1e-6, rtol=0)
    assert read_csv(tmp_path / "none.csv", LABELS) == {}
    for damaged in ("", "a,b\n", file.read_text(errors="surrogateescape").replace("melanoma", "wart", 2)[:-40]):
        file.write_text(damaged, errors="surrogateescape")
        with pytest.raises(UserError, match="cannot read .*predictions.csv"):
            read_csv(file, LABELS)


def test_a_row_per_method(make):
    found = cases(
        [make("CoOp", [0.9] * 6), make("CoOp", [0.9, 0.9, 0.2, 0.2, 0.9, 0.9], seed=2), make("K-MaT", [0.8] * 6)]
    )
    table = interval_table("skin", found)
    assert table.header == ("method", *(f"{m}, {end} end" for end in ("high", "low") for m in ("acc", "F1", "AUC")))
    assert [name for name, _ in table.rows] == ["CoOp", "K-MaT"]
    assert table.rows[1][1][0].text == "100.0 to 100.0"
    # The second of CoOp's runs is wrong about one patient of three, who is drawn not at all or three times.
    assert table.rows[0][1][0].text == "50.0 to 100.0"


def test_methods_are_compared_on_the_runs_that_both_have(make):
    runs = [make("K-MaT", [0.8] * 6), make("K-MaT", [0.1] * 6, seed=2), make("CoOp", [0.9, 0.9, 0.2, 0.2, 0.9, 0.9])]
    (table,) = comparison_tables("skin", cases(runs))
    assert table.title == "skin: K-MaT tested against the other rows"
    ((name, cells),) = table.rows
    assert (name, cells[0].text.split()[0]) == ("CoOp", "+33.3"), "without the run that only one has"
    assert float(cells[1].text) == pytest.approx(1, abs=0.01), "one patient may be chance"


def test_other_images_are_not_compared(make):
    runs = [make("K-MaT", [0.8] * 6), make("CoOp", [0.8] * 6, refs="abcdeg"), make("CoCoOp", [0.8] * 6)]
    (table,) = comparison_tables("skin", cases(runs))
    assert {name: cells[0].text for name, cells in table.rows} == {"CoOp": "–", "CoCoOp": "+0.0 (+0.0 to +0.0)"}
    mixed = [make("KgCoOp", [0.8] * 6), make("KgCoOp", [0.8] * 6, refs="abcdeg", seed=2)]
    assert cases(mixed) == {}


def test_damaged_predictions_are_told_and_left_out(make, capsys):
    run = make("K-MaT", [0.8] * 6)
    (run.folder / "predictions.csv").write_text("gone")
    assert cases([run]) == {}
    assert "no intervals" in capsys.readouterr().err
    assert cases([replace(run, folder=run.folder / "nowhere")]) == {}


class Images:
    """Grey images, one of colour, and one that cannot be read."""

    def read(self, ref):
        if ref.endswith("c"):
            raise UnreadableImageError("gone")
        pixels = np.full((300, 200, 3), 90, np.uint8)
        pixels[..., 0] += 50 * ref.endswith("e")
        return Image.fromarray(pixels)


def test_the_wrongest_first(make):
    found = cases(
        [make("K-MaT", [0.4, 0.9, 0.1, 0.8, 0.3, 0.45]), make("K-MaT", [0.4, 0.9, 0.3, 0.8, 0.3, 0.65], seed=2)]
    )
    high, low = galleries(found, LABELS, Images())
    assert (high.title, low.title) == ("K-MaT, high end", "K-MaT, low end")
    assert [each.lines[2] for each in high.thumbnails] == ["high-c", "high-e", "high-a"], "f is right in the mean"
    assert high.thumbnails[0].lines[:2] == ("is mole (20 %)", "taken for melanoma (80 %)")
    assert [each.png is None for each in high.thumbnails] == [True, False, False]
    page = render("t", "l", [Section("s", galleries=[high], galleries_caption="wrong & wronger")])
    assert page.count('src="data:image/png;base64,') == 2
    assert "<summary>wrong &amp; wronger</summary>" in page
