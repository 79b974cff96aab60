"""Barycenters: known answers, descent, stationarity by other code, and derivatives."""

import itertools
import warnings

import numpy as np
import pytest
import torch
from certificate import stationarity
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import structure

import fgwot
from benchmarks.cases import Case
from benchmarks.sets import spaces
from fgwot.solution import Status

SHIFT = 1e-15


def inputs(seed, sizes=(5, 4, 6), kind="euclidean", least=0.0):
    """Structures, features and weights of a few spaces."""
    rng = np.random.default_rng(seed)
    spaces = [
        (np.abs(structure(rng, n, kind)) + least, rng.uniform(size=(n, 2)), rng.dirichlet(np.full(n, 5.0)))
        for n in sizes
    ]
    return tuple([torch.from_numpy(a) for a in arrays] for arrays in zip(*spaces, strict=True))


def energy(C, X, T, Cs, Y, alpha, loss):
    """E of one plan, from its definition."""
    a, b = C[:, None, :, None], Cs[None, :, None, :]  # i, j, k, l
    L = (a - b) ** 2 if loss == "square" else a * ((a + SHIFT) / (b + SHIFT)).log() - a + b
    quadratic = (L * T[:, :, None, None] * T).sum()
    return alpha * quadratic + (1 - alpha) * (((X[:, None] - Y) ** 2).sum(-1) * T).sum()


def equal_up_to_order(found, expected, tol):
    """Whether some order of the points makes the matrices equal."""
    orders = itertools.permutations(range(len(expected)))
    return any(torch.allclose(found[list(o)][:, list(o)], expected, atol=tol) for o in orders)


@pytest.mark.parametrize("loss", ["square", "kl"])
def test_copies_of_one_space_have_it_as_their_barycenter(loss):
    x = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 2.5], [3.0, 4.0]], dtype=torch.float64)
    C = torch.cdist(x, x)
    copies = [C[list(o)][:, list(o)] for o in ((0, 1, 2, 3), (2, 0, 3, 1), (3, 1, 0, 2))]
    found = fgwot.barycenter(copies, n=4, epsilon=0.01, loss=loss)
    assert found.converged
    assert equal_up_to_order(found.structure, C, 1e-3)


def test_no_plan_is_worse_than_one_from_the_usual_start():
    """On a circle and ellipses, from a cloud: plans that only continue those before end higher."""
    problem = spaces(Case("barycenters", "ellipses", 15, 20, 0.05, 1.0, batch=6))
    C, first = torch.tensor(np.stack(problem.structures)), torch.tensor(problem.start[0])
    found = fgwot.barycenter(C, n=15, epsilon=0.05, init_structure=first)
    fresh = fgwot.gromov_wasserstein(found.structure, C, epsilon=0.05, tol=1e-8)
    assert found.value <= fresh.value.mean() + 1e-6


def test_of_points_on_a_line_it_is_their_mean_in_order():
    """With alpha = 0 and little entropy: quantiles are averaged."""
    Y = [torch.tensor(y, dtype=torch.float64)[:, None] for y in ([0.0, 1.0, 4.0], [12.0, 6.0, 7.0], [3.0, 2.0, 9.0])]
    C = [torch.cdist(y, y) for y in Y]
    found = fgwot.barycenter(C, Y, n=3, alpha=0.0, epsilon=0.02, coefficients=[1.0, 1.0, 2.0])
    expected = (Y[0].sort(0)[0] + Y[1].sort(0)[0] + 2 * Y[2].sort(0)[0]) / 4
    torch.testing.assert_close(found.features.sort(0)[0], expected, atol=1e-6, rtol=0)


def test_entropy_alone_makes_one_point_of_all():
    """Product plans: every entry of C is the mean entry of the inputs, every feature the mean feature."""
    Cs, Y, q = inputs(0)
    found = fgwot.barycenter(Cs, Y, q, n=3, epsilon=1e4)
    mean = sum(w @ C @ w for C, w in zip(Cs, q, strict=True)) / 3
    torch.testing.assert_close(found.structure, mean.expand(3, 3), rtol=1e-3, atol=0)
    centre = sum(w @ y for y, w in zip(Y, q, strict=True)) / 3
    torch.testing.assert_close(found.features, centre.expand(3, 2), rtol=1e-3, atol=0)


@settings(max_examples=12)
@given(
    st.integers(0, 2**31 - 1),
    st.sampled_from(["euclidean", "adjacency", "asymmetric"]),
    st.sampled_from(["square", "kl"]),
    st.sampled_from([0.3, 1.0]),
)
def test_the_objective_never_rises(seed, kind, loss, alpha):
    Cs, Y, q = inputs(seed, kind=kind, least=0.1 if loss == "kl" else 0.0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", fgwot.ConvergenceWarning)
        found = fgwot.barycenter(
            Cs, Y if alpha < 1 else None, q, n=4, alpha=alpha, epsilon=0.1, loss=loss, max_iter=15, seed=seed
        )
    rises = found.objectives.diff()
    assert bool((rises <= 1e-7 * found.objectives[:-1].abs().clamp_min(0.1)).all())


@pytest.mark.parametrize("kind", ["euclidean", "asymmetric"])
@pytest.mark.parametrize("loss", ["square", "kl"])
def test_what_converged_is_stationary(loss, kind):
    """In C and X by autograd of the energy's definition, and in each plan by the reference's certificate."""
    Cs, Y, q = inputs(3, kind=kind, least=0.2)
    alpha, epsilon, coefficients = 0.4, 0.1, torch.tensor([0.5, 0.2, 0.3], dtype=torch.float64)
    p = torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64)
    options = {"alpha": alpha, "epsilon": epsilon, "loss": loss}
    found = fgwot.barycenter(Cs, Y, q, n=3, p=p, coefficients=coefficients, tol=1e-8, **options)
    assert found.converged
    assert float(found.residual) <= 1e-8
    C, X = found.structure.clone().requires_grad_(), found.features.clone().requires_grad_()
    total = 0.0
    for s, (structure_, features, weights) in enumerate(zip(Cs, Y, q, strict=True)):
        T = found.plans[s, :, : len(weights)]
        assert not found.plans[s, :, len(weights) :].any()
        total = total + coefficients[s] * energy(C, X, T, structure_, features, alpha, loss)
        M = (X.detach()[:, None] - features).square().sum(-1)
        arrays = [t.numpy() for t in (M, C.detach(), structure_, p, weights, T)]
        assert stationarity(*arrays, alpha, epsilon, loss) <= 1e-8
    for gradient in torch.autograd.grad(total, (C, X)):
        assert float(gradient.abs().max()) <= 1e-7


def test_a_fixed_part_stays():
    Cs, Y, q = inputs(1)
    C, X = Cs[2][:3, :3], Y[2][:3]
    first = {"n": 3, "epsilon": 0.1, "init_structure": C, "init_features": X}
    one = fgwot.barycenter(Cs, Y, q, fixed="structure", **first)
    assert torch.equal(one.structure, C)
    assert not torch.equal(one.features, X)
    two = fgwot.barycenter(Cs, Y, q, fixed="features", **first)
    assert torch.equal(two.features, X)
    assert not torch.equal(two.structure, C)


def test_points_of_no_mass_change_nothing():
    Cs, Y, q = inputs(2, sizes=(4, 4))
    more = 3
    padded = [torch.nn.functional.pad(C, (0, more, 0, more), value=9.0) for C in Cs]
    far = [torch.nn.functional.pad(y, (0, 0, 0, more), value=9.0) for y in Y]
    none = [torch.nn.functional.pad(w, (0, more)) for w in q]
    options = {"n": 4, "epsilon": 0.1, "tol": 1e-7}
    init = {"init_structure": Cs[0], "init_features": Y[0]}
    one, two = fgwot.barycenter(Cs, Y, q, **options, **init), fgwot.barycenter(padded, far, none, **options, **init)
    torch.testing.assert_close(one.structure, two.structure, atol=1e-6, rtol=0)
    torch.testing.assert_close(one.value, two.value, atol=1e-9, rtol=0)


def test_more_points_than_the_inputs_have():
    Cs, Y, _ = inputs(4, sizes=(3, 4))
    found = fgwot.barycenter(Cs, Y, n=9, epsilon=0.02)
    assert found.converged
    assert found.structure.shape == (9, 9)


def test_one_input_in_float32():
    Cs, Y, _ = inputs(8, sizes=(5,))
    found = fgwot.barycenter([Cs[0].float()], [Y[0].float()], n=4, epsilon=0.02)
    assert found.converged
    assert found.structure.dtype == found.value.dtype == torch.float32


def test_masses_of_two_are_masses_of_one_with_half_the_entropy():
    Cs, _, q = inputs(5)
    one = fgwot.barycenter(Cs, None, q, n=3, epsilon=0.1, tol=1e-8)
    two = fgwot.barycenter(Cs, None, [2 * w for w in q], n=3, epsilon=0.2, tol=1e-8)
    torch.testing.assert_close(one.structure, two.structure, atol=1e-6, rtol=0)


@pytest.mark.parametrize("loss", ["square", "kl"])
def test_gradients_of_the_value_in_all_that_is_given(loss):
    """By central differences of barycenters that start where the unmoved one ends."""
    Cs, Y, q = inputs(6, sizes=(4, 3), least=0.3)
    p = torch.tensor([0.3, 0.3, 0.4], dtype=torch.float64)
    weights = [torch.tensor(w, dtype=torch.float64) for w in (0.4, 0.2)]  # alpha, epsilon
    arguments = [*Cs, *Y, *q, p, torch.tensor([0.6, 0.5], dtype=torch.float64), *weights]

    def value(arguments, **init):
        structures, features, masses = arguments[:2], arguments[2:4], arguments[4:6]
        p, coefficients, alpha, epsilon = arguments[6:]
        return fgwot.barycenter(
            structures,
            features,
            masses,
            n=3,
            p=p,
            coefficients=coefficients,
            alpha=alpha,
            epsilon=epsilon,
            loss=loss,
            tol=1e-9,
            **init,
        )

    start = value(arguments)
    init = {"init_structure": start.structure, "init_features": start.features}
    leaves = [a.clone().requires_grad_() for a in arguments]
    gradients = torch.autograd.grad(value(leaves, **init).value, leaves)
    rng, step = np.random.default_rng(0), 1e-4
    for which, gradient in enumerate(gradients):
        direction = torch.from_numpy(np.asarray(rng.normal(size=tuple(gradient.shape))))
        moving = {which: direction}
        if 4 <= which <= 6:  # all masses stay one
            moving = {which: direction - direction.mean()}
        ends = [
            value([a + sign * step * moving[k] if k in moving else a for k, a in enumerate(arguments)], **init).value
            for sign in (1, -1)
        ]
        expected = float(ends[0] - ends[1]) / (2 * step)
        actual = float((gradient * moving[which]).sum())
        assert abs(actual - expected) <= 2e-6 * max(1.0, abs(expected)), which


OUTLYING = [{"mass": 0.8}, {"rho": (float("inf"), 0.2)}, {"rho": 0.3}]


def with_outliers():
    """Features, structures and weights of copies of four points, each with a fifth far away, and the four points."""
    x = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.5], [2.0, 2.0]], dtype=torch.float64)
    Y = [
        torch.cat([x[list(o)], x.new_tensor([far])])
        for o, far in (((0, 1, 2, 3), (9.0, 9.0)), ((2, 0, 3, 1), (-9.0, 7.0)))
    ]
    return Y, [torch.cdist(y, y) for y in Y], x


def test_outliers_are_left_out():
    """From a start without them: with one it would be a local minimum."""
    Y, Cs, x = with_outliers()
    init = {"init_structure": 1.1 * torch.cdist(x, x), "init_features": x + 0.1}
    p = torch.full((4,), 0.2, dtype=torch.float64)
    found = fgwot.barycenter(Cs, Y, n=4, p=p, mass=0.8, epsilon=0.01, **init)
    assert found.converged
    assert found.plans[:, :, 4].max() < 1e-6
    assert torch.cdist(found.features, x).min(1).values.max() < 1e-2
    assert equal_up_to_order(found.structure, torch.cdist(x, x), 1e-2)


@pytest.mark.parametrize("options", OUTLYING, ids=str)
@pytest.mark.parametrize("loss", ["square", "kl"])
def test_with_prices_or_a_mass_the_objective_never_rises_and_ends_stationary(options, loss):
    """C and X minimise the energy at plans which are those of a solve at this C and X, for inputs of any mass."""
    Cs, Y, q = inputs(9, least=0.3)
    q = [w * scale for w, scale in zip(q, (1.0, 0.9, 1.3), strict=True)]
    p = torch.full((3,), 0.3, dtype=torch.float64)
    found = fgwot.barycenter(Cs, Y, q, n=3, p=p, alpha=0.4, epsilon=0.1, loss=loss, tol=1e-8, **options)
    assert found.converged
    assert found.objectives.diff().max() <= 1e-9
    C, X = (t.clone().requires_grad_() for t in (found.structure, found.features))
    total = sum(
        energy(C, X, T[:, : len(y)], Cs[s], y, 0.4, loss) / 3
        for s, (T, y) in enumerate(zip(found.plans, Y, strict=True))
    )
    for gradient in torch.autograd.grad(total, (C, X)):
        assert gradient.abs().max() <= 1e-7
    for s, T in enumerate(found.plans):
        M = (found.features[:, None] - Y[s]).square().sum(-1)
        alone = fgwot.fused_gromov_wasserstein(
            M,
            found.structure,
            Cs[s],
            found.weights,
            q[s],
            alpha=0.4,
            epsilon=0.1,
            loss=loss,
            tol=1e-9,
            init=T[:, : len(Y[s])],
            **options,
        )
        torch.testing.assert_close(alone.plan, T[:, : len(Y[s])], atol=1e-6, rtol=0)


def test_the_derivative_in_prices_and_masses():
    Cs, Y, q = inputs(10, sizes=(4, 3))
    for name, at in (("rho", 0.4), ("mass", 0.6)):
        given = torch.tensor(at, dtype=torch.float64, requires_grad=True)
        start = fgwot.barycenter(Cs, Y, q, n=3, epsilon=0.1, tol=1e-9, **{name: at})
        init = {"init_structure": start.structure, "init_features": start.features, "n": 3, "epsilon": 0.1, "tol": 1e-9}
        (gradient,) = torch.autograd.grad(fgwot.barycenter(Cs, Y, q, **init, **{name: given}).value, given)
        ends = [fgwot.barycenter(Cs, Y, q, **init, **{name: at + step}).value for step in (1e-4, -1e-4)]
        torch.testing.assert_close(gradient, (ends[0] - ends[1]) / 2e-4, rtol=1e-5, atol=1e-7)


def test_a_barycenter_that_did_not_converge_says_so():
    Cs, Y, _ = inputs(7)
    with pytest.warns(fgwot.ConvergenceWarning, match="1 of 1 FGW problems did not converge: 1 reached max_iter"):
        found = fgwot.barycenter(Cs, Y, n=3, epsilon=0.05, max_iter=1)
    assert found.status == Status.MAX_ITER
    assert found.n_iter == len(found.objectives) == 1


C, X, Q = inputs(0, sizes=(3, 4))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"n": 0}, ValueError, "n must be at least 1, got 0"),
        ({"p": torch.ones(2)}, ValueError, r"p must be a floating point tensor of shape \(3,\), got \(2,\) of"),
        ({"p": torch.tensor([0.5, 0.5, 0.0])}, ValueError, "p must be positive, got 0: a point without mass"),
        ({"p": torch.ones(3)}, ValueError, "p must have the mass of the inputs, 1; it sums to 3"),
        ({"coefficients": [1.0]}, ValueError, r"coefficients must have shape \(2,\), one for each input, got \(1,\)"),
        ({"coefficients": [1.0, -1.0]}, ValueError, "coefficients must be non-negative and finite, and not all zero"),
        ({"loss": "abs"}, ValueError, "barycenters are for the losses square and kl, not for abs"),
        ({"fixed": "weights"}, ValueError, "fixed must be 'structure', 'features' or None, got 'weights'"),
        ({"fixed": "structure"}, ValueError, "fixed='structure' needs init_structure"),
        ({"init_structure": torch.ones(2, 2)}, ValueError, r"init_structure must be .* \(3, 3\), got \(2, 2\) of"),
        ({"init_features": [1.0]}, ValueError, r"init_features must be .* \(3, 2\), got list"),
        ({"init_features": torch.full((3, 2), torch.nan)}, ValueError, "init_features has entries that are not finite"),
        ({"features": None, "init_features": torch.ones(3, 2)}, ValueError, "init_features came without features"),
        ({"features": None, "alpha": 0.5}, ValueError, "without M the problem is purely quadratic"),
        ({"max_iter": 0}, ValueError, "max_iter must be at least 1 and tol positive, got 0 and None"),
        ({"tol": 0.0}, ValueError, "max_iter must be at least 1 and tol positive, got 1000 and 0.0"),
        ({"structures": [C[0], -C[1]], "loss": "kl"}, ValueError, r"non-negative structures, structures\[1\] has -"),
        ({"weights": [Q[0], 2 * Q[1]]}, ValueError, "equal mass"),
    ],
)
def test_bad_input_is_one_clear_error(change, error, message):
    arguments = {"structures": C, "features": X, "weights": Q, "n": 3} | change
    with pytest.raises(error, match=message):
        fgwot.barycenter(**arguments)
