"""The whole solve and its gradients against the torch path and the reference, on CUDA or in Triton's interpreter."""

import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

import fgwot
from fgwot import functional, reference
from fgwot.backend import backend
from fgwot.call import Call
from fgwot.kernels.shapes import PACKS
from fgwot.solution import Status
from fgwot.whole.solve import whole_solve

pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("poison")]

FIELDS = ("plan", "value", "cost", "value_linear", "value_quad")
# Of values, and of plans in the norm of the stopping test, the sum of absolute differences. Solves go to 1e-10 in
# float64 and to the default, 1e-5 plus rounding, in float32.
TOLERANCE = {torch.float64: 1e-7, torch.float32: 2e-4}


def problem(seed, n, m, *batch, device, dtype=torch.float64, asymmetric=False):
    """M, C1, C2, p, q with marginals of mass 2.5."""
    rng = np.random.default_rng(seed)
    x, y = (torch.from_numpy(rng.uniform(size=(*batch, k, 2))) for k in (n, m))
    M, C1, C2 = torch.cdist(x, y).square(), torch.cdist(x, x), torch.cdist(y, y)
    if asymmetric:
        C1, C2 = (C + torch.from_numpy(rng.uniform(0, 0.4, C.shape)) for C in (C1, C2))
    p, q = (torch.from_numpy(rng.uniform(0.2, 1, (*batch, k))) for k in (n, m))
    p, q = (2.5 * w / w.sum(-1, keepdim=True) for w in (p, q))
    return [t.to(device, dtype) for t in (M, C1, C2, p, q)]


def kernel_solve(M, C1, C2, p=None, q=None, alpha=0.5, epsilon=0.05, loss="square", init=None, max_iter=1000, tol=None):
    """What the kernel alone finds."""
    with backend("triton"):
        found = whole_solve(Call.of(M, C1, C2, p, q, alpha, epsilon, loss, init=init, max_iter=max_iter, tol=tol))
    assert found is not None
    return found


def torch_solve(*args, **options):
    with backend("torch"):
        return fgwot.fused_gromov_wasserstein(*args, **options)


def outer_sum(solution):
    """The potentials without their common constant."""
    f, g = solution.potentials
    return f[..., :, None] + g[..., None, :]


def check(tensors, **options):
    """Same answer as the torch path, and the first order condition by the reference's formulas."""
    dtype = tensors[1].dtype
    options.setdefault("epsilon", 0.2)
    if dtype == torch.float64:
        options["tol"] = 1e-10
    found, wanted = kernel_solve(*tensors, **options), torch_solve(*tensors, **options)
    assert found.converged.all()
    atol = TOLERANCE[dtype]
    for name in FIELDS:
        a, b = getattr(found, name), getattr(wanted, name)
        assert (a.dtype, a.shape, a.device) == (b.dtype, b.shape, b.device)
        if name == "plan":
            assert ((a - b).abs().sum((-2, -1)) <= atol).all()
        else:
            torch.testing.assert_close(a, b, rtol=atol, atol=atol)
    limit = options.get("tol", 5e-5)
    assert (found.residual + found.marginal_error <= limit).all()
    return found


def check_first_order(found, M, C1, C2, alpha, epsilon, loss, atol):
    """Grad E(T) + epsilon log T = f (+) g where there is mass."""
    M, C1, C2, T, potentials = (t.double().cpu().numpy() for t in (M, C1, C2, found.plan, outer_sum(found)))
    gradient = reference.gradient(M, C1, C2, T, alpha, loss)
    positive = T > 0
    difference = (gradient + epsilon * np.log(np.where(positive, T, 1)) - potentials)[positive]
    assert np.abs(difference).max() <= atol
    assert abs(reference.objective(M, C1, C2, T, alpha, epsilon, loss) - float(found.value)) <= atol


@pytest.mark.parametrize(
    ("loss", "asymmetric"),
    [("square", False), ("square", True), ("kl", False), pytest.param("kl", True, marks=pytest.mark.sample)],
)
def test_first_order_condition_of_the_reference(device, loss, asymmetric):
    M, C1, C2, p, q = problem(0, 4, 6, device=device, asymmetric=asymmetric)
    found = kernel_solve(M, C1, C2, p, q, 0.6, 0.5, loss, tol=1e-10)
    assert bool(found.converged)
    np.testing.assert_allclose(found.plan.sum(1).cpu(), p.cpu(), atol=1e-9)
    np.testing.assert_allclose(found.plan.sum(0).cpu(), q.cpu(), atol=1e-9)
    check_first_order(found, M, C1, C2, 0.6, 0.5, loss, 1e-8)


@pytest.mark.parametrize("dtype", PACKS)
def test_batches_of_one_and_of_several(device, dtype):
    for batch in (1, 3):
        check(problem(1, 5, 3, batch, device=device, dtype=dtype))


@pytest.mark.parametrize(("n", "m"), [(1, 1), (8, 8), (2, 9), (17, 3)])
def test_edges_of_the_tiles(device, n, m):
    check(problem(2, n, m, device=device, dtype=torch.float32), epsilon=0.5)


@pytest.mark.parametrize(("n", "dtype"), [(33, torch.float32), (17, torch.float64)])
def test_largest_tiles(device, n, dtype):
    check(problem(2, n, 5, device=device, dtype=dtype), epsilon=0.4)


@settings(max_examples=6)
@given(
    n=st.integers(1, 10),
    m=st.integers(1, 10),
    batch=st.integers(1, 3),
    asymmetric=st.booleans(),
    loss=st.sampled_from(["square", "kl"]),
    seed=st.integers(0, 99),
)
def test_any_shape(device, n, m, batch, asymmetric, loss, seed):
    check(problem(seed, n, m, batch, device=device, asymmetric=asymmetric), epsilon=0.8, loss=loss)


def test_points_without_mass_change_nothing(device):
    M, C1, C2, p, q = problem(3, 6, 5, 3, device=device)
    padded = [torch.nn.functional.pad(t, (0, 2, 0, 1)) for t in (M, C1, C2)]
    padded[1] = torch.nn.functional.pad(C1, (0, 1, 0, 1), value=7.0)
    padded[2] = torch.nn.functional.pad(C2, (0, 2, 0, 2), value=7.0)
    found = check([*padded, torch.nn.functional.pad(p, (0, 1)), torch.nn.functional.pad(q, (0, 2))], epsilon=0.2)
    smaller = kernel_solve(M, C1, C2, p, q, epsilon=0.2, tol=1e-10)
    assert (found.plan[:, 6] == 0).all()
    assert (found.plan[:, :, 5:] == 0).all()
    assert all((t == 0).all() for t in (found.potentials[0][:, 6:], found.potentials[1][:, 5:]))
    torch.testing.assert_close(found.plan[:, :6, :5], smaller.plan, rtol=0, atol=1e-10)


def test_indefinite_structure_is_damped(device):
    """Undamped steps cycle on this graph: the curvature and the guard have to act."""
    rng = np.random.default_rng(0)
    graphs = [np.triu(rng.uniform(size=(7, 7)) < 0.5, 1).astype(float) for _ in range(2)]
    C1, C2 = (torch.from_numpy(A + A.T).to(device) for A in graphs)
    M = torch.from_numpy(rng.uniform(size=(7, 7))).to(device)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", fgwot.ConvergenceWarning)
        with backend("torch"):
            cycling = fgwot.fused_gromov_wasserstein(
                M, C1, C2, epsilon=0.05, solver=fgwot.MirrorDescent(damping=0), max_iter=200
            )
    assert not bool(cycling.converged)
    check([M, C1, C2], epsilon=0.05)


def test_slow_problems_take_few_steps_and_sweeps(device, monkeypatch):
    """By damped steps and sweeps alone they took 80 and 173 steps, and by undamped ones and sweeps 843 and 692 sweeps.

    Sweeps are counted where the interpreter runs the kernel.
    """
    from fgwot.kernels import solve_phases

    generator = torch.Generator().manual_seed(3)
    x, y = (torch.rand(64, 4, 2, generator=generator, dtype=torch.float64)[[26, 60]].to(device) for _ in range(2))
    sweeps, evaluate = [], solve_phases.evaluate

    def counted(*arguments):
        sweeps.append(1)
        return evaluate(*arguments)

    if device.type == "cpu":
        monkeypatch.setattr(solve_phases, "evaluate", counted)
    found = kernel_solve(torch.cdist(x, y).square(), torch.cdist(x, x), torch.cdist(y, y), epsilon=0.1)
    assert found.converged.all()
    assert (found.n_iter <= 40).all()
    assert device.type == "cuda" or 0 < len(sweeps) <= 250


def test_warm_starts_end_at_once_and_a_plan_is_a_start(device):
    tensors = problem(4, 5, 6, 3, device=device)
    first = kernel_solve(*tensors)
    again = kernel_solve(*tensors, init=first)
    assert (first.n_iter > 5).all()
    assert (again.n_iter <= 2).all()
    torch.testing.assert_close(again.plan, first.plan, rtol=0, atol=1e-6)
    from_plan = kernel_solve(*tensors, init=first.plan)
    assert (from_plan.n_iter <= 2).all()


def test_marginals_are_uniform_where_none_are_given(device):
    M, C1, C2, p, q = problem(5, 4, 3, 2, device=device)
    check([M, C1, C2])
    check([M, C1, C2, p])
    check([M, C1, C2, None, q])
    check([None, C1, C2], alpha=1.0, epsilon=0.05)


def test_weights_and_structures_of_the_whole_batch_or_of_each_problem(device):
    M, C1, C2, p, q = problem(6, 4, 5, 2, 3, device=device)
    weights = torch.tensor([0.1, 0.5, 0.9], dtype=M.dtype, device=device)
    check([M, C1[0, 0], C2[:, :1], p[0, 0], q], alpha=weights, epsilon=weights[:2, None] + 0.1)


def test_results_do_not_depend_on_the_rest_of_the_batch(device):
    tensors = problem(7, 5, 4, 6, device=device, dtype=torch.float32)
    tensors[1][4] += torch.triu(torch.full_like(tensors[1][4], 0.3))
    tensors[2][4] += torch.triu(torch.full_like(tensors[2][4], 0.2))
    together = kernel_solve(*tensors)
    poisoned = [t.clone() for t in tensors]
    poisoned[0][2] = torch.nan
    beside_nan = kernel_solve(*poisoned)
    others = [0, 1, 3, 4, 5]
    for name in (*FIELDS, "residual", "n_iter"):
        assert torch.equal(getattr(together, name)[others], getattr(beside_nan, name)[others])
    assert beside_nan.status.tolist() == [0, 0, Status.NUMERICAL, 0, 0, 0]
    assert beside_nan.value[2].isnan()
    alone = kernel_solve(*(t[3] for t in tensors))
    torch.testing.assert_close(alone.plan, together.plan[3], rtol=0, atol=1e-6)


def test_same_bits_every_time(device):
    tensors = problem(8, 6, 5, 3, device=device, dtype=torch.float32)
    one, two = kernel_solve(*tensors), kernel_solve(*tensors)
    assert all(torch.equal(getattr(one, name), getattr(two, name)) for name in FIELDS)


def test_problems_that_the_kernel_leaves_open_go_on_alone(device, monkeypatch):
    tensors = problem(8, 4, 4, 3, device=device)
    whole, solve, left = kernel_solve(*tensors), functional.solve, []

    def first_of_three_open(call):
        found = whole_solve(call)
        return replace(found, status=torch.tensor([Status.MAX_ITER, 0, 0], device=device))

    def counted(problem, *others):
        left.append(len(problem.M))
        return solve(problem, *others)

    monkeypatch.setattr(functional, "whole_solve", first_of_three_open)
    monkeypatch.setattr(functional, "solve", counted)
    with backend("triton"):
        found = fgwot.fused_gromov_wasserstein(*tensors)
    assert left == [1]
    assert found.converged.all()
    assert torch.equal(found.plan[1:], whole.plan[1:])
    assert (found.n_iter > whole.n_iter).tolist() == [True, False, False]


def test_unfinished_is_never_called_converged(device):
    tensors = problem(9, 6, 6, 3, device=device)
    few = kernel_solve(*tensors, epsilon=0.05, max_iter=4)
    assert (few.status == Status.MAX_ITER).all()
    assert (few.n_iter == 3).all()
    assert (few.residual > 1e-7).all()
    hard = kernel_solve(*(t[0] for t in tensors), epsilon=2e-4, max_iter=4)
    assert hard.status != Status.CONVERGED


def test_torch_finishes_what_the_kernel_leaves(device, monkeypatch):
    tensors = problem(9, 6, 6, 2, device=device)
    left = kernel_solve(*tensors, max_iter=4)
    assert (left.status == Status.MAX_ITER).all()
    with monkeypatch.context() as patched, backend("triton"):
        patched.setattr(functional, "whole_solve", lambda call: whole_solve(replace(call, max_iter=4)))
        found = fgwot.fused_gromov_wasserstein(*tensors)
    assert found.converged.all()
    assert (found.n_iter > left.n_iter).all()
    for b in range(2):
        arrays = [t[b].cpu().numpy() for t in (*tensors[:3], found.plan, *tensors[3:])]
        assert reference.residual(*arrays, 0.5, 0.05, "square") <= 1e-6
    with backend("triton"), pytest.warns(fgwot.ConvergenceWarning, match="reached max_iter"):
        short = fgwot.fused_gromov_wasserstein(*tensors, epsilon=0.05, max_iter=3)
    assert (short.n_iter == 3).all()


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [("M", torch.nan, "not finite"), ("C1", torch.inf, "not finite"), ("p", -1.0, "non-negative")],
)
def test_invalid_values_raise_as_ever(device, name, value, message):
    tensors = dict(zip(("M", "C1", "C2", "p", "q"), problem(11, 3, 4, 2, device=device), strict=True))
    tensors[name][0, 1] = value
    with backend("triton"), pytest.raises(ValueError, match=message):
        fgwot.fused_gromov_wasserstein(**tensors)
    unequal = problem(11, 3, 4, device=device)
    unequal[3] *= 2
    with backend("triton"), pytest.raises(ValueError, match="equal mass"):
        fgwot.fused_gromov_wasserstein(*unequal)


@pytest.mark.parametrize("loss", ["square", "kl"])
@pytest.mark.parametrize("batch", [(), (3,)])
def test_gradients_agree_with_the_envelope_in_torch(device, loss, batch):
    results = []
    for name in ("torch", "triton"):
        leaves = [t.requires_grad_() for t in problem(12, 5, 4, *batch, device=device, asymmetric=True)]
        leaves += [torch.tensor(w, dtype=torch.float64, device=device, requires_grad=True) for w in (0.4, 0.3)]
        *tensors, alpha, epsilon = leaves
        with backend(name):
            s = fgwot.fused_gromov_wasserstein(*tensors, alpha=alpha, epsilon=epsilon, loss=loss, tol=1e-10)
        weights = torch.arange(1.0, s.value.numel() + 1, dtype=torch.float64, device=device).view(s.value.shape)
        total = (weights * s.value + 2 * s.cost + 3 * s.value_linear - weights * s.value_quad).sum()
        dM, dC1, dC2, dp, dq, *weights_ = torch.autograd.grad(total, leaves)
        # Potentials are defined up to a constant.
        results.append((dM, dC1, dC2, dp - dp.mean(-1, True), dq - dq.mean(-1, True), *weights_))
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-8)


@pytest.mark.parametrize("size", [(9, 17), (3, 3)])
def test_gradients_of_other_sizes_in_float32(device, size):
    results = []
    for name in ("torch", "triton"):
        leaves = [t.requires_grad_() for t in problem(13, *size, device=device, dtype=torch.float32)[:3]]
        with backend(name):
            cost = fgwot.fused_gromov_wasserstein(*leaves, epsilon=0.3).cost
        results.append(torch.autograd.grad(cost, leaves))
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-5)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # opcheck's own
def test_operators_pass_opcheck(device):
    M, C1, C2, p, q = problem(14, 3, 4, 2, device=device)
    given = (M, C1, C2, p, q, None, None, None, None, 0.5, 0.5, "square", 0.0, 50)
    torch.library.opcheck(torch.ops.fgwot.whole_solve, given)
    plan, f, g, value, *_ = torch.ops.fgwot.whole_solve(*given)
    cotangents = [torch.ones_like(value), None, None, None]
    wanted = [True, True, False, True, False]
    torch.library.opcheck(
        torch.ops.fgwot.whole_solve_adjoint, (plan, C1, C2, f, g, cotangents, None, 0.5, "square", wanted)
    )


class Launches(TorchDispatchMode):
    """Counts what CUDA would launch: Triton kernels, copies to the host, and all but views and allocations."""

    FREE = ("empty", "view", "reshape", "expand", "unsqueeze", "detach", "alias", "as_strided", "squeeze", "select")

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, operator, _types, args=(), kwargs=None):
        name = operator.name()
        if not any(free in name for free in self.FREE) and not name.startswith("fgwot::"):
            self.seen.append(name)
        return operator(*args, **(kwargs or {}))


@pytest.fixture
def counted(monkeypatch):
    """Count launches, also in the launchers, but not inside Triton: its interpreter runs on torch's copies."""
    from fgwot.kernels import solve, solve_adjoint

    counted = Launches()

    class Counting:
        def __init__(self, kernel, name):
            self.kernel, self.name = kernel, name

        def __getitem__(self, grid):
            def launch(*args, **options):
                counted.seen.append(self.name)
                with _disable_current_modes():
                    self.kernel[grid](*args, **options)

            return launch

    for module, name in ((solve, "solve_kernel"), (solve_adjoint, "solve_adjoint_kernel")):
        monkeypatch.setattr(module, name, Counting(getattr(module, name), name))
    return counted


@pytest.mark.sample
def test_a_training_step_is_at_most_five_launches(device, counted):
    """FGWLoss as K-MaT calls it, forward and backward: two kernels, and one read of the status."""
    M, C1, C2, *_ = (t.requires_grad_() for t in problem(15, 4, 4, device=device))
    criterion = fgwot.FGWLoss(alpha=0.1, epsilon=0.1, returns="cost")
    cotangent = torch.ones((), dtype=M.dtype, device=device)
    with backend("triton"):
        criterion(M, C1, C2)  # first call: later ones start warm
        counted.seen.clear()
        with counted:
            criterion(M, C1, C2).backward(cotangent)
    launches = counted.seen
    assert sorted(name for name in launches if name.endswith("kernel")) == ["solve_adjoint_kernel", "solve_kernel"]
    # On the CPU the read of the status is no copy.
    assert len(launches) <= (5 if device.type == "cuda" else 4), launches


def test_launchers_allocate_and_launch_one_kernel(device, counted):
    from fgwot.kernels.solve import solve
    from fgwot.kernels.solve_adjoint import solve_adjoint

    M, C1, C2, *_ = problem(16, 4, 4, 2, device=device)
    torch.use_deterministic_algorithms(False)  # else empty fills; `poison` restores it
    with counted:
        plan, f, g, value, *_ = solve(M, C1, C2, *[None] * 6, 0.5, 0.5, "square", 0.0, 50)
        solve_adjoint(plan, C1, C2, f, g, [value, None, None, None], None, 0.5, "square", [True] * 5)
    assert counted.seen == ["solve_kernel", "solve_adjoint_kernel"]


def test_second_derivatives_are_refused(device):
    M, C1, C2, *_ = (t.requires_grad_() for t in problem(17, 3, 3, device=device))
    with backend("triton"):
        value = fgwot.fused_gromov_wasserstein(M, C1, C2, epsilon=0.5).value
    (dM,) = torch.autograd.grad(value, M, create_graph=True)
    with pytest.raises(RuntimeError, match="cannot be differentiated again"):
        dM.sum().backward()
