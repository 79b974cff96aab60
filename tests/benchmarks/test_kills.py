"""The script of docs/robustness.md, in little."""

import subprocess
import sys

import pytest


@pytest.mark.exhaustive
def test_a_killed_training_ends_as_an_undisturbed_one():
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.kills", "--only", "train", "--kills", "3"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    *_, row = done.stdout.splitlines()
    assert row.startswith("| train |")
    assert row.endswith("| all equal |")
