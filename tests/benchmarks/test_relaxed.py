"""The command that measures prices and masses of marginals beside POT."""

import pytest

from benchmarks.relaxed import FAMILIES, main


def test_a_row_per_problem(capsys):
    main(["--points", "5", "--epsilons", "0.1"])
    rows = capsys.readouterr().out.splitlines()[2:]
    assert [row.split(" | ")[0].strip("| ") for row in rows] == list(FAMILIES)
    for row in rows:
        assert float(row.split(" | ")[4]) == pytest.approx(0, abs=1e-6), row
