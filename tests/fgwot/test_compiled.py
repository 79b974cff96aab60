"""The compiled loops against the torch path and the reference."""

import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from problems import STRUCTURES, random_case

import fgwot
from fgwot import constants, functional, reference
from fgwot.backend import forced
from fgwot.call import Call
from fgwot.drivers import LARGEST
from fgwot.solution import Status
from fgwot.whole import arithmetic, compiled, guarded, inner, undamped
from fgwot.whole.solve import whole_solve

fgw = fgwot.fused_gromov_wasserstein
INF = float("inf")
VALUES = ("value", "cost", "value_linear", "value_quad")


def distances(seed, n, m, *batch, dtype=torch.float64):
    """M, C1, C2 between points of the unit square."""
    rng = np.random.default_rng(seed)
    x, y = (torch.from_numpy(rng.uniform(size=(*batch, k, 2))).to(dtype) for k in (n, m))
    return torch.cdist(x, y).square(), torch.cdist(x, x), torch.cdist(y, y)


@pytest.fixture
def alone(monkeypatch):
    """Fail where the loops leave something to torch, unless torch is asked for."""
    solve = functional.solve

    def guarded(*arguments):
        assert forced() == "torch", "the loops left the problem to the solver"
        return solve(*arguments)

    monkeypatch.setattr(functional, "solve", guarded)


def in_torch(*tensors, **options):
    """Solve without the loops."""
    with fgwot.backend("torch"):
        return fgw(*tensors, **options)


def loops_alone(*tensors, **options):
    """What the loops make of a call, finished or not."""
    return whole_solve(Call.of(*tensors, **options))


def agree(found, wanted, atol):
    for name in VALUES:
        torch.testing.assert_close(getattr(found, name), getattr(wanted, name), rtol=atol, atol=atol)
    assert ((found.plan - wanted.plan).abs().sum((-2, -1)) <= atol * wanted.plan.sum((-2, -1))).all()


@settings(max_examples=60)
@given(
    seed=st.integers(0, 9999),
    kind=st.sampled_from(STRUCTURES),
    loss=st.sampled_from(["square", "kl"]),
    alpha=st.sampled_from([0.0, 0.3, 1.0]),
    epsilon=st.sampled_from([0.02, 0.3]),
)
def test_any_problem_has_a_stationary_plan_by_the_reference(seed, kind, loss, alpha, epsilon):
    case = random_case(seed, max_points=12, kind=kind, epsilon=(epsilon, epsilon))
    M, C1, C2, p, q = case.tensors()
    if loss == "kl":
        C1, C2 = C1.abs(), C2.abs()
    found = fgw(M, C1, C2, p, q, alpha=alpha, epsilon=case.epsilon, loss=loss, tol=1e-9)
    arrays = [t.numpy() for t in (M, C1, C2, found.plan, p, q)]
    assert reference.marginal_error(*arrays[3:]) <= 1e-8
    assert reference.residual(*arrays, alpha, case.epsilon, loss) <= 1e-8
    objective = reference.objective(*arrays[:4], alpha, case.epsilon, loss)
    torch.testing.assert_close(found.value.item(), objective, rtol=1e-9, atol=1e-9)
    f, g = (potential.numpy() for potential in found.potentials)
    gradient = reference.gradient(*arrays[:4], alpha, loss)
    massive = arrays[3] > 1e-3  # elsewhere a small change of the plan is a large one of its logarithm
    np.testing.assert_allclose(
        (gradient + case.epsilon * np.log(np.maximum(arrays[3], 1e-3)))[massive],
        (f[:, None] + g)[massive],
        atol=1e-4 * case.epsilon,
    )


@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize("epsilon", [0.3, 0.05, 0.01])
@pytest.mark.parametrize(("n", "m"), [(1, 1), (1, 4), (2, 9), (7, 5), (16, 33), (64, 64)])
def test_the_loops_finish_distances_by_themselves(n, m, epsilon):
    M, C1, C2 = distances(n, n, m)
    found = fgw(M, C1, C2, epsilon=epsilon)
    assert bool(found.converged)
    arrays = [t.numpy() for t in (M, C1, C2, found.plan)]
    p, q = np.full(n, 1 / n), np.full(m, 1 / m)
    assert reference.residual(*arrays, p, q, 0.5, epsilon, "square") <= 2e-7
    assert (found.residual + found.marginal_error).item() <= 1.1e-7


@pytest.mark.usefixtures("alone")
def test_the_largest_size_and_one_beyond():
    tensors = distances(0, LARGEST, 150)
    agree(fgw(*tensors, epsilon=0.05), in_torch(*tensors, epsilon=0.05), 1e-6)
    with pytest.raises(AssertionError, match="left the problem"):
        fgw(*distances(0, LARGEST + 1, 2))


@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("loss", ["square", "kl"])
def test_batches_weights_and_masses_agree_with_torch(dtype, loss):
    rng = np.random.default_rng(3)
    M, C1, C2 = distances(1, 6, 5, 2, 3, dtype=dtype)
    C1, C2 = C1 + 0.5, C2[0, 0] + 0.5  # C2 is shared by the batch; zeros would be hard for kl
    p, q = (torch.from_numpy(rng.uniform(0.2, 1, k)).to(dtype) for k in ((2, 3, 6), (2, 3, 5)))
    p, q = (2.5 * t / t.sum(-1, keepdim=True) for t in (p, q))
    weights = {
        "alpha": torch.tensor([0.1, 0.5, 0.9], dtype=dtype),
        "epsilon": torch.tensor([[0.5], [2.0]], dtype=dtype),
    }
    wanted = in_torch(M, C1, C2, p, q, **weights, loss=loss)
    found = fgw(M, C1, C2, p, q, **weights, loss=loss)
    assert found.plan.shape == (2, 3, 6, 5)
    assert found.plan.dtype == found.value.dtype == dtype
    assert found.n_iter.dtype == found.status.dtype == torch.int64
    agree(found, wanted, 1e-6 if dtype == torch.float64 else 2e-4)
    torch.testing.assert_close(found.plan.sum(-1), p)


@pytest.mark.usefixtures("alone")
def test_layouts_of_memory_do_not_matter():
    M, C1, C2 = distances(2, 6, 6, 4)
    turned = [t.mT.contiguous().mT for t in (M, C1, C2)]
    strided = [torch.stack([t, t], -1)[..., 0] for t in (M, C1, C2)]
    wanted = fgw(M, C1, C2)
    for tensors in (turned, strided):
        assert torch.equal(fgw(*tensors).plan, wanted.plan)
    for b in range(4):
        assert torch.equal(fgw(M[b], C1[b], C2[b]).plan, wanted.plan[b])


@pytest.mark.usefixtures("alone")
def test_threads_share_a_batch():
    tensors = distances(3, 16, 16, 1600)
    wanted = fgw(*tensors, epsilon=0.2)
    torch.set_num_threads(2)
    assert torch.equal(fgw(*tensors, epsilon=0.2).plan, wanted.plan)


@pytest.mark.usefixtures("alone")
def test_points_without_mass_change_nothing():
    M, C1, C2 = distances(4, 7, 6)
    p, q = torch.full((7,), 1 / 6, dtype=torch.float64), torch.full((6,), 1 / 4, dtype=torch.float64)
    p[2] = q[0] = q[5] = 0
    found = fgw(M, C1, C2, p, q)
    rows, columns = p > 0, q > 0
    smaller = fgw(M[rows][:, columns], C1[rows][:, rows], C2[columns][:, columns], p[rows], q[columns])
    assert torch.equal(found.plan[rows][:, columns], smaller.plan)
    assert found.plan.count_nonzero() == smaller.plan.count_nonzero()
    assert found.potentials[0][2] == found.potentials[1][0] == 0


def cycling():
    """M, C1, C2 of graphs between which undamped steps cycle."""
    rng = np.random.default_rng(0)
    graphs = [np.triu(rng.uniform(size=(7, 7)) < 0.5, 1).astype(float) for _ in range(2)]
    C1, C2 = (torch.from_numpy(A + A.T) for A in graphs)
    return torch.from_numpy(rng.uniform(size=(7, 7))), C1, C2


@pytest.fixture
def without_guard(monkeypatch):
    """Make undamped steps alone, so that problems are left open."""

    class Open:
        @staticmethod
        def solve_batch(*arguments):
            plan, f, g, numbers, *_ = arguments[-6:]
            plan[:], f[:], g[:], numbers[:, 7:9] = arguments[10], 0, 0, (Status.MAX_ITER, 0)

    monkeypatch.setattr(compiled, "guarded_loops", lambda: Open)


@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize("epsilon", [0.01, 0.003])
def test_where_undamped_steps_rise_the_guard_takes_over(epsilon):
    tensors = cycling()
    found = fgw(*tensors, epsilon=epsilon)
    assert bool(found.converged)
    arrays = [t.numpy() for t in (*tensors, found.plan)]
    uniform = np.full(7, 1 / 7)
    assert reference.residual(*arrays, uniform, uniform, 0.5, epsilon, "square") <= 1e-6
    agree(found, in_torch(*tensors, epsilon=epsilon), 1e-6)


@pytest.mark.usefixtures("without_guard")
def test_what_the_loops_leave_open_is_solved_by_torch():
    tensors = cycling()
    left = loops_alone(*tensors, epsilon=0.01)
    assert left.status == Status.MAX_ITER
    found = fgw(*tensors, epsilon=0.01)
    assert bool(found.converged)
    assert found.n_iter > left.n_iter
    arrays = [t.numpy() for t in (*tensors, found.plan)]
    uniform = np.full(7, 1 / 7)
    assert reference.residual(*arrays, uniform, uniform, 0.5, 0.01, "square") <= 1e-6


@pytest.mark.usefixtures("without_guard")
def test_open_problems_of_a_batch_go_on_alone(monkeypatch):
    batch = [torch.stack(pair) for pair in zip(distances(20, 7, 7), cycling(), distances(21, 7, 7), strict=True)]
    leaves = [t.requires_grad_() for t in batch]
    finished = loops_alone(*batch, epsilon=0.01)
    assert finished.status.tolist() == [Status.CONVERGED, Status.MAX_ITER, Status.CONVERGED]
    sizes, solve = [], functional.solve

    def recorded(problem, *others):
        sizes.append(len(problem.p))
        return solve(problem, *others)

    monkeypatch.setattr(functional, "solve", recorded)
    found = fgw(*leaves, epsilon=0.01)
    assert sizes == [1]
    assert found.converged.all()
    gradients = torch.autograd.grad(found.value.sum(), leaves)
    for b in range(3):
        alone = [t.detach()[b].requires_grad_() for t in leaves]
        wanted = fgw(*alone, epsilon=0.01)
        assert torch.equal(found.plan[b], wanted.plan)
        assert found.n_iter[b] == wanted.n_iter
        for a, expected in zip(gradients, torch.autograd.grad(wanted.value, alone), strict=True):
            torch.testing.assert_close(a[b], expected, rtol=1e-12, atol=1e-14)


def test_a_problem_that_breaks_down_starts_afresh_and_alone():
    """Steps of what is thrown away do not count."""
    good, bad = distances(22, 5, 5), [t * torch.nan for t in distances(23, 5, 5)]
    batch = [torch.stack(pair) for pair in zip(good, bad, strict=True)]
    with pytest.warns(fgwot.ConvergenceWarning, match="1 of 2 .* not finite"):
        found = fgw(*batch, validate=False)
    assert found.status.tolist() == [Status.CONVERGED, Status.NUMERICAL]
    assert torch.equal(found.plan[0], fgw(*good).plan)
    with pytest.warns(fgwot.ConvergenceWarning):
        assert found.n_iter[1] == in_torch(*bad, validate=False).n_iter


def test_steps_run_out_as_without_the_loops():
    tensors = distances(5, 8, 8)
    with pytest.warns(fgwot.ConvergenceWarning, match="did not converge"):
        found = fgw(*tensors, epsilon=0.01, max_iter=3)
    assert found.status == Status.MAX_ITER
    assert found.n_iter == 3


@pytest.mark.usefixtures("alone")
def test_warm_starts_take_few_steps():
    M, C1, C2 = distances(6, 8, 8)
    first = fgw(M, C1, C2)
    again = fgw(M + 1e-4 * C1, C1, C2, init=first)
    assert again.n_iter < first.n_iter
    from_plan = fgw(M, C1, C2, init=first.plan)
    agree(from_plan, first, 1e-6)


@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize("returns", ["value", "cost"])
def test_the_loss_and_its_gradients_agree_with_torch(returns):
    costs = [t.requires_grad_() for t in distances(7, 5, 6, 3)]
    criterion = fgwot.FGWLoss(alpha=0.4, epsilon=0.1, returns=returns, tol=1e-11)
    losses = [criterion(*costs) for _ in range(2)]
    found = torch.autograd.grad(losses[1].sum(), costs)
    assert criterion.solution.n_iter.max() <= 2
    with fgwot.backend("torch"):
        loss = fgwot.FGWLoss(alpha=0.4, epsilon=0.1, returns=returns, tol=1e-11)(*costs)
    torch.testing.assert_close(losses[1], loss, rtol=0, atol=1e-9)
    for a, b in zip(found, torch.autograd.grad(loss.sum(), costs), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-8)


def test_a_second_derivative_is_refused():
    M, C1, C2 = (t.requires_grad_() for t in distances(8, 4, 4))
    (grad,) = torch.autograd.grad(fgw(M, C1, C2).value, C1, create_graph=True)
    with pytest.raises(RuntimeError, match="cannot be differentiated again"):
        grad.sum().backward()


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"loss": "abs"}, "the abs loss; it knows square and kl"),
        ({"max_iter": 1, "tol": 10.0}, "max_iter=1"),
    ],
)
def test_what_the_loops_do_not_know_is_left_to_torch(options, reason):
    tensors = distances(9, 4, 5)
    explanation = fgwot.explain(*tensors, **options)
    assert explanation.driver == "torch"
    assert reason in explanation.declined["numba"]
    agree(fgw(*tensors, **options), in_torch(*tensors, **options), 1e-12)


OPTIONS = [
    {"solver": fgwot.ProximalPoint()},
    {"solver": fgwot.MirrorDescent(damping=0.3)},
    {"solver": fgwot.MirrorDescent(damping=0.0)},
    {"init": fgwot.MultiInit(3, seed=1)},
    {"rho": (0.3, 2.0), "init": fgwot.MultiInit(2)},
    {"rho": (INF, 0.4)},
    {"rho": (0.0, INF), "solver": fgwot.ProximalPoint()},
    {"mass": 0.3},
    {"mass": 0.5, "solver": fgwot.ProximalPoint(), "init": fgwot.MultiInit(2)},
]


@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize("options", OPTIONS, ids=str)
@given(seed=st.integers(0, 9999), loss=st.sampled_from(["square", "kl"]))
@settings(max_examples=6, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_every_option_ends_where_torch_stays(options, seed, loss):
    """One problem, and a batch that shares some of it, with points without mass."""
    case = random_case(seed, max_points=9, kind="euclidean", epsilon=(0.1, 0.5))
    M, C1, C2, p, q = case.tensors()
    p = torch.cat([p[:-1] * p.sum() / p[:-1].sum(), 0 * p[-1:]])
    batch = [torch.stack([M, M.flip(0)]), C1, torch.stack([C2, C2 / 2]), p, q]
    options = {"alpha": case.alpha, "epsilon": case.epsilon, "loss": loss, "tol": 1e-10, "max_iter": 5000} | options
    for tensors in ((M, C1, C2, p, q), batch):
        found = fgw(*tensors, **options)
        agree(found, in_torch(*tensors, **(options | {"init": found.plan})), 1e-7)
        assert (found.residual <= 1e-10).all()
        assert (found.marginal_error <= 1e-10).all()
        assert not found.plan[..., -1, :].any() or options.get("rho", (1, 1))[0] == 0


@pytest.mark.usefixtures("alone")
def test_proximal_steps_of_a_given_damping():
    tensors, options = distances(11, 6, 7), {"solver": fgwot.ProximalPoint(damping=0.1), "tol": 1e-8}
    found, wanted = fgw(*tensors, **options), in_torch(*tensors, **options)
    assert abs(found.n_iter - wanted.n_iter) <= 1
    agree(found, wanted, 1e-6)


@pytest.mark.parametrize("options", OPTIONS[4:], ids=str)
def test_gradients_of_every_option_are_those_of_torch(options):
    case = random_case(4, max_points=7, kind="asymmetric", epsilon=(0.2, 0.5))
    leaves = [*case.tensors(), *(torch.tensor(w, dtype=torch.float64) for w in (case.alpha, case.epsilon))]
    weights = options.get("rho", (options["mass"],) if "mass" in options else ())
    leaves += [torch.tensor(w, dtype=torch.float64) for w in weights]
    found = []
    for driver in ("numba", "torch"):
        own = [t.clone().requires_grad_() for t in leaves]
        alpha, epsilon, *rest = own[5:]
        named = {"rho": tuple(rest)} if "rho" in options else {"mass": rest[0]}
        with fgwot.backend(driver):
            solution = fgw(*own[:5], alpha=alpha, epsilon=epsilon, **(options | named), tol=1e-10, max_iter=5000)
        total = solution.value + 0.3 * solution.cost + 0.2 * solution.value_linear + 0.1 * solution.value_quad
        found.append(torch.autograd.grad(total, own, materialize_grads=True))
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(
    "options", [{"rho": -1.0}, {"rho": (0.0, 0.0)}, {"mass": 2.0}, {"mass": -1.0}, {"mass": torch.tensor(5.0)}]
)
def test_bad_prices_and_masses_are_left_to_the_check(options):
    M, C1, C2 = distances(9, 4, 5, dtype=torch.float32)
    with pytest.raises(ValueError, match="rho must|mass must"):
        fgw(M, C1, C2, **options)


def test_loops_are_renewed_when_those_that_they_call_have_changed(tmp_path, monkeypatch):
    newest = max(Path(module.__file__).stat().st_mtime for module in (constants, arithmetic, undamped, inner, guarded))
    for name, age in (("guarded._old-1.py311.nbi", -9), ("guarded._new-2.py311.nbi", 9)):
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (newest + age, newest + age))
    monkeypatch.setattr(arithmetic, "times", SimpleNamespace(stats=SimpleNamespace(cache_path=str(tmp_path))))
    compiled.drop_stale_loops()
    assert [path.name for path in tmp_path.glob("*.nbi")] == ["guarded._new-2.py311.nbi"]


@pytest.mark.usefixtures("alone")
def test_transforms_and_gradients_of_the_plan():
    """The loops find the plan; that nothing was left to torch says the fixture."""
    batch, options = distances(9, 4, 5, 3), {"tol": 1e-10}
    torch.testing.assert_close(
        torch.func.vmap(lambda *tensors: fgw(*tensors, **options).plan)(*batch), fgw(*batch, **options).plan
    )
    first = in_torch(*batch, **options)
    found = []
    for solve in (fgw, in_torch):
        leaves = [t.clone().requires_grad_() for t in batch]
        plan = solve(*leaves, **options, adjoint="implicit", init=first).plan
        found.append((plan, *torch.autograd.grad(plan.square().sum(), leaves)))
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-8)


def test_a_weight_of_another_type_is_left_to_torch():
    """And one without a linear cost, whose value must be looked at."""
    _, C1, C2 = distances(9, 4, 5)
    one = torch.ones((), dtype=torch.float64)
    wanted = fgwot.gromov_wasserstein(C1, C2)
    for alpha in (one, one.float(), 1):
        agree(fgw(None, C1, C2, alpha=alpha), wanted, 1e-6)
    with pytest.raises(ValueError, match="without M the problem is purely quadratic"):
        fgw(None, C1, C2, alpha=one / 2)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.usefixtures("alone")
def test_half_precision_is_that_of_float32(dtype):
    half = [t.to(dtype).requires_grad_() for t in distances(24, 5, 6)]
    single = [t.detach().float().requires_grad_() for t in half]
    found, wanted = fgw(*half), fgw(*single)
    assert torch.equal(found.plan, wanted.plan)
    assert torch.equal(found.value, wanted.value)
    again = fgw(*half, init=found)
    assert again.n_iter < found.n_iter
    for a, b in zip(torch.autograd.grad(found.value, half), torch.autograd.grad(wanted.value, single), strict=True):
        assert torch.equal(a, b.to(dtype))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"M": torch.tensor(float("nan"))}, "M has 16 entries that are not finite"),
        ({"C1": torch.tensor(float("inf"))}, "C1 has 16 entries that are not finite"),
        ({"p": torch.tensor([0.5, 0.7, -0.2, 0.0])}, "p must be non-negative"),
        ({"p": torch.zeros(4)}, "p must have positive mass"),
        ({"p": torch.full((4,), 0.3)}, "p and q must have equal mass"),
        ({"alpha": torch.tensor(1.5)}, "alpha must lie in"),
        ({"epsilon": torch.tensor(0.0)}, "epsilon must be positive"),
        ({"alpha": 1.5}, "alpha must lie in"),
        ({"epsilon": -1.0}, "epsilon must be positive"),
        ({"C2": torch.tensor(-1.0), "loss": "kl"}, "non-negative structure"),
        ({"init": -torch.ones(4, 4)}, "init must be a plan with finite, non-negative entries"),
    ],
)
def test_bad_input_is_explained_as_without_the_loops(change, message):
    M, C1, C2 = distances(10, 4, 4)
    given = {"M": M, "C1": C1, "C2": C2, "p": torch.full((4,), 0.25), "q": torch.full((4,), 0.25)} | change
    for name, t in given.items():
        if isinstance(t, torch.Tensor):
            given[name] = t.double().expand(4, 4) if name in ("M", "C1", "C2") else t.double()
    with pytest.raises(ValueError, match=message):
        fgw(**given)


@given(st.lists(st.floats(-800, 0), min_size=1, max_size=40))
def test_exponentials_are_those_of_the_library(numbers):
    x = np.array(numbers)
    assume(np.isfinite(x).all())
    power, result = np.empty_like(x), np.empty_like(x)
    arithmetic.exponentials(x, power, result)
    np.testing.assert_allclose(result, np.exp(np.maximum(x, -707)), rtol=4e-16)


@given(n=st.integers(1, 9), k=st.integers(1, 9), m=st.integers(1, 9), seed=st.integers(0, 99))
def test_products_of_any_shape(n, k, m, seed):
    rng = np.random.default_rng(seed)
    A, B, result = rng.normal(size=(n, k)), rng.normal(size=(k, m)), np.ones((n, m))
    arithmetic.add_product(A, B, result)
    np.testing.assert_allclose(result, 1 + A @ B, atol=1e-13)
