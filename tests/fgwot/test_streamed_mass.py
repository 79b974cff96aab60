"""Plans of a given mass that are never stored, against dense ones and first-order conditions."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from certificate import stationarity
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
from test_partial import check
from test_streamed import KINDS, clouds, problem, structure

import fgwot
from fgwot import LowRank, reference
from fgwot.inner.partial import Bounds, bounded
from fgwot.streamed.bounds import Bounded
from fgwot.streamed.passes import Kernel, one_pass

PARTS = [0.05, 0.5, 0.9, 0.999, 1.0]


def residual(costs, p, q, solution, alpha, epsilon, mass):
    """|T - T+|_1 over the mass, T+ being the dense solver's plan for the gradient at T by the reference."""
    T = solution.plan.to_dense().double()
    arrays = (C.to_dense().double().numpy() for C in costs)
    X = torch.from_numpy(reference.gradient(*arrays, T.numpy(), alpha) / epsilon)[None]
    bounds = Bounds(p.double()[None], q.double()[None], torch.tensor([mass], dtype=torch.float64))
    following = bounded(X, bounds, torch.zeros_like(T[:1]), torch.full((1,), 1e-11, dtype=torch.float64)).T[0]
    return float((following - T).abs().sum() / T.sum())


@pytest.mark.filterwarnings("ignore::fgwot.ConvergenceWarning")
@pytest.mark.parametrize(("dtype", "part"), [(torch.float64, 1), (torch.float32, 1e3)], ids=["float64", "float32"])
def test_certificates_of_any_mass_and_symmetry(dtype, part):
    """Whatever is called converged is, by code that streams do not share; Newton's method has its part."""
    converged = 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        kind, (n, m) = rng.choice(KINDS), rng.integers(1, 25, 2)
        x, y = (torch.from_numpy(rng.normal(size=(k, 3))) for k in (n, m))
        costs = LowRank.squared_distances(x, y), structure(rng, n, kind), structure(rng, m, kind)
        costs = [C.map(lambda t: t.to(dtype)) for C in costs]
        p, q = ((torch.from_numpy(rng.dirichlet(np.full(k, 2.0))) * 10 ** rng.uniform(-2, 2)).to(dtype) for k in (n, m))
        p[:1] *= float(n == 1 or rng.uniform() < 0.7)  # a point without mass
        mass = [rng.uniform(), 1.0, 0.999, 1e-2][seed % 4] * float(min(p.sum(), q.sum()))
        alpha, epsilon = float(rng.uniform(0.1, 1)), float(10 ** rng.uniform(-2.5 if part == 1 else -1.5, 0.5))
        solution = fgw(*costs, p, q, alpha=alpha, epsilon=epsilon, mass=mass, plan="lazy")
        assert torch.isfinite(solution.value), seed
        if solution.converged:
            converged += 1
            claimed = float(solution.residual + solution.marginal_error)
            found = residual(costs, p, q, solution, alpha, epsilon, mass)
            assert found <= 1.5 * claimed + 1e-7 * part, (seed, found, claimed)
    assert converged == 40


@pytest.mark.parametrize("part", PARTS)
@given(seed=st.integers(0, 10**6), kind=st.sampled_from(KINDS))
@settings(max_examples=4)
def test_lazy_equals_dense(part, seed, kind):
    M, C1, C2, p, q = problem(seed, kind, (2, 30))
    q, mass = q * (1 + seed % 2), part * float(p.sum())
    lazy, dense = (fgw(M, C1, C2, p, q, mass=mass, plan=plan, **OPTIONS) for plan in ("lazy", "dense"))
    assert lazy.converged
    T = lazy.plan.to_dense()
    arrays = (C.to_dense().numpy() for C in (M, C1, C2))
    case = SimpleNamespace(**dict(zip(("M", "C1", "C2"), arrays, strict=True)), p=p.numpy(), q=q.numpy(), **OPTIONS)
    check(case, replace(lazy, plan=T), mass)
    if abs(lazy.value - dense.value) > 1e-6:  # another stationary point
        return
    check_against_dense(lazy, dense, p)
    if part < 1:  # all of the mass of a side leaves a number open between its potentials and the others
        for ours, theirs in zip(lazy.potentials, dense.potentials, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def test_all_of_the_mass_is_the_exact_problem():
    M, C1, C2, p, q = problem(3, "indefinite")
    exact = fgw(M, C1, C2, p, q, plan="lazy", **OPTIONS)
    solution = fgw(M, C1, C2, p, q, mass=p.sum(), plan="lazy", **OPTIONS)
    torch.testing.assert_close(solution.value, exact.value, rtol=1e-8, atol=0)
    arrays = (a.numpy() for a in (M.to_dense(), C1.to_dense(), C2.to_dense(), p, q))
    assert stationarity(*arrays, solution.plan.to_dense().numpy(), OPTIONS["alpha"], OPTIONS["epsilon"]) <= 1.1e-9


@pytest.mark.parametrize("part", [0.3, 0.8, 0.995])
@pytest.mark.parametrize("weights", [(1, 0, 0, 0), (0.3, 0.2, -0.5, 0.7)])
def test_gradients_are_those_of_the_dense_plan(part, weights):
    check_gradients((0.4, 0.2, 0.9 * part), lambda mass: {"mass": mass}, weights)


def test_gradients_in_points_marginals_and_weights_are_central_differences():
    rng = np.random.default_rng(0)
    x, y = (torch.from_numpy(rng.uniform(size=(k, 2))) for k in (9, 7))
    p, q = (torch.from_numpy(rng.dirichlet(np.ones(k))) for k in (9, 7))
    inputs = [x, y, p, 2 * q, *(torch.tensor(t).double() for t in (0.4, 0.2, 0.7))]

    def value(x, y, p, q, alpha, epsilon, mass):
        costs = LowRank.squared_distances(x, y), LowRank.squared_distances(x), LowRank.squared_distances(y)
        return fgw(*costs, p, q, alpha=alpha, epsilon=epsilon, mass=mass, tol=1e-11, plan="lazy").value

    leaves = [t.clone().requires_grad_() for t in inputs]
    gradients = torch.autograd.grad(value(*leaves), leaves)
    assert gradients[2].any()
    for at, gradient in enumerate(gradients):
        direction = torch.from_numpy(rng.uniform(0.5, 1, size=inputs[at].shape)) * inputs[at].abs()
        ends = [value(*inputs[:at], inputs[at] + h * direction, *inputs[at + 1 :]) for h in (1e-5, -1e-5)]
        torch.testing.assert_close((gradient * direction).sum(), (ends[0] - ends[1]) / 2e-5, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("part", [0.4, 0.8])
def test_the_dual_has_its_gradient_and_curvature(part):
    """By central differences in directions in which columns at the largest potential move as one."""
    rng = np.random.default_rng(1)
    n, m = 12, 9
    U, V, p, q = (torch.from_numpy(rng.uniform(size=k)) for k in ((n, 2), (2, m), (n,), (m,)))
    x, y = (torch.from_numpy(rng.uniform(size=k)) for k in (n, m))
    y[:3], q[:3] = y.max(), 10.0  # bounds that do not bind
    sides = Bounded(p, q, float(part * min(p.sum(), q.sum())))

    def at(y):
        kernel = Kernel(U, V, y, *sides.rows(x), torch.float64)
        done = one_pass(kernel, torch.eye(m, dtype=torch.float64))
        a = kernel.a(done.normaliser)
        potentials, sums = (a + x, y), (kernel.sums(done.normaliser), done.columns)
        value = sides.terms(potentials).sum() - sums[0].sum()
        return value, potentials, sums, done.products

    y = y + sides.shift(*at(y)[1:3])  # where the plan has its mass
    _, potentials, sums, T = at(y)
    torch.testing.assert_close(T.sum(), torch.tensor(sides.mass, dtype=torch.float64))
    one = sides.one(potentials, sums)
    assert one.nonzero()[:, 0].tolist() == [0, 1, 2]
    direction = torch.where(one, 0.7, torch.from_numpy(rng.normal(size=m)))
    ends = [at(y + h * direction) for h in (1e-6, -1e-6)]
    slope = (sides.ascent(potentials, sums) * direction).sum()
    torch.testing.assert_close(slope, (ends[0][0] - ends[1][0]) / 2e-6, rtol=1e-6, atol=1e-8)
    diagonal, tau = sides.curvature(potentials, sums)
    image = diagonal * direction - T.T @ (tau / T.sum(1) * (T @ direction))
    torch.testing.assert_close(image, (ends[1][2][1] - ends[0][2][1]) / -2e-6, rtol=1e-5, atol=1e-8)


def test_numba_and_torch_agree():
    check_drivers({"mass": 0.6})


def test_a_solution_goes_on_where_it_stood_and_where_another_did():
    costs, options = clouds(200, 150), {"epsilon": 0.05, "tol": 1e-9, "plan": "lazy"}
    first = fgw(*costs, mass=0.7, **options)
    again = fgw(*costs, mass=0.7, **options, init=first)
    assert again.n_iter <= 2
    torch.testing.assert_close(again.value, first.value, rtol=1e-9, atol=0)  # as exact as the mass
    for asked in ({}, {"mass": 0.4}, {"rho": 0.3}):
        other = fgw(*costs, **asked, **options)
        torch.testing.assert_close(fgw(*costs, **asked, **options, init=first).value, other.value, rtol=1e-8, atol=0)
        torch.testing.assert_close(fgw(*costs, mass=0.7, **options, init=other).value, first.value, rtol=1e-8, atol=0)


def test_points_without_mass_stay_so_and_strays_are_left_out():
    M, C1, C2, p, q = problem(3)
    p = torch.cat([p[:2] * 0, p[2:] / p[2:].sum()])
    some = fgw(M, C1, C2, p, q, mass=0.6, plan="lazy", **OPTIONS).plan.to_dense()
    assert not some[:2].any()
    M, C1 = LowRank(M.A[2:], M.B), C1.map(lambda t: t[2:])
    rest = fgw(M, C1, C2, p[2:], q, mass=0.6, plan="lazy", **OPTIONS).plan.to_dense()
    torch.testing.assert_close(some[2:], rest, rtol=0, atol=1e-8)
    rng = np.random.default_rng(0)
    y = torch.from_numpy(rng.normal(size=(40, 2)))
    x = torch.cat([y, torch.from_numpy(rng.normal(size=(10, 2)) + 20)])
    costs = LowRank.squared_distances(x, y), LowRank.squared_distances(x), LowRank.squared_distances(y)
    assert fgw(*costs, mass=0.8, epsilon=0.5, alpha=0.1, plan="lazy").plan.sum(1)[40:].sum() < 1e-6


def test_a_plain_call_streams_large_clouds():
    costs = clouds(1000, 1001, torch.float32)
    options = {"epsilon": 0.05, "mass": 0.8, "tol": 1e-5}
    assert fgwot.explain(*costs, **options).driver == "streamed"
    solution = fgw(*costs, **options)
    assert isinstance(solution.plan, torch.Tensor)
    torch.testing.assert_close(solution.plan.sum(), torch.tensor(0.8), rtol=1e-5, atol=0)


def test_interrupted_solves_go_on(tmp_path, monkeypatch):
    others = {"mass": 0.6}, {"mass": None}, {"mass": None, "rho": 0.7}
    check_interrupted({"mass": 0.7}, others, tmp_path / "state", monkeypatch, more=12)


@pytest.mark.filterwarnings("ignore::fgwot.ConvergenceWarning")
@pytest.mark.parametrize("mass", [0.5, 1.0])
def test_a_solve_whose_time_is_over_says_how_far_it_came(mass, monkeypatch):
    check_time_limits({"mass": mass}, residual, monkeypatch)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mass": 0.0}, "mass must be positive"),
        ({"mass": 1.1}, "at most that of p and q"),
        ({"mass": float("nan")}, "mass has .* not finite"),
        ({"mass": torch.ones(3) / 2}, "batches: solve one problem after another"),
        ({"mass": 0.5, "rho": 1.0}, "give one of them"),
        ({"mass": 0.5, "adjoint": "implicit"}, "use 'envelope'"),
    ],
)
def test_what_does_not_fit_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        fgw(*clouds(5, 4), **change, plan="lazy")
