"""The GPU's command, rehearsed without one: every section, what fails or hangs, and the page."""

import json
import os
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from benchmarks.cases import Case
from benchmarks.gpu import __main__ as command
from benchmarks.gpu import clock, environment, races, solves, suite, targets
from benchmarks.gpu.page import INTRO, markdown, rows_of
from benchmarks.gpu.run import SECTIONS, Section, run_sections
from benchmarks.gpu.section import Run, append
from benchmarks.machine import describe
from benchmarks.pool import LibraryError

ROOT = Path(__file__).parents[2]
PEERS = {"OTT": "ott", "POT": "ot", "ot.batch": "ot"}

BROKEN = """
import subprocess, sys, time

def raises(run):
    run.add(found=1)
    raise OSError("the disk is full")

def hangs(run):
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    run.add(child=child.pid)
    time.sleep(600)

def works(run):
    run.attempt(lambda: {"found": 1 / 0}, what="a row")
    run.add(found=2, left=run.left)
"""


@pytest.fixture(scope="module")
def rehearsal(tmp_path_factory):
    """Folder and rows of a whole run."""
    folder = tmp_path_factory.mktemp("gpu")
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.gpu", "--small", "--out", folder, "--commit", "abc"],
        cwd=ROOT,
        env={k: v for k, v in os.environ.items() if not k.startswith("PYTEST")} | {"CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:] + (folder / "log.txt").read_text()[-3000:]
    return folder, rows_of(folder / "results.jsonl")


def of(rows, section):
    return [row for row in rows if row["section"] == section and "outcome" not in row]


@pytest.mark.slow
def test_every_section_completes_and_no_row_fails(rehearsal):
    _, rows = rehearsal
    assert [row["section"] for row in rows if "outcome" in row] == [section.name for section in SECTIONS]
    assert rows[0]["commit"] == "abc"
    assert [row["error"] for row in rows if "error" in row] == []
    (tests,) = of(rows, "tests")
    assert tests["failures"] == []
    assert tests["summary"].startswith(f"{tests['ended']} passed")
    assert len({row["kernel"] for row in of(rows, "kernels")}) > 10
    assert {row["part"] for row in of(rows, "training")} >= {"whole step", "text encoder", "FGW term"}
    assert all(row["operations"] > 0 for row in of(rows, "solves"))


@pytest.mark.slow
@pytest.mark.parametrize("race", ["single float64", "batches", "single float32"])
def test_every_solver_races(rehearsal, race):
    rows = of(rehearsal[1], race)
    assert {row["solver"] for row in rows} > {"fgwot", "fgwot graphs", "OTT"}
    for row in rows:
        absent = environment.find_spec(PEERS.get(row["solver"], "fgwot")) is None
        assert ("is not installed" in row["stopped"]) if absent else row["seconds"] > 0
        assert row["reached"] or not row["solver"].startswith("fgwot")


@pytest.mark.slow
def test_tables_and_figures_are_written_and_say_that_nothing_was_measured(rehearsal):
    folder, rows = rehearsal
    assert {path.name for path in folder.iterdir()} == {
        *("results.jsonl", "log.txt", "gpu.md"),
        *("float64.png", "float32.png"),
    }
    text = (folder / "gpu.md").read_text()
    assert text == markdown(rows)
    assert "## A rehearsal: no measurement" in text
    assert "No card." in text


def test_sections_survive_each_other(tmp_path, monkeypatch, capsys):
    (tmp_path / "broken.py").write_text(BROKEN)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{ROOT}")
    names = ("raises", "hangs", "works")
    start = time.monotonic()
    assert not run_sections([Section(name, f"broken:{name}", 1) for name in names], tmp_path, 6, small=True)
    assert time.monotonic() - start < 20
    rows = rows_of(tmp_path / "results.jsonl")
    outcomes = {row["section"]: row for row in rows if "outcome" in row}
    assert outcomes["raises"]["outcome"] == "failed with exit code 1"
    assert outcomes["raises"]["said"].endswith("OSError: the disk is full\n")
    assert outcomes["hangs"]["outcome"].startswith("killed at its limit of")
    assert outcomes["works"]["outcome"] == "completed"
    assert of(rows, "raises")[0]["found"] == 1
    failed, worked = of(rows, "works")
    assert (failed["what"], failed["error"]) == ("a row", "ZeroDivisionError: division by zero")
    assert worked["left"] > 1, "the time that the first one left is the others'"
    status = Path(f"/proc/{of(rows, 'hangs')[0]['child']}/stat")
    assert not status.exists() or status.read_text().split()[2] == "Z", "the whole group is killed"
    assert "hangs: killed" in capsys.readouterr().out


def test_without_a_run_the_page_states_no_figure():
    text = markdown([])
    assert text.startswith(INTRO.read_text())
    assert "Not run yet" in text
    assert "|" not in text.split("Not run yet")[1]


def test_the_documentation_page_is_what_the_command_writes(tmp_path, monkeypatch):
    assert command.PAGE.read_text().startswith(INTRO.read_text())
    monkeypatch.setattr(command, "PAGE", tmp_path / "gpu.md")
    command.main(["--docs", "--out", str(tmp_path)])
    assert (tmp_path / "gpu.md").read_text() == markdown([])


def test_without_a_card_only_a_rehearsal_starts(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit):
        command.main(["--out", str(tmp_path / "gpu")])
    assert "--small rehearses without one" in capsys.readouterr().err
    assert not (tmp_path / "gpu").exists()


def test_a_machine_without_git_does_not_know_its_commit(monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert describe(1)["commit"] == "unknown"


def finish(solver, n, seconds, reached=True, **more):
    row = {"section": "single float64", "case": Case("single", "points", n, n, 0.05).to_dict(), "solver": solver}
    residuals = {"objective": 0.5, "r_marg": 1e-9, "r_fix": 1e-7 if reached else 3e-5, "stopped": None}
    return row | residuals | {"seconds": seconds, "reached": reached} | more


def test_races_are_summed_up_where_both_get_there():
    rows = [
        finish("fgwot", 64, 1e-3, first_call=2.001),
        finish("OTT", 64, 4e-3),
        finish("fgwot", 256, 1e-3),
        finish("OTT", 256, 1e-3),
    ]
    rows += [finish("fgwot", 100, 1e-3), finish("OTT", 100, 2e-3, objective=0.51)]
    rows += [finish("fgwot", 1000, 1e-3), finish("OTT", 1000, 2e-3, False, stopped="out of its time")]
    rows += [{"section": "single float64", "error": "OSError: gone"}]
    machine = {"section": "machine", "small": False, "date": "d", "commit": "c", "command": "x", "versions": {}}
    text = markdown([machine | {"processor": "p", "cores": 1, "python": "3"}, *rows])
    assert "## What was found" in text
    assert "| 1000 | float64 | 0.05 | 1 ms | r 3e-05 in 2 ms; out of its time |" in text
    assert "| 100 | float64 | 0.05 | 1 ms | 2 ms (b) |" in text
    assert "| OTT, n = 4000, float64: 2x in geometric mean, none slower | not measured | not measured |" in text
    assert "First calls took longer by up to: fgwot 2 s." in text
    assert "OTT: 2.00 times fgwot's time (1.00 to 4.00) in geometric mean of the 3 of 4 cases" in text
    assert "only fgwot does in 1, only OTT in 0." in text
    assert "Failed: OSError: gone" in text


def run_of_all_targets(ott=4e-3):
    """Rows in which fgwot takes a millisecond and just meets every target, and OTT takes `ott`."""
    sizes, epsilons = (64, 256, 1000, 2000, 4000), (0.05, 0.01)
    singles = [Case("single", "points", n, n, e, dtype=d) for n in sizes for e in epsilons for d in races.BOUNDS]
    batches = [Case("batches", "points", n, n, e, batch=b, dtype="float32") for b, n, e in targets._BATCHES]
    times = [(case, name, t) for case in singles for name, t in (("fgwot", 1e-3), ("OTT", ott))]
    times += [(case, name, t) for case in batches for name, t in (("fgwot", 1e-3), ("fgwot on one CPU thread", 2e-2))]
    rows = [{"case": c.to_dict(), "solver": name, "seconds": t, "reached": True} for c, name, t in times]
    asked = {"seconds": 4e-4, "device_seconds": 1e-4, "launches": 7, "graphs": 1, "reads": 1, "steps": 5}
    rows += [
        {"what": what, "backend": "auto", "case": {"n": n}} | asked for what, n in (("K-MaT's term", 6), ("forward", 6))
    ]
    rows += [{"what": "forward", "backend": "auto", "case": {"n": 64}} | asked | {"reads": 5}]
    rows += [{"what": "product, n = 4096, float32", "value": 5e13}]  # 2.5e13 instructions a second
    sums = (("contraction, abs", 0.099), ("contraction, huber", 0.24), ("adjoint, abs", 0.19), ("adjoint, huber", 0.19))
    return rows + [{"kernel": name, "seconds": t, "n": 1000, "dtype": "float32"} for name, t in sums]


def test_targets_are_met_missed_or_not_measured():
    rows = run_of_all_targets()
    assert {outcome.met for outcome in targets.outcomes(rows)} == {True}
    assert {outcome.met for outcome in targets.outcomes([])} == {None}
    missed = [outcome for outcome in targets.outcomes(run_of_all_targets(ott=0.9e-3)) if outcome.met is False]
    assert [outcome.target[:3] for outcome in missed] == ["OTT", "OTT"]
    assert missed[0].reached == "geometric mean 0.90x, from 0.90x to 0.90x, 8 cases"
    slow = [row | {"seconds": 0.21} if row.get("kernel") == "adjoint, abs" else row for row in rows]
    (outcome,) = (outcome for outcome in targets.outcomes(slow) if outcome.met is False)
    assert "adjoint, abs 1.31x; adjoint, huber 1.19x" in outcome.reached
    # Without the first case of ours, and with one of its peer that was killed.
    partial = targets.outcomes([rows[1] | {"reached": False, "stopped": "killed after 9 s"}, *rows[2:]])
    assert [(outcome.reached[-20:], outcome.met) for outcome in partial[:1]] == [("1 cases not measured", None)]
    lost = targets.outcomes([rows[0] | {"reached": False}, *rows[1:]])
    assert (lost[0].met, lost[1].met) == (False, True)
    assert lost[0].reached.startswith("geometric mean 0.00x")


@pytest.fixture
def card(monkeypatch):
    """What is called of torch.cuda, without a card."""

    class Event:
        def __init__(self, enable_timing):
            assert enable_timing

        def record(self):
            self.at = time.perf_counter()

        def synchronize(self):
            pass

        def elapsed_time(self, end):
            return (end.at - self.at) * 1e3

    properties = SimpleNamespace(name="a card", major=9, minor=0, multi_processor_count=132, total_memory=1 << 36)
    fakes = {
        "Event": Event,
        "Stream": lambda: SimpleNamespace(wait_stream=lambda _: None),
        "current_stream": lambda: None,
        "stream": nullcontext,
        "graph": lambda _, stream: nullcontext(stream),
        "CUDAGraph": lambda: SimpleNamespace(replay=lambda: time.sleep(0.001)),
        "synchronize": lambda: None,
        "is_available": lambda: True,
        "get_device_properties": lambda _: properties,
        "memory_allocated": lambda: 100,
        "max_memory_allocated": lambda: 164,
        "reset_peak_memory_stats": lambda: None,
    }
    for name, fake in fakes.items():
        monkeypatch.setattr(torch.cuda, name, fake)


@pytest.mark.usefixtures("card")
def test_what_only_a_card_runs(tmp_path):
    run = Run("environment", tmp_path / "rows", small=False, end=time.time() + 60)
    environment.measure(run)
    (row,) = rows_of(run.results)
    assert (row["card"], row["capability"]) == ("a card", 90)
    calls = []
    assert clock.device_seconds(lambda: calls.append(1), "cuda") == pytest.approx(0.001 / (len(calls) - 2), rel=1)
    assert clock.device_seconds(lambda: time.sleep(0.03), "cuda") > 0.02
    asked = solves._asked(lambda: torch.ones(3) + 1, "cuda")
    assert asked["peak_bytes"] == 64
    assert asked["operations"] >= 2


def test_tests_are_stopped_before_their_section_is(monkeypatch, tmp_path):
    """On a card they are told from those that Triton's interpreter runs; here, all are stopped at once."""
    monkeypatch.setattr(Run, "device", "cuda")
    monkeypatch.setattr(suite, "find_spec", lambda _: None)
    run = Run("tests", tmp_path / "rows", small=False, end=time.time() + suite._SPARE + 1)
    suite.measure(run)
    (row,) = rows_of(run.results)
    assert row["summary"] == "stopped before its end"
    assert row["seconds"] < 10


def test_a_solver_that_cannot_start_is_not_started_again(monkeypatch):
    class Broken:
        def start(self, name):
            assert name != "OTT", "it is not installed"

        def call(self, name, *_):
            raise LibraryError(f"{name} could not be started: the process died")

    monkeypatch.setattr(races, "find_spec", lambda module: None if module == "ott" else module)
    absent = races._absent(dict.fromkeys(("cuda", "threads", "thread"), Broken()), 1.0)
    assert absent["OTT"] == "ott is not installed"
    assert absent["fgwot"] == "fgwot could not be started: the process died"
    assert len(absent) == len(races.ENTRANTS)


def test_rows_are_lines(tmp_path):
    append(tmp_path / "rows", {"a": 1})
    append(tmp_path / "rows", {"b": [2]})
    assert [json.loads(line) for line in (tmp_path / "rows").read_text().splitlines()] == [{"a": 1}, {"b": [2]}]
