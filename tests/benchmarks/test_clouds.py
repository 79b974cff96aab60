"""``python -m benchmarks.clouds`` prints what it says."""

import subprocess
import sys
from pathlib import Path

import pytest

COMMAND = [
    sys.executable,
    "-m",
    "benchmarks.clouds",
    "--sizes",
    "300",
    "--epsilons",
    "0.1",
    "--dense",
    "60",
    "--build",
    "70",
]


@pytest.mark.exhaustive
def test_two_processes_beside_one_and_both_ways():
    command = [*COMMAND, "--threads", "1", "--processes", "1", "2"]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=True)
    rows = [line.strip("| ").split(" | ") for line in done.stdout.splitlines() if line.startswith("| ")]
    solves, both, built = [[row for row in rows if row[0] == n] for n in ("300", "60", "70")]
    assert [row[2:4] for row in solves] == [["1", "1"], ["1", "2"]]
    assert solves[0][6:10] == ["1.00x", "1.00x", "0.0 MB", "0.00 s"]
    assert float(solves[1][8].split()[0]) > 0
    assert [row[2] for row in both] == ["met", "rho 0.3", "mass 0.8"]
    assert all(float(row[5]) > 0 for row in both)
    assert [row[1] for row in built] == ["0.1"]
    assert float(built[0][6]) < 1e-4
