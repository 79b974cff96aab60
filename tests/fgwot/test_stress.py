"""Random problems across drivers, dtypes, scales and options: whatever is called converged is, and nothing breaks.

`FGWOT_STRESS=5000 pytest tests/fgwot/test_stress.py` tries 5,000 problems; the default is a sample of them.
"""

import os
import time
import warnings

import numpy as np
import pytest
import torch
from certificate import moving_stationarity, paid, stationarity
from problems import STRUCTURES, structure

import fgwot
from fgwot import reference
from fgwot.constants import LARGEST_TOLERANCE
from fgwot.losses import BY_NAME

PROBLEMS = int(os.environ.get("FGWOT_STRESS", "150"))
BLOCK = 50
DRIVERS = ("torch", "numba")
DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
SECONDS = float(os.environ.get("FGWOT_STRESS_SECONDS", "30"))  # of a core, for one solve


def scaled(rng):
    """1, or anything from 1e-6 to 1e6."""
    return 10 ** rng.uniform(-6, 6) if rng.uniform() < 0.5 else 1.0


def random_problem(seed, dtype):
    """Random structures of two kinds, a random loss, mass and unit of cost, as float64 arrays that `dtype` represents.

    epsilon is a part, 1e-3 to 1, of the largest entry of the costs at p q'. Half precision, whose range ends at 65504
    and 6e-8, has the units 1.
    """
    rng = np.random.default_rng(seed)
    largest = int(rng.choice([3, 8, 20, 60], p=[0.3, 0.4, 0.25, 0.05]))
    n, m = rng.integers(1, largest + 1, 2)
    loss = str(rng.choice(list(BY_NAME), p=[0.7, 0.1, 0.1, 0.1]))
    if loss not in ("square", "kl"):
        n, m = min(n, 8), min(m, 8)
    kinds = rng.choice(STRUCTURES, 2)  # one symmetric and the other not, too
    M, C1, C2 = rng.uniform(size=(n, m)), structure(rng, n, kinds[0]), structure(rng, m, kinds[1])
    if loss != "square":
        C1, C2 = np.abs(C1), np.abs(C2)
    p, q = rng.dirichlet(np.full(n, 2.0)), rng.dirichlet(np.full(m, 2.0))
    if rng.uniform() < 0.2 and n > 1:
        p[0] = 0  # a point without mass
        p /= p.sum()
    half = dtype in (torch.float16, torch.bfloat16)
    mass, unit = (1.0, 1.0) if half else (scaled(rng), scaled(rng))
    M, C1, C2 = M * unit, *(C * (np.sqrt(unit) if loss == "square" else unit) for C in (C1, C2))
    alpha = float(rng.uniform(0.1, 1)) if rng.uniform() < 0.8 else float(rng.integers(2))
    M, C1, C2, p, q = (torch.from_numpy(a).to(dtype).double().numpy() for a in (M, C1, C2, p * mass, q * mass))
    p, q = (p, q) if not half else (None, None)  # rounded, they would differ in mass
    p_, q_ = (np.full(n, 1 / n), np.full(m, 1 / m)) if p is None else (p, q)
    costs = (1 - alpha) * M + alpha * reference.tensor_term(C1, C2, np.outer(p_, q_) / q_.sum(), loss)
    epsilon = float(np.exp(rng.uniform(np.log(1e-3), 0)) * max(np.abs(costs).max(), unit * 1e-3))
    if rng.uniform() < 0.1 and min(n, m) > 1 and alpha < 1 and not half:
        M[rng.integers(1, n), rng.integers(1, m)] = np.float32(1e6 * unit)  # a pair that is forbidden
    return (M, C1, C2, p, q), alpha, epsilon, loss


def random_options(rng, n, m, dtype):
    solver = fgwot.MirrorDescent() if rng.uniform() < 0.85 else fgwot.ProximalPoint()
    plan = torch.from_numpy(rng.uniform(0.01, 1, size=(n, m))).to(dtype)
    kind = rng.choice(3, p=[0.6, 0.2, 0.2])
    return {"solver": solver, "init": [None, fgwot.MultiInit(3, seed=int(rng.integers(100))), plan][kind]}


def random_marginals(rng, p, q, epsilon):
    """Masses that differ, with prices from epsilon / 100 to 1e4 epsilon, or exact and free ones, or a mass."""
    q = q * 10 ** rng.uniform(-1, 1)
    if rng.uniform() < 0.4:
        return q, {"mass": float(rng.uniform(0.05, 0.999)) * min(p.sum(), q.sum())}
    one, two = (epsilon * 10 ** rng.uniform(-2, 4) for _ in range(2))
    return q, {"rho": [(one, two), (one, np.inf), (np.inf, two), (np.inf, 0.0), (0.0, np.inf)][rng.integers(5)]}


def solved(arrays, dtype, driver, **options):
    M, *others = (None if a is None else torch.from_numpy(a).to(dtype) for a in arrays)
    M.requires_grad_()
    before = time.process_time()
    with fgwot.backend(driver):
        solution = fgwot.fused_gromov_wasserstein(M, *others, **options, max_iter=300)
    solution.value.backward()
    return solution, M.grad, time.process_time() - before


def check(seed, dtype, driver):
    """Solve one problem; return how it ended."""
    arrays, alpha, epsilon, loss = random_problem(seed, dtype)
    n, m = arrays[0].shape
    options = random_options(np.random.default_rng(seed), n, m, dtype)
    rng = np.random.default_rng((seed, 1))
    moving = {}
    if rng.uniform() < 0.4 and arrays[3] is not None:
        q, moving = random_marginals(rng, *arrays[3:], epsilon)
        q = torch.from_numpy(q).to(dtype).double().numpy()
        arrays = (*arrays[:4], q)
        if isinstance(options["init"], torch.Tensor):  # a start has a mass that may be the answer's
            mass = np.sqrt(arrays[3].sum() * q.sum()) * 10 ** rng.uniform(-2, 2)
            options["init"] = options["init"] * (mass / options["init"].sum())
    told = (seed, dtype, driver, loss, options["solver"], type(options["init"]).__name__, moving)
    solution, gradient, seconds = solved(
        arrays, dtype, driver, alpha=alpha, epsilon=epsilon, loss=loss, **options, **moving
    )  # fmt: skip
    assert seconds <= SECONDS, told
    for tensor in (solution.plan, solution.value, solution.cost, *solution.potentials, gradient):
        assert tensor.isfinite().all(), told
    assert solution.status != fgwot.Status.NUMERICAL, told

    M, C1, C2, p, q = arrays
    p, q = (np.full(k, 1 / k) if a is None else a for a, k in ((p, n), (q, m)))
    q = q if moving else q * (p.sum() / q.sum())
    T, entropic = solution.plan.detach().double().numpy(), options["solver"].entropic
    computed = solution.plan.dtype
    if solution.converged:
        claimed = float(solution.residual + solution.marginal_error)
        assert claimed <= LARGEST_TOLERANCE, told
        if entropic:
            if moving:
                f, g = (potential.double().numpy() for potential in solution.potentials)
                found = moving_stationarity(M, C1, C2, p, q, T, f, g, alpha, epsilon, loss, **moving)
                # What was returned of the potentials is rounded, and with them what prices make of them.
                least = [min([epsilon, *([price] if price > 0 else [])]) for price in moving.get("rho", (epsilon,) * 2)]
                sizes = [np.abs(x) @ T.sum(1 - k) / least[k] for k, x in enumerate((f, g))]
                found -= 2 * torch.finfo(computed).eps * sum(sizes) / T.sum()
            else:
                found = stationarity(M, C1, C2, p, q, T, alpha, epsilon, loss)
            # Measured in its own dtype a residual has rounding, of which the tolerance says how much; where marginals
            # move it is in what the plan misses and in what its sums miss.
            assert found <= (2 if moving else 1) * max(
                2 * claimed, 1e-6 if computed == torch.float64 else LARGEST_TOLERANCE
            ), (*told, found)
    if not isinstance(options["init"], torch.Tensor):
        objective = reference.objective if entropic else (lambda *a: reference.energy(*a[:5], *a[6:]))
        prices, sides = moving.get("rho", (0.0, 0.0)), (p, q)

        def worth(T):
            J = objective(M, C1, C2, T, alpha, epsilon, loss)
            return J + sum(paid(T.sum(1 - k), sides[k], prices[k]) for k in range(2))

        # p q', scaled to what must be met.
        mass = moving.get("mass", np.sqrt(p.sum() * q.sum()))
        mass = p.sum() if prices[0] == np.inf else q.sum() if prices[1] == np.inf else mass
        first, last = worth(np.outer(p, q) * mass / (p.sum() * q.sum())), worth(T)
        # A plan that misses its marginals is that of another problem: the potentials say what that is worth.
        f, g = (potential.double().numpy() for potential in solution.potentials)
        if "mass" in moving:
            last -= g.max() * (T.sum() - moving["mass"])
        else:
            last -= sum(
                x @ (T.sum(1 - k) - side)
                for k, (x, side) in enumerate(zip((f, g), sides, strict=True))
                if not moving or prices[k] == np.inf
            )
        size = 1 + reference.gradient(M, C1, C2, T, alpha, loss).ravel() @ T.ravel() / T.sum() / epsilon
        size = abs(size) * epsilon + sum(price for price in prices if price != np.inf)
        rounding = torch.finfo(computed).eps * 100 * size * max(T.sum(), p.sum(), q.sum())
        assert last <= first + rounding + 1e-6 * abs(first), (*told, first, last)
    return fgwot.Status(int(solution.status)), int(solution.n_iter)


@pytest.mark.slow
@pytest.mark.parametrize("block", range(PROBLEMS // BLOCK))
def test_random_problems_across_drivers_dtypes_and_options(block):
    statuses = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", fgwot.ConvergenceWarning)
        for seed in range(block * BLOCK, (block + 1) * BLOCK):
            rng = np.random.default_rng(seed)
            dtype = DTYPES[rng.choice(len(DTYPES), p=[0.45, 0.45, 0.05, 0.05])]
            statuses.append(check(seed, dtype, DRIVERS[seed % len(DRIVERS)])[0])
    assert statuses.count(fgwot.Status.CONVERGED) >= 0.8 * BLOCK  # the proximal method may need more steps than it has
