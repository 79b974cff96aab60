"""The runner, from a case to the page: small, but through real worker processes."""

import json

import pytest

from benchmarks import __main__ as command
from benchmarks import targets
from benchmarks.cases import CASES, Case
from benchmarks.machine import describe
from benchmarks.pool import LibraryError, Pool
from benchmarks.report import markdown
from benchmarks.results import geometric_mean, ratio
from benchmarks.worker import MemoryTask, Task

TINY = Case("single", "points", 4, 4, 0.05)


def entry(group="single", **times):
    """Results of one case in which each solver took the given time, or None if it did not get there."""
    found = {
        name: {
            "ladder": [{"time": time or 1.0, "first_call": 1.0, "r_marg": 1e-3, "r_fix": 1e-3}],
            "reached": {} if time is None else {"1e-06": 0, "1e-04": 0},
            "most_accurate": 0,
            "stopped": None,
            "same_basin": 1.0,
        }
        for name, time in times.items()
    }
    return Case(group, "points", 64, 64, 0.05).to_dict() | {"methods": found}


def test_a_run_writes_results_tables_figures_and_the_page(tmp_path, monkeypatch, capsys):
    pytest.importorskip("ott", reason="OTT-JAX is not installed: pip install ott-jax")
    command.measure_all([TINY], tmp_path, threads=1, budget=5.0)
    results = json.loads((tmp_path / "results.json").read_text())
    (single,) = results["cases"]
    assert single["name"] == TINY.name
    assert {name: sorted(found["reached"]) for name, found in single["methods"].items()} == {
        name: ["1e-04", "1e-06"] for name in ("fgwot", "fgwot torch", "POT", "OTT")
    }
    assert [machine["threads"] for machine in results["machines"]] == [1]
    table = (tmp_path / "table.md").read_text()
    assert "| points | 4 | 0.05 | 0.5 | 0 |" in table
    assert "speed-up at the tight bound: geometric mean" in table.lower()
    assert {path.name for path in tmp_path.glob("*.png")} == {"times.png", "speedups.png"}
    monkeypatch.setattr(command, "_PAGE", tmp_path / "page.md")
    command.main(["--docs", "--out", str(tmp_path)])
    assert (tmp_path / "page.md").read_text() == f"# Benchmarks\n\n{table}\n{command._NOTES.read_text()}"
    assert table in capsys.readouterr().out


def test_a_run_goes_on_where_one_before_it_stopped(tmp_path, monkeypatch, capsys):
    """Cases of this commit and machine are kept; those of another are measured again; the page tells both machines."""
    first, second = TINY, Case("single", "points", 5, 5, 0.05)
    monkeypatch.setattr(command, "CASES", (first, second))
    monkeypatch.setattr(command, "run_case", lambda _pool, case, _budget: entry(fgwot=1.0) | case.to_dict())
    measured = lambda: capsys.readouterr().out.count(": 0.0 s")  # noqa: E731
    command.measure_all([second, first], tmp_path, threads=1, budget=1.0, seconds=-1.0)
    assert "2 cases are left" in capsys.readouterr().out
    command.measure_all([second], tmp_path, threads=1, budget=1.0)
    assert measured() == 1
    command.measure_all([second, first], tmp_path, threads=1, budget=1.0)
    assert measured() == 1
    results = json.loads((tmp_path / "results.json").read_text())
    assert [case["name"] for case in results["cases"]] == [first.name, second.name]
    assert [case["machine"] for case in results["cases"]] == [0, 0]
    monkeypatch.setattr(command, "describe", lambda threads: describe(threads) | {"commit": "another"})
    command.measure_all([second], tmp_path, threads=1, budget=1.0)
    results = json.loads((tmp_path / "results.json").read_text())
    assert [machine["commit"] == "another" for machine in results["machines"]] == [False, True]
    assert [case["machine"] for case in results["cases"]] == [0, 1]
    assert markdown(results).count("Measured ") == 2


def test_a_library_that_takes_too_long_is_killed_and_started_again():
    pool = Pool(threads=1)
    try:
        with pytest.raises(LibraryError, match="killed after"):
            pool.call("matrix product", Task(Case("growth", "points", 3000, 3000, 0.1), 0), timeout=0.01)
        timing = pool.call("matrix product", Task(TINY, 0, seconds=0.0), timeout=60)
        assert len(timing.times) == 1
        assert pool.call("matrix product", MemoryTask(Case("memory", "points", 1000, 1000, 0.1), 0), timeout=60) > 8e6
        with pytest.raises(LibraryError, match="KeyError"):
            pool.call("matrix product", MemoryTask(Case("growth", "unheard of", 4, 4, 0.1), 0), timeout=60)
    finally:
        pool.close()


def test_an_unknown_case_is_refused(capsys):
    with pytest.raises(SystemExit):
        command.main(["--only", "no such case"])
    assert "no such case" in capsys.readouterr().err


def test_ratios_count_losses_and_peers_that_fail():
    assert ratio(entry(fgwot=1.0, POT=3.0, OTT=2.0)) == 2.0
    assert ratio(entry(fgwot=2.0, POT=None, OTT=1.0)) == 0.5
    assert ratio(entry(fgwot=1.0, POT=None, OTT=None)) is None
    assert ratio(entry(fgwot=None, POT=1.0, OTT=None)) == 0
    assert geometric_mean([0.0, 4.0]) == 0
    both = entry(**{"fgwot": 1.0, "fgwot torch": 4.0, "OTT": 2.0})
    assert [ratio(both, in_torch=mode) for mode in (False, True)] == [2.0, 0.5]
    assert ratio(entry(fgwot=1.0, OTT=2.0), in_torch=True) == 2.0


def test_the_page_says_where_the_plain_call_is_slower():
    results = {"machines": [describe(1)], "cases": [entry(fgwot=1.0, OTT=2.0)]}
    assert "slower than a peer in no row" in markdown(results)
    results["cases"].append(entry(fgwot=4.0, OTT=2.0))
    assert "slower than a peer in 1 rows:\n\n- `single/points/n64/eps0.05/alpha0.5/seed0`: 0.50x" in markdown(results)


@pytest.mark.parametrize(("own", "met"), [(0.1, True), (9.0, False), (None, False)])
def test_targets_are_computed_from_all_their_cases(own, met):
    methods = entry(fgwot=own, POT=None, OTT=3.0)["methods"]
    cases = [case.to_dict() | {"methods": methods} for case in CASES if case.group == "single"]
    outcomes = targets.outcomes({"cases": cases})
    assert [outcome.met for outcome in outcomes] == [None] + [met] * 3 + [None] * 6
    partial = targets.outcomes({"cases": cases[:-1]})
    assert {outcome.met for outcome in partial} == {None}
    assert "1 cases not measured" in partial[1].reached
