"""Which implementation runs, and what compilers see of it. Needs neither triton nor a GPU."""

import os
import subprocess
import sys

import pytest
import torch

import fgwot
from fgwot.backend import backend, uses_triton
from fgwot.call import Call
from fgwot.drivers import _slower_in_batches

C = torch.tensor([[0.0, 1.0], [1.0, 0.0]])
T = torch.eye(2) / 2


def in_new_process(code, **variables):
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", code], env=os.environ | variables, capture_output=True, text=True
    )


def test_defaults_follow_the_device(monkeypatch):
    monkeypatch.setattr(sys.modules["fgwot.backend"], "_forced", None)
    monkeypatch.setattr(sys.modules["fgwot.backend"], "_triton_installed", True)
    assert uses_triton(torch.device("cuda"))
    assert not uses_triton(torch.device("cpu"))
    monkeypatch.setattr(sys.modules["fgwot.backend"], "_triton_installed", False)
    assert not uses_triton(torch.device("cuda"))


@pytest.mark.parametrize(("n", "batch", "left_to_torch"), [(6, 2, True), (6, 1, False), (20, 2, False)])
def test_batches_that_would_share_programs_are_left_to_torch_unless_asked_for(monkeypatch, n, batch, left_to_torch):
    monkeypatch.setattr(sys.modules["fgwot.backend"], "_forced", None)
    C = torch.rand(batch, n, n)
    call = Call.of(None, C, C)
    assert (_slower_in_batches(call, batch) is not None) == left_to_torch
    with backend("triton"):
        assert _slower_in_batches(call, batch) is None


def test_contexts_nest_and_end_with_an_error():
    before = uses_triton(torch.device("cpu"))
    with backend("triton"):
        with backend("torch"):
            assert not uses_triton(torch.device("cuda"))
        assert uses_triton(torch.device("cpu"))
    with pytest.raises(KeyError), backend("triton"):
        raise KeyError
    assert uses_triton(torch.device("cpu")) == before


def test_unknown_backends_are_refused():
    with pytest.raises(ValueError, match="unknown backend 'cuda'; known: auto, torch, numba, triton"), backend("cuda"):
        pass
    done = in_new_process("import fgwot", FGWOT_BACKEND="numpy")
    assert "unknown backend 'numpy'" in done.stderr


@pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") == "1", reason="the interpreter takes CPU tensors")
def test_triton_never_falls_back_to_torch():
    pytest.importorskip("triton", reason="triton is not installed")
    with backend("triton"), pytest.raises(RuntimeError, match="Triton kernels need CUDA tensors"):
        fgwot.tensor_term(C, C, T, "abs")


def test_users_losses_stay_with_torch():
    user = fgwot.GroundLoss("abs", lambda a, b: (a - b).abs(), lambda a, b: (a - b).sign(), lambda a, b: (b - a).sign())
    with backend("triton"):
        assert torch.equal(fgwot.tensor_term(C, C, T, user), C)


def test_fgwot_runs_without_triton():
    code = """
import sys
sys.modules["triton"] = None  # its import fails
import torch, fgwot
C = torch.rand(3, 3, requires_grad=True)
fgwot.tensor_term(C, C, torch.rand(3, 3), "abs").sum().backward()
"""
    done = in_new_process(code, FGWOT_BACKEND="torch")
    assert done.returncode == 0, done.stderr


def test_importing_fgwot_does_not_import_triton():
    # torch itself may import triton; what matters is that no kernel is loaded.
    done = in_new_process("import sys, fgwot; print([m for m in sys.modules if m.startswith('fgwot.kernels')])")
    assert done.stdout.strip() == "[]", done.stderr


@pytest.mark.parametrize("loss", ["square", "abs", fgwot.huber(1 / 3)], ids=["square", "abs", "huber"])
def test_compiled_callers_keep_one_graph(loss):
    def energy(C1, C2, plan):
        return (fgwot.tensor_term(C1, C2, plan, loss) * plan).sum()

    leaves = [x.clone().requires_grad_() for x in (C, 3 * C, T)]
    compiled = torch.compile(energy, fullgraph=True, backend="aot_eager")
    actual, wanted = (torch.autograd.grad(f(*leaves), leaves) for f in (compiled, energy))
    for a, w in zip(actual, wanted, strict=True):
        torch.testing.assert_close(a, w)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # opcheck's own
def test_operators_pass_opcheck():
    leaves = [x.double().requires_grad_() for x in (C, 2 * C, T)]
    torch.library.opcheck(torch.ops.fgwot.contraction, (*leaves, "huber", 0.5, False))
    C1, C2, plan = (x.detach() for x in leaves)
    torch.library.opcheck(torch.ops.fgwot.adjoint, (C1, C2, plan, plan, "huber", 0.5, False))
