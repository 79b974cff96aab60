"""Structures of low rank against the same structures built."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import fgwot
from fgwot import LowRank
from fgwot.structure import low_rank_quadratic

fgw = fgwot.fused_gromov_wasserstein


def low_rank(rng, n, kind, batch=()):
    """Squared distances, a symmetric indefinite structure, or an asymmetric one."""
    x, y = (torch.from_numpy(rng.normal(size=(*batch, n, 2))) for _ in range(2))
    if kind == "distances":
        return LowRank.squared_distances(x)
    return LowRank(x, x * torch.tensor([1.0, -1.0])) if kind == "indefinite" else LowRank(x, y)


def built(C):
    return C.A @ C.B.mT


def problem(seed, kind, batch=()):
    rng = np.random.default_rng(seed)
    n, m = rng.integers(2, 12, 2)
    C1, C2 = low_rank(rng, n, kind, batch), low_rank(rng, m, kind)
    M = torch.from_numpy(rng.uniform(size=(n, m)))
    p, q = torch.from_numpy(rng.dirichlet(np.ones(n))), torch.from_numpy(rng.dirichlet(np.ones(m)))
    return M, C1, C2, p, q


@given(seed=st.integers(0, 10**6), kind=st.sampled_from(["distances", "indefinite", "asymmetric"]))
@settings(max_examples=25)
def test_same_plan_values_and_potentials_as_built(seed, kind):
    M, C1, C2, p, q = problem(seed, kind, batch=(2,))
    kwargs = {"alpha": 0.4, "epsilon": 0.3, "tol": 1e-9}
    ours, dense = fgw(M, C1, C2, p, q, **kwargs), fgw(M, built(C1), built(C2), p, q, **kwargs)
    np.testing.assert_allclose(ours.plan, dense.plan, atol=1e-7)
    for name in ("value", "cost", "value_linear", "value_quad"):
        np.testing.assert_allclose(getattr(ours, name), getattr(dense, name), rtol=1e-7, atol=1e-9)
    for a, b in zip(ours.potentials, dense.potentials, strict=True):
        np.testing.assert_allclose(a - a.mean(-1, keepdim=True), b - b.mean(-1, keepdim=True), atol=1e-6)


@given(seed=st.integers(0, 10**6))
def test_squared_distances(seed):
    x = torch.from_numpy(np.random.default_rng(seed).normal(loc=100, size=(7, 3)))
    C = LowRank.squared_distances(x)
    assert C.symmetric
    assert C.shape == (7, 7)
    np.testing.assert_allclose(built(C), torch.cdist(x, x).square(), atol=1e-9)
    assert not LowRank(C.A, C.A + 1).mT.symmetric


@pytest.mark.parametrize("kind", ["distances", "asymmetric"])
def test_gradients_in_the_factors_and_all_else_are_those_of_the_built_structure(kind):
    M, C1, C2, p, q = problem(3, kind)
    inputs = [M, C1.A, C1.B, C2.A, C2.B, p, q, torch.tensor(0.4).double(), torch.tensor(0.3).double()]
    leaves = [t.clone().requires_grad_() for t in inputs]
    found = []
    for wrap in (LowRank, lambda A, B: A @ B.mT):
        m, a1, b1, a2, b2, r, c, alpha, epsilon = leaves
        value = fgw(m, wrap(a1, b1), wrap(a2, b2), r, c, alpha=alpha, epsilon=epsilon, tol=1e-10).value
        found.append(torch.autograd.grad(value, leaves))
    for ours, dense in zip(*found, strict=True):
        np.testing.assert_allclose(ours - ours.mean(), dense - dense.mean(), atol=1e-6)


def test_second_derivatives_in_the_factors_are_refused():
    M, C1, C2, *_ = problem(4, "distances")
    A = C1.A.clone().requires_grad_()
    value = fgw(M, LowRank(A, C1.B), C2).value
    (gradient,) = torch.autograd.grad(value, A, create_graph=True)
    with pytest.raises(RuntimeError):
        gradient.sum().backward()


def test_the_loss_module_and_zero_mass():
    M, C1, C2, p, q = problem(5, "distances")
    p = torch.cat([p[:1] * 0, p[1:] / p[1:].sum()])
    criterion = fgwot.FGWLoss(alpha=0.5, epsilon=0.3)
    first = criterion(M, C1, C2, p, q)
    again = criterion(M, C1, C2, p, q)
    assert criterion.solution.n_iter <= 2
    np.testing.assert_allclose(first, again, rtol=1e-6)
    np.testing.assert_allclose(first, fgw(M, built(C1), built(C2), p, q, alpha=0.5, epsilon=0.3).value, rtol=1e-6)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda a: {**a, "C2": built(a["C2"])}, TypeError, "both or neither"),
        (lambda a: {**a, "loss": "kl"}, ValueError, "square loss"),
        (lambda a: {**a, "adjoint": "implicit"}, TypeError, "LowRank"),
        (lambda a: {**a, "C1": LowRank(a["C1"].A, a["C1"].B[:, :1])}, ValueError, "one shape"),
        (lambda a: {**a, "C1": a["C1"].map(lambda t: t * torch.nan)}, ValueError, "not finite"),
    ],
)
def test_what_does_not_fit_is_refused(change, error, message):
    M, C1, C2, *_ = problem(6, "distances")
    with pytest.raises(error, match=message):
        fgw(**change({"M": M, "C1": C1, "C2": C2}))


@given(seed=st.integers(0, 10**6), n=st.integers(1, 40), d=st.integers(1, 4), rank=st.integers(1, 45))
@settings(max_examples=40)
def test_distances_of_some_rank_say_how_wrong_they_are(seed, n, d, rank):
    x = torch.from_numpy(np.random.default_rng(seed).normal(size=(n, d)) * 10.0 ** (seed % 7 - 3)) + 5
    D = torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist")
    C, error = LowRank.distances(x, rank)
    assert C.shape == D.shape
    assert C.A.shape[1] == min(rank, n)
    torch.testing.assert_close((C.to_dense() - D).square().mean().sqrt(), error, rtol=1e-6, atol=1e-6 * float(D.max()))


def test_distances_of_some_rank_are_nearly_the_best():
    x = torch.from_numpy(np.random.default_rng(0).normal(size=(300, 3)))
    eigenvalues = torch.linalg.eigvalsh(torch.cdist(x, x)).abs().sort(descending=True).values
    for rank in (1, 8, 32):
        best = eigenvalues[rank:].square().sum().sqrt() / 300
        assert best <= LowRank.distances(x, rank)[1] <= 1.1 * best


def test_the_error_of_distances_bounds_that_of_the_quadratic_term():
    rng = np.random.default_rng(1)
    x, y = (torch.from_numpy(rng.normal(size=(k, 2))) for k in (30, 20))
    (C1, e1), (C2, e2) = (LowRank.distances(points, 5) for points in (x, y))
    dense = fgwot.gromov_wasserstein(torch.cdist(x, x), torch.cdist(y, y), epsilon=0.1)
    lazy = fgwot.gromov_wasserstein(C1, C2, epsilon=0.1, plan="lazy")
    for T in (dense.plan, lazy.plan.to_dense()):
        exact = low_rank_quadratic(*(LowRank(torch.cdist(z, z), torch.eye(len(z)).double()) for z in (x, y)), T)
        assert (exact.sqrt() - low_rank_quadratic(C1, C2, T).sqrt()).abs() <= e1 + e2
    assert dense.converged
    assert lazy.converged


@pytest.mark.parametrize(
    ("x", "rank", "message"),
    [
        (torch.ones(3), 2, r"needs points \(n, d\) of floating point, got torch.float32 of shape \(3,\)"),
        (torch.ones(3, 2, dtype=torch.int64), 2, "got torch.int64"),
        (torch.ones(3, 2, requires_grad=True), 2, "no gradients in the points"),
        (torch.ones(3, 2), 0, "rank must be positive, got 0"),
    ],
)
def test_distances_refuse(x, rank, message):
    with pytest.raises(ValueError, match=message):
        LowRank.distances(x, rank)
