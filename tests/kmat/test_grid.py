"""Grids: the same numbers in every kind of pool, and no more than a run lost when a worker is killed."""

import io
import json
import multiprocessing
import os
import re
import signal
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from kmat.errors import UserError
from kmat.grids import pool as grid
from kmat.grids.config import GridConfig, Resources
from kmat.grids.grid import run_grid
from kmat.grids.pool import Job, open_pool, run_all
from kmat.methods import CoOpConfig, KMaTConfig, ZeroShotConfig
from kmat.runs.config import RunConfig
from kmat.runs.schedule import Schedule
from kmat.tasks import DataOptions

execute_there = grid.execute_there


@pytest.fixture
def config(shapes_config, tiny_dir):
    return RunConfig(
        method=CoOpConfig(), data=shapes_config, backbone=f"local-dir:{tiny_dir}", shots=4, schedule=Schedule(epochs=2)
    )


@pytest.fixture
def jobs(config, tmp_path):
    return [Job(replace(config, seed=seed), tmp_path / f"seed{seed}") for seed in (1, 2, 3)]


@pytest.fixture
def cached(tmp_path):
    return tmp_path / "cache"


def numbers(results):
    return [result.scores for result in results.values()]


@pytest.fixture
def ray():
    return pytest.importorskip("ray", reason="Ray is not installed: pip install 'fgwot[ray]'")


def test_processes_give_the_numbers_of_one(jobs, cached, tmp_path):
    with open_pool(Resources(workers=1, cache=cached)) as pool:
        alone = run_all(pool, jobs)
    elsewhere = [Job(job.config, tmp_path / "other" / job.folder.name) for job in jobs]
    with open_pool(Resources(workers=2, cache=cached)) as pool:
        together = run_all(pool, elsewhere)
    assert list(alone) == [job.folder for job in jobs]
    assert numbers(alone) == [together[job.folder].scores for job in elsewhere]


def wait_for_checkpoint(folder):
    deadline = time.monotonic() + 60
    while not (folder / "checkpoint.safetensors").exists() and time.monotonic() < deadline:
        time.sleep(0.01)


def kill_workers_in_training(folder, killed):
    wait_for_checkpoint(folder)
    for child in multiprocessing.active_children():
        os.kill(child.pid, signal.SIGKILL)
        killed.append(child.pid)


def kill_when_training(folder):
    wait_for_checkpoint(folder)
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.exhaustive
@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL")
def test_killed_workers_are_replaced_and_their_runs_go_on(config, cached, tmp_path, capsys):
    """Both workers are killed in the middle of a long run each; the grid ends as an undisturbed one does."""
    long = replace(config, schedule=Schedule(epochs=150))
    jobs = [Job(replace(long, seed=seed), tmp_path / f"seed{seed}") for seed in (1, 2, 3)]
    killed = []
    watcher = threading.Thread(target=kill_workers_in_training, args=(jobs[0].folder, killed))
    with open_pool(Resources(workers=2, cache=cached)) as pool:
        watcher.start()
        results = run_all(pool, jobs)
        watcher.join()
    assert len(killed) == 2
    err = capsys.readouterr().err
    assert "its worker died (exit code -9)" in err
    lines = (jobs[0].folder / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == list(range(150)), "it went on from its checkpoint"
    with open_pool(Resources(workers=1, cache=cached)) as pool:
        alone = run_all(pool, [Job(jobs[0].config, tmp_path / "undisturbed")])
    assert numbers(alone) == [results[jobs[0].folder].scores]


def dies_once(directory, job, resources):
    """Do a job on Ray; the first one kills its own process once it has a checkpoint behind it."""
    mark = job.folder.parent / "died"
    if not mark.exists():
        mark.touch()
        threading.Thread(target=kill_when_training, args=(job.folder,), daemon=True).start()
    return execute_there(directory, job, resources)


@pytest.mark.filterwarnings("ignore:os.fork:RuntimeWarning")  # Ray forks; JAX objects if another test imported it
def test_ray_gives_the_same_numbers_and_survives_a_killed_worker(ray, config, tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(grid, "execute_there", dies_once)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join((str(Path(__file__).parent), *filter(None, sys.path))))
    monkeypatch.chdir(tmp_path)
    jobs = [Job(replace(config, seed=seed, schedule=Schedule(epochs=60)), Path(f"seed{seed}")) for seed in (1, 2)]
    with open_pool(Resources(workers=1, ray="local", cache=Path("cache"))) as pool:
        results = run_all(pool, jobs)
    assert capfd.readouterr().err.count("its worker died (WorkerCrashedError") == 1
    with open_pool(Resources(workers=1, cache=Path("cache"))) as pool:
        alone = run_all(pool, [Job(job.config, Path("alone") / job.folder) for job in jobs])
    assert [results[job.folder].scores for job in jobs] == numbers(alone), "in whatever order they ended"
    for job in jobs:
        lines = (job.folder / "metrics.jsonl").read_text().splitlines()
        assert [json.loads(line)["epoch"] for line in lines] == list(range(60)), "it went on from its checkpoint"
    assert not ray.is_initialized()


def test_without_ray_the_option_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match="pip install 'fgwot\\[ray\\]'"), open_pool(Resources(ray="local")):
        pass


@pytest.mark.usefixtures("ray")
def test_a_cluster_out_of_reach_is_one_line():
    with pytest.raises(UserError, match="--ray 'nonsense'"), open_pool(Resources(ray="nonsense")):
        pass


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.exhaustive)])
def test_a_run_that_cannot_be_done_does_not_keep_the_others_from_being_done(jobs, cached, tmp_path, workers):
    (tmp_path / "seed2").mkdir()
    (tmp_path / "seed2" / "something.txt").touch()
    with open_pool(Resources(workers, cache=cached)) as pool:
        outcomes = run_all(pool, jobs)
    first, second, third = (outcomes[job.folder] for job in jobs)
    assert isinstance(second, UserError)
    assert "holds files but no run" in str(second)
    assert (first.seed, third.seed) == (1, 3)


def test_a_backbone_out_of_reach_is_asked_for_once(jobs, cached, monkeypatch):
    asked = []

    def unreachable(name, _device):
        asked.append(name)
        raise UserError("no such backbone")

    monkeypatch.setattr(grid, "load_backbone", unreachable)
    with open_pool(Resources(1, cache=cached)) as pool:
        outcomes = run_all(pool, jobs)
    assert [str(outcome) for outcome in outcomes.values()] == ["no such backbone"] * 3
    assert len(asked) == 1
    monkeypatch.undo()
    with open_pool(Resources(1, cache=cached)) as pool:
        assert not isinstance(run_all(pool, jobs[:1])[jobs[0].folder], UserError), "asked again in the next grid"


def test_a_terminal_shows_what_is_done_failed_and_running(jobs, cached, tmp_path, monkeypatch):
    shown = io.StringIO()
    console = Console(file=shown, force_terminal=True, width=120, soft_wrap=True)
    monkeypatch.setattr("kmat.console.err", console)
    (tmp_path / "seed2").mkdir()
    (tmp_path / "seed2" / "something.txt").touch()
    with open_pool(Resources(1, cache=cached)) as pool:
        run_all(pool, jobs)
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.getvalue())
    states = re.findall(r"runs [━╺╸ ]+(\d/\d (?:\d failed, \d running(?:, .+? left)?)?)", plain)
    assert states[-1].startswith("3/3 1 failed, 0 running, 0 s left")
    assert run_all(pool, []) == {}


def test_what_is_no_users_error_ends_the_grid(jobs, cached, monkeypatch):
    monkeypatch.setattr(grid, "train", lambda *_, **__: 1 / 0)
    with open_pool(Resources(1, cache=cached)) as pool, pytest.raises(ZeroDivisionError):
        run_all(pool, jobs)


def test_a_run_that_kills_its_workers_is_given_up(config, tmp_path):
    class Fatal:
        idle = True
        job = None

        def start(self, job):
            self.job = job

        def wait(self):
            return self.job, grid.WorkerDiedError("exit code -9")

    outcome = run_all(Fatal(), [Job(config, tmp_path)])[tmp_path]
    assert isinstance(outcome, UserError)
    assert "3 workers died in this run" in str(outcome)


def test_a_run_cut_off_before_it_began_is_done(jobs, cached):
    jobs[0].folder.mkdir()
    (jobs[0].folder / "config.json.partial").write_text("{")
    with open_pool(Resources(workers=1, cache=cached)) as pool:
        assert run_all(pool, jobs[:1])


def test_rows_of_one_method_share_its_runs_and_the_anchor_is_chosen(shapes_dir, tiny_dir, cached, tmp_path):
    config = GridConfig(
        (str(shapes_dir / "manifest.csv"),),
        (f"local-dir:{tiny_dir}",),
        seeds=(1, 2),
        shots=4,
        epochs=2,
        data=DataOptions(descriptions=shapes_dir / "descriptions.json"),
    )
    rows = {"one": KMaTConfig(), "same": KMaTConfig(), "off": KMaTConfig(lambda_anc=0), "zero": ZeroShotConfig()}
    results = run_grid("bench", rows, config, Resources(workers=1, cache=cached), tmp_path / "out")
    assert results.methods == ("floor: chance", "floor: largest class", *rows)
    runs = {(entry.method, entry.seed): entry.run for entry in results.entries if entry.run}
    assert runs["one", 1] == runs["same", 1] != runs["one", 2]
    validation = {}
    for path in (tmp_path / "out").rglob("result.json"):
        result = json.loads(path.read_text())
        method = result["method"]
        if method["name"] == "kmat" and not method["lambda_fgw"] and method["lambda_anc"]:
            validation.setdefault(method["lambda_anc"], []).append(result["scores"]["high"]["val"]["accuracy"])
    assert {weight: len(values) for weight, values in validation.items()} == {10: 2, 1: 2}
    best = 1 if sum(validation[1]) > sum(validation[10]) else 10
    chosen = json.loads((tmp_path / "out" / runs["one", 1] / "result.json").read_text())["method"]["lambda_anc"]
    assert chosen == best
