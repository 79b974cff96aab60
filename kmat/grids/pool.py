"""Many runs: in this process, in several, on a Ray cluster or, in ``slurm``, on one of SLURM. Each is done alike.

A run belongs to its folder: a finished one is read back, an interrupted one goes on from its last epoch. So a grid that
was stopped is started again with the same command, and a worker that dies takes no more than its current run with it.
"""

import logging
import multiprocessing
import os
import time
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch

from kmat.console import counted, duration, note, tell
from kmat.errors import UserError, explain
from kmat.grids.config import Resources
from kmat.model.backbone import Backbone, find_device, load_backbone
from kmat.model.features import FeatureCache
from kmat.runs.config import RunConfig
from kmat.runs.folder import RunDir
from kmat.runs.result import Result
from kmat.runs.run import train
from kmat.signals import deaf_to_ctrl_c, end_with_parent
from kmat.tasks import TaskConfig
from kmat.tasks.base import Task

T = TypeVar("T")

ATTEMPTS = 3  # at a run whose worker died: a killed worker is replaced, a run that kills each of its workers is not


@dataclass(frozen=True)
class Job:
    """One run of a grid."""

    config: RunConfig
    folder: Path


class WorkerDiedError(Exception):
    """A worker vanished with its run."""


class Pool(Protocol):
    """Workers that are given a job when one is idle, and asked which job is done."""

    @property
    def idle(self) -> bool:
        """Whether to give another job."""

    def start(self, job: Job) -> None:
        """Give a job."""

    def wait(self) -> tuple[Job, Result | Exception]:
        """Wait for any of the jobs given: its result, or what went wrong."""


def open_pool(resources: Resources, logs: Path = Path("runs/slurm")) -> AbstractContextManager[Pool]:
    """Start the workers; they are stopped at the end, and what they are at is cut off. SLURM's leave ``logs``."""
    if resources.slurm is not None:
        from kmat.grids.slurm import on_slurm

        return on_slurm(resources.slurm, resources, logs)
    if resources.ray is not None:
        return _on_ray(resources.ray, resources)
    return _in_this_process(resources) if resources.workers == 1 else _in_processes(resources)


def run_all(pool: Pool, jobs: Sequence[Job]) -> dict[Path, Result | UserError]:
    """Do all jobs; their folders must differ.

    Returns
    -------
    dict
        By folder the run's result, or why it has none: the UserError that it ended with, or one that says that its
        worker died :data:`ATTEMPTS` times. The other runs are done all the same.
    """
    finished = {job.folder for job in jobs if RunDir(job.folder).finished}
    if finished:
        note(
            f"{len(finished)} of {len(jobs)} runs are already finished and used as they are; "
            "delete their folders to repeat them"
        )
    if not jobs:
        return {}
    waiting = deque(jobs)
    deaths: Counter[Path] = Counter()
    results: dict[Path, Result | UserError] = {}
    begin, given = time.monotonic(), 0
    left: float | None = None
    with counted("runs", len(jobs)) as advance:
        while len(results) < len(jobs):
            while waiting and pool.idle:
                pool.start(waiting.popleft())
                given += 1
            advance(0, _state(results, given, left))
            job, outcome = pool.wait()
            if isinstance(outcome, WorkerDiedError):
                deaths[job.folder] += 1
                if deaths[job.folder] < ATTEMPTS:
                    note(f"{job.folder}: its worker died ({outcome}); the run goes on in another from its last epoch")
                    waiting.appendleft(job)
                    given -= 1
                    continue
                outcome = UserError(f"{ATTEMPTS} workers died in this run ({outcome}); out of memory?")
            if isinstance(outcome, Exception) and not isinstance(outcome, UserError):
                raise outcome
            results[job.folder] = outcome
            if fresh := len(results) - len(finished & results.keys()):
                left = (time.monotonic() - begin) / fresh * (len(jobs) - len(results))
            state = _state(results, given, left)
            advance(1, state)
            if job.folder not in finished:
                tell(f"{len(results)}/{len(jobs)} ({state}) {job.folder}: {_outcome(outcome)}")
    return results


def _state(results: Mapping[Path, Result | UserError], given: int, left: float | None) -> str:
    """Say how many runs have failed and are under way, and the time left, where it is known."""
    failed = sum(isinstance(each, UserError) for each in results.values())
    time_left = "" if left is None else f", {duration(left)} left"
    return f"{failed} failed, {given - len(results)} running{time_left}"


def _outcome(outcome: Result | UserError) -> str:
    if isinstance(outcome, UserError):
        return f"failed, {outcome}"
    return f"H accuracy {100 * outcome.harmonic.accuracy:.1f}" if outcome.harmonic else "done"


def execute(job: Job, resources: Resources) -> Result:
    """Do one run, or read back a finished one. Two workers on one folder would be one too many."""
    try:
        return train(
            job.config,
            job.folder,
            task=_or_raise(_task(job.config.data)),
            backbone=_or_raise(_backbone(job.config.backbone, resources.device)),
            cache=FeatureCache(resources.cache),
            resume=True,
        )
    except OSError as error:  # the end of this run, not of the others
        raise UserError(explain(error)) from error


# Jobs come ordered by task and backbone: a worker keeps one of each, or why there is none, so that a backbone that
# cannot be reached is not waited for in each of its runs.
@lru_cache(maxsize=1)
def _task(config: TaskConfig) -> Task | UserError:
    try:
        return config.load()
    except UserError as error:
        return error


@lru_cache(maxsize=1)
def _backbone(name: str, device: str) -> Backbone | UserError:
    try:
        return load_backbone(name, find_device(device))
    except UserError as error:
        return error


def _or_raise(found: T | UserError) -> T:
    if isinstance(found, UserError):
        raise found
    return found


@contextmanager
def _in_this_process(resources: Resources) -> Iterator[Pool]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as in the other pools, so that the numbers are the same
    try:
        yield _ThisProcess(resources)
    finally:
        torch.set_num_threads(threads)
        _task.cache_clear()  # the files may be others when this process next asks
        _backbone.cache_clear()


class _ThisProcess:
    def __init__(self, resources: Resources) -> None:
        self._resources = resources
        self._job: Job | None = None

    @property
    def idle(self) -> bool:
        return self._job is None

    def start(self, job: Job) -> None:
        self._job = job

    def wait(self) -> tuple[Job, Result | Exception]:
        job, self._job = self._job, None
        assert job is not None  # noqa: S101 (the caller has started one)
        try:
            return job, execute(job, self._resources)
        except UserError as error:
            return job, error


@contextmanager
def _in_processes(resources: Resources) -> Iterator[Pool]:
    pool = _Processes(resources)
    try:
        yield pool
    finally:
        pool.stop()


class _Processes:
    """Processes on pipes of their own: unlike an executor's, the death of one leaves the others at their work."""

    def __init__(self, resources: Resources) -> None:
        self._resources = resources
        self._context = multiprocessing.get_context("spawn")
        self._idle: list[tuple[Connection, SpawnProcess]] = []
        self._busy: dict[Connection, tuple[SpawnProcess, Job]] = {}

    @property
    def idle(self) -> bool:
        return len(self._busy) < self._resources.workers

    def start(self, job: Job) -> None:
        connection, process = self._idle.pop() if self._idle else self._spawn()
        try:
            connection.send(job)
        except OSError:  # it died while idle: nothing is lost
            self.start(job)
        else:
            self._busy[connection] = process, job

    def wait(self) -> tuple[Job, Result | Exception]:
        connection = next(each for each in wait(self._busy) if isinstance(each, Connection))
        process, job = self._busy.pop(connection)
        try:
            outcome: Result | Exception = connection.recv()
        except (EOFError, OSError):
            process.join()
            connection.close()
            return job, WorkerDiedError(f"exit code {process.exitcode}")
        self._idle.append((connection, process))
        return job, outcome

    def stop(self) -> None:
        for process in (*(process for _, process in self._idle), *(process for process, _ in self._busy.values())):
            process.terminate()
            process.join()

    def _spawn(self) -> tuple[Connection, SpawnProcess]:
        ours, theirs = self._context.Pipe()
        process = self._context.Process(target=_serve, args=(theirs, self._resources), daemon=True)
        with deaf_to_ctrl_c():  # it is ours to handle: no traceback per worker
            process.start()
        theirs.close()  # else the end of the process would not be the end of the pipe
        return ours, process


def _serve(connection: Connection, resources: Resources) -> None:
    """Do jobs until the pipe closes."""
    torch.set_num_threads(1)
    end_with_parent()
    while True:
        try:
            job = connection.recv()
        except EOFError:
            return
        try:
            outcome: Result | Exception = execute(job, resources)
        except Exception as error:  # raised again by the parent
            outcome = error
        connection.send(outcome)


@contextmanager
def _on_ray(address: str, resources: Resources) -> Iterator[Pool]:
    try:
        import ray
    except ImportError as error:
        raise UserError("--ray needs Ray: pip install 'fgwot[ray]'") from error
    options: dict[str, Any] = {"num_cpus": resources.workers, "include_dashboard": False} if address == "local" else {}
    try:
        ray.init(address=address, logging_level=logging.WARNING, **options)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise UserError(f"--ray {address!r}: {str(error).splitlines()[0]}") from error
    try:
        yield _Ray(resources)
    finally:
        ray.shutdown()


class _Ray:
    """Tasks of a Ray cluster, which queues them. Deaths are counted by :func:`run_all`, so Ray retries none."""

    idle = True

    def __init__(self, resources: Resources) -> None:
        import ray

        devices: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
        gpus = 1 if resources.device != "cpu" and devices.get("GPU") else 0
        self._remote = ray.remote(max_retries=0, num_cpus=1, num_gpus=gpus)(execute_there)
        self._resources = replace(resources, cache=FeatureCache(resources.cache).folder.resolve())
        self._jobs: dict[Any, Job] = {}

    def start(self, job: Job) -> None:
        self._jobs[self._remote.remote(Path.cwd(), job, self._resources)] = job

    def wait(self) -> tuple[Job, Result | Exception]:
        import ray

        (reference,), _ = ray.wait(list(self._jobs), num_returns=1)
        job = self._jobs.pop(reference)
        try:
            outcome: Result | Exception = ray.get(reference)
        except ray.exceptions.RayTaskError as error:
            outcome = error.cause
        except ray.exceptions.RayError as error:
            outcome = WorkerDiedError(f"{type(error).__name__}: {str(error).splitlines()[0]}")
        return job, outcome


def execute_there(directory: Path, job: Job, resources: Resources) -> Result:
    """Do a run on another machine, which sees the same files."""
    os.chdir(directory)  # relative paths in a configuration mean what they mean here
    torch.set_num_threads(1)
    return execute(job, resources)
