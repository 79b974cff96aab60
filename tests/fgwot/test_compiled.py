"""The compiled loops against the torch path and the reference."""

import sys

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from problems import STRUCTURES, random_case

import fgwot
from fgwot import functional, loops, reference
from fgwot.compiled import LARGEST
from fgwot.solution import Status

fgw = fgwot.fused_gromov_wasserstein
VALUES = ("value", "cost", "value_linear", "value_quad")


def distances(seed, n, m, *batch, dtype=torch.float64):
    """M, C1, C2 between points of the unit square."""
    rng = np.random.default_rng(seed)
    x, y = (torch.from_numpy(rng.uniform(size=(*batch, k, 2))).to(dtype) for k in (n, m))
    return torch.cdist(x, y).square(), torch.cdist(x, x), torch.cdist(y, y)


@pytest.fixture
def alone(monkeypatch):
    """Fail where the loops leave something to torch."""

    def solve(*_):
        raise AssertionError("the loops left the problem to the solver")

    monkeypatch.setattr(functional, "solve", solve)


@pytest.fixture
def alone_after(request):
    """Call it to have what `alone` has from there on."""
    return lambda: request.getfixturevalue("alone")


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
    found = fgw(M, C1, C2, p, q, alpha=alpha, epsilon=case.epsilon, loss=loss, tol=1e-9, compile=True)
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
    found = fgw(M, C1, C2, epsilon=epsilon, compile=True)
    assert bool(found.converged)
    arrays = [t.numpy() for t in (M, C1, C2, found.plan)]
    p, q = np.full(n, 1 / n), np.full(m, 1 / m)
    assert reference.residual(*arrays, p, q, 0.5, epsilon, "square") <= 2e-7
    assert (found.residual + found.marginal_error).item() <= 1.1e-7


def test_the_largest_size_and_one_beyond(alone_after):
    tensors = distances(0, LARGEST, 150)
    wanted = fgw(*tensors, epsilon=0.05)
    alone_after()
    agree(fgw(*tensors, epsilon=0.05, compile=True), wanted, 1e-6)
    with pytest.raises(AssertionError, match="left the problem"):
        fgw(*distances(0, LARGEST + 1, 2), compile=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("loss", ["square", "kl"])
def test_batches_weights_and_masses_agree_with_torch(alone_after, dtype, loss):
    rng = np.random.default_rng(3)
    M, C1, C2 = distances(1, 6, 5, 2, 3, dtype=dtype)
    C1, C2 = C1 + 0.5, C2[0, 0] + 0.5  # C2 is shared by the batch; zeros would be hard for kl
    p, q = (torch.from_numpy(rng.uniform(0.2, 1, k)).to(dtype) for k in ((2, 3, 6), (2, 3, 5)))
    p, q = (2.5 * t / t.sum(-1, keepdim=True) for t in (p, q))
    weights = {
        "alpha": torch.tensor([0.1, 0.5, 0.9], dtype=dtype),
        "epsilon": torch.tensor([[0.5], [2.0]], dtype=dtype),
    }
    wanted = fgw(M, C1, C2, p, q, **weights, loss=loss)
    alone_after()
    found = fgw(M, C1, C2, p, q, **weights, loss=loss, compile=True)
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
    wanted = fgw(M, C1, C2, compile=True)
    for tensors in (turned, strided):
        assert torch.equal(fgw(*tensors, compile=True).plan, wanted.plan)
    for b in range(4):
        assert torch.equal(fgw(M[b], C1[b], C2[b], compile=True).plan, wanted.plan[b])


@pytest.mark.usefixtures("alone")
def test_threads_share_a_batch():
    tensors = distances(3, 16, 16, 1600)
    wanted = fgw(*tensors, epsilon=0.2, compile=True)
    torch.set_num_threads(2)
    assert torch.equal(fgw(*tensors, epsilon=0.2, compile=True).plan, wanted.plan)


@pytest.mark.usefixtures("alone")
def test_points_without_mass_change_nothing():
    M, C1, C2 = distances(4, 7, 6)
    p, q = torch.full((7,), 1 / 6, dtype=torch.float64), torch.full((6,), 1 / 4, dtype=torch.float64)
    p[2] = q[0] = q[5] = 0
    found = fgw(M, C1, C2, p, q, compile=True)
    rows, columns = p > 0, q > 0
    smaller = fgw(M[rows][:, columns], C1[rows][:, rows], C2[columns][:, columns], p[rows], q[columns], compile=True)
    assert torch.equal(found.plan[rows][:, columns], smaller.plan)
    assert found.plan.count_nonzero() == smaller.plan.count_nonzero()
    assert found.potentials[0][2] == found.potentials[1][0] == 0


def test_what_the_loops_leave_open_is_solved_by_torch():
    """Undamped steps cycle on this graph."""
    rng = np.random.default_rng(0)
    graphs = [np.triu(rng.uniform(size=(7, 7)) < 0.5, 1).astype(float) for _ in range(2)]
    C1, C2 = (torch.from_numpy(A + A.T) for A in graphs)
    M = torch.from_numpy(rng.uniform(size=(7, 7)))
    found = fgw(M, C1, C2, epsilon=0.01, compile=True)
    wanted = fgw(M, C1, C2, epsilon=0.01)
    assert bool(found.converged)
    assert bool(wanted.converged)
    arrays = [t.numpy() for t in (M, C1, C2, found.plan)]
    uniform = np.full(7, 1 / 7)
    assert reference.residual(*arrays, uniform, uniform, 0.5, 0.01, "square") <= 1e-6


def test_steps_run_out_as_without_the_loops():
    tensors = distances(5, 8, 8)
    with pytest.warns(fgwot.ConvergenceWarning, match="did not converge"):
        found = fgw(*tensors, epsilon=0.01, max_iter=3, compile=True)
    assert found.status == Status.MAX_ITER
    assert found.n_iter == 3


@pytest.mark.usefixtures("alone")
def test_warm_starts_take_few_steps():
    M, C1, C2 = distances(6, 8, 8)
    first = fgw(M, C1, C2, compile=True)
    again = fgw(M + 1e-4 * C1, C1, C2, init=first, compile=True)
    assert again.n_iter < first.n_iter
    from_plan = fgw(M, C1, C2, init=first.plan, compile=True)
    agree(from_plan, first, 1e-6)


@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize("returns", ["value", "cost"])
def test_the_loss_and_its_gradients_agree_with_torch(monkeypatch, returns):
    costs = [t.requires_grad_() for t in distances(7, 5, 6, 3)]
    criterion = fgwot.FGWLoss(alpha=0.4, epsilon=0.1, returns=returns, tol=1e-11, compile=True)
    losses = [criterion(*costs) for _ in range(2)]
    found = torch.autograd.grad(losses[1].sum(), costs)
    assert criterion.solution.n_iter.max() <= 2
    monkeypatch.undo()
    eager = fgwot.FGWLoss(alpha=0.4, epsilon=0.1, returns=returns, tol=1e-11)
    loss = eager(*costs)
    torch.testing.assert_close(losses[1], loss, rtol=0, atol=1e-9)
    for a, b in zip(found, torch.autograd.grad(loss.sum(), costs), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-8)


def test_a_second_derivative_is_refused():
    M, C1, C2 = (t.requires_grad_() for t in distances(8, 4, 4))
    (grad,) = torch.autograd.grad(fgw(M, C1, C2, compile=True).value, C1, create_graph=True)
    with pytest.raises(RuntimeError, match="cannot be differentiated again"):
        grad.sum().backward()


def test_what_the_loops_do_not_know_is_left_to_torch():
    M, C1, C2 = distances(9, 4, 5)
    for options in (
        {"loss": "abs"},
        {"solver": fgwot.ProximalPoint(), "max_iter": 5000, "tol": 1e-3},
        {"adjoint": "implicit"},
        {"init": fgwot.MultiInit(2)},
        {"max_iter": 1, "tol": 10.0},
    ):
        agree(fgw(M, C1, C2, **options, compile=True), fgw(M, C1, C2, **options), 1e-12)
    half = fgw(*(t.bfloat16() for t in (M, C1, C2)), compile=True)
    assert half.plan.dtype == torch.bfloat16
    batch = distances(9, 4, 5, 3)
    mapped = torch.func.vmap(lambda *t: fgw(*t, compile=True).plan)(*batch)
    torch.testing.assert_close(mapped, fgw(*batch, compile=True).plan, rtol=0, atol=1e-6)


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
    ],
)
def test_bad_input_is_explained_as_without_the_loops(change, message):
    M, C1, C2 = distances(10, 4, 4)
    given = {"M": M, "C1": C1, "C2": C2, "p": torch.full((4,), 0.25), "q": torch.full((4,), 0.25)} | change
    for name, t in given.items():
        if isinstance(t, torch.Tensor):
            given[name] = t.double().expand(4, 4) if name in ("M", "C1", "C2") else t.double()
    with pytest.raises(ValueError, match=message):
        fgw(**given, compile=True)


def test_without_numba_the_error_says_what_to_install(monkeypatch):
    for name in ("fgwot.compiled", "fgwot.loops"):
        monkeypatch.delitem(sys.modules, name, raising=False)
        monkeypatch.delattr(fgwot, name.removeprefix("fgwot."), raising=False)
    monkeypatch.setitem(sys.modules, "numba", None)
    tensors = distances(11, 3, 3)
    assert bool(fgw(*tensors).converged)
    with pytest.raises(ImportError, match=r"pip install 'fgwot\[compile\]'"):
        fgw(*tensors, compile=True)


@given(st.lists(st.floats(-800, 0), min_size=1, max_size=40))
def test_exponentials_are_those_of_the_library(numbers):
    x = np.array(numbers)
    assume(np.isfinite(x).all())
    power, result = np.empty_like(x), np.empty_like(x)
    loops._exponentials(x, power, result)
    np.testing.assert_allclose(result, np.exp(np.maximum(x, -707)), rtol=4e-16)


@given(n=st.integers(1, 9), k=st.integers(1, 9), m=st.integers(1, 9), seed=st.integers(0, 99))
def test_products_of_any_shape(n, k, m, seed):
    rng = np.random.default_rng(seed)
    A, B, result = rng.normal(size=(n, k)), rng.normal(size=(k, m)), np.ones((n, m))
    loops._add_product(A, B, result)
    np.testing.assert_allclose(result, 1 + A @ B, atol=1e-13)
