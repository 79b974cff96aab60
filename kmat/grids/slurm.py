"""Runs as jobs of a SLURM cluster, through submitit."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from kmat.console import one_line
from kmat.errors import UserError
from kmat.grids.config import Resources
from kmat.grids.pool import Job, Pool, WorkerDiedError, execute_there
from kmat.model.features import FeatureCache
from kmat.runs.result import Result

DEFAULTS: dict[str, str | int] = {"job_name": "kmat", "time": 240, "cpus_per_task": 1}
"""What sbatch is told unless the user says otherwise; minutes."""

SECONDS_BETWEEN_LOOKS = 1.0


@contextmanager
def on_slurm(options: tuple[str, ...], resources: Resources, logs: Path) -> Iterator[Pool]:
    """Open a pool; jobs that are queued or at work at its end are cancelled.

    Raises
    ------
    UserError
        If submitit is missing, this is no SLURM cluster, or an option is not known.
    """
    try:
        import submitit
    except ImportError as error:
        raise UserError("--slurm needs submitit: pip install 'fgwot[slurm]'") from error
    try:
        executor = submitit.SlurmExecutor(folder=logs)
        executor.update_parameters(**DEFAULTS | dict(map(_option, options)))
    except (RuntimeError, ValueError, TypeError) as error:
        raise UserError(f"--slurm {' '.join(options)}: {str(error).splitlines()[0]}") from error
    pool = _Slurm(executor, resources)
    try:
        yield pool
    finally:
        pool.stop()


def _option(text: str) -> tuple[str, str | int]:
    name, equals, value = text.partition("=")
    if not equals:
        raise ValueError(f"{text!r}: expected NAME=VALUE")
    return name.lstrip("-").replace("-", "_"), int(value) if value.isdecimal() else value


class _Slurm:
    """Jobs of one run each, as many at once as there are to be workers."""

    def __init__(self, executor: Any, resources: Resources) -> None:
        self._executor = executor
        self._workers = resources.workers
        self._resources = replace(resources, cache=FeatureCache(resources.cache).folder.resolve())
        self._jobs: dict[Any, Job] = {}

    @property
    def idle(self) -> bool:
        return len(self._jobs) < self._workers

    def start(self, job: Job) -> None:
        from submitit.core.utils import FailedJobError, FailedSubmissionError

        try:
            sent = self._executor.submit(_answer, Path.cwd(), job, self._resources)
        except (FailedJobError, FailedSubmissionError) as error:
            raise UserError(f"SLURM refuses {job.folder}: {one_line(str(error).strip())}") from error
        self._jobs[sent] = job

    def wait(self) -> tuple[Job, Result | Exception]:
        from submitit.core.utils import FailedJobError, UncompletedJobError

        while not (done := [each for each in self._jobs if each.done()]):
            time.sleep(SECONDS_BETWEEN_LOOKS)
        job = self._jobs.pop(done[0])
        try:
            outcome: Result | Exception = done[0].result()
        except FailedJobError as error:  # its traceback, as text
            outcome = RuntimeError(str(error))
        except UncompletedJobError:  # killed, out of time or memory
            outcome = WorkerDiedError(f"SLURM job {done[0].job_id}, {done[0].state}")
        return job, outcome

    def stop(self) -> None:
        for each in self._jobs:
            each.cancel(check=False)


def _answer(directory: Path, job: Job, resources: Resources) -> Result | UserError:
    try:
        return execute_there(directory, job, resources)
    except UserError as error:  # of any other, submitit keeps the traceback only
        return error
