"""What torch.func and torch.compile make of the solve."""

import numpy as np
import pytest
import torch
from torch.func import grad, vmap

import fgwot

# Inside a transform nothing else runs: the whole batch is to be the same to rounding.
pytestmark = pytest.mark.usefixtures("torch_path")
NAMES = ("M", "C1", "C2", "p", "q", "alpha", "epsilon")
LOSSES = {name: name for name in ("square", "kl", "abs")} | {
    "quartic": fgwot.GroundLoss(
        "quartic", lambda a, b: (a - b) ** 4, lambda a, b: 4 * (a - b) ** 3, lambda a, b: 4 * (b - a) ** 3
    )
}


def batch(*shape, n=5, m=4):
    """The seven arguments for a batch of problems."""
    rng = np.random.default_rng(0)

    def uniform(*own):
        return torch.from_numpy(rng.uniform(0.1, 1, shape + own))

    p, q = (torch.from_numpy(rng.dirichlet(np.full(k, 2.0), shape)) for k in (n, m))
    return uniform(n, m), uniform(n, n), uniform(m, m), p, q, uniform(), uniform()


def solved(M, C1, C2, p, q, alpha, epsilon, **options):
    return fgwot.fused_gromov_wasserstein(M, C1, C2, p, q, alpha=alpha, epsilon=epsilon, tol=1e-10, **options)


def relaxed(M, C1, C2, p, q, alpha, epsilon, **options):
    options = {"rho": (0.7, torch.inf)} | options
    return fgwot.fused_gromov_wasserstein(M, C1, C2, p, q, alpha=alpha, epsilon=epsilon, tol=1e-10, **options)


def outputs(solve):
    def of(*arguments):
        s = solve(*arguments)
        return s.plan, *s.potentials, s.value, s.cost, s.value_linear, s.value_quad, s.status, s.residual, s.n_iter

    return of


def assert_equal(actual, expected):
    for a, b in zip(actual, expected, strict=True):
        np.testing.assert_allclose(a.detach(), b.detach(), rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("solve", [solved, relaxed])
def test_vmap_is_the_batch(solve, loss):
    arguments = batch(3)
    one = outputs(lambda *a: solve(*a, loss=LOSSES[loss]))
    assert_equal(vmap(one)(*arguments), one(*arguments))


def test_vmap_shares_what_has_no_dimension_and_nests():
    M, C1, C2, p, q, alpha, epsilon = batch(2, 3)
    shared = (C1[0, 0], C2[0, 0], p[0, 0])
    expected = outputs(solved)(M, *shared, q, alpha, epsilon[:, :1])
    inner = vmap(outputs(solved), in_dims=(0, None, None, None, 0, 0, None))
    outer = vmap(inner, in_dims=(1, None, None, None, 0, 0, 0))
    assert_equal(outer(M.movedim(0, 1), *shared, q, alpha, epsilon[:, 0]), expected)


def test_vmap_adds_its_dimension_to_the_caller_s():
    arguments = batch(2, 3)
    assert_equal(vmap(outputs(solved), in_dims=1, out_dims=1)(*arguments), outputs(solved)(*arguments))


@pytest.mark.parametrize("solver", [fgwot.MirrorDescent(damping=0.1), fgwot.ProximalPoint()])
def test_vmap_of_other_solvers_and_starts(solver):
    M, C1, C2, p, q, alpha, epsilon = batch(3)
    plan = p[:, :, None] * q[:, None, :]
    several = fgwot.MultiInit(2)

    def values(plan, *arguments):
        first = solved(*arguments, init=plan, solver=solver, max_iter=20_000)
        return (
            first.plan,
            solved(*arguments, init=first, solver=solver, max_iter=20_000).value,
            solved(*arguments, init=several).plan,
        )

    arguments = (plan, M, C1, C2, p, q, alpha, epsilon)
    assert_equal(vmap(values)(*arguments), values(*arguments))


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("adjoint", ["envelope", "implicit", "unrolled", "relaxed"])
def test_gradients_per_problem_are_the_batch_s(adjoint, loss):
    """vmap of grad, and the gradient of vmap, against autograd over the whole batch."""
    arguments = batch(3)
    arguments = (*arguments[:6], arguments[6] + 0.5)  # where undamped steps contract, as "unrolled" needs

    def value(*a):
        if adjoint == "relaxed":
            return relaxed(*a, loss=LOSSES[loss]).value
        solution = solved(*a, loss=LOSSES[loss], adjoint=adjoint)
        return solution.value if adjoint == "envelope" else (solution.plan**2).sum((-2, -1))

    leaves = [a.clone().requires_grad_() for a in arguments]
    expected = torch.autograd.grad(value(*leaves).sum(), leaves)
    every = tuple(range(7))
    assert_equal(vmap(grad(value, argnums=every))(*arguments), expected)
    assert_equal(grad(lambda *a: vmap(value)(*a).sum(), argnums=every)(*arguments), expected)
    assert_equal(torch.autograd.grad(vmap(value)(*leaves).sum(), leaves), expected)


def test_low_rank_structures_are_mapped_and_differentiated():
    M, *_, p, q, alpha, epsilon = batch(3)
    x, y = torch.rand(3, 5, 2, dtype=M.dtype), torch.rand(3, 4, 2, dtype=M.dtype)

    def value(x, y, *rest):
        C1, C2 = (fgwot.LowRank.squared_distances(points) for points in (x, y))
        return solved(M, C1, C2, *rest).value if x.ndim == 3 else solved(M[0], C1, C2, *rest).value

    M = M[:1].expand(3, -1, -1)
    leaves = [a.clone().requires_grad_() for a in (x, y, p, q, alpha, epsilon)]
    expected = torch.autograd.grad(value(*leaves).sum(), leaves)
    assert_equal(vmap(grad(value, argnums=tuple(range(6))))(x, y, p, q, alpha, epsilon), expected)
    with pytest.raises(RuntimeError, match="LowRank structures is differentiable once"):
        grad(lambda x: grad(value)(x, y[0], p[0], q[0], alpha[0], epsilon[0]).sum())(x[0])


@pytest.mark.parametrize("adjoint", ["envelope", "implicit"])
def test_second_derivatives_are_refused(adjoint):
    M, *rest = batch()

    def value(M):
        solution = solved(M, *rest, adjoint=adjoint)
        return solution.value if adjoint == "envelope" else (solution.plan**2).sum()

    with pytest.raises(RuntimeError, match="cannot be differentiated again"):
        grad(lambda M: grad(value)(M).sum())(M)


def test_bad_values_are_explained_under_vmap():
    M, C1, C2, p, q, alpha, epsilon = batch(3)
    with pytest.raises(ValueError, match="M has 1 entries that are not finite"):
        vmap(outputs(solved))(
            M.index_fill(0, torch.tensor(1), torch.nan)[:, :1, :1],
            C1[:, :1, :1],
            C2[:, :1, :1],
            p[:, :1],
            q[:, :1],
            alpha,
            epsilon,
        )
    with pytest.raises(ValueError, match="epsilon must be positive"):
        vmap(outputs(solved))(M, C1, C2, p, q, alpha, -epsilon)


def test_the_warning_names_the_caller_s_line():
    arguments = batch(3)
    for call in (
        lambda: solved(*arguments, max_iter=1),
        lambda: vmap(lambda *a: solved(*a, max_iter=1).plan)(*arguments),
    ):
        with pytest.warns(fgwot.ConvergenceWarning, match="3 of 3 FGW problems did not converge") as record:
            call()
        assert [w.filename for w in record] == [__file__]


# Dynamo looks at the .grad of what it guards on.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
@pytest.mark.parametrize("solve", [solved, relaxed])
def test_a_compiled_caller_breaks_once(solve):
    M, *rest = batch(3)

    def loss(M):
        return solve(M.square(), *rest).value.sin().sum()

    explained = torch._dynamo.explain(loss)(M)
    assert explained.graph_break_count == 1
    eager, compiled = M.clone().requires_grad_(), M.clone().requires_grad_()
    loss(eager).backward()
    torch.compile(loss, backend="aot_eager")(compiled).backward()
    np.testing.assert_allclose(compiled.grad, eager.grad)
