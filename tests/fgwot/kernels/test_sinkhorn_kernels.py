"""Sinkhorn sweeps against dense float64 formulas, on a CUDA device or in Triton's interpreter."""

import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import fgwot.inner.sweeps  # noqa: F401 - registers the operators
from fgwot import reference
from fgwot.backend import backend
from fgwot.gradient.linearisation import Linearisation
from fgwot.inner.plan import Marginals
from fgwot.inner.sinkhorn import sinkhorn
from fgwot.kernels.shapes import ROW_TILES, RowTile
from fgwot.problem import Problem

pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("poison")]

TOLERANCE = {torch.float64: 1e-12, torch.float32: 2e-5}
TINY = RowTile(2, 16, 1)  # several blocks of rows and columns in a small problem


def problem(seed, n, m, *, batch=1, dtype=torch.float64, device, spread=4.0, void=True):
    """Costs X, marginals p and q, potentials y; with `void`, a row and a column without mass where there are two."""
    rng = np.random.default_rng(seed)
    X, y = spread * rng.normal(size=(batch, n, m)), rng.normal(size=(batch, m))
    p, q = rng.uniform(0.5, 1, (batch, n)), rng.uniform(0.5, 1, (batch, m))
    if void and n > 1:
        p[:, n // 2] = 0
    if void and m > 1:
        q[:, 0], y[:, 0] = 0, -np.inf
    p, q = p / p.sum(1, keepdims=True), q / q.sum(1, keepdims=True)
    return [torch.from_numpy(x).to(device, dtype) for x in (X, p, q, y)]


def dense(X, p, q, y, count):
    """The same sweeps in float64: column potentials, error of the last columns, plan, row potentials, its error."""
    X, p, q, y = (x.double() for x in (X, p, q, y))
    error = torch.full_like(y[:, 0], torch.inf)
    for _ in range(count):
        x = p.log() - torch.logsumexp(y[:, None, :] - X, 2)
        c = torch.logsumexp(x[:, :, None] + y[:, None, :] - X, 1)
        error = (c.exp() - q).abs().sum(1)
        y = torch.where(q > 0, y + q.log() - c, -torch.inf)
    x = p.log() - torch.logsumexp(y[:, None, :] - X, 2)
    T = (x[:, :, None] + y[:, None, :] - X).exp()
    return y, error, T, x, (T.sum(1) - q).abs().sum(1)


def run(X, p, q, y, count, tile=None, log=True):
    """Sweeps and plan by the kernels, for either form: the scaling form is given exp(-X) and exp(y)."""
    inputs = (X, p, q, y) if log else ((-X).exp(), p, q, y.exp())
    from fgwot.kernels.sinkhorn import half_sweep, sweeps

    new, error = sweeps(*inputs, count, log, tile)
    T, x, left = half_sweep(*inputs[:3], new, log, tile)
    return (new, error, T, x, left) if log else (new.log(), error, T, x.log(), left)


def check(inputs, count=2, tile=None, log=True):
    dtype = inputs[0].dtype
    for actual, wanted in zip(run(*inputs, count, tile, log), dense(*inputs, count), strict=True):
        assert actual.dtype == dtype
        torch.testing.assert_close(actual.double(), wanted, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])


@pytest.mark.parametrize("log", [True, False], ids=["log", "scaling"])
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize(("n", "m"), [(1, 1), (3, 1), (1, 3), (5, 7), (9, 130), (9, 132)])
def test_each_form_and_dtype(device, n, m, dtype, log):
    check(problem(0, n, m, batch=2, dtype=dtype, device=device), log=log)


@settings(max_examples=12)
@given(n=st.integers(1, 9), m=st.integers(1, 40), batch=st.integers(1, 3), log=st.booleans(), seed=st.integers(0, 99))
def test_any_shape(device, n, m, batch, log, seed):
    check(problem(seed, n, m, batch=batch, device=device), tile=TINY, log=log)


@pytest.mark.parametrize("tile", ROW_TILES[torch.float32], ids=str)
@pytest.mark.parametrize("over", [-1, 0, 1])
def test_edges_of_tiles(device, tile, over):
    shape = tile.rows + over, tile.columns + over
    check(problem(1, *shape, dtype=torch.float32, device=device), count=1, tile=tile)


def test_costs_far_apart(device):
    """At a small epsilon all of a column may lie hundreds of powers below the rest: the update stays exact."""
    X, p, q, y = problem(2, 6, 5, dtype=torch.float32, device=device, spread=200.0, void=False)
    X[:, :, 3] += 2000
    check([X, p, q, y], count=3, tile=TINY)


@pytest.mark.parametrize("log", [True, False], ids=["log", "scaling"])
@pytest.mark.filterwarnings("ignore:overflow")
def test_row_that_reaches_no_column_with_mass(device, log):
    """Its potential overflows; a column without mass stays without, and nothing becomes NaN."""
    X, p, q, y = problem(2, 3, 4, dtype=torch.float32, device=device, void=False)
    X[:, 1], X[:, 1, 2] = torch.inf, -9.0
    q[:, 2], y[:, 2] = 0, -torch.inf
    new, error, T, _, left = run(X, p, q, y, 2, TINY, log)
    assert new[:, 2].isneginf().all()
    assert (T[:, :, 2] == 0).all()
    assert not any(x.isnan().any() for x in (new, error, T, left))


def test_enough_sweeps_reach_the_plan_of_the_reference(device):
    X, p, q, y = problem(3, 5, 6, device=device, spread=0.5)
    _, _, T, _, left = run(X, p, q, y, 30, TINY)
    wanted = reference.sinkhorn(*(x[0].cpu().numpy() for x in (X, p, q)), 1.0)
    np.testing.assert_allclose(T[0].cpu(), wanted, rtol=0, atol=1e-11)
    assert left.item() < 1e-11


@pytest.mark.sample
def test_costs_shared_by_a_batch_and_rows_apart(device):
    X, p, q, y = problem(4, 5, 7, batch=3, device=device)
    wide = torch.full((3, 5, 16), torch.nan, dtype=X.dtype, device=device)
    wide[..., 4:11] = X
    check([wide[..., 4:11], p, q, y], tile=TINY)
    check([X[:1].expand(3, -1, -1), p, q, y], tile=TINY)
    check([X.mT.contiguous().mT, p, q, y], tile=TINY)


@pytest.mark.sample
def test_masks_and_bounds(device, monkeypatch):
    """NaN round all that a kernel may read; marks round all that it may write."""
    guarded = []
    empty = torch.Tensor.new_empty

    def surrounded(x):
        wide = x.new_full((x.shape[0] + 2, *x.shape[1:]), torch.nan)
        wide[1:-1] = x
        return wide[1:-1]

    def marked(x, *shape, **kwargs):
        if kwargs:  # the interpreter's own
            return empty(x, *shape, **kwargs)
        size = int(np.prod(shape))
        buffer = x.new_full((size + 128,), 77.0)
        guarded.append(buffer)
        return buffer[64:-64].view(shape)

    inputs = [surrounded(x) for x in problem(5, 5, 19, device=device)]
    monkeypatch.setattr(torch.Tensor, "new_empty", marked)
    results = run(*inputs, 2, TINY)
    monkeypatch.setattr(torch.Tensor, "new_empty", empty)
    for actual, wanted in zip(results, dense(*inputs, 2), strict=True):
        torch.testing.assert_close(actual, wanted, rtol=1e-12, atol=1e-12)
    assert len(guarded) == 7
    assert all((buffer[:64] == 77).all() and (buffer[-64:] == 77).all() for buffer in guarded)


def test_inputs_are_left_alone_and_no_sweep_changes_nothing(device):
    from fgwot.kernels.sinkhorn import sweeps

    inputs = problem(6, 4, 5, device=device)
    before = [x.clone() for x in inputs]
    y, error = sweeps(*inputs, 0)
    assert torch.equal(y, inputs[3])
    assert error.isinf().all()
    run(*inputs, 2)
    assert all(torch.equal(a, b) for a, b in zip(inputs, before, strict=True))


def test_same_bits_every_time(device):
    inputs = problem(7, 20, 37, dtype=torch.float32, device=device)
    for a, b in zip(run(*inputs, 3), run(*inputs, 3), strict=True):
        assert torch.equal(a, b)


def test_operators_pass_opcheck(device):
    inputs = problem(9, 4, 3, batch=2, device=device)
    torch.library.opcheck(torch.ops.fgwot.sweeps, (*inputs, 2, True))
    torch.library.opcheck(torch.ops.fgwot.half_sweep, (*inputs, True))


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("loss", ["square", "kl"])
def test_the_solver_takes_the_kernels(device, loss, symmetric):
    """Gradient and inner solve by either backend."""
    rng = np.random.default_rng(10)
    n, m = 7, 5
    M, C1, C2 = (torch.from_numpy(rng.uniform(0.1, 1, s)).to(device) for s in ((2, n, m), (2, n, n), (2, m, m)))
    if symmetric:
        C1, C2 = C1 + C1.mT, C2 + C2.mT
    p = torch.full((n,), 1 / (n - 1), dtype=torch.float64, device=device)
    p[2] = 0  # a point without mass
    q = torch.full((m,), 1 / m, dtype=torch.float64, device=device)
    problem_ = Problem.build(M, C1, C2, p, q, 0.4, 0.2, loss)
    marginals = Marginals.of(problem_.p, problem_.q)
    T = problem_.p[:, :, None] * problem_.q[:, None, :]
    found = []
    for name in ("torch", "triton"):
        with backend(name):
            G = Linearisation(problem_)(T)
            plan = sinkhorn(G, marginals, torch.zeros_like(problem_.q), torch.full_like(problem_.alpha, 1e-13))
        assert (plan.error <= 1e-12).all()
        found.append((G, plan.T))
    torch.testing.assert_close(*found, rtol=1e-11, atol=1e-11)


def test_the_solver_leaves_slow_problems_to_newton(device):
    X, p, q, _ = problem(11, 6, 5, batch=2, device=device, spread=1.0)
    X[1] *= 40  # sweeps alone would take far longer
    with backend("triton"):
        plan = sinkhorn(X, Marginals.of(p, q), torch.zeros_like(q), torch.full_like(q[:, 0], 1e-11))
    torch.testing.assert_close(plan.T.sum(1), q, rtol=0, atol=1e-10)
    torch.testing.assert_close(plan.T.sum(2), p, rtol=0, atol=1e-10)
    for b in range(2):
        wanted = reference.sinkhorn(*(x[b].cpu().numpy() for x in (X, p, q)), 1.0)
        np.testing.assert_allclose(plan.T[b].cpu(), wanted, rtol=0, atol=1e-9)


@pytest.mark.sample
def test_undamped_steps_sweep_by_the_kernel(device, monkeypatch):
    """The first sweeps are the kernel's, in scaling form; a point without mass and a slow problem change no plan."""
    from fgwot.inner import chord

    sinkhorn_module = sys.modules["fgwot.inner.sinkhorn"]
    counts = []

    def counted(X, p, q, y, count, log):
        counts.append((count, log))
        return original(X, p, q, y, count, log)

    original = sinkhorn_module.sweeps
    monkeypatch.setattr(sinkhorn_module, "sweeps", counted)
    for seed, spread in ((12, 0.5), (13, 6.0)):
        X, p, q, _ = problem(seed, 6, 5, batch=2, device=device, spread=spread)
        plans = []
        for name in ("torch", "triton"):
            with backend(name):
                solve = chord.Chord(Marginals.of(p, q))
                plans.append(solve(X, torch.zeros_like(q), torch.full_like(q[:, 0], 1e-12)))
            assert (plans[-1].error <= 1e-12).all()
        torch.testing.assert_close(plans[0].T, plans[1].T, rtol=0, atol=1e-11)
    assert counts
    assert set(counts) == {(4, False)}
