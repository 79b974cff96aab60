"""Plans of a given mass against first-order conditions, linear programs, POT and central differences, in float64."""

import numpy as np
import ot
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import STRUCTURES, central_differences, random_case

import fgwot
from fgwot import reference

pytestmark = pytest.mark.usefixtures("each_driver")
fgw = fgwot.fused_gromov_wasserstein


def check(case, solution, mass, loss="square", tol=1e-5):
    """The plan is feasible, and grad E + epsilon log T = f (+) g + h with the signs and zeros of multipliers."""
    T, p, q = solution.plan.numpy(), case.p, case.q
    np.testing.assert_allclose(T.sum(), mass, rtol=1e-6)
    assert (T.sum(1) <= p + tol * mass).all()
    assert (T.sum(0) <= q + tol * mass).all()
    gradient = reference.gradient(case.M, case.C1, case.C2, T, case.alpha, loss) + case.epsilon * np.log(
        np.where(T > 0, T, 1)
    )
    f, g = (potential.numpy() for potential in solution.potentials)
    assert np.abs(T * (gradient - f[:, None] - g)).sum() <= tol * mass * max(1, case.epsilon)
    g = g - g.max()
    for multiplier, room in ((f, p - T.sum(1)), (g, q - T.sum(0))):
        assert (multiplier <= 0).all()
        assert np.abs(multiplier * room).sum() <= tol * mass * (1 + np.abs(multiplier).max())
    J = reference.objective(case.M, case.C1, case.C2, T, case.alpha, case.epsilon, loss)
    np.testing.assert_allclose(solution.value, J, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("kind", ["euclidean", "asymmetric", "adjacency"])
@given(seed=st.integers(0, 10**6), part=st.sampled_from([0.1, 0.5, 0.9, 0.999, 1.0]))
@settings(max_examples=8)
def test_first_order_conditions(kind, seed, part):
    case = random_case(seed, max_points=8, kind=kind, epsilon=(0.05, 0.5))
    mass = part * case.p.sum()
    check(case, fgw(*case.tensors(), **case.weights, mass=mass), mass)


@pytest.mark.parametrize("kind", STRUCTURES)
@given(seed=st.integers(0, 10**6), masses=st.tuples(st.floats(-2, 2), st.floats(-2, 2)), part=st.floats(0.05, 1))
@settings(max_examples=4)
def test_first_order_conditions_in_float32_and_any_unit_of_mass(kind, seed, masses, part):
    case = random_case(seed, max_points=8, kind=kind, epsilon=(0.1, 0.5))
    unit = 10 ** masses[0]  # E is quadratic in the mass: it counts as much as the entropy where epsilon grows with it
    case = case.scaled_by(p=case.p * unit, q=case.q * unit * 10 ** abs(masses[1]), epsilon=case.epsilon * max(1, unit))
    mass = part * min(case.p.sum(), case.q.sum())
    solution = fgw(*case.tensors(torch.float32), **case.weights, mass=mass)
    assert solution.converged
    T = solution.plan.double().numpy()
    np.testing.assert_allclose(T.sum(), mass, rtol=1e-4)
    excess = (T.sum(1) - case.p).clip(0).sum() + (T.sum(0) - case.q).clip(0).sum()
    assert excess <= 1e-3 * mass
    gradient = reference.gradient(case.M, case.C1, case.C2, T, case.alpha) / case.epsilon + np.log(
        np.where(T > 0, T, 1)
    )
    f, g = (potential.double().numpy() / case.epsilon for potential in solution.potentials)
    assert np.abs(T * (gradient - f[:, None] - g)).sum() <= 1e-3 * mass


@pytest.mark.parametrize("loss", ["kl", "abs"])
def test_other_losses(loss):
    case = random_case(1, max_points=6, kind="euclidean", epsilon=(0.1, 0.5))
    check(case, fgw(*case.tensors(), **case.weights, mass=0.6 * case.p.sum(), loss=loss), 0.6 * case.p.sum(), loss)


def test_all_of_the_mass_is_the_balanced_problem():
    case = random_case(2, max_points=8, kind="euclidean", epsilon=(0.1, 0.3))
    balanced = fgw(*case.tensors(), **case.weights, tol=1e-9)
    partial = fgw(*case.tensors(), **case.weights, mass=case.p.sum(), tol=1e-9)
    torch.testing.assert_close(partial.plan, balanced.plan, atol=1e-7, rtol=0)
    torch.testing.assert_close(partial.value, balanced.value)


def test_all_of_the_mass_of_one_side_is_a_bounded_problem():
    case = random_case(3, max_points=8, kind="euclidean", epsilon=(0.1, 0.3))
    M, C1, C2, p, q = case.tensors()
    solution = fgw(M, C1, C2, p, 3 * q, **case.weights, mass=p.sum())
    torch.testing.assert_close(solution.plan.sum(1), p, atol=1e-6, rtol=0)
    assert (solution.plan.sum(0) <= 3 * q + 1e-6).all()


def test_the_linear_case_agrees_with_pot():
    case = random_case(3, max_points=8, kind="euclidean", epsilon=(0.1, 0.3))
    mass = 0.7 * case.p.sum()
    ours = fgw(*case.tensors(), mass=mass, alpha=0.0, epsilon=case.epsilon)
    theirs = ot.partial.entropic_partial_wasserstein(
        case.p, case.q, case.M, case.epsilon, m=mass, numItermax=10**5, stopThr=1e-14
    )
    np.testing.assert_allclose(ours.plan, theirs, atol=1e-6)


def test_without_entropy_the_linear_case_is_a_linear_program():
    case = random_case(5, max_points=8, kind="euclidean", epsilon=(0.1, 0.3))
    mass = 0.5 * case.p.sum()
    options = {"mass": mass, "alpha": 0.0, "epsilon": 0.05, "solver": fgwot.ProximalPoint(), "tol": 1e-6}
    ours = fgw(*case.tensors(), **options, max_iter=5000)
    plan = ot.partial.partial_wasserstein(case.p, case.q, case.M, m=mass)
    np.testing.assert_allclose(ours.value, (plan * case.M).sum(), rtol=1e-4)


def test_mass_goes_to_what_matches():
    """Outliers are left out."""
    rng = np.random.default_rng(0)
    y = torch.from_numpy(rng.normal(size=(10, 2)))
    x = torch.cat([y, torch.from_numpy(rng.normal(size=(3, 2)) + 20)])
    solution = fgw(None, torch.cdist(x, x), torch.cdist(y, y), mass=0.7, epsilon=0.05, init=fgwot.MultiInit(4))
    assert solution.plan[10:].sum() < 1e-3


def test_batch_equals_loop_with_a_mass_per_problem():
    rng = np.random.default_rng(0)
    M = torch.from_numpy(rng.uniform(size=(3, 5, 4)))
    C1, C2 = (torch.from_numpy(rng.uniform(size=(3, n, n))) for n in (5, 4))
    mass = torch.tensor([0.2, 0.7, 1.0], dtype=torch.float64)
    batch = fgw(M, C1, C2, mass=mass, epsilon=0.2, tol=1e-9)
    for b in range(3):
        one = fgw(M[b], C1[b], C2[b], mass=mass[b].item(), epsilon=0.2, tol=1e-9)
        np.testing.assert_allclose(batch.plan[b], one.plan, atol=1e-7)
        np.testing.assert_allclose(batch.value[b], one.value, rtol=1e-8)


def test_envelope_gradients_match_central_differences():
    case = random_case(7, max_points=4, kind="asymmetric", epsilon=(0.2, 0.5))
    weights = [torch.tensor(w, dtype=torch.float64) for w in (case.alpha, case.epsilon, 0.6 * case.p.sum())]
    inputs = [*case.tensors(), *weights]

    def value(M, C1, C2, p, q, alpha, epsilon, mass):
        return fgw(M, C1, C2, p, q, alpha=alpha, epsilon=epsilon, mass=mass, tol=1e-11, max_iter=5000).value

    leaves = [t.clone().requires_grad_() for t in inputs]
    found = torch.autograd.grad(value(*leaves), leaves)
    for index, gradient in enumerate(found):
        np.testing.assert_allclose(gradient, central_differences(value, inputs, index), atol=2e-5)


def test_points_without_mass_stay_so():
    case = random_case(8, max_points=6, kind="euclidean", epsilon=(0.2, 0.5))
    M, C1, C2, p, q = case.tensors()
    p = torch.cat([torch.zeros(1, dtype=p.dtype), p[1:]])
    solution = fgw(M, C1, C2, p, q, **case.weights, mass=0.5 * p.sum())
    assert not solution.plan[0].any()
    less = fgw(M[1:], C1[1:, 1:], C2, p[1:], q, **case.weights, mass=0.5 * p.sum())
    torch.testing.assert_close(solution.plan[1:], less.plan, atol=1e-6, rtol=0)


@pytest.mark.parametrize(("dtype", "tol"), [(torch.float64, 1e-6), (torch.float32, 1e-3)])
@pytest.mark.parametrize("scale", [1e-3, 1e3])
def test_units_of_mass_and_cost_do_not_matter(dtype, tol, scale):
    case = random_case(9, max_points=8, kind="euclidean", epsilon=(0.1, 0.3))
    M, C1, C2, p, q = (t.to(dtype) for t in case.tensors())
    one = fgw(M, C1, C2, p, q, mass=0.6, alpha=0.0, epsilon=0.1)
    other = fgw(scale * M, C1, C2, scale * p, scale * q, mass=0.6 * scale, alpha=0.0, epsilon=0.1 * scale)
    assert other.converged
    torch.testing.assert_close(other.plan / scale, one.plan, atol=tol, rtol=0)


def test_restart_low_rank_and_loss_module():
    case = random_case(10, max_points=6, kind="euclidean", epsilon=(0.2, 0.5))
    M, C1, C2, p, q = case.tensors()
    mass = 0.6 * p.sum()
    first = fgw(M, C1, C2, p, q, **case.weights, mass=mass)
    assert fgw(M, C1, C2, p, q, **case.weights, mass=mass, init=first).n_iter <= 3
    A, B = (fgwot.LowRank(C, torch.eye(len(C), dtype=C.dtype)) for C in (C1, C2))
    torch.testing.assert_close(fgw(M, A, B, p, q, **case.weights, mass=mass).plan, first.plan, atol=1e-6, rtol=0)
    criterion = fgwot.FGWLoss(case.alpha, case.epsilon, mass=mass)
    for _ in range(2):
        torch.testing.assert_close(criterion(M, C1, C2, p, q), first.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mass": 0.0}, "mass must be positive"),
        ({"mass": -1.0}, "mass must be positive"),
        ({"mass": 1.1}, "at most"),
        ({"mass": float("nan")}, "not finite"),
        ({"mass": torch.ones(3) / 2, "epsilon": torch.ones(2)}, "broadcast"),
        ({"mass": 0.5, "adjoint": "implicit"}, "envelope"),
        ({"mass": 0.5, "plan": "lazy"}, "lazy"),
    ],
)
def test_what_does_not_fit_is_refused(change, message):
    C = torch.ones(3, 3, dtype=torch.float64) - torch.eye(3, dtype=torch.float64)
    with pytest.raises(ValueError, match=message):
        fgw(**{"M": C, "C1": C, "C2": C, **change})
