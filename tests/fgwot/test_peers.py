"""Agreement with POT, whose conventions fgwot shares."""

import warnings

import numpy as np
import ot
import pytest
from problems import random_case

import fgwot
from fgwot import reference


def pot_plan(case, loss="square", alpha=None):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # POT warns where its scaling iterations underflow
        return ot.gromov.entropic_fused_gromov_wasserstein(
            *case.arrays,
            loss_fun={"square": "square_loss", "kl": "kl_loss"}[loss],
            epsilon=case.epsilon,
            alpha=case.alpha if alpha is None else alpha,
            max_iter=3000,
            tol=1e-11,
            numItermax=20_000,
            stopThr=1e-12,
        )


@pytest.mark.slow
@pytest.mark.parametrize("loss", ["square", "kl"])
def test_value_agrees_where_pot_converges_to_the_same_basin(loss):
    """40 problems; J is compared where POT's plan is stationary by the reference."""
    compared = 0
    for seed in range(40):
        case = random_case(seed, kind="asymmetric" if loss == "kl" else None, max_points=15, epsilon=(0.03, 0.5))
        theirs = pot_plan(case, loss)
        residual = reference.residual(case.M, case.C1, case.C2, theirs, case.p, case.q, **case.weights, loss=loss)
        ours = fgwot.fused_gromov_wasserstein(*case.tensors(), **case.weights, loss=loss, tol=1e-9)
        if not (residual < 1e-7 and np.abs(theirs - ours.plan.numpy()).max() < 1e-3):
            continue
        compared += 1
        expected = reference.objective(case.M, case.C1, case.C2, theirs, **case.weights, loss=loss)
        np.testing.assert_allclose(ours.value, expected, rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(ours.plan, theirs, atol=1e-6)
    assert compared >= 25


def test_cost_is_what_pot_reports():
    case = random_case(3, kind="euclidean")
    ours = fgwot.fused_gromov_wasserstein(*case.tensors(), **case.weights)
    theirs = ot.gromov.entropic_fused_gromov_wasserstein2(
        *case.arrays, epsilon=case.epsilon, alpha=case.alpha, max_iter=3000, tol=1e-11, stopThr=1e-12
    )
    np.testing.assert_allclose(ours.cost, theirs, rtol=1e-6)


def test_linear_case_agrees_with_pots_sinkhorn():
    case = random_case(4, kind="euclidean", epsilon=(0.1, 0.5))
    ours = fgwot.fused_gromov_wasserstein(*case.tensors(), alpha=0.0, epsilon=case.epsilon)
    theirs = ot.sinkhorn(case.p, case.q, case.M, case.epsilon, method="sinkhorn_log", stopThr=1e-12, numItermax=10**5)
    np.testing.assert_allclose(ours.plan, theirs, atol=1e-8)


@pytest.mark.parametrize("seed", range(3))
def test_proximal_point_reaches_the_value_of_pots_exact_solver(seed):
    """From the same start both find couplings; ours is never worse than POT's Frank-Wolfe vertex by more than 1 %."""
    case = random_case(seed, kind="euclidean", max_points=8)
    exact = ot.gromov.fused_gromov_wasserstein2(*case.arrays, alpha=case.alpha)
    ours = fgwot.fused_gromov_wasserstein(
        *case.tensors(), alpha=case.alpha, epsilon=0.1, solver=fgwot.ProximalPoint(), init=fgwot.MultiInit(8)
    )
    assert ours.value.item() <= exact * 1.01
