"""What tests of one driver share."""

import pytest

import fgwot


@pytest.fixture(scope="module")
def torch_path():
    """Leave every problem to torch."""
    with fgwot.backend("torch"):
        yield
