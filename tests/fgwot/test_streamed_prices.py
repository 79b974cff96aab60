"""Plans that are never stored and whose marginals are paid for, against dense ones and first-order conditions."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lazily import (
    OPTIONS,
    check_against_dense,
    check_drivers,
    check_gradients,
    check_interrupted,
    check_time_limits,
    fgw,
)
from test_streamed import KINDS, clouds, problem, structure
from test_unbalanced import INF, PRICES, check

from fgwot import LowRank, reference
from fgwot.inner.relaxed import Sides, relaxed


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
    check_against_dense(lazy, dense, p)
    for ours, theirs in zip(lazy.potentials, dense.potentials, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("rho", [(0.8, 1.5), (INF, 0.6), (0.0, 0.7), (0.4, INF)])
@pytest.mark.parametrize("weights", [(1, 0, 0, 0), (0.3, 0.2, -0.5, 0.7)])
def test_gradients_are_those_of_the_dense_plan(rho, weights):
    check_gradients((0.4, 0.2, *rho), lambda *prices: {"rho": prices}, weights)


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
    check_drivers({"rho": (0.1, 0.3)})


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
    def turned(path):
        kept, rng = torch.load(path, weights_only=True), np.random.default_rng(0)
        turns = []
        for side in ("rows", "columns"):
            turn = torch.from_numpy(np.linalg.qr(rng.normal(size=[len(kept[side]) - 1] * 2))[0])
            turns.append(torch.block_diag(torch.ones(1, 1, dtype=torch.float64), turn))
        shape = len(turns[0]), len(turns[1])
        for name in ("X", "next"):
            core, parts = kept[name].split([shape[0] * shape[1], len(kept[name]) - shape[0] * shape[1]])
            kept[name] = torch.cat([(turns[0] @ core.view(shape) @ turns[1].T).flatten(), parts])
        torch.save(
            kept | {side: turn @ kept[side] for side, turn in zip(("rows", "columns"), turns, strict=True)}, path
        )

    others = {"rho": (rho[0], 0.7)}, {"rho": None}
    check_interrupted({"rho": rho}, others, tmp_path / "state", monkeypatch, more=8, alter=turned)


@pytest.mark.filterwarnings("ignore::fgwot.ConvergenceWarning")
@pytest.mark.parametrize("rho", [(0.3, 2.0), (INF, 0.5), (0.0, 0.7)])
def test_a_solve_whose_time_is_over_says_how_far_it_came(rho, monkeypatch):
    check_time_limits({"rho": rho}, residual, monkeypatch)


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
