"""Plans that are never stored and whose marginals are paid for, against dense ones and first-order conditions."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_long_solves import by_passes
from test_streamed import KINDS, clouds, problem, structure
from test_unbalanced import INF, PRICES, check

import fgwot
from fgwot import Lazy, LowRank, Status, reference
from fgwot.inner.relaxed import Sides, relaxed

fgw = fgwot.fused_gromov_wasserstein
OPTIONS = {"alpha": 0.4, "epsilon": 0.05, "tol": 1e-9}


def residual(costs, p, q, solution, alpha, epsilon, rho):
    """|T - T+|_1 over the mass, T+ being the dense solver's plan for the gradient at T by the reference."""
    T = solution.plan.to_dense().double()
    arrays = (C.to_dense().double().numpy() for C in costs)
    X = torch.from_numpy(reference.gradient(*arrays, T.numpy(), alpha) / epsilon)[None]
    prices = (torch.tensor([[r / epsilon]], dtype=torch.float64) for r in rho)
    following = relaxed(X, Sides(p.double()[None], q.double()[None], *prices), torch.zeros_like(T[:1]), 1e-11).T[0]
    return float((following - T).abs().sum() / T.sum())


@pytest.mark.filterwarnings("ignore::fgwot.ConvergenceWarning")
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_certificates_of_any_prices_masses_and_symmetry(dtype):
    """Whatever is called converged is, by code that streams do not share."""
    converged = 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        kind, (n, m) = rng.choice(KINDS), rng.integers(1, 25, 2)
        x, y = (torch.from_numpy(rng.normal(size=(k, 3))) for k in (n, m))
        costs = LowRank.squared_distances(x, y), structure(rng, n, kind), structure(rng, m, kind)
        costs = [C.map(lambda t: t.to(dtype)) for C in costs]
        p, q = ((torch.from_numpy(rng.dirichlet(np.full(k, 2.0))) * 10 ** rng.uniform(-2, 2)).to(dtype) for k in (n, m))
        p[:1] *= float(n == 1 or rng.uniform() < 0.7)  # a point without mass
        rho = PRICES[seed % len(PRICES)] if seed % 3 else tuple(10 ** rng.uniform(-2, 4, 2))
        rho = rho if isinstance(rho, tuple) else (rho, rho)
        alpha, epsilon = float(rng.uniform(0.1, 1)), float(10 ** rng.uniform(-1.5, 0.5))
        solution = fgw(*costs, p, q, alpha=alpha, epsilon=epsilon, rho=rho, plan="lazy")
        assert torch.isfinite(solution.value), seed
        if solution.converged:
            converged += 1
            claimed = float(solution.residual + solution.marginal_error)
            found = residual(costs, p, q, solution, alpha, epsilon, rho)
            assert found <= 1.5 * claimed + (1e-7 if dtype == torch.float64 else 1e-4), (seed, found, claimed)
    assert converged >= 38


@pytest.mark.parametrize("rho", [*PRICES, (1e4, 1e3)])
@given(seed=st.integers(0, 10**6), kind=st.sampled_from(KINDS))
@settings(max_examples=4)
def test_lazy_equals_dense(rho, seed, kind):
    M, C1, C2, p, q = problem(seed, kind, (2, 30))
    q = q * 1.7 if rho not in PRICES[2:4] else q
    lazy, dense = (fgw(M, C1, C2, p, q, rho=rho, plan=plan, **OPTIONS) for plan in ("lazy", "dense"))
    assert lazy.converged
    T = lazy.plan.to_dense()
    arrays = (C.to_dense().numpy() for C in (M, C1, C2))
    case = SimpleNamespace(**dict(zip(("M", "C1", "C2"), arrays, strict=True)), p=p.numpy(), q=q.numpy(), **OPTIONS)
    check(case, replace(lazy, plan=T), rho)
    if abs(lazy.value - dense.value) > 1e-6:  # another stationary point
        return
    torch.testing.assert_close(T, dense.plan, rtol=0, atol=1e-6)
    torch.testing.assert_close(lazy.plan.rows(slice(1, 2)), T[1:2])
    torch.testing.assert_close(lazy.plan.sum(1), T.sum(1), rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(lazy.plan.T @ p, T.T @ p, rtol=1e-9, atol=1e-12)
    for name in ("value", "cost", "value_linear", "value_quad"):
        torch.testing.assert_close(getattr(lazy, name), getattr(dense, name), rtol=1e-6, atol=1e-8)
    for ours, theirs in zip(lazy.potentials, dense.potentials, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("rho", [(0.8, 1.5), (INF, 0.6), (0.0, 0.7), (0.4, INF)])
@pytest.mark.parametrize("weights", [(1, 0, 0, 0), (0.3, 0.2, -0.5, 0.7)])
def test_gradients_are_those_of_the_dense_plan(rho, weights):
    M, C1, C2, p, q = problem(6, "asymmetric", (5, 9))
    numbers = [torch.tensor(x, dtype=torch.float64) for x in (0.4, 0.2, *rho)]
    leaves = [t.clone().requires_grad_() for t in (M.A, M.B, C1.A, C1.B, C2.A, C2.B, 0.9 * p, 1.3 * q, *numbers)]
    ma, mb, a1, b1, a2, b2, r, c, alpha, epsilon, *prices = leaves
    costs, options = (LowRank(ma, mb), LowRank(a1, b1), LowRank(a2, b2)), {"alpha": alpha, "epsilon": epsilon}
    found = []
    for plan in ("lazy", "dense"):
        s = fgw(*costs, r, c, **options, rho=tuple(prices), tol=1e-11, max_iter=5000, plan=plan)
        values = (s.value, s.cost, s.value_linear, s.value_quad)
        total = sum(w * v for w, v in zip(weights, values, strict=True))
        found.append(torch.autograd.grad(total, leaves, allow_unused=True, materialize_grads=True))
    for lazy, dense in zip(*found, strict=True):
        torch.testing.assert_close(lazy, dense, rtol=1e-6, atol=1e-8)


def test_gradients_in_points_marginals_and_weights_are_central_differences():
    rng = np.random.default_rng(0)
    x, y = (torch.from_numpy(rng.uniform(size=(k, 2))) for k in (9, 7))
    p, q = (torch.from_numpy(rng.dirichlet(np.ones(k))) for k in (9, 7))
    inputs = [x, y, p, 2 * q, *(torch.tensor(t).double() for t in (0.4, 0.1, 0.3, 1.2))]

    def value(x, y, p, q, alpha, epsilon, *rho):
        costs = LowRank.squared_distances(x, y), LowRank.squared_distances(x), LowRank.squared_distances(y)
        return fgw(*costs, p, q, alpha=alpha, epsilon=epsilon, rho=rho, tol=1e-11, plan="lazy").value

    leaves = [t.clone().requires_grad_() for t in inputs]
    gradients = torch.autograd.grad(value(*leaves), leaves)
    for at, gradient in enumerate(gradients):
        direction = torch.from_numpy(rng.uniform(0.5, 1, size=inputs[at].shape)) * inputs[at].abs()
        ends = [value(*inputs[:at], inputs[at] + h * direction, *inputs[at + 1 :]) for h in (1e-5, -1e-5)]
        torch.testing.assert_close((gradient * direction).sum(), (ends[0] - ends[1]) / 2e-5, rtol=1e-6, atol=1e-8)


def test_numba_and_torch_agree():
    options = {"epsilon": 0.02, "rho": (0.1, 0.3), "plan": "lazy"}
    for dtype, atol in ((torch.float32, 1e-7), (torch.float64, 1e-10)):
        costs = clouds(300, 700, dtype)
        with fgwot.backend("numba"):
            ours = fgw(*costs, **options)
        with fgwot.backend("torch"):
            theirs = fgw(*costs, **options)
        torch.testing.assert_close(ours.plan.to_dense(), theirs.plan.to_dense(), rtol=0, atol=atol)
        torch.testing.assert_close(ours.value, theirs.value, rtol=10 * torch.finfo(dtype).eps, atol=0)


def test_a_solution_goes_on_where_it_stood_and_where_another_did():
    costs, options = clouds(200, 150), {"epsilon": 0.05, "plan": "lazy"}
    first = fgw(*costs, rho=0.3, **options)
    again = fgw(*costs, rho=0.3, **options, init=first)
    assert again.n_iter <= 2
    torch.testing.assert_close(again.value, first.value, rtol=1e-10, atol=0)
    for rho in (None, (INF, 0.2)):
        other = fgw(*costs, rho=rho, **options)
        torch.testing.assert_close(fgw(*costs, rho=rho, **options, init=first).value, other.value, rtol=1e-8, atol=0)
        torch.testing.assert_close(fgw(*costs, rho=0.3, **options, init=other).value, first.value, rtol=1e-8, atol=0)


def test_infinite_prices_are_none_and_points_without_mass_stay_so():
    M, C1, C2, p, q = problem(3)
    p = torch.cat([p[:2] * 0, p[2:] / p[2:].sum()])
    exact = fgw(M, C1, C2, p, q, plan="lazy", **OPTIONS)
    tensors = tuple(torch.tensor([INF, INF]).double())
    torch.testing.assert_close(fgw(M, C1, C2, p, q, rho=tensors, plan="lazy", **OPTIONS).value, exact.value)
    paid = fgw(M, C1, C2, p, q, rho=0.3, plan="lazy", **OPTIONS).plan.to_dense()
    assert not paid[:2].any()
    rest = fgw(
        LowRank(M.A[2:], M.B), C1.map(lambda t: t[2:]), C2, p[2:], q, rho=0.3, plan="lazy", **OPTIONS
    ).plan.to_dense()
    torch.testing.assert_close(paid[2:], rest, rtol=0, atol=1e-8)


@pytest.mark.parametrize("rho", [(0.3, 2.0), (INF, 0.5)])
def test_interrupted_solves_go_on_in_other_bases(rho, tmp_path, monkeypatch):
    monkeypatch.setattr("fgwot.streamed.checkpoint._SHARE", torch.inf)  # write every time
    arguments, options = problem(1, "indefinite"), {**OPTIONS, "rho": rho}
    seen, path = [], tmp_path / "state"
    whole = fgw(*arguments, **options, plan=Lazy(seen.append))
    total = seen[-1].passes

    def interrupt(progress):
        if progress.passes >= total // 2:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        fgw(*arguments, **options, plan=Lazy(interrupt, checkpoint=path))
    kept, rng = torch.load(path, weights_only=True), np.random.default_rng(0)
    turns = []
    for side in ("rows", "columns"):
        turn = torch.from_numpy(np.linalg.qr(rng.normal(size=[len(kept[side]) - 1] * 2))[0])
        turns.append(torch.block_diag(torch.ones(1, 1, dtype=torch.float64), turn))
    shape = len(turns[0]), len(turns[1])
    for name in ("X", "next"):
        core, parts = kept[name].split([shape[0] * shape[1], len(kept[name]) - shape[0] * shape[1]])
        kept[name] = torch.cat([(turns[0] @ core.view(shape) @ turns[1].T).flatten(), parts])
    torch.save(kept | {side: turn @ kept[side] for side, turn in zip(("rows", "columns"), turns, strict=True)}, path)
    resumed = fgw(*arguments, **options, plan=Lazy(seen.append, checkpoint=path))
    assert seen[-1].passes <= total - total // 2 + 8
    torch.testing.assert_close(resumed.value, whole.value, rtol=1e-8, atol=1e-10)
    for other in ({"rho": (rho[0], 0.7)}, {"rho": None}):
        with pytest.raises(ValueError, match="is of another problem: remove it or name another file"):
            fgw(*arguments, **(options | other), plan=Lazy(checkpoint=path))


@pytest.mark.filterwarnings("ignore::fgwot.ConvergenceWarning")
@pytest.mark.parametrize("rho", [(0.3, 2.0), (INF, 0.5), (0.0, 0.7)])
def test_a_solve_whose_time_is_over_says_how_far_it_came(rho, monkeypatch):
    M, C1, C2, p, q = problem(2, "distances")
    ended = set()
    for limit in (1, 2, 3, 5, 8, 13, 21, 34, 10_000):
        by_passes(monkeypatch)
        solution = fgw(M, C1, C2, p, q, **OPTIONS, rho=rho, plan=Lazy(time_limit=limit))
        claimed = float(solution.residual + solution.marginal_error)
        found = residual((M, C1, C2), p, q, solution, OPTIONS["alpha"], OPTIONS["epsilon"], rho)
        assert found <= 1.5 * claimed + 1e-9, limit
        ended.add(int(solution.status))
    assert ended == {Status.TIME_LIMIT, Status.CONVERGED}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rho": -1.0}, r"rho must lie in \[0, inf\]"),
        ({"rho": (0.0, 0.0)}, "zero on both sides"),
        ({"rho": torch.ones(3)}, "batches: solve one problem after another"),
    ],
)
def test_what_does_not_fit_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        fgw(*clouds(5, 4), **change, plan="lazy")
