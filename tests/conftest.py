"""What every test gets: no network, deterministic hypothesis, one thread."""

import os
import socket

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import hypothesis
import torch

hypothesis.settings.register_profile("suite", deadline=None, derandomize=True, max_examples=40, database=None)
hypothesis.settings.load_profile("suite")


# Files that take half a minute and more, by their time: what starts last should be short.
LONGEST = (
    "test_cli.py",
    "test_drivers.py",
    "test_fuzz_commands.py",
    "test_ranks.py",
    "test_interpreter.py",
    "test_gpu.py",
    "test_grid.py",
    "test_training.py",
    "test_digits.py",
    "test_reproducing.py",
    "test_runner.py",
    "test_conventions.py",
)


def pytest_collection_modifyitems(items):
    places = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path.name, len(places)))


class NetworkUsedError(AssertionError):
    """A test tried to reach the network."""


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    """Fail any test that opens a connection to another machine."""
    connect, lookup = socket.socket.connect, socket.getaddrinfo
    here = ("127.0.0.1", "localhost", "::1")

    def guarded(self, address):
        if self.family == socket.AF_UNIX or address[0] in here:
            return connect(self, address)
        raise NetworkUsedError(f"a test tried to connect to {address}")

    def no_lookup(host, *args, **kwargs):
        if host in here:
            return lookup(host, *args, **kwargs)
        raise NetworkUsedError(f"a test tried to look up {host}")

    monkeypatch.setattr(socket.socket, "connect", guarded)
    monkeypatch.setattr(socket, "getaddrinfo", no_lookup)


@pytest.fixture(autouse=True)
def single_thread():
    """Small tensors on a small machine: threads only add noise."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
