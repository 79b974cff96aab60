"""POT's names and conventions: what POT really solves is solved alike, the rest is one clear error."""

import inspect
import warnings

import numpy as np
import ot
import pytest
import torch
from problems import random_case

import fgwot
from fgwot import pot
from fgwot.pot import gromov

CASES = [random_case(seed, kind="euclidean", max_points=9, epsilon=(0.1, 0.3)) for seed in (0, 1)]
TIGHT = {"max_iter": 3000, "numItermax": 20_000, "stopThr": 1e-12}


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("loss", ["L2", "KL"])
def test_entropic_gw_is_pots(seed, loss):
    kind = {"L2": "euclidean", "KL": "asymmetric"}[loss]  # KL compares positive numbers
    _, C1, C2, a, b = random_case(seed, kind=kind, max_points=9).arrays
    ours, theirs = (f(C1, C2, a=a, b=b, loss=loss, reg=0.3, max_iter=3000) for f in (pot.solve_gromov, ot.solve_gromov))
    np.testing.assert_allclose(ours.plan, theirs.plan, atol=1e-6)
    for name in ("value", "value_linear", "value_quad"):
        np.testing.assert_allclose(getattr(ours, name), getattr(theirs, name), atol=1e-6, err_msg=name)
    np.testing.assert_allclose(ours.marginal_a, a, atol=1e-7)
    np.testing.assert_allclose(ours.marginals[1], b, atol=1e-7)
    assert ours.status == "converged to the tolerance"


@pytest.mark.parametrize("case", CASES, ids=["0", "1"])
def test_entropic_fgw_is_pots_at_the_epsilon_that_pot_uses(case):
    """ot.solve_gromov passes no epsilon with M; 0.1 is the default of the function that it calls."""
    M, C1, C2, a, b = case.arrays
    ours, theirs = (f(C1, C2, M, a, b, reg=0.1, alpha=0.3, max_iter=3000) for f in (pot.solve_gromov, ot.solve_gromov))
    np.testing.assert_allclose(ours.plan, theirs.plan, atol=1e-6)
    for name in ("value", "value_linear", "value_quad"):
        np.testing.assert_allclose(getattr(ours, name), getattr(theirs, name), atol=1e-6, err_msg=name)
    assert abs(pot.solve_gromov(C1, C2, M, a, b, reg=1.0, alpha=0.3).plan - theirs.plan).max() > 1e-3


@pytest.mark.parametrize("seed", range(3))
def test_without_reg_the_value_is_near_that_of_conditional_gradients(seed):
    """Both are local: over the seeds neither is better by more than 1 %, and the plan is all but a vertex."""
    case = random_case(seed, kind="euclidean", max_points=10)
    M, C1, C2, a, b = case.arrays
    ours, theirs = (f(C1, C2, M, a, b) for f in (pot.solve_gromov, ot.solve_gromov))
    assert ours.value <= 1.01 * theirs.value
    np.testing.assert_allclose(ours.value, ours.value_linear + ours.value_quad)
    assert (ours.plan > 1e-4).sum() <= len(a) + len(b) - 1


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("entropic", [False, True])
def test_the_older_names_have_pots_signatures_and_values(fused, entropic):
    name = "entropic_" * entropic + "fused_" * fused + "gromov_wasserstein"
    for suffix in ("", "2"):
        theirs = [p for p in inspect.signature(getattr(ot.gromov, name + suffix)).parameters if p != "kwargs"]
        mine = list(inspect.signature(getattr(gromov, name + suffix)).parameters)
        assert mine[: len(theirs)] == theirs
    M, C1, C2, p, q = CASES[0].arrays
    arguments = (M, C1, C2, p, q) if fused else (C1, C2, p, q)
    options = {"epsilon": 0.3, **TIGHT} if entropic else {}
    value, log = getattr(gromov, name + "2")(*arguments, "square_loss", log=True, **options)
    plan = getattr(gromov, name)(*arguments, **options)
    np.testing.assert_array_equal(plan, log["T"])
    assert value == log["fgw_dist" if fused else "gw_dist"]
    theirs = getattr(ot.gromov, name + "2")(*arguments, "square_loss", **options)
    if entropic:
        np.testing.assert_allclose(value, theirs, rtol=1e-6)
    else:
        assert value <= 1.01 * theirs


def test_the_proximal_method_has_no_entropy_in_its_value():
    M, C1, C2, *_ = CASES[0].arrays
    result = pot.solve_gromov(C1, C2, M, reg=0.2, method="PPA")
    np.testing.assert_allclose(result.value, result.value_linear + result.value_quad)
    expected = fgwot.fused_gromov_wasserstein(M, C1, C2, epsilon=0.2, solver=fgwot.ProximalPoint())
    np.testing.assert_allclose(result.plan, expected.plan, atol=1e-8)


def test_relaxed_marginals():
    M, C1, C2, a, b = CASES[0].arrays
    semi = pot.solve_gromov(C1, C2, M, a, b, reg=0.2, unbalanced_type="semirelaxed")
    np.testing.assert_allclose(semi.marginal_a, a, atol=1e-7)
    assert abs(semi.marginal_b - b).max() > 1e-3
    result = pot.solve_gromov(C1, C2, M, a, 2 * b, reg=0.2, unbalanced=0.7, alpha=0.4)
    T = result.plan

    def divergence(x, y):
        return (x * np.log(x / y) - x + y).sum()

    energy = 0.6 * (M * T).sum() + 0.4 * (fgwot.tensor_term(C1, C2, T) * T).sum()
    entropy = 0.2 * (T * (np.log(T) - 1)).sum()
    paid = 0.7 * (divergence(T.sum(1), a) + divergence(T.sum(0), 2 * b))
    np.testing.assert_allclose(result.value, energy + entropy + paid)


def test_partial_plans():
    M, C1, C2, a, b = CASES[0].arrays
    result = pot.solve_gromov(C1, C2, M, a, b, reg=0.2, unbalanced=0.6 * a.sum(), unbalanced_type="partial")
    T = result.plan
    np.testing.assert_allclose(T.sum(), 0.6 * a.sum())
    assert (result.marginal_a <= a + 1e-6).all()
    entropy = 0.2 * (T * np.log(T)).sum()
    np.testing.assert_allclose(result.value, result.value_linear + result.value_quad + entropy)


@pytest.mark.parametrize("kind", ["KL", "semirelaxed", "partial"])
def test_without_reg_relaxed_problems_have_no_entropy(kind):
    M, C1, C2, a, b = CASES[0].arrays
    options = {"unbalanced": 0.6 * a.sum(), "unbalanced_type": kind}
    sharp, soft = (pot.solve_gromov(C1, C2, M, a, b, reg=reg, **options) for reg in (None, 0.2))
    assert -(sharp.plan * np.log(sharp.plan + 1e-300)).sum() < -(soft.plan * np.log(soft.plan)).sum()


@pytest.mark.parametrize("reg", [None, 0.3])
def test_gradients_of_the_value(reg):
    _, C1, C2, *_ = CASES[0].tensors()
    C1.requires_grad_()

    def value(C):
        return pot.solve_gromov(C, C2, reg=reg, tol=1e-10).value

    value(C1).backward()
    direction = torch.randn(C1.shape, dtype=C1.dtype, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        difference = (value(C1 + 1e-5 * direction) - value(C1 - 1e-5 * direction)) / 2e-5
    torch.testing.assert_close((C1.grad * direction).sum(), difference, rtol=1e-5, atol=1e-7)


def test_how_much_is_differentiated():
    _, C1, C2, *_ = CASES[0].tensors()
    C1.requires_grad_()
    assert pot.solve_gromov(C1, C2, reg=0.3, grad="autodiff").plan.requires_grad
    assert not pot.solve_gromov(C1, C2, reg=0.3).plan.requires_grad
    detached = pot.solve_gromov(C1, C2, reg=0.3, grad="detach")
    assert not detached.value.requires_grad
    assert not detached.solution.value.requires_grad


def test_equal_points_have_a_proximal_step():
    C = np.zeros((3, 3))
    np.testing.assert_allclose(pot.solve_gromov(C, C).plan, np.full((3, 3), 1 / 9))


def test_verbose_says_how_it_ended(capsys):
    pot.solve_gromov(*CASES[0].arrays[1:3], reg=0.3, verbose=True)
    assert "converged to the tolerance" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"loss": "L1"}, "loss='L1' is not known: .*'abs'"),
        ({"reg": 1.0, "reg_type": "L2"}, "reg_type='L2' is not known: use 'entropy'"),
        ({"reg": 1.0, "method": "BAPG"}, "method='BAPG' is not known: use 'PGD'"),
        ({"method": "PGD"}, "needs reg"),
        ({"unbalanced": 0.5, "unbalanced_type": "L2"}, "use 'KL', 'semirelaxed' or 'partial'"),
        ({"potentials_init": (1, 2)}, r"init=solution"),
        ({"unbalanced": 0.5, "reg": 1.0, "grad": "autodiff"}, "use 'envelope'"),
        ({"grad": "last_step"}, "use 'envelope' or 'autodiff'"),
    ],
    ids=lambda option: str(option) if isinstance(option, dict) else "",
)
def test_what_pot_has_and_fgwot_has_not(options, message):
    with pytest.raises(NotImplementedError, match=message):
        pot.solve_gromov(*CASES[0].arrays[1:3], **options)


def test_names_that_stay_in_pot():
    with pytest.raises(AttributeError, match="take the rest from POT"):
        pot.dist  # noqa: B018
    with pytest.raises(AttributeError, match="solve_gromov"):
        gromov.BAPG_gromov_wasserstein  # noqa: B018
    with pytest.raises(ValueError, match="loss_fun must be"):
        gromov.gromov_wasserstein(*CASES[0].arrays[1:3], loss_fun="L2")
    with pytest.raises(TypeError, match="stopthr"):
        gromov.gromov_wasserstein(*CASES[0].arrays[1:3], stopthr=1)


def test_unequal_masses_that_ott_does_not_survive():
    """The setting of ott-jax/ott#519: 96 points a side, masses of 96 and relaxed marginals."""
    rng = np.random.default_rng(0)
    x, y = rng.random((96, 2)), rng.random((96, 2))
    M, C1, C2 = (ot.dist(*pair) for pair in ((x, y), (x, x), (y, y)))
    with warnings.catch_warnings():
        warnings.simplefilter("error", fgwot.ConvergenceWarning)
        result = fgwot.solve_gromov(
            C1, C2, M, np.ones(96), np.ones(96), alpha=1 / 3, reg=2 / 3, unbalanced=6.0, tol=1e-6
        )
    assert np.isfinite(result.value)
    assert 90 < result.plan.sum() < 100
