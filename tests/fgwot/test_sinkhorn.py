"""The inner solver against the reference's Sinkhorn."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fgwot import reference
from fgwot.inner.plan import Marginals
from fgwot.inner.sinkhorn import sinkhorn


def solve(cost, p, q, epsilon, tol=1e-11, dtype=torch.float64):
    X = torch.from_numpy(cost / epsilon).to(dtype)
    marginals = Marginals.of(torch.from_numpy(p).to(dtype), torch.from_numpy(q).to(dtype))
    return sinkhorn(X, marginals, torch.zeros_like(marginals.q), torch.full_like(marginals.p[:, 0], tol))


def random_batch(seed, batch, n, m):
    rng = np.random.default_rng(seed)
    return rng.uniform(size=(batch, n, m)), rng.dirichlet(np.ones(n), batch), rng.dirichlet(np.ones(m), batch)


@given(
    seed=st.integers(0, 10**6),
    n=st.integers(1, 20),
    m=st.integers(1, 20),
    epsilon=st.sampled_from([1.0, 0.1, 0.01, 0.003]),
)
def test_equals_the_reference(seed, n, m, epsilon):
    cost, p, q = random_batch(seed, 3, n, m)
    plan = solve(cost, p, q, epsilon)
    assert plan.error.max() <= 1e-11
    for b in range(3):
        np.testing.assert_allclose(plan.T[b], reference.sinkhorn(cost[b], p[b], q[b], epsilon), atol=1e-9)


def test_plan_is_the_exponential_of_the_potentials():
    cost, p, q = random_batch(0, 2, 6, 9)
    found = solve(cost, p, q, 0.05)
    X = torch.from_numpy(cost / 0.05)
    np.testing.assert_allclose((found.f[:, :, None] + found.g[:, None, :] - X).exp(), found.T, rtol=1e-10)


def test_large_problems_use_scaling_sweeps_and_newton_alike():
    cost, p, q = random_batch(1, 1, 90, 80)
    for epsilon in (0.1, 0.002):
        plan = solve(cost, p, q, epsilon)
        assert plan.error.item() <= 1e-11
        np.testing.assert_allclose(plan.T[0].sum(1), p[0], rtol=1e-12)


def test_costs_far_beyond_the_exponential_range():
    cost, p, q = random_batch(2, 1, 7, 7)
    plan = solve(cost * 1e5, p, q, 1.0)
    assert plan.T.isfinite().all()
    assert plan.error.item() <= 1e-9


def test_zero_mass_is_an_exact_no_op():
    cost, p, q = random_batch(3, 1, 5, 4)
    padded = np.full((1, 7, 6), 123.0)
    padded[:, :5, :4] = cost
    p_pad, q_pad = np.pad(p, ((0, 0), (0, 2))), np.pad(q, ((0, 0), (0, 2)))
    small, large = solve(cost, p, q, 0.05), solve(padded, p_pad, q_pad, 0.05)
    np.testing.assert_allclose(large.T[:, :5, :4], small.T, rtol=1e-9)
    assert large.T[:, 5:].abs().max() == 0
    assert large.T[:, :, 4:].abs().max() == 0
    np.testing.assert_allclose(large.f[:, :5], small.f, rtol=1e-9)


@pytest.mark.parametrize("epsilon", [0.1, 0.01])
def test_float32_reaches_its_own_resolution(epsilon):
    cost, p, q = random_batch(4, 4, 12, 12)
    plan = solve(cost, p, q, epsilon, tol=1e-7, dtype=torch.float32)
    assert plan.error.max() < 2e-5
