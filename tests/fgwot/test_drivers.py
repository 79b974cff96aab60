"""Which driver runs, why the others decline, and what the first call on a machine costs."""

import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import fgwot
from fgwot.drivers import LARGEST, failure_of_loops

PACKAGE = Path(fgwot.__file__).parent
SOLVE = """
import torch, fgwot
C = torch.tensor([[0.0, 1.0, 3.0], [1.0, 0.0, 2.0], [3.0, 2.0, 0.0]])
explanation = fgwot.explain(C, C, C, epsilon=0.1)
print(explanation.driver, explanation.declined.get("numba"), fgwot.gromov_wasserstein(C, C).plan.argmax(1).tolist())
"""


def run(code, **variables):
    """Output and errors of a program; a variable that is None is unset."""
    environment = {name: value for name, value in (os.environ | variables).items() if value is not None}
    done = subprocess.run(
        [sys.executable, "-P", "-W", "error", "-c", code], env=environment, capture_output=True, text=True, timeout=500
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip(), done.stderr.strip()


def structures(n, dtype=torch.float64):
    C = (torch.arange(n, dtype=dtype)[:, None] - torch.arange(n, dtype=dtype)).abs() / n
    return C, C, C


def test_the_fastest_driver_is_taken_and_the_others_say_why_not():
    explanation = fgwot.explain(*structures(5))
    assert explanation.driver == "numba"
    assert explanation.declined == {"triton": "the tensors are on cpu"}
    large = fgwot.explain(*structures(LARGEST + 1), validate=False)
    assert str(large) == "torch\n  triton: the tensors are on cpu\n  numba: 201 points; the loops take at most 200"
    with fgwot.backend("torch"):
        assert set(fgwot.explain(*structures(5)).declined.values()) == {"fgwot.backend('torch') is in force"}
        with fgwot.backend("auto"):
            assert fgwot.explain(*structures(5)).driver == "numba"
    with fgwot.backend("numba"):
        assert fgwot.explain(*structures(5), loss="abs").driver == "torch"


def test_every_call_is_logged(caplog):
    with caplog.at_level(logging.DEBUG, "fgwot"):
        fgwot.fused_gromov_wasserstein(*structures(4))
        fgwot.fused_gromov_wasserstein(*structures(4), loss="abs")
    first, second = caplog.messages
    assert first.startswith("solved by numba")
    assert "solved by torch" in second
    assert "the abs loss; it knows square and kl" in second


def test_tensors_on_other_devices_are_left_to_others():
    on_meta = [t.to("meta") for t in structures(4)]
    assert fgwot.explain(*on_meta).declined["numba"] == "the tensors are on meta"


def test_arguments_that_do_not_fit_are_left_to_the_check():
    M, C1, C2 = structures(4)
    for bad in ((M[:3], C1, C2), (M.float(), C1, C2), (M, C1[0], C2), (M, C1, C2, M[0], M[:3, 0])):
        assert fgwot.explain(*bad).declined["numba"] == "the check will refuse the arguments"
    assert "no dense tensors" in fgwot.explain(M, C1, C2.tolist()).declined["numba"]


WITHOUT_NUMBA = """
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name == "numba":
            raise ModuleNotFoundError("No module named 'numba'", name=name)

sys.meta_path.insert(0, Absent())
"""


def test_without_numba_torch_solves():
    output, errors = run(WITHOUT_NUMBA + SOLVE)
    assert output == "torch No module named 'numba' [0, 1, 2]"
    assert errors == ""


def test_numba_that_was_asked_for_must_be_there(monkeypatch):
    monkeypatch.setitem(sys.modules, "fgwot.whole.compiled", None)
    failure_of_loops.cache_clear()
    try:
        with fgwot.backend("numba"):
            with pytest.raises(ImportError, match=r"fgwot.backend\('numba'\) needs Numba \(pip install numba\)"):
                fgwot.gromov_wasserstein(*structures(3)[:2])
            assert fgwot.explain(*structures(3), loss="abs").driver == "torch"
    finally:
        failure_of_loops.cache_clear()


COMPILATIONS = """
from numba.core import event

class Counter(event.Listener):
    count = 0
    def on_start(self, event):
        self.count += 1
    def on_end(self, event):
        pass

counter = Counter()
event.register("numba:compile", counter)
import numpy as np
import fgwot, torch
rng = np.random.default_rng(0)
for dtype in (torch.float16, torch.float32, torch.float64):
    for loss in ("square", "kl"):
        for batch in ((), (3,), (2, 3)):
            M, C1, C2 = (torch.from_numpy(rng.uniform(size=(*batch, 4, 4))).to(dtype) for _ in range(3))
            p = torch.full((4,), 0.25, dtype=dtype)
            C1 = C1.mT.requires_grad_()
            alpha = torch.full(batch[-1:], 0.5, dtype=dtype, requires_grad=True)
            first = fgwot.fused_gromov_wasserstein(M, C1, C2, p, alpha=alpha, loss=loss, max_iter=300, tol=1)
            (first.value.sum() + first.cost.sum()).backward()
            fgwot.fused_gromov_wasserstein(M[..., :3, :], C1[..., :3, :3], C2, alpha=1, epsilon=1, loss=loss, tol=1)
            fgwot.gromov_wasserstein(C1, C2.mT, q=p, init=first, loss=loss, tol=1).value.sum().backward()
print(counter.count)
"""


@pytest.mark.slow
def test_loops_are_compiled_once_on_a_machine(tmp_path):
    """Announced in one line by the first process; no later one compiles, whatever it calls."""
    cache = {"NUMBA_CACHE_DIR": str(tmp_path)}
    first, announced = run("import runpy; runpy.run_module('fgwot.warmup', run_name='__main__')", **cache)
    assert first.startswith("ready after")
    assert str(tmp_path) in first
    assert announced.count("\n") == 0
    assert "python -m fgwot.warmup" in announced
    assert run(COMPILATIONS, **cache) == ("0", "")


@pytest.mark.slow
def test_a_package_that_cannot_be_written_to_and_no_home(tmp_path):
    """Without a folder for compiled loops torch solves, and the reason is there to read."""
    copy = tmp_path / "site" / "fgwot"
    shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__"))
    (copy / "whole" / "__pycache__").write_text("no folder can be made here, by root neither")
    nowhere = {"NUMBA_CACHE_DIR": None, "XDG_CACHE_HOME": os.devnull, "HOME": os.devnull}
    variables = nowhere | {"PYTHONPATH": str(copy.parent), "PYTHONDONTWRITEBYTECODE": "1"}
    where, output = run(SOLVE + "print(fgwot.__file__)", **variables)[0].splitlines()[::-1]
    assert where.startswith(str(tmp_path))
    assert output.startswith("torch cannot cache function")
    assert output.endswith("[0, 1, 2]")
