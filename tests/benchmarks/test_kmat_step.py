"""The breakdown of K-MaT's training step, on a tiny backbone of the same family."""

import pytest

from benchmarks import kmat_step
from kmat.model.backbone import load_backbone


def test_the_parts_of_a_step_are_printed(monkeypatch, capsys):
    monkeypatch.setattr(kmat_step, "random_biomedclip", lambda *_: load_backbone("phantom:seed0"))
    kmat_step.main(["--steps", "3"])
    rows = [line.split("|")[1:4] for line in capsys.readouterr().out.splitlines() if line.startswith("| ")][1:]
    times = {name.strip(): float(ms) for name, ms, _ in rows}
    assert list(times) == ["whole step", "text encoder", "FGW term", "all else, by difference"]
    assert times["whole step"] == pytest.approx(sum(list(times.values())[1:]), abs=0.02)
    assert min(times["text encoder"], times["FGW term"]) > 0
