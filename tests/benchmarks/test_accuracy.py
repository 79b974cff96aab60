"""The measures of accuracy against the written-out formulas of fgwot.reference."""

import numpy as np
import pytest
import torch

from benchmarks.accuracy import measure, rounded, sinkhorn
from benchmarks.cases import CASES, QUICK, Case
from benchmarks.problems import build, drift
from fgwot import reference

KINDS = ("points", "cloud", "unit vectors", "adjacency", "shortest path", "asymmetric")


def some_plan(problem, seed=0):
    """Positive, far from stationary, and off its marginals by about 1 %."""
    noise = np.random.default_rng(seed).uniform(0.5, 1.5, size=problem.M.shape)
    return noise * 1.01 / noise.sum((1, 2), keepdims=True)


@pytest.mark.parametrize("kind", KINDS)
def test_measures_are_those_of_the_reference(kind):
    case = Case("single", kind, 7, 5, 0.03, 0.4)
    problem = build(case)
    T = some_plan(problem)
    found = measure(problem, T)
    M, C1, C2, p, q = problem.first
    assert found.r_marg[0] == pytest.approx(reference.marginal_error(T[0], p, q), rel=1e-12)
    assert found.objective[0] == pytest.approx(reference.objective(M, C1, C2, T[0], 0.4, 0.03), rel=1e-12)
    assert found.r_fix[0] == pytest.approx(reference.residual(M, C1, C2, T[0], p, q, 0.4, 0.03), rel=1e-6)


def test_proximal_measures_are_those_of_the_reference():
    problem = build(Case("proximal", "points", 6, 5, 0.05, batch=3))
    T = rounded(*map(torch.tensor, (some_plan(problem), problem.p, problem.q))).numpy()
    found = measure(problem, T, proximal=True)
    for b, (M, C1, C2, p, q) in enumerate(zip(*problem.arrays, strict=True)):
        cost = reference.gradient(M, C1, C2, T[b], 0.5) - 0.05 * np.log(T[b])
        residual = np.abs(T[b] - reference.sinkhorn(cost, p, q, 0.05)).sum()
        assert found.r_fix[b] == pytest.approx(residual, rel=1e-6)
        assert found.objective[b] == pytest.approx(reference.energy(M, C1, C2, T[b], 0.5), rel=1e-10)


def test_rounded_plans_have_the_marginals():
    problem = build(Case("single", "points", 6, 5, 0.05, batch=4))
    T = rounded(*map(torch.tensor, (some_plan(problem), problem.p, problem.q))).numpy()
    np.testing.assert_allclose(T.sum(2), problem.p, atol=1e-15)
    np.testing.assert_allclose(T.sum(1), problem.q, atol=1e-15)
    assert (T >= 0).all()


@pytest.mark.parametrize("epsilon", [1.0, 0.01, 1e-3])
def test_sinkhorn_agrees_with_the_reference_from_a_poor_start(epsilon):
    problem = build(Case("single", "points", 20, 15, epsilon, batch=3))
    M, p, q = map(torch.tensor, (problem.M, problem.p, problem.q))
    plans = sinkhorn(M / epsilon, p, q, torch.zeros_like(q)).numpy()
    for b in range(3):
        expected = reference.sinkhorn(problem.M[b], problem.p[b], problem.q[b], epsilon)
        np.testing.assert_allclose(plans[b], expected, atol=1e-9)


def test_a_plan_that_is_not_finite_is_infinitely_inaccurate():
    problem = build(Case("single", "points", 4, 4, 0.05, batch=2))
    T = some_plan(problem)
    T[1] = np.nan
    found = measure(problem, T)
    assert np.isfinite(found.r_fix[0])
    assert found.worst == np.inf


def test_cases_have_distinct_names_and_costs_of_at_most_one():
    for table in (CASES, QUICK):
        assert len({case.name for case in table}) == len(table)
    for kind in KINDS[:-3]:
        arrays = build(Case("single", kind, 9, 8, 0.05)).first
        bound = 2 if kind == "unit vectors" else 1
        assert all(A.min() >= 0 and A.max() <= bound + 1e-12 for A in arrays)


def test_a_training_changes_its_costs_slowly():
    problem = build(Case("training", "unit vectors", 5, 5, 0.1, 0.1))
    steps = drift(problem, 4)
    changes = [np.abs(b.M - a.M).max() for a, b in zip([problem, *steps], steps, strict=False)]
    assert all(0 < change < 0.05 for change in changes)
