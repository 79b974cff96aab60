"""Relaxed marginals against first-order conditions, formulas, POT and central differences, in float64."""

import warnings

import numpy as np
import ot
import pytest
import torch
from certificate import paid
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import central_differences, random_case

import fgwot
from fgwot import reference

pytestmark = pytest.mark.usefixtures("each_driver")
fgw = fgwot.fused_gromov_wasserstein
INF = float("inf")
MASS_3, MASS_6 = torch.ones(3, dtype=torch.float64), torch.full((3,), 2.0, dtype=torch.float64)
PRICES = [1.0, (0.3, 2.0), (INF, 0.5), (0.5, INF), (INF, 0.0), (0.0, 0.7), (50.0, 50.0)]


def check(case, solution, rho, loss="square", tol=1e-5):
    """The plan meets the first-order conditions, and the value is that of the formula."""
    T = solution.plan.numpy()
    gradient = reference.gradient(case.M, case.C1, case.C2, T, case.alpha, loss) + case.epsilon * np.log(T)
    rho1, rho2 = rho if isinstance(rho, tuple) else (rho, rho)
    if rho1 == INF:
        np.testing.assert_allclose(T.sum(1), case.p, atol=tol)
    elif rho1 > 0:
        gradient += (rho1 * np.log(T.sum(1) / case.p))[:, None]
    if rho2 == INF:
        np.testing.assert_allclose(T.sum(0), case.q, atol=tol)
    elif rho2 > 0:
        gradient += rho2 * np.log(T.sum(0) / case.q)
    # What remains are multipliers of exact sides: constant along the other side.
    if rho1 == INF:
        gradient -= (T * gradient).sum(1, keepdims=True) / T.sum(1, keepdims=True)
    if rho2 == INF:
        gradient -= (T * gradient).sum(0) / T.sum(0)
    assert np.abs(T * gradient).sum() <= tol * T.sum() * max(1, case.epsilon)
    J = reference.objective(case.M, case.C1, case.C2, T, case.alpha, case.epsilon, loss)
    expected = J + paid(T.sum(1), case.p, rho1) + paid(T.sum(0), case.q, rho2)
    np.testing.assert_allclose(solution.value, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("rho", PRICES)
@pytest.mark.parametrize("kind", ["euclidean", "asymmetric"])
@given(seed=st.integers(0, 10**6))
@settings(max_examples=4)
def test_first_order_conditions(rho, kind, seed):
    case = random_case(seed, max_points=8, kind=kind, epsilon=(0.05, 0.5))
    check(case, fgw(*case.tensors(), **case.weights, rho=rho), rho)


@pytest.mark.parametrize("loss", ["kl", "abs"])
def test_other_losses(loss):
    case = random_case(1, max_points=6, kind="euclidean", epsilon=(0.1, 0.5))
    check(case, fgw(*case.tensors(), **case.weights, rho=(1.0, 0.5), loss=loss), (1.0, 0.5), loss)


def test_exact_on_both_sides_is_the_balanced_problem_and_large_prices_come_near():
    case = random_case(2, max_points=8, kind="euclidean", epsilon=(0.1, 0.3))
    balanced = fgwot.fused_gromov_wasserstein(*case.tensors(), **case.weights)
    torch.testing.assert_close(fgw(*case.tensors(), **case.weights, rho=INF).plan, balanced.plan)
    gaps = [abs(fgw(*case.tensors(), **case.weights, rho=rho).value - balanced.value).item() for rho in (10, 100, 1e3)]
    assert gaps[0] > gaps[1] > gaps[2]
    assert gaps[2] < 1e-2 * (1 + abs(balanced.value))


@pytest.mark.filterwarnings("ignore:If reg_type")
def test_the_linear_case_agrees_with_pot():
    case = random_case(3, max_points=8, kind="euclidean", epsilon=(0.1, 0.3))
    ours = fgw(*case.tensors(), rho=(0.7, 0.4), alpha=0.0, epsilon=case.epsilon)
    theirs = ot.unbalanced.sinkhorn_unbalanced(
        case.p, case.q, case.M, case.epsilon, (0.7, 0.4), reg_type="entropy", stopThr=1e-13, numItermax=10**5
    )
    np.testing.assert_allclose(ours.plan, theirs, atol=1e-6)


@given(seed=st.integers(0, 10**6), rho=st.sampled_from(PRICES))
@settings(max_examples=10)
def test_the_objective_never_rises(seed, rho):
    case = random_case(seed, max_points=8, kind="adjacency", epsilon=(0.02, 0.5))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", fgwot.ConvergenceWarning)
        values = [fgw(*case.tensors(), **case.weights, rho=rho, max_iter=k).value.item() for k in range(2, 9)]
    assert np.diff(values).max() <= 1e-7 * (1 + np.abs(values).max())


def test_batch_equals_loop_with_a_price_per_problem():
    rng = np.random.default_rng(0)
    M = torch.from_numpy(rng.uniform(size=(3, 5, 4)))
    C1, C2 = (torch.from_numpy(rng.uniform(size=(3, n, n))) for n in (5, 4))
    rho1, rho2 = torch.tensor([0.5, INF, 2.0]).double(), torch.tensor([1.0, 0.3, 0.0]).double()
    batch = fgw(M, C1, C2, rho=(rho1, rho2), epsilon=0.2, tol=1e-9)
    for b in range(3):
        one = fgw(M[b], C1[b], C2[b], rho=(rho1[b].item(), rho2[b].item()), epsilon=0.2, tol=1e-9)
        np.testing.assert_allclose(batch.plan[b], one.plan, atol=1e-7)
        np.testing.assert_allclose(batch.value[b], one.value, rtol=1e-8)


@pytest.mark.parametrize("rho", [(0.8, 1.5), (INF, 0.6), (INF, 0.0)])
def test_envelope_gradients_match_central_differences(rho):
    case = random_case(7, max_points=4, kind="asymmetric", epsilon=(0.2, 0.5))
    prices = [torch.tensor(r, dtype=torch.float64) for r in rho]
    weights = [torch.tensor(w, dtype=torch.float64) for w in (case.alpha, case.epsilon)]
    inputs = [*case.tensors(), *weights, *prices]

    def value(M, C1, C2, p, q, alpha, epsilon, rho1, rho2):
        return fgw(M, C1, C2, p, q, alpha=alpha, epsilon=epsilon, rho=(rho1, rho2), tol=1e-11, max_iter=5000).value

    leaves = [t.clone().requires_grad_() for t in inputs]
    found = torch.autograd.grad(value(*leaves), leaves, allow_unused=True)
    for index, gradient in enumerate(found):
        if index >= 7 and rho[index - 7] in (0.0, INF):
            assert gradient is None or gradient == 0
            continue
        if index == 4 and rho[1] == 0.0:
            assert not gradient.any()
            continue
        np.testing.assert_allclose(gradient, central_differences(value, inputs, index), atol=2e-5)


def test_points_without_mass_stay_so_where_marginals_count():
    case = random_case(8, max_points=6, kind="euclidean", epsilon=(0.2, 0.5))
    M, C1, C2, p, q = case.tensors()
    p = torch.cat([torch.zeros(1, dtype=p.dtype), p[1:]])
    solution = fgw(M, C1, C2, p, q, **case.weights, rho=0.5)
    assert not solution.plan[0].any()
    torch.testing.assert_close(
        solution.plan[1:], fgw(M[1:], C1[1:, 1:], C2, p[1:], q, **case.weights, rho=0.5).plan, atol=1e-6, rtol=0
    )


@pytest.mark.parametrize("seed", range(8))
def test_masses_may_differ_by_orders_and_prices_be_large(seed):
    rng = np.random.default_rng(seed)
    n, m = rng.integers(2, 12, 2)
    x, y = torch.from_numpy(rng.normal(size=(n, 3))), torch.from_numpy(rng.normal(size=(m, 3)))
    p, q = (torch.from_numpy(rng.dirichlet(np.full(k, 2.0)) * mass) for k, mass in ((n, 0.003), (m, 100.0)))
    rho, epsilon = tuple(10 ** rng.uniform(1, 5, 2)), float(10 ** rng.uniform(-1.3, 0))
    M, C1, C2 = torch.cdist(x, y), torch.cdist(x, x), torch.cdist(y, y)
    solution = fgw(M, C1, C2, p, q, rho=rho, epsilon=epsilon)
    assert solution.converged
    T = solution.plan
    # f (+) g of the paid marginals makes T again: errors of log(T 1 / p) count rho / epsilon times.
    G = 0.5 * M + fgwot.tensor_term(C1, C2, T)
    f, g = (-price * (sums / side).log() for price, sums, side in zip(rho, (T.sum(1), T.sum(0)), (p, q), strict=True))
    gap = (T * (G - f[:, None] - g) + epsilon * torch.xlogy(T, T)).abs().sum() / T.sum()
    assert gap <= 1e-6 * max(rho)


def test_float32_and_restart():
    case = random_case(9, max_points=6, kind="euclidean", epsilon=(0.2, 0.5))
    double = fgw(*case.tensors(), **case.weights, rho=1.0)
    single = fgw(*(t.float() for t in case.tensors()), **case.weights, rho=1.0)
    assert single.plan.dtype == torch.float32
    np.testing.assert_allclose(single.plan, double.plan, atol=1e-4)
    again = fgw(*case.tensors(), **case.weights, rho=1.0, init=double)
    assert again.n_iter <= 3


def test_a_price_per_problem_of_one_batch():
    case = random_case(11, max_points=5, kind="euclidean", epsilon=(0.2, 0.5))
    rho = torch.tensor([0.3, 1.0, 3.0], dtype=torch.float64)
    many = fgw(*case.tensors(), **case.weights, rho=rho, tol=1e-9)
    assert many.plan.shape[0] == 3
    for b in range(3):
        one = fgw(*case.tensors(), **case.weights, rho=rho[b].item(), tol=1e-9)
        torch.testing.assert_close(many.plan[b], one.plan, atol=1e-7, rtol=0)


def test_without_entropy_rows_of_a_semi_relaxed_linear_problem_take_the_cheapest_column():
    case = random_case(12, max_points=8, kind="euclidean", epsilon=(0.1, 0.3))
    M, C1, C2, p, q = case.tensors()
    options = {"alpha": 0.0, "epsilon": 0.05, "solver": fgwot.ProximalPoint(), "max_iter": 5000}
    solution = fgw(M, C1, C2, p, q, rho=(INF, 0.0), **options)
    torch.testing.assert_close(solution.value, (p * M.amin(1)).sum(), atol=1e-6, rtol=1e-6)


def test_without_entropy_the_linear_case_agrees_with_pot():
    case = random_case(13, max_points=8, kind="euclidean", epsilon=(0.1, 0.3))
    options = {"alpha": 0.0, "epsilon": 0.05, "solver": fgwot.ProximalPoint(), "max_iter": 5000}
    ours = fgw(*case.tensors(), rho=(0.7, 0.4), **options)
    theirs = ot.unbalanced.mm_unbalanced(case.p, case.q, case.M, (0.7, 0.4), div="kl", stopThr=1e-13, numItermax=10**5)
    np.testing.assert_allclose(ours.plan, theirs, atol=1e-4)


def test_without_entropy_the_semi_relaxed_problem_agrees_with_pot():
    case = random_case(13, max_points=8, kind="euclidean", epsilon=(0.1, 0.3))
    M, C1, C2, p, q = case.tensors()
    options = {"alpha": 0.5, "epsilon": 0.05, "solver": fgwot.ProximalPoint(), "max_iter": 5000}
    ours = fgw(M, C1, C2, p, q, rho=(INF, 0.0), **options)
    theirs = ot.gromov.entropic_semirelaxed_fused_gromov_wasserstein(
        case.M, case.C1, case.C2, case.p, symmetric=True, epsilon=0.05, alpha=0.5, max_iter=10**5, tol=1e-12
    )
    np.testing.assert_allclose(ours.value, reference.energy(case.M, case.C1, case.C2, theirs, 0.5), rtol=1e-5)


@pytest.mark.parametrize("rho", [1.0, (INF, 0.0)])
def test_several_starts_find_what_is_no_worse_and_low_rank_the_same(rho):
    case = random_case(14, max_points=8, kind="euclidean", epsilon=(0.02, 0.05))
    M, C1, C2, p, q = case.tensors()
    one = fgw(M, C1, C2, p, q, **case.weights, rho=rho)
    best = fgw(M, C1, C2, p, q, **case.weights, rho=rho, init=fgwot.MultiInit(4))
    check(case, best, rho)
    assert best.value <= one.value + 1e-9
    A, B = (fgwot.LowRank(C, torch.eye(len(C), dtype=C.dtype)) for C in (C1, C2))
    torch.testing.assert_close(fgw(M, A, B, p, q, **case.weights, rho=rho).plan, one.plan, atol=1e-6, rtol=0)


def test_the_loss_module_starts_from_its_last_plan():
    case = random_case(15, max_points=6, kind="euclidean", epsilon=(0.2, 0.5))
    criterion = fgwot.FGWLoss(case.alpha, case.epsilon, rho=(1.0, 0.5))
    values = [criterion(*case.tensors()) for _ in range(2)]
    torch.testing.assert_close(values[0], fgw(*case.tensors(), **case.weights, rho=(1.0, 0.5)).value)
    torch.testing.assert_close(*values)
    assert criterion.solution.n_iter <= 3


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"rho": -1.0}, ValueError, r"rho must lie in \[0, inf\]"),
        ({"rho": (0.0, 0.0)}, ValueError, "zero on both sides"),
        ({"rho": (1.0, 1.0, 1.0)}, ValueError, "pair"),
        ({"rho": torch.ones(3), "epsilon": torch.ones(2)}, ValueError, "broadcast"),
        ({"rho": 1.0, "mass": 1.0}, ValueError, "give one"),
        ({"rho": 1.0, "adjoint": "implicit"}, ValueError, "envelope"),
        ({"rho": 1.0, "plan": "lazy"}, ValueError, "lazy"),
        ({"rho": (torch.tensor(INF), torch.tensor(INF)), "p": MASS_3, "q": MASS_6}, ValueError, "equal mass"),
        ({"rho": 1.0, "init": 3}, TypeError, "init"),
        ({"rho": 1.0, "max_iter": 0}, ValueError, "max_iter"),
        ({"rho": 1.0, "epsilon": 0.0}, ValueError, "epsilon"),
    ],
)
def test_what_does_not_fit_is_refused(change, error, message):
    C = torch.ones(3, 3, dtype=torch.float64) - torch.eye(3, dtype=torch.float64)
    with pytest.raises(error, match=message):
        fgw(**{"M": C, "C1": C, "C2": C, **change})


@pytest.mark.parametrize("rho", [0.5, (INF, 0.5)])
@pytest.mark.parametrize("scale", [1.0, 1e3])
def test_residuals_are_relative_to_the_mass(rho, scale):
    """Of a plan that a loose tolerance ends early; the one that follows is exp((f (+) g - grad E) / epsilon)."""
    case = random_case(8, max_points=7, kind="euclidean", epsilon=(0.2, 0.4))
    M, C1, C2, p, q = case.tensors()
    options = {"rho": rho, "alpha": 0.5, "epsilon": 0.3 * scale, "tol": 0.3, "init": scale * torch.ones_like(M)}
    found = fgw(M, C1, C2, scale * p, scale * q, **options)
    f, g = found.potentials
    gradient = torch.from_numpy(reference.gradient(case.M, case.C1, case.C2, found.plan.numpy(), 0.5))
    following = torch.exp((f[:, None] + g - gradient) / (0.3 * scale))
    measured = (following - found.plan).abs().sum() / following.sum()
    assert measured > 0.01
    torch.testing.assert_close(found.residual, measured, rtol=0.2, atol=0)


def test_a_start_that_is_much_too_heavy_does_not_lose_its_mass():
    """Costs grow with the mass: the first step from p q', of mass 10^4, would end at exp(-10^9)."""
    M = torch.tensor([[1.5e5], [2.3e5]], dtype=torch.float64)
    C1, C2 = torch.tensor([[0.0, 500.0], [500.0, 0.0]], dtype=torch.float64), torch.zeros(1, 1, dtype=torch.float64)
    p, q = torch.tensor([4e3, 5e3], dtype=torch.float64), torch.tensor([1.5e4], dtype=torch.float64)
    options = {"alpha": 1.0, "epsilon": 1.7e6, "rho": (7e5, 1e5)}
    found = fgw(M, C1, C2, p, q, **options)
    assert found.converged
    assert 1 < found.plan.sum() < 100
    again = fgw(M, C1, C2, p, q, **options, init=found.plan)
    torch.testing.assert_close(again.plan, found.plan, rtol=1e-6, atol=0)
