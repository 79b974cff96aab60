"""Worker processes: started when first needed, killed when they exceed their time."""

import multiprocessing
import os
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from typing import Any

from benchmarks.worker import serve

_START = 120.0  # seconds for a library to import

Worker = tuple[SpawnProcess, Connection]


class LibraryError(RuntimeError):
    """A library failed or took too long."""


class Pool:
    """One process per solver, all with the same number of threads.

    Parameters
    ----------
    threads : int
    device : str
        "cpu" or "cuda".
    """

    def __init__(self, threads: int, device: str = "cpu") -> None:
        self.threads, self.device = threads, device
        self.workers: dict[str, Worker] = {}
        self._starting: set[str] = set()

    def start(self, *names: str) -> None:
        """Start the processes of solvers, all at once, without waiting until they have imported their libraries."""
        for name in names:
            if name not in self.workers:
                context = multiprocessing.get_context("spawn")
                ours, theirs = context.Pipe()
                process = context.Process(target=serve, args=(theirs, name, self.device), daemon=True)
                with _environment(self.threads, self.device):
                    process.start()
                theirs.close()
                self.workers[name] = process, ours
                self._starting.add(name)

    def call(self, name: str, task: object, timeout: float) -> Any:
        """Send a task to a solver and return its answer.

        Raises
        ------
        LibraryError
            If the solver raised, died, or was killed after `timeout` seconds.
        """
        _, connection = self._worker(name)
        connection.send(task)
        try:
            answer = _receive(connection, timeout)
        except LibraryError:
            self.stop(name)
            raise
        if isinstance(answer, str):
            raise LibraryError(answer)
        return answer

    def stop(self, name: str) -> None:
        """End a solver's process, if there is one."""
        if name in self.workers:
            process, connection = self.workers.pop(name)
            self._starting.discard(name)
            process.kill()
            process.join()
            connection.close()

    def close(self) -> None:
        """End every process."""
        for name in list(self.workers):
            self.stop(name)

    def _worker(self, name: str) -> Worker:
        self.start(name)
        if name in self._starting:
            self._starting.remove(name)
            try:
                _receive(self.workers[name][1], _START)
            except LibraryError as error:
                self.stop(name)
                raise LibraryError(f"{name} could not be started: {error}") from None
        return self.workers[name]


def _receive(connection: Connection, timeout: float) -> Any:
    if not connection.poll(timeout):
        raise LibraryError(f"killed after {timeout:.0f} s")
    try:
        return connection.recv()
    except (EOFError, ConnectionResetError):
        raise LibraryError("the process died") from None


@contextmanager
def _environment(threads: int, device: str) -> Iterator[None]:
    """Variables that set threads and devices, which libraries read when they are imported."""
    variables = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NPROC"), str(threads)) | {
        "JAX_PLATFORMS": device,
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",  # of a GPU's memory, which the solvers share
        # POT imports what it finds, and each of these would take a part of the GPU.
        "POT_BACKEND_DISABLE_JAX": "1",
        "POT_BACKEND_DISABLE_CUPY": "1",
        "POT_BACKEND_DISABLE_TENSORFLOW": "1",
    }
    if threads == 1:
        variables["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
