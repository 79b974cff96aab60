"""What tests of one driver share."""

import pytest

import fgwot


@pytest.fixture(scope="module")
def torch_path():
    """Leave every problem to torch."""
    with fgwot.backend("torch"):
        yield


@pytest.fixture(scope="module", params=["numba", "torch"])
def each_driver(request):
    """Let the loops solve what they can, or leave it to torch."""
    with fgwot.backend(request.param):
        yield
