"""Every solve against the reference, known answers and metamorphic relations, in float64."""

import warnings

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from problems import STRUCTURES, cases, random_case, structure

import fgwot
from fgwot import Status, reference
from fgwot.gradient.linearisation import Linearisation
from fgwot.losses import BY_NAME
from fgwot.problem import Problem

fgw = fgwot.fused_gromov_wasserstein
pytestmark = pytest.mark.usefixtures("torch_path")


def check_by_reference(case, solution, loss="square", tol=1e-6):
    """A converged plan is a coupling, stationary, and its values are those of the formulas."""
    T = solution.plan.numpy()
    assert reference.marginal_error(T, case.p, case.q) <= tol
    assert reference.residual(case.M, case.C1, case.C2, T, case.p, case.q, case.alpha, case.epsilon, loss) <= tol
    expected = reference.objective(case.M, case.C1, case.C2, T, case.alpha, case.epsilon, loss)
    np.testing.assert_allclose(solution.value, expected, rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(
        solution.cost, reference.energy(case.M, case.C1, case.C2, T, case.alpha, loss), rtol=1e-10, atol=1e-10
    )


@pytest.mark.slow
@pytest.mark.parametrize("kind", STRUCTURES)
@pytest.mark.parametrize("block", range(8))
def test_random_problems_converge_to_stationary_couplings(kind, block):
    """200 problems over the five kinds, n and m from 2 to 40, epsilon 0.01 to 0.5 of the cost."""
    for seed in range(5):
        case = random_case(1000 * block + seed, max_points=40, kind=kind, epsilon=(0.01, 0.5))
        solution = fgw(*case.tensors(), **case.weights)  # a ConvergenceWarning would be an error
        assert solution.converged
        check_by_reference(case, solution)


@pytest.mark.parametrize("loss", BY_NAME)
@given(seed=st.integers(0, 10**6), kind=st.sampled_from(["euclidean", "asymmetric", "adjacency"]))
@settings(max_examples=10)
def test_every_ground_loss(loss, seed, kind):
    case = random_case(seed, max_points=7, kind=kind)
    check_by_reference(case, fgw(*case.tensors(), **case.weights, loss=loss), loss)


@given(cases)
@example(random_case(98394897, kind="adjacency"))  # undamped steps would cycle between plans with zeros
def test_objective_never_rises_along_the_iterations(case):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", fgwot.ConvergenceWarning)
        values = [fgw(*case.tensors(), **case.weights, max_iter=k).value.item() for k in range(1, 12)]
    start = np.outer(case.p, case.q)
    first = reference.objective(case.M, case.C1, case.C2, start, case.alpha, case.epsilon)
    scale = 1 + abs(first)
    assert values[0] <= first + 1e-9 * scale
    # Plans are only met to the tolerance, and J is stationary there: differences below it are rounding.
    assert np.diff(values).max() <= 1e-7 * scale


@given(cases)
def test_without_quadratic_term_it_is_entropic_transport(case):
    solution = fgw(*case.tensors(), alpha=0.0, epsilon=case.epsilon)
    expected = reference.sinkhorn(case.M, case.p, case.q, case.epsilon)
    np.testing.assert_allclose(solution.plan, expected, atol=1e-7)


@pytest.mark.parametrize("seed", range(5))
def test_permuted_copy_is_recovered(seed):
    rng = np.random.default_rng(seed)
    x = torch.from_numpy(rng.normal(size=(9, 2)))
    order = torch.from_numpy(rng.permutation(9))
    y = x[order]
    C1, C2 = torch.cdist(x, x), torch.cdist(y, y)
    solution = fgw(torch.cdist(x, y), C1, C2, epsilon=0.01)
    assert solution.plan.argmax(0).tolist() == order.tolist()
    assert solution.cost < 0.02


def test_isometric_copy_has_gromov_wasserstein_near_zero():
    rng = np.random.default_rng(0)
    x = torch.from_numpy(rng.normal(size=(8, 2)) * [3.0, 1.0])
    C = torch.cdist(x, x)
    order = torch.from_numpy(rng.permutation(8))
    solution = fgwot.gromov_wasserstein(
        C, C[order][:, order], epsilon=0.005, solver=fgwot.ProximalPoint(), init=fgwot.MultiInit(8)
    )
    assert solution.value < 1e-6


def test_diracs_have_one_coupling():
    one = torch.ones(1, 1, dtype=torch.float64)
    solution = fgw(5 * one, 3 * one, torch.zeros(4, 4, dtype=torch.float64)[:1, :1], alpha=0.25)
    # cost = 0.75 * 5 + 0.25 * (3 - 0)^2
    assert solution.cost.item() == pytest.approx(6.0)
    assert solution.plan.item() == pytest.approx(1.0)


def test_value_between_gaussian_clouds_tends_to_the_linear_closed_form():
    """alpha = 0, small epsilon: the squared distance between shifted copies is the shift squared."""
    x = torch.linspace(-1, 1, 30, dtype=torch.float64)[:, None]
    y = x + 0.7
    C = torch.cdist(x, x)
    solution = fgw(torch.cdist(x, y).square(), C, C, alpha=0.0, epsilon=1e-4)
    assert solution.value_linear.item() == pytest.approx(0.49, rel=1e-3)


@given(cases, st.integers(0, 1000))
def test_permutation_equivariance(case, seed):
    rng = np.random.default_rng(seed)
    M, C1, C2, p, q = case.tensors()
    i, j = (torch.from_numpy(rng.permutation(len(v))) for v in (p, q))
    plain = fgw(M, C1, C2, p, q, **case.weights)
    permuted = fgw(M[i][:, j], C1[i][:, i], C2[j][:, j], p[i], q[j], **case.weights)
    np.testing.assert_allclose(permuted.value, plain.value, rtol=1e-6, atol=1e-8)


@given(cases)
def test_swapping_the_sides_transposes(case):
    M, C1, C2, p, q = case.tensors()
    plain, swapped = fgw(M, C1, C2, p, q, **case.weights), fgw(M.mT, C2, C1, q, p, **case.weights)
    np.testing.assert_allclose(swapped.value, plain.value, rtol=1e-6, atol=1e-8)


@given(cases, st.floats(0.01, 100))
def test_scaling_all_costs_scales_the_value(case, c):
    M, C1, C2, p, q = case.tensors()
    plain = fgw(M, C1, C2, p, q, **case.weights)
    scaled = fgw(c * M, c**0.5 * C1, c**0.5 * C2, p, q, alpha=case.alpha, epsilon=c * case.epsilon)
    np.testing.assert_allclose(scaled.value, c * plain.value, rtol=1e-6, atol=1e-7 * c)


@given(cases, st.floats(0.1, 10))
def test_mass_scales_the_plan(case, mass):
    """With mass m, T = m T': the quadratic weight becomes alpha m, and the stationarity equation is the same."""
    M, C1, C2, p, q = case.tensors()
    heavy = fgw(M, C1, C2, mass * p, mass * q, **case.weights)
    linear, quad = 1 - case.alpha, case.alpha * mass
    total = linear + quad
    unit = fgw(M, C1, C2, p, q, alpha=quad / total, epsilon=case.epsilon / total)
    np.testing.assert_allclose(heavy.plan.sum(), mass, rtol=1e-9)
    np.testing.assert_allclose(heavy.value_linear, mass * unit.value_linear, rtol=1e-5, atol=1e-7)


@given(cases)
def test_zero_mass_padding_changes_nothing(case):
    M, C1, C2, p, q = case.tensors()
    n, m = M.shape
    pad = torch.nn.functional.pad
    padded = fgw(
        pad(M, (0, 2, 0, 3), value=7.0),
        pad(C1, (0, 3, 0, 3), value=5.0),
        pad(C2, (0, 2, 0, 2), value=3.0),
        pad(p, (0, 3)),
        pad(q, (0, 2)),
        **case.weights,
    )
    plain = fgw(M, C1, C2, p, q, **case.weights)
    np.testing.assert_allclose(padded.value, plain.value, rtol=1e-7, atol=1e-9)
    np.testing.assert_allclose(padded.plan[:n, :m], plain.plan, atol=1e-6)
    assert padded.plan[n:].abs().max() == 0
    assert padded.plan[:, m:].abs().max() == 0


def test_batch_equals_loop_with_broadcasting_and_weights_per_problem():
    rng = np.random.default_rng(0)
    M = torch.from_numpy(rng.uniform(size=(4, 1, 7, 5)))
    C1 = torch.from_numpy(structure(rng, 7, "euclidean"))
    C2 = torch.from_numpy(np.stack([structure(rng, 5, "asymmetric") for _ in range(3)]))
    q = torch.from_numpy(rng.dirichlet(np.ones(5), 3))
    alpha = torch.tensor([0.2, 0.5, 0.9], dtype=torch.float64)
    epsilon = torch.tensor([[0.02], [0.1], [0.5], [1.0]], dtype=torch.float64)
    batch = fgw(M, C1, C2, None, q, alpha=alpha, epsilon=epsilon, tol=1e-9)
    assert batch.plan.shape == (4, 3, 7, 5)
    assert batch.status.shape == batch.value.shape == batch.n_iter.shape == (4, 3)
    for a in range(4):
        for b in range(3):
            weights = {"alpha": alpha[b].item(), "epsilon": epsilon[a, 0].item()}
            one = fgw(M[a, 0], C1, C2[b], None, q[b], **weights, tol=1e-9)
            np.testing.assert_allclose(batch.plan[a, b], one.plan, atol=1e-6)
            np.testing.assert_allclose(batch.value[a, b], one.value, rtol=1e-8)


@given(cases)
def test_restart_from_the_solution_is_a_fixed_point(case):
    first = fgw(*case.tensors(), **case.weights, tol=1e-9)
    for init in (first, first.plan):
        again = fgw(*case.tensors(), **case.weights, init=init)
        assert again.n_iter <= 2
        np.testing.assert_allclose(again.plan, first.plan, atol=1e-8)


def test_multi_init_escapes_the_uniform_plan():
    """p q^T is stationary for a symmetric structure; a random start finds a better plan."""
    ring = torch.from_numpy(np.abs(np.subtract.outer(np.arange(6), np.arange(6)))).double()
    C = torch.minimum(ring, 6 - ring)
    single = fgwot.gromov_wasserstein(C, C, epsilon=0.1)
    several = fgwot.gromov_wasserstein(C, C, epsilon=0.1, init=fgwot.MultiInit(6, seed=1))
    np.testing.assert_allclose(single.plan, np.full((6, 6), 1 / 36), atol=1e-9)
    assert several.value < single.value - 0.1
    assert several.plan.shape == (6, 6)


@given(cases)
@settings(max_examples=15)
def test_proximal_point_ends_in_a_stationary_point_of_the_unregularised_problem(case):
    """At a stationary T no other coupling has a smaller linearised energy than T itself (up to the tolerance)."""
    M, C1, C2, p, q = case.arrays
    solution = fgw(*case.tensors(), **case.weights, solver=fgwot.ProximalPoint(), tol=1e-6)
    assert bool(solution.converged)
    T = solution.plan.numpy()
    gradient = reference.gradient(M, C1, C2, T, case.alpha)
    scale = np.abs(gradient).max()
    best = reference.sinkhorn(gradient, p, q, 1e-3 * scale)
    assert (gradient * (T - best)).sum() <= 0.02 * scale
    np.testing.assert_allclose(solution.value, solution.cost)


def test_long_proximal_steps_end_where_those_of_epsilon_do():
    rng = np.random.default_rng(0)
    x, y = (torch.from_numpy(rng.uniform(size=(16, 2))) for _ in range(2))
    costs = torch.cdist(x, y), torch.cdist(x, x), torch.cdist(y, y)
    steady = fgw(*costs, solver=fgwot.ProximalPoint(damping=0.0), tol=1e-4, max_iter=5000)
    growing = fgw(*costs, solver=fgwot.ProximalPoint(), tol=1e-4)
    assert bool(steady.converged)
    assert bool(growing.converged)
    assert growing.n_iter < steady.n_iter / 5
    assert steady.cost * (1 - 1e-4) <= growing.cost <= steady.cost


@pytest.mark.parametrize("kind", STRUCTURES)
def test_long_proximal_steps_descend(kind):
    case = random_case(5, kind=kind)
    costs = []
    for max_iter in range(1, 25):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", fgwot.ConvergenceWarning)
            solution = fgw(*case.tensors(), **case.weights, solver=fgwot.ProximalPoint(), max_iter=max_iter)
        costs.append(solution.cost.item())
    assert np.diff(costs).max() <= 1e-6 * np.ptp(costs)


def test_fixed_damping_zero_is_the_undamped_projected_gradient():
    case = random_case(3, kind="euclidean")
    M, C1, C2, p, q = case.arrays
    T = np.outer(p, q)
    for _ in range(3):
        T = reference.sinkhorn(reference.gradient(M, C1, C2, T, case.alpha), p, q, case.epsilon)
    with pytest.warns(fgwot.ConvergenceWarning):
        solution = fgw(*case.tensors(), **case.weights, solver=fgwot.MirrorDescent(damping=0.0), max_iter=3, tol=1e-13)
    np.testing.assert_allclose(solution.plan, T, atol=1e-4)


def test_undamped_steps_cycle_where_the_default_converges():
    rng = np.random.default_rng(0)
    C1, C2 = (torch.from_numpy(structure(rng, 16, "adjacency")) for _ in range(2))
    undamped = fgwot.MirrorDescent(damping=0.0)
    with pytest.warns(fgwot.ConvergenceWarning, match="did not converge"):
        stuck = fgwot.gromov_wasserstein(C1, C2, epsilon=0.01, solver=undamped, max_iter=300)
    assert not stuck.converged
    assert fgwot.gromov_wasserstein(C1, C2, epsilon=0.01, max_iter=300).converged


def test_early_stop_is_reported_once_and_plans_are_still_couplings():
    case = random_case(1, kind="euclidean")
    M, C1, C2, p, q = case.tensors()
    with pytest.warns(
        fgwot.ConvergenceWarning, match="2 of 2 FGW problems did not converge: 2 reached max_iter"
    ) as caught:
        solution = fgw(torch.stack([M, 2 * M]), C1, C2, p, q, **case.weights, max_iter=1)
    assert len(caught) == 1
    assert solution.status.tolist() == [Status.MAX_ITER] * 2
    assert "2 MAX_ITER" in repr(solution)
    assert reference.marginal_error(solution.plan[0].numpy(), case.p, case.q) < 1e-7
    actual = reference.residual(case.M, case.C1, case.C2, solution.plan[0].numpy(), case.p, case.q, **case.weights)
    assert solution.residual[0].item() == pytest.approx(actual, rel=1e-3)


def test_tolerance_out_of_reach_is_a_stall_not_a_success():
    case = random_case(2, kind="adjacency")
    with pytest.warns(fgwot.ConvergenceWarning, match="rounding of this dtype"):
        solution = fgw(*case.tensors(torch.float32), **case.weights, tol=1e-12)
    assert solution.status == Status.STALLED


def test_nan_stays_in_its_own_problem():
    case = random_case(4, kind="euclidean")
    M, C1, C2, p, q = case.tensors()
    broken = torch.stack([M, M.clone()])
    broken[1, 0, 0] = torch.nan
    with pytest.warns(fgwot.ConvergenceWarning, match="not finite"):
        solution = fgw(broken, C1, C2, p, q, **case.weights, validate=False)
    assert solution.status.tolist() == [Status.CONVERGED, Status.NUMERICAL]
    np.testing.assert_allclose(solution.plan[0], fgw(M, C1, C2, p, q, **case.weights).plan, atol=1e-9)


@given(cases)
@settings(max_examples=20)
def test_float32_agrees_with_float64(case):
    double = fgw(*case.tensors(), **case.weights)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", fgwot.ConvergenceWarning)
        single = fgw(*case.tensors(torch.float32), **case.weights, init=double.plan.float())
    assert single.plan.dtype == single.value.dtype == torch.float32
    scale = max(1, abs(double.value.item()))
    np.testing.assert_allclose(single.value, double.value, atol=2e-4 * scale)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_and_returned_in_float32(dtype):
    case = random_case(5, kind="euclidean", max_points=6)
    M, C1, C2, _, _ = (t.to(dtype) for t in case.tensors())
    solution = fgw(M, C1, C2, **case.weights)
    single = fgw(M.float(), C1.float(), C2.float(), **case.weights)
    assert solution.plan.dtype == solution.potentials[0].dtype == torch.float32
    np.testing.assert_allclose(solution.plan, single.plan)
    marginals = torch.full((len(M),), 1 / len(M), dtype=dtype), torch.full((M.shape[1],), 1 / M.shape[1], dtype=dtype)
    assert fgw(M, C1, C2, *marginals, **case.weights).converged


def test_autocast_does_not_reach_the_solver():
    case = random_case(6, kind="euclidean")
    tensors = case.tensors(torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = fgw(*tensors, **case.weights)
    assert inside.plan.dtype == torch.float32
    np.testing.assert_allclose(inside.plan, fgw(*tensors, **case.weights).plan, atol=1e-7)


@given(cases)
def test_potentials_satisfy_the_first_order_condition(case):
    solution = fgw(*case.tensors(), **case.weights, tol=1e-10)
    T = solution.plan.numpy()
    f, g = (x.numpy() for x in solution.potentials)
    gradient = reference.gradient(case.M, case.C1, case.C2, T, case.alpha)
    gap = T * (gradient + case.epsilon * np.log(np.maximum(T, 1e-300)) - f[:, None] - g[None])
    assert np.abs(gap).max() <= 1e-8 * max(1, np.abs(gradient).max())


@pytest.mark.parametrize("n", [200, 400])
def test_float32_increments_stay_within_the_rounding_they_are_credited_with(n):
    rng = np.random.default_rng(n)
    C1, C2 = (torch.from_numpy(structure(rng, n, "euclidean"))[None] for _ in range(2))
    problem = Problem.build(None, C1, C2, None, None, 1.0, 0.05, "square")
    linearise = Linearisation(problem)
    T, other = (torch.from_numpy(rng.dirichlet(np.ones(n * n)).reshape(1, n, n)) for _ in range(2))
    error = linearise._increment(other - T) - (linearise(other) - linearise(T))
    centred = error - error.mean((1, 2), keepdim=True)  # a constant does not move the plan
    assert (T * centred.abs()).sum() <= linearise.rounding * (other - T).abs().sum()


@pytest.mark.slow
@pytest.mark.parametrize("epsilon", [0.05, 0.005])
def test_float32_increments_of_large_problems_leave_the_certificate_true(epsilon):
    """From 200 x 200 on, G moves by float32 increments; the residual is checked with float64 products."""
    rng = np.random.default_rng(0)
    x, y = torch.from_numpy(rng.uniform(size=(210, 2))), torch.from_numpy(rng.uniform(size=(205, 2)))
    M, C1, C2 = torch.cdist(x, y), torch.cdist(x, x), torch.cdist(y, y)
    solution = fgw(M, C1, C2, epsilon=epsilon)
    assert solution.converged
    T = solution.plan
    gradient = 0.5 * M + 0.5 * (fgwot.tensor_term(C1, C2, T) + fgwot.tensor_term(C1.mT, C2.mT, T))
    p, q = np.full(210, 1 / 210), np.full(205, 1 / 205)
    fixed_point = reference.sinkhorn(gradient.numpy(), p, q, epsilon)
    assert np.abs(T.numpy() - fixed_point).sum() <= 2e-7
