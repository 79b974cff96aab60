"""What is called converged is stationary, by float64 code that no driver shares; what rounding hides is not."""

import warnings

import numpy as np
import pytest
import torch
from certificate import stationarity
from problems import random_case, structure

import fgwot
from fgwot.constants import LARGEST_TOLERANCE
from fgwot.inner.chord import Chord

DRIVERS = ("torch", "numba")
fgw = fgwot.fused_gromov_wasserstein


def cloud(seed, n, dtype=torch.float64):
    rng = np.random.default_rng(seed)
    x, y = torch.from_numpy(rng.normal(size=(2, n, 3)))
    return [torch.cdist(*pair).to(dtype) for pair in ((x, y), (x, x), (y, y))]


def quietly(*args, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", fgwot.ConvergenceWarning)
        return fgw(*args, **options)


@pytest.mark.parametrize("driver", DRIVERS)
@pytest.mark.parametrize("kinds", [("indefinite", "asymmetric"), ("asymmetric", "euclidean"), ("asymmetric",) * 2])
@pytest.mark.parametrize("loss", ["square", "kl"])
def test_skew_parts_of_one_or_two_structures_count(driver, kinds, loss):
    rng = np.random.default_rng(0)
    for n, m in ((8, 8), (6, 6), (3, 7), (7, 2)):
        M, C1, C2 = (
            rng.uniform(size=(n, m)),
            *(np.abs(structure(rng, *side)) for side in zip((n, m), kinds, strict=True)),
        )
        with fgwot.backend(driver):
            solution = fgw(*map(torch.from_numpy, (M, C1, C2)), epsilon=0.2, loss=loss)
        assert solution.converged
        p, q = np.full(n, 1 / n), np.full(m, 1 / m)
        assert stationarity(M, C1, C2, p, q, solution.plan.numpy(), 0.5, 0.2, loss) <= 1e-6


@pytest.mark.parametrize("driver", DRIVERS)
@pytest.mark.parametrize("mass", [1e-6, 1e3, 1e6])
def test_mass_is_a_weight_of_the_quadratic_part(driver, mass):
    # alpha' = alpha s / (1 - alpha + alpha s) and epsilon' = epsilon / (1 - alpha + alpha s) make mass s mass 1.
    M, C1, C2 = cloud(1, 10)
    p = torch.full((10,), 0.1, dtype=torch.float64)
    scale = 0.5 + 0.5 * mass
    with fgwot.backend(driver):
        one = fgw(M, C1, C2, alpha=0.5 * mass / scale, epsilon=0.05)
        many = fgw(M, C1, C2, mass * p, mass * p, alpha=0.5, epsilon=0.05 * scale)
    assert one.converged
    assert many.converged
    assert many.n_iter == one.n_iter
    torch.testing.assert_close(many.plan / mass, one.plan, atol=1e-9, rtol=0)


@pytest.mark.parametrize("seed", range(5))
def test_large_masses_are_not_numerical(seed):
    M, C1, C2 = cloud(seed, 3 + 7 * (seed % 2))
    for mass in (1e3, 1e4, 1e6):
        p = torch.full((len(M),), mass / len(M), dtype=torch.float64)
        with fgwot.backend("torch"):
            solution = quietly(M, C1, C2, p, p, epsilon=0.05)
        assert solution.status != fgwot.Status.NUMERICAL
        assert solution.plan.isfinite().all()


@pytest.mark.parametrize("driver", DRIVERS)
@pytest.mark.parametrize("unit", [1e-6, 1e6])
def test_the_unit_of_costs_changes_nothing(driver, unit):
    M, C1, C2 = cloud(2, 12)
    with fgwot.backend(driver):
        one = fgw(M, C1, C2, epsilon=0.05)
        other = fgw(unit * M, unit**0.5 * C1, unit**0.5 * C2, epsilon=0.05 * unit)
    assert other.converged
    assert abs(other.n_iter - one.n_iter) <= 1
    torch.testing.assert_close(other.plan, one.plan, atol=1e-7, rtol=0)


@pytest.mark.parametrize("n", [16, 48, 96])
@pytest.mark.parametrize("epsilon", [0.1, 0.03, 0.01])
def test_float32_needs_the_steps_of_float64(n, epsilon):
    with fgwot.backend("torch"):
        double, single = (fgw(*cloud(n, n, dtype), epsilon=epsilon) for dtype in (torch.float64, torch.float32))
    assert double.converged
    assert single.converged
    assert single.n_iter <= 1.5 * double.n_iter


@pytest.mark.parametrize("driver", DRIVERS)
def test_what_rounding_hides_is_stalled(driver):
    rng = np.random.default_rng(3)
    C1, C2 = (1e3 * torch.from_numpy(structure(rng, 6, "indefinite")).float() for _ in range(2))
    with fgwot.backend(driver), pytest.warns(fgwot.ConvergenceWarning, match="rounding"):
        solution = fgwot.gromov_wasserstein(C1, C2, epsilon=0.1)
    assert solution.status == fgwot.Status.STALLED


@pytest.mark.parametrize("driver", DRIVERS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_forbidden_pairs_cost_no_accuracy(driver, dtype):
    M, C1, C2 = cloud(4, 9, dtype)
    M[2, 3:] = M[5, 1] = 1e6
    with fgwot.backend(driver):
        solution = fgw(M, C1, C2, epsilon=0.05)
    assert solution.converged
    assert solution.plan[M == 1e6].max() <= 1e-300
    p = np.full(9, 1 / 9)
    arrays = (t.double().numpy() for t in (M, C1, C2))
    found = stationarity(*arrays, p, p, solution.plan.double().numpy(), 0.5, 0.05)
    assert found <= (1e-6 if dtype == torch.float64 else LARGEST_TOLERANCE)


def can_be_avoided(seed):
    """Whether the first point need not go to the last one: their masses fit beside each other."""
    case = random_case(seed, max_points=8, epsilon=(0.01, 0.1))
    return case.p[0] + case.q[-1] < 0.95


@pytest.mark.parametrize("seed", [seed for seed in range(40) if can_be_avoided(seed)])
def test_float32_objective_does_not_rise_beyond_rounding(seed):
    case = random_case(seed, max_points=8, epsilon=(0.01, 0.1))
    M = case.M.copy()
    M[0, -1] = 1e6
    M, *others = (torch.from_numpy(a).float() for a in (M, *case.arrays[1:]))
    with fgwot.backend("torch"):
        values = [
            quietly(M, *others, **case.weights, max_iter=k, init=torch.outer(*others[2:])).value.item()
            for k in (2, 3, 5, 8, 13, 21, 34)
        ]
    assert np.diff(values).max() <= 2e-5 * max(map(abs, values))


def test_a_nan_makes_no_other_problem_wait(monkeypatch):
    solves, solve = [], Chord.__call__
    monkeypatch.setattr(Chord, "__call__", lambda *args: solves.append(1) or solve(*args))
    M, C1, C2 = (torch.stack([t] * 64) for t in cloud(5, 8))
    M[17, 0, 0] = torch.nan
    with fgwot.backend("torch"):
        solution = quietly(M, C1, C2, epsilon=0.1, validate=False)
    assert solution.status[17] == fgwot.Status.NUMERICAL
    assert solution.converged.sum() == 63
    assert len(solves) <= solution.n_iter[0] + 1


@pytest.mark.parametrize("damping", [-1.0, float("nan"), float("inf")])
@pytest.mark.parametrize("solver", [fgwot.MirrorDescent, fgwot.ProximalPoint])
def test_damping_is_checked(solver, damping):
    with pytest.raises(ValueError, match="damping must be a finite number from 0 on"):
        solver(damping=damping)
