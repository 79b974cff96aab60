"""What a first run costs, on a tiny backbone of the same family."""

from benchmarks import first_run
from kmat.grids.rows import BENCH
from kmat.model.backbone import load_backbone


def test_every_trained_row_is_timed(monkeypatch, capsys):
    monkeypatch.setattr(first_run, "random_biomedclip", lambda *_: load_backbone("phantom:seed0"))
    first_run.main(["--repeats", "1", "--device", "cpu"])
    rows = {line.split(" | ")[0].strip("| ") for line in capsys.readouterr().out.splitlines() if line.startswith("|")}
    for name in BENCH:
        assert (f"{name}: a step, and a run of 600" in rows) == (not name.startswith("zero-shot"))
    assert "a run's 2400 crops and 900 test images, once for each seed" in rows
    assert "`kmat bench` with 3 seeds: 30 runs, some to choose the anchor's weight" in rows
