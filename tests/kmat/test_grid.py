"""Grids: the same numbers in every kind of pool, and no more than a run lost when a worker is killed."""

import json
import os
import signal
import sys
import threading
import time
from dataclasses import replace

import pytest

from kmat.config import RunConfig
from kmat.grid import Job, Resources, run_all
from kmat.methods import CoOpConfig
from kmat.training import Schedule


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
    return [result["scores"] for result in results.values()]


@pytest.fixture
def ray():
    return pytest.importorskip("ray", reason="Ray is not installed: pip install 'fgwot[ray]'")


def test_processes_give_the_numbers_of_one(jobs, cached, tmp_path):
    with Resources(workers=1, cache=cached).open() as pool:
        alone = run_all(pool, jobs)
    elsewhere = [Job(job.config, tmp_path / "other" / job.folder.name) for job in jobs]
    with Resources(workers=2, cache=cached).open() as pool:
        together = run_all(pool, elsewhere)
    assert list(alone) == [job.folder for job in jobs]
    assert numbers(alone) == [together[job.folder]["scores"] for job in elsewhere]


def kill_once_training(folder, killed):
    """Kill the one worker that is training in ``folder``, once it has a checkpoint behind it."""
    deadline = time.monotonic() + 60
    while not (folder / "checkpoint.safetensors").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    for child in worker_processes():
        os.kill(child, signal.SIGKILL)
        killed.append(child)


def worker_processes():
    import multiprocessing

    return [child.pid for child in multiprocessing.active_children()]


@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL")
def test_killed_workers_are_replaced_and_their_runs_go_on(config, cached, tmp_path, capsys):
    """Both workers are killed in the middle of a long run each; the grid ends as an undisturbed one does."""
    long = replace(config, schedule=Schedule(epochs=150))
    jobs = [Job(replace(long, seed=seed), tmp_path / f"seed{seed}") for seed in (1, 2, 3)]
    killed = []
    watcher = threading.Thread(target=kill_once_training, args=(jobs[0].folder, killed))
    with Resources(workers=2, cache=cached).open() as pool:
        watcher.start()
        results = run_all(pool, jobs)
        watcher.join()
    assert len(killed) == 2
    err = capsys.readouterr().err
    assert "its worker died (exit code -9)" in err
    lines = (jobs[0].folder / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == list(range(150)), "it went on from its checkpoint"
    with Resources(workers=1, cache=cached).open() as pool:
        alone = run_all(pool, [Job(jobs[0].config, tmp_path / "undisturbed")])
    assert numbers(alone) == [results[jobs[0].folder]["scores"]]
