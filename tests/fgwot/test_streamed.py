"""Plans that are never stored against the same plans stored."""

import re
import threading
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
from certificate import stationarity
from hypothesis import given, settings
from hypothesis import strategies as st

import fgwot
from fgwot import LowRank
from fgwot.streamed.reduced import basis

fgw = fgwot.fused_gromov_wasserstein
KINDS = ["distances", "indefinite", "asymmetric"]


def structure(rng, n, kind):
    """Squared distances in the unit cube, a symmetric indefinite structure, or an asymmetric one."""
    x, y = (torch.from_numpy(rng.uniform(size=(n, 2))) for _ in range(2))
    if kind == "distances":
        return LowRank.squared_distances(x)
    return LowRank(x, x * torch.tensor([1.0, -1.0])) if kind == "indefinite" else LowRank(x, y)


def problem(seed, kind="distances", points=(2, 40)):
    rng = np.random.default_rng(seed)
    n, m = rng.integers(*points, 2)
    x, y = (torch.from_numpy(rng.uniform(size=(k, 2))) for k in (n, m))
    p, q = (torch.from_numpy(rng.dirichlet(np.ones(k))) for k in (n, m))
    M = LowRank.squared_distances(x, y) if seed % 2 else LowRank(x, y)
    return M, structure(rng, n, kind), structure(rng, m, kind), p, q


@pytest.mark.filterwarnings("ignore::fgwot.ConvergenceWarning")
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_certificates_of_any_symmetry_mass_and_unit(dtype):
    """Whatever is called converged is, by code that no driver shares; of the two structures each may be symmetric."""
    converged = 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        M, C1, _, p, q = problem(seed, rng.choice(KINDS))
        C2 = structure(rng, len(q), rng.choice(KINDS))
        mass, unit = 10 ** rng.uniform(-6, 6, 2)
        M, C1, C2 = (
            LowRank((C.A * s).to(dtype), C.B.to(dtype)) for C, s in ((M, unit), (C1, unit**0.5), (C2, unit**0.5))
        )
        p, q = ((x * mass).to(dtype) for x in (p, q))
        epsilon = float(unit * max(mass, 1) * 10 ** rng.uniform(-1.5, 0))
        solution = fgw(M, C1, C2, p, q, alpha=0.4, epsilon=epsilon, plan="lazy")
        T = solution.plan.to_dense().double().numpy()
        assert np.isfinite(T).all(), seed
        assert solution.value.isfinite(), seed
        claimed = float(solution.residual + solution.marginal_error)
        if solution.converged:
            converged += 1
            arrays = [a.double().numpy() for a in (M.to_dense(), C1.to_dense(), C2.to_dense(), p, q)]
            arrays[4] *= arrays[3].sum() / arrays[4].sum()
            found = stationarity(*arrays, T, 0.4, epsilon)
            assert found <= max(2 * claimed, 1e-6 if dtype == torch.float64 else 1e-3), (seed, claimed)
    assert converged >= 30


def clouds(n, m, dtype=torch.float64, seed=0):
    """Costs between clouds in three dimensions, of which the largest is about one."""
    rng = np.random.default_rng(seed)
    x, y = (torch.from_numpy(rng.normal(size=(k, 3)) / 7).to(dtype) for k in (n, m))
    return LowRank.squared_distances(x, y), LowRank.squared_distances(x), LowRank.squared_distances(y)


kinds = st.sampled_from(KINDS)


@given(seed=st.integers(0, 10**6), kind=kinds, epsilon=st.sampled_from([0.02, 0.1]))
@settings(max_examples=40)
def test_lazy_equals_dense_and_is_certified(seed, kind, epsilon):
    M, C1, C2, p, q = problem(seed, kind)
    options = {"alpha": 0.4, "epsilon": epsilon, "tol": 1e-9}
    lazy, dense = fgw(M, C1, C2, p, q, plan="lazy", **options), fgw(M, C1, C2, p, q, plan="dense", **options)
    assert lazy.converged
    T = lazy.plan.to_dense().numpy()
    arrays = (a.numpy() for a in (M.to_dense(), C1.to_dense(), C2.to_dense(), p, q))
    assert stationarity(*arrays, T, 0.4, epsilon) <= 1.1e-9
    if abs(lazy.value - dense.value) > 1e-6:  # another stationary point
        return
    np.testing.assert_allclose(T, dense.plan, atol=1e-6)
    for name in ("value", "cost", "value_linear", "value_quad"):
        np.testing.assert_allclose(getattr(lazy, name), getattr(dense, name), rtol=1e-6, atol=1e-8)
    for a, b in zip(lazy.potentials, dense.potentials, strict=True):
        np.testing.assert_allclose(a - a.mean(), b - b.mean(), atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_bases_are_orthonormal_and_span_the_factors(dtype):
    """A direction that is rounding alone must neither be taken for one nor spoil the others."""
    for seed in range(60):
        rng = np.random.default_rng(seed)
        n, d = rng.integers(2, 2000), rng.integers(1, 6)
        points = torch.from_numpy(rng.normal(size=(n, d)) + rng.normal() * 10 ** rng.uniform(-3, 2)).to(dtype)
        C, M = LowRank.squared_distances(points), LowRank.squared_distances(points, points.flip(0) + 1)
        factors = torch.cat([C.A, C.B, M.A], 1).double()
        P = basis(factors, torch.finfo(dtype).eps)
        assert P.shape[1] <= min(n, d + 2)
        assert (P.T @ P - torch.eye(P.shape[1])).abs().max() <= 1e-12, seed
        missed = (P @ (P.T @ factors) - factors).norm(dim=0) / factors.norm(dim=0)
        assert missed.max() <= 300 * torch.finfo(dtype).eps, seed


def test_what_a_lazy_plan_offers():
    M, C1, C2, p, q = problem(3)
    p = torch.cat([p[:2] * 0, p[2:]])  # points without mass
    p, q = 3 * p / p.sum(), 3 * q
    solution = fgw(M, C1, C2, p, q, epsilon=0.1, plan="lazy")
    plan, T = solution.plan, fgw(M, C1, C2, p, q, epsilon=0.1, plan="dense").plan
    n, m = T.shape
    near = {"rtol": 0, "atol": 1e-6}
    assert (plan.shape, plan.dtype, plan.device, plan.T.shape) == (T.shape, T.dtype, T.device, T.T.shape)
    V, W = torch.randn(m, 3, dtype=T.dtype), torch.randn(n, 2, dtype=T.dtype)
    torch.testing.assert_close(plan.to_dense(), T, **near)
    torch.testing.assert_close(plan.T.to_dense(), T.T, **near)
    torch.testing.assert_close(plan @ V, T @ V, **near)
    torch.testing.assert_close(plan @ V[:, 0], T @ V[:, 0], **near)
    torch.testing.assert_close(plan.T @ W, T.T @ W, **near)
    torch.testing.assert_close(plan.mT.T @ V, T @ V, **near)
    torch.testing.assert_close(plan.rows(slice(1, 4)), T[1:4], **near)
    assert plan.rows(slice(3, 3)).shape == (0, m)
    for dim in (0, 1, -1, None):
        torch.testing.assert_close(plan.sum(dim), T.sum() if dim is None else T.sum(dim), **near)
    assert torch.equal(plan.argmax()[2:], T.argmax(1)[2:])
    sparse = plan.topk(2)
    assert sparse.is_sparse
    assert sparse.is_coalesced()
    torch.testing.assert_close(sparse.to_dense().sum(1), T.topk(2, 1).values.sum(1), **near)
    assert repr(plan) == f"LazyPlan({n} x {m}, torch.float64)"
    assert str(n) in repr(solution)
    assert solution.detach().plan is plan


def test_products_are_differentiable_in_what_is_multiplied():
    plan = fgw(*problem(4), epsilon=0.1, plan="lazy").plan
    V = torch.randn(plan.shape[1], 2, dtype=plan.dtype, requires_grad=True)
    assert torch.autograd.gradcheck(lambda V: plan @ V, V)


@pytest.mark.parametrize(
    "use",
    [
        lambda plan: plan[0],
        lambda plan: plan.log(),
        lambda plan: torch.exp(plan),
        lambda plan: plan + torch.ones(plan.shape),
        lambda plan: torch.ones(plan.shape[1], plan.shape[0]) @ plan,
    ],
)
def test_everything_else_says_what_to_do(use):
    plan = fgw(*problem(5), epsilon=0.1, plan="lazy").plan
    with pytest.raises((TypeError, AttributeError), match="to_dense"):
        use(plan)


@pytest.mark.parametrize(
    ("use", "error"),
    [
        (lambda plan: plan @ torch.ones(3, 3), TypeError),
        (lambda plan: plan @ np.ones(plan.shape[1]), TypeError),
        (lambda plan: plan.rows(3), TypeError),
        (lambda plan: plan.rows(slice(0, 4, 2)), TypeError),
        (lambda plan: plan.topk(0), ValueError),
        (lambda plan: plan.sum(2), IndexError),
    ],
)
def test_bad_arguments_of_a_plan(use, error):
    with pytest.raises(error):
        use(fgw(*problem(5), epsilon=0.1, plan="lazy").plan)


@pytest.mark.parametrize("kind", ["distances", "asymmetric"])
def test_gradients_are_those_of_the_dense_plan(kind):
    M, C1, C2, p, q = problem(6, kind)
    inputs = [M.A, M.B, C1.A, C1.B, C2.A, C2.B, p, q, torch.tensor(0.4).double(), torch.tensor(0.2).double()]
    leaves = [t.clone().requires_grad_() for t in inputs]
    ma, mb, a1, b1, a2, b2, r, c, alpha, epsilon = leaves
    costs = LowRank(ma, mb), LowRank(a1, b1), LowRank(a2, b2)
    for weights in ((1, 0, 0, 0), (0.3, 0.2, -0.5, 0.7)):
        found = []
        for plan in ("lazy", "dense"):
            s = fgw(*costs, r, c, alpha=alpha, epsilon=epsilon, tol=1e-11, plan=plan)
            values = (s.value, s.cost, s.value_linear, s.value_quad)
            total = sum(w * v for w, v in zip(weights, values, strict=True))
            found.append(torch.autograd.grad(total, leaves))
        for at, (lazy, dense) in enumerate(zip(*found, strict=True)):
            shift = (lazy - dense).mean() if at in (6, 7) else 0
            torch.testing.assert_close(lazy - shift, dense, rtol=1e-6, atol=1e-8)


def test_gradients_in_points_and_weights_are_central_differences():
    rng = np.random.default_rng(0)
    x, y = (torch.from_numpy(rng.uniform(size=(k, 2))) for k in (9, 7))
    inputs = [x, y, torch.tensor(0.4).double(), torch.tensor(0.1).double()]

    def value(x, y, alpha, epsilon):
        costs = LowRank.squared_distances(x, y), LowRank.squared_distances(x), LowRank.squared_distances(y)
        return fgw(*costs, alpha=alpha, epsilon=epsilon, tol=1e-11, plan="lazy").value

    leaves = [t.clone().requires_grad_() for t in inputs]
    gradients = torch.autograd.grad(value(*leaves), leaves)
    for at, gradient in enumerate(gradients):
        direction = torch.from_numpy(rng.normal(size=inputs[at].shape))
        ends = []
        for sign in (1, -1):
            moved = list(inputs)
            moved[at] = inputs[at] + sign * 1e-5 * direction
            ends.append(value(*moved))
        torch.testing.assert_close((gradient * direction).sum(), (ends[0] - ends[1]) / 2e-5, rtol=1e-6, atol=1e-8)


def test_only_what_is_asked_for_is_differentiated_and_only_once():
    M, C1, C2, *_ = problem(7)
    alpha = torch.tensor(0.4, dtype=torch.float64, requires_grad=True)
    value = fgw(M, C1, C2, alpha=alpha, epsilon=0.1, plan="lazy").value
    (gradient,) = torch.autograd.grad(value, alpha, create_graph=True)
    with pytest.raises(RuntimeError, match="envelope"):
        gradient.backward()


def test_without_a_linear_cost():
    _, C1, C2, p, q = problem(8)
    options = {"epsilon": 0.1, "tol": 1e-9}
    lazy, dense = (fgwot.gromov_wasserstein(C1, C2, p, q, plan=plan, **options) for plan in ("lazy", "dense"))
    np.testing.assert_allclose(lazy.value, dense.value, rtol=1e-7)
    assert lazy.value_linear == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_numba_and_torch_agree(dtype):
    costs = clouds(300, 700, dtype)
    with fgwot.backend("numba"):
        ours = fgw(*costs, epsilon=0.02, plan="lazy")
    with fgwot.backend("torch"):
        theirs = fgw(*costs, epsilon=0.02, plan="lazy")
    assert ours.value.dtype == theirs.plan.to_dense().dtype == dtype
    atol = 1e-10 if dtype == torch.float64 else 1e-7
    torch.testing.assert_close(ours.plan.to_dense(), theirs.plan.to_dense(), rtol=0, atol=atol)
    torch.testing.assert_close(ours.value, theirs.value, rtol=10 * torch.finfo(dtype).eps, atol=0)


def test_no_number_of_threads_changes_a_bit(monkeypatch):
    monkeypatch.setattr("fgwot.streamed.passes._WORTH_A_THREAD", 10_000)
    costs, threads = clouds(300, 400, torch.float32), torch.get_num_threads()
    found = []
    try:
        for count in (1, 2, 2):
            torch.set_num_threads(count)
            found.append(fgw(*costs, epsilon=0.02, plan="lazy"))
    finally:
        torch.set_num_threads(threads)
    for other in found[1:]:
        assert torch.equal(found[0].potentials[0], other.potentials[0])
        assert found[0].value == other.value


def test_torch_has_its_threads_again_whatever_happens():
    costs, threads = clouds(30, 20), torch.get_num_threads()
    seen = []

    def look(_):
        seen.append(torch.get_num_threads())
        if len(seen) == 3:
            raise InterruptedError

    try:
        torch.set_num_threads(2)
        with pytest.raises(InterruptedError):
            fgw(*costs, epsilon=0.02, plan=fgwot.Lazy(look))
        assert (seen, torch.get_num_threads()) == ([1, 1, 1], 2)
        with fgwot.backend("torch"):
            fgw(*costs, epsilon=0.02, plan=fgwot.Lazy(lambda _: seen.append(torch.get_num_threads())))
        assert set(seen[3:]) == {2}
    finally:
        torch.set_num_threads(threads)


def test_no_array_of_the_plans_size():
    n, m = 6000, 5000
    costs = clouds(n, m, torch.float32)
    small = [C.map(lambda t: t[:64]) for C in costs]
    fgw(*small, epsilon=0.05, plan="lazy")  # compiles
    leaves = [C.map(lambda t: t.clone().requires_grad_()) for C in costs]
    tracemalloc.start()
    before = resident()
    with Highest() as highest:
        solution = fgw(*leaves, epsilon=0.05, tol=1e-4)
        solution.value.backward()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert isinstance(solution.plan, fgwot.LazyPlan)  # unasked: the problem is large
    assert solution.converged
    assert leaves[0].A.grad is not None
    assert max(highest.seen - before, peak) < n * m  # bytes: a quarter of the plan's


def resident():
    """Bytes of memory that this process has."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


class Highest:
    """Watches the memory from a thread of its own."""

    def __enter__(self):
        self.seen, self._going = resident(), True
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def _watch(self):
        while self._going:
            self.seen = max(self.seen, resident())
            time.sleep(0.001)

    def __exit__(self, *_):
        self._going = False
        self._thread.join()


def test_a_solution_goes_on_where_it_stood():
    M, C1, C2 = clouds(200, 150)
    first = fgw(M, C1, C2, epsilon=0.05, plan="lazy")
    again = fgw(M, C1, C2, epsilon=0.05, plan="lazy", init=first)
    assert again.converged
    assert again.n_iter <= 2
    torch.testing.assert_close(again.value, first.value, rtol=1e-10, atol=0)
    moved = [C.map(lambda t: t + 1e-4 * torch.randn_like(t)) for C in (M, C1, C2)]
    assert fgw(*moved, epsilon=0.05, plan="lazy", init=first).converged
    assert fgw(M, C1, C2, epsilon=0.05, plan="dense", init=first).n_iter <= 2
    with pytest.raises(ValueError, match="init has a plan of shape"):
        fgw(*clouds(200, 151), epsilon=0.05, plan="lazy", init=first)


def test_steps_that_do_not_suffice_are_reported():
    with pytest.warns(fgwot.ConvergenceWarning, match="1 of 1 FGW problems"):
        solution = fgw(*clouds(60, 50), epsilon=0.02, plan="lazy", max_iter=1, tol=1e-9)
    assert solution.status == fgwot.Status.MAX_ITER
    assert solution.residual > 1e-9


M, C1, C2 = clouds(5, 4)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"M": M.to_dense()}, ValueError, "not for a dense M: use fgwot.LowRank"),
        ({"C1": C1.to_dense(), "C2": C2.to_dense()}, ValueError, "not for dense structures: use fgwot.LowRank"),
        ({"loss": "kl"}, ValueError, "not for the kl loss"),
        ({"solver": fgwot.ProximalPoint()}, ValueError, "use MirrorDescent"),
        ({"adjoint": "implicit"}, ValueError, "use 'envelope'"),
        ({"init": fgwot.MultiInit(2)}, ValueError, "init with a dense plan"),
        ({"p": torch.full((2, 5), 0.2).double()}, ValueError, "batches"),
        ({"C1": C1.map(torch.Tensor.half)}, ValueError, "not for torch.float16: use float32 or float64"),
        ({"plan": "sparse"}, ValueError, "plan must be 'dense', 'lazy', a fgwot.Lazy or None"),
        ({"M": M.map(torch.Tensor.float)}, TypeError, "all tensors must have one dtype"),
        ({"M": LowRank(M.A, M.B[:, :2])}, ValueError, "A B' needs A"),
        ({"M": LowRank(M.A[:3], M.B)}, ValueError, "M must have shape"),
        ({"M": M.map(lambda t: t * torch.nan)}, ValueError, "M has entries that are not finite"),
        ({"C1": C1.map(lambda t: t * torch.nan)}, ValueError, "C1.A has .* not finite"),
        ({"p": torch.ones(5).double()}, ValueError, "must have equal mass"),
    ],
)
def test_what_does_not_fit_is_refused(change, error, message):
    q = {"q": torch.full((4,), 0.25).double()} if "p" in change else {}
    with pytest.raises(error, match=message):
        fgw(**({"M": M, "C1": C1, "C2": C2, "plan": "lazy", "epsilon": 0.1} | q | change))


def test_the_examples_of_the_documentation(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    page = (Path(__file__).parents[2] / "docs" / "clouds.md").read_text()
    names = {}
    for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL):
        exec(block.replace("20_000", "300"), names)  # noqa: S102
    assert "labels transferred: tensor(0.9" in capsys.readouterr().out
    assert names["solution"].converged


def test_explain_names_it():
    assert fgwot.explain(M, C1, C2, plan="lazy").driver == "streamed"
    explanation = fgwot.explain(M, C1, C2)
    assert explanation.driver == "torch"
    assert "fewer than 1000000 entries" in explanation.declined["streamed"]
    large = clouds(1000, 1000)
    assert fgwot.explain(*large).driver == "streamed"
    assert fgwot.explain(*clouds(256, 256), rho=1.0).driver == "streamed"
    with fgwot.backend("torch"):
        assert "loops" in fgwot.explain(*large).declined["streamed"]


def test_plans_that_are_built_at_the_end_are_tensors_with_the_same_gradients():
    found = []
    for plan in (None, "lazy"):
        costs = [C.map(lambda t: t.clone().requires_grad_()) for C in clouds(1000, 1001)]
        solution = fgw(*costs, epsilon=0.05, tol=1e-6, plan=plan)
        found.append((solution, torch.autograd.grad(solution.value, [C.A for C in costs])))
    (built, ours), (lazy, theirs) = found
    assert isinstance(built.plan, torch.Tensor)
    assert torch.equal(built.plan, lazy.plan.to_dense())
    assert all(torch.equal(one, other) for one, other in zip(ours, theirs, strict=True))
    dense = fgw(*clouds(1000, 1001), epsilon=0.05, tol=1e-6, plan="dense")
    assert (built.plan - dense.plan).abs().sum() <= 2e-6
    assert fgw(*clouds(1000, 1001), epsilon=0.05, tol=1e-6, init=built).n_iter <= 2


def test_what_streams_leave_open_goes_on_with_stored_plans(monkeypatch):
    M, C1, C2, p, q = problem(1)
    monkeypatch.setattr("fgwot.streamed.iteration.PATIENCE", -1)  # they stall at once
    options = {"alpha": 0.4, "epsilon": 0.05, "tol": 1e-9}
    with pytest.warns(fgwot.ConvergenceWarning, match="stalled"):
        lazy = fgw(M, C1, C2, p, q, plan="lazy", **options)
    monkeypatch.setattr("fgwot.streamed.conditions.SMALLEST_STREAMED", 1)
    solution = fgw(M, C1, C2, p, q, **options)
    assert solution.converged
    assert solution.n_iter > lazy.n_iter
    arrays = (a.numpy() for a in (M.to_dense(), C1.to_dense(), C2.to_dense(), p, q))
    assert stationarity(*arrays, solution.plan.numpy(), 0.4, 0.05) <= 1.1e-9
    monkeypatch.undo()
    monkeypatch.setattr("fgwot.streamed.conditions.SMALLEST_STREAMED", 1)
    with pytest.warns(fgwot.ConvergenceWarning, match="reached max_iter"):
        assert fgw(M, C1, C2, p, q, max_iter=3, **options).n_iter == 3


def test_a_linear_cost_of_low_rank_with_dense_structures():
    dense = fgw(M.to_dense(), C1.to_dense(), C2.to_dense(), epsilon=0.1)
    ours = fgw(M, C1.to_dense(), C2.to_dense(), epsilon=0.1)
    torch.testing.assert_close(ours.plan, dense.plan, rtol=1e-9, atol=1e-9)
