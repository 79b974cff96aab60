"""Micro-benchmarks of fgwot alone: `pytest -m benchmark --benchmark-enable tests/benchmarks`."""

import pytest

from benchmarks.cases import Case
from benchmarks.methods import load
from benchmarks.problems import build

pytestmark = pytest.mark.benchmark


@pytest.mark.parametrize(
    ("name", "case"),
    [
        ("fgwot", Case("single", "points", 6, 6, 0.05)),
        ("fgwot", Case("single", "points", 64, 64, 0.01)),
        ("fgwot", Case("single", "points", 256, 256, 0.05)),
        ("fgwot", Case("batches", "points", 6, 6, 0.05, batch=128)),
        ("fgwot backward", Case("gradients", "points", 64, 64, 0.05)),
        ("fgwot proximal", Case("proximal", "points", 16, 16, 0.05)),
        ("fgwot warm", Case("training", "unit vectors", 6, 6, 0.1, 0.1)),
    ],
    ids=lambda value: value.name if isinstance(value, Case) else value,
)
@pytest.mark.filterwarnings("ignore")
def test_time(benchmark, name, case):
    method = load(name)
    benchmark(method.prepare(case, build(case), method.ladder[0]))
