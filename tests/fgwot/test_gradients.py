"""Every derivative against central differences of tightly converged solves, in float64."""

import numpy as np
import pytest
import torch

import fgwot
from fgwot.losses import BY_NAME

fgw = fgwot.fused_gromov_wasserstein
NAMES = ("M", "C1", "C2", "p", "q", "alpha", "epsilon")
STEP = 1e-5


def problem(seed=0, n=4, m=5, symmetric=False):
    """All seven arguments; rectangular, with entries bounded away from the kinks of abs and huber."""
    rng = np.random.default_rng(seed)
    C1, C2 = rng.uniform(0.2, 2.5, size=(n, n)), rng.uniform(0.2, 2.5, size=(m, m))
    if symmetric:
        C1, C2 = (C1 + C1.T) / 2, (C2 + C2.T) / 2
    arrays = rng.uniform(size=(n, m)), C1, C2, rng.dirichlet(np.full(n, 5)), rng.dirichlet(np.full(m, 5))
    return [torch.from_numpy(a) for a in arrays] + [torch.tensor(v, dtype=torch.float64) for v in (0.4, 0.25)]


def solve(arguments, start, loss, **options):
    """Start from the unperturbed plan, so that every solve ends in the same basin."""
    *tensors, alpha, epsilon = arguments
    return fgw(*tensors, alpha=alpha, epsilon=epsilon, loss=loss, init=start, tol=1e-12, max_iter=5000, **options)


def directions(name, tensor, seed=0):
    """A few directions; for marginals those that keep the mass."""
    rng = np.random.default_rng(seed)
    for _ in range(4):
        d = torch.from_numpy(np.asarray(rng.normal(size=tuple(tensor.shape))))
        yield d - d.mean() if name in "pq" else d


def central_difference(arguments, which, direction, function):
    moved = []
    for sign in (1, -1):
        shifted = list(arguments)
        shifted[which] = arguments[which] + sign * STEP * direction
        moved.append(function(shifted))
    return (moved[0] - moved[1]) / (2 * STEP)


def check(arguments, function, differentiable, tol=1e-5):
    leaves = [a.clone().requires_grad_() for a in arguments]
    gradients = torch.autograd.grad(differentiable(leaves), leaves)
    for which, name in enumerate(NAMES):
        scale = gradients[which].norm().item()
        for direction in directions(name, arguments[which]):
            expected = central_difference(arguments, which, direction, function).item()
            actual = (gradients[which] * direction).sum().item()
            assert abs(actual - expected) <= tol * max(scale, abs(expected)) + 1e-9, name


@pytest.mark.parametrize("loss", BY_NAME)
@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("backend", ["torch", "auto"])
def test_envelope_gradient_of_the_value(loss, symmetric, backend):
    arguments = problem(symmetric=symmetric)
    start = solve(arguments, None, loss)

    def value(shifted):
        return solve(shifted, start, loss).value

    with fgwot.backend(backend):
        check(arguments, value, value)


@pytest.mark.parametrize("loss", BY_NAME)
def test_implicit_gradient_of_anything_computed_from_the_plan(loss):
    arguments = problem(1)
    start = solve(arguments, None, loss)
    weights = torch.from_numpy(np.random.default_rng(2).normal(size=(4, 5)))

    def functional(shifted, adjoint="implicit"):
        solution = solve(shifted, start, loss, adjoint=adjoint)
        return (solution.plan * weights).sum() + solution.plan.square().sum() + solution.cost

    check(arguments, functional, functional, tol=2e-5)


def test_implicit_value_has_the_envelope_gradient():
    arguments = [a.requires_grad_() for a in problem(2)]
    start = solve(arguments, None, "square").detach()
    implicit, envelope = (
        torch.autograd.grad(solve(arguments, start, "square", adjoint=a).value, arguments)
        for a in ("implicit", "envelope")
    )
    for a, b in zip(implicit, envelope, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9)


def test_unrolled_and_implicit_agree():
    arguments = [a.requires_grad_() for a in problem(3)]
    start = solve(arguments, None, "square").detach()
    weights = torch.from_numpy(np.random.default_rng(2).normal(size=(4, 5)))
    implicit, unrolled = (
        torch.autograd.grad((solve(arguments, start, "square", adjoint=adjoint).plan * weights).sum(), arguments)
        for adjoint in (fgwot.Implicit(), fgwot.Unrolled(steps=60, sweeps=40))
    )
    for name, a, b in zip(NAMES, implicit, unrolled, strict=True):
        if name in "pq":  # along the marginals' sum the constrained problem has no derivative
            a, b = a - a.mean(), b - b.mean()
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7, err_msg=name)


def test_batched_gradients_are_those_of_each_problem_and_broadcasting_sums():
    M, C1, C2, p, q, alpha, epsilon = problem(4)
    batch = torch.stack([M, 2 * M, M + 0.3]).requires_grad_()
    shared = C1.clone().requires_grad_()
    fgw(batch, shared, C2, p, q, alpha=alpha, epsilon=epsilon, tol=1e-10).value.sum().backward()
    total = torch.zeros_like(C1)
    for b in range(3):
        one, own = batch[b].detach().requires_grad_(), C1.clone().requires_grad_()
        fgw(one, own, C2, p, q, alpha=alpha, epsilon=epsilon, tol=1e-10).value.backward()
        np.testing.assert_allclose(batch.grad[b], one.grad, atol=1e-8)
        total += own.grad
    np.testing.assert_allclose(shared.grad, total, atol=1e-7)


def test_cost_and_parts_hold_the_plan_fixed():
    arguments = [a.requires_grad_() for a in problem(5)]
    M, C1, C2, p, q, alpha, epsilon = arguments
    solution = fgw(M, C1, C2, p, q, alpha=alpha, epsilon=epsilon)
    T = solution.plan
    energy = (1 - alpha) * (M * T).sum() + alpha * (fgwot.tensor_term(C1, C2, T) * T).sum()
    expected = torch.autograd.grad(energy, (M, C1, C2, alpha))
    actual = torch.autograd.grad(solution.cost, (M, C1, C2, alpha), retain_graph=True)
    for a, e in zip(actual, expected, strict=True):
        np.testing.assert_allclose(a, e, rtol=1e-9)
    quad = torch.autograd.grad(solution.value_quad, (M, C1))
    np.testing.assert_allclose(quad[0], torch.zeros_like(M))
    np.testing.assert_allclose(quad[1], expected[1] / alpha.detach(), rtol=1e-9)


def test_zero_mass_gets_no_gradient():
    M, C1, C2, p, q, alpha, epsilon = problem(6)
    pad = torch.nn.functional.pad
    arguments = [
        pad(M, (0, 1, 0, 1), value=9.0),
        pad(C1, (0, 1, 0, 1), value=9.0),
        pad(C2, (0, 1, 0, 1)),
        pad(p, (0, 1)),
        pad(q, (0, 1)),
    ]
    leaves = [a.requires_grad_() for a in arguments]
    gradients = torch.autograd.grad(fgw(*leaves, alpha=alpha, epsilon=epsilon).value, leaves)
    plain = [a.clone().requires_grad_() for a in (M, C1, C2, p, q)]
    expected = torch.autograd.grad(fgw(*plain, alpha=alpha, epsilon=epsilon).value, plain)
    for g, e in zip(gradients, expected, strict=True):
        inside = tuple(slice(0, s) for s in e.shape)
        padding = g.clone()
        padding[inside] = 0
        assert padding.abs().max() == 0
        if e.ndim == 2:
            np.testing.assert_allclose(g[inside], e, atol=1e-6)


def test_proximal_point_value_has_the_gradient_of_the_energy():
    arguments = problem(7)
    leaves = [a.clone().requires_grad_() for a in arguments]
    M, C1, C2, p, q, alpha, epsilon = leaves
    solution = fgw(M, C1, C2, p, q, alpha=alpha, epsilon=epsilon, solver=fgwot.ProximalPoint())
    gradients = torch.autograd.grad(solution.value, leaves)
    np.testing.assert_allclose(gradients[0], 0.6 * solution.plan, rtol=1e-9)
    assert gradients[6] == 0


def test_second_derivatives_are_refused():
    arguments = [a.requires_grad_() for a in problem(8)]
    M, C1, C2, p, q, alpha, epsilon = arguments
    value = fgw(M, C1, C2, p, q, alpha=alpha, epsilon=epsilon).value
    (gradient,) = torch.autograd.grad(value, M, create_graph=True)
    with pytest.raises(RuntimeError, match="envelope gradient cannot be differentiated again"):
        gradient.sum().backward()


def test_the_envelope_plan_is_detached_and_half_precision_gradients_come_back_in_kind():
    M, C1, C2, *_ = problem(9)
    M = M.half().requires_grad_()
    solution = fgw(M, C1.half(), C2.half())
    assert not solution.plan.requires_grad
    solution.value.backward()
    assert M.grad.dtype == torch.float16
    np.testing.assert_allclose(M.grad, 0.5 * solution.plan, rtol=2e-2, atol=1e-4)


def test_a_saddle_has_no_implicit_derivative():
    C = torch.tensor(
        [[0.0, 1, 2, 1], [1, 0, 1, 2], [2, 1, 0, 1], [1, 2, 1, 0]], dtype=torch.float64, requires_grad=True
    )
    solution = fgwot.gromov_wasserstein(C, C.detach(), epsilon=0.1, adjoint="implicit")  # stays at p q^T, a saddle
    with pytest.warns(fgwot.ConvergenceWarning, match="not a strict local minimum"):
        (solution.plan * torch.eye(4, dtype=torch.float64)).sum().backward()
