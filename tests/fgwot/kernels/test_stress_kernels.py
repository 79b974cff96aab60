"""Random problems of any scale, solved by the whole-solve kernel: what it calls converged is."""

import numpy as np
import pytest
import torch
from certificate import stationarity
from problems import STRUCTURES, structure

from fgwot.backend import backend
from fgwot.call import Call
from fgwot.constants import LARGEST_TOLERANCE
from fgwot.kernels.shapes import PACKS
from fgwot.solution import Status
from fgwot.whole.solve import whole_solve

pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("poison")]

ACCURACY = {torch.float64: 1e-6, torch.float32: LARGEST_TOLERANCE}
SYMMETRIC, SKEW = "euclidean", "asymmetric"


def random_batch(rng, n, m, kinds, loss, unit=1.0, mass=1.0):
    """M, C1, C2, p, q for problems of the given pairs of structures, of costs `unit` and masses `mass`."""
    M = rng.uniform(size=(len(kinds), n, m))
    C1, C2 = (np.stack([structure(rng, k, pair[side]) for pair in kinds]) / 3 for side, k in enumerate((n, m)))
    scale = np.broadcast_to(unit, len(kinds))[:, None, None]
    C1, C2 = (C * scale**0.5 if loss == "square" else np.abs(C) * scale for C in (C1, C2))
    p, q = (rng.dirichlet(np.full(k, 2.0), len(kinds)) * np.broadcast_to(mass, len(kinds))[:, None] for k in (n, m))
    return M * scale, C1, C2, p, q


def solve(arrays, dtype, epsilon, loss, max_iter):
    """Solution, and the arrays as `dtype` holds them."""
    tensors = [torch.from_numpy(a).to("cuda" if torch.cuda.is_available() else "cpu", dtype) for a in arrays]
    epsilon = torch.as_tensor(epsilon).to(tensors[0]).expand(len(arrays[0]))
    with backend("triton"):
        found = whole_solve(Call.of(*tensors, 0.5, epsilon, loss, max_iter=max_iter))
    assert found is not None
    return found, [t.double().cpu().numpy() for t in (*tensors, epsilon)]


def check(found, arrays, loss):
    """Every certificate, by float64 code that shares nothing with the kernel."""
    accuracy = ACCURACY[found.plan.dtype]
    for b in range(len(found.plan)):
        M, C1, C2, p, q, epsilon = (a[b] for a in arrays)
        assert found.status[b] != Status.NUMERICAL
        assert found.plan[b].isfinite().all()
        if found.status[b] == Status.CONVERGED:
            claimed = float(found.residual[b] + found.marginal_error[b])
            assert claimed <= LARGEST_TOLERANCE
            plan = found.plan[b].double().cpu().numpy()
            measured = stationarity(M, C1, C2, p, q * (p.sum() / q.sum()), plan, 0.5, float(epsilon), loss)
            assert measured <= max(2 * claimed, accuracy), b


@pytest.mark.parametrize(
    ("n", "m", "loss"),
    [
        pytest.param(5, 4, "square", marks=pytest.mark.sample),
        *((n, m, loss) for n, m in ((8, 8), (2, 9), (17, 3)) for loss in ("square", "kl")),
    ],
)
def test_skew_parts_of_both_of_one_or_of_no_structure_count(n, m, loss):
    kinds = [(SYMMETRIC, SYMMETRIC), (SYMMETRIC, SKEW), (SKEW, SYMMETRIC), (SKEW, SKEW)]
    arrays = random_batch(np.random.default_rng(n), n, m, kinds, loss)
    found, arrays = solve(arrays, torch.float64, 0.2, loss, 1000)
    assert found.converged.all()
    check(found, arrays, loss)


@pytest.mark.parametrize("dtype", PACKS)
@pytest.mark.parametrize(
    ("kind", "concentration", "epsilon", "loss"),
    [
        ("euclidean", 2, 0.01, "square"),
        ("euclidean", 0.3, 0.03, "square"),
        ("asymmetric", 2, 0.03, "square"),
        ("indefinite", 2, 0.05, "square"),
        ("euclidean", 2, 0.05, "kl"),
    ],
)
def test_hard_problems_are_finished(kind, concentration, epsilon, loss, dtype):
    """Small epsilon, marginals of very different masses and of none, directed and indefinite structures."""
    rng = np.random.default_rng(1)
    M, C1, C2, p, q = random_batch(rng, 6, 7, [(kind, kind)] * 2, loss)
    p, q = (rng.dirichlet(np.full(w.shape[1], concentration), len(w)) for w in (p, q))
    p[1, 0] = q[1, -1] = 0
    p, q = (w / w.sum(1, keepdims=True) for w in (p, q))
    found, arrays = solve((M, C1, C2, p, q), dtype, epsilon, loss, 1000)
    assert found.converged.all()
    check(found, arrays, loss)


def random_solve(seed, dtype):
    """Solve a few problems of a size and a loss, and check them."""
    rng = np.random.default_rng(seed)
    size = 4
    n, m = rng.integers(1, 9, 2)
    loss = str(rng.choice(["square", "kl"], p=[0.8, 0.2]))
    kinds = [tuple(rng.choice(STRUCTURES, 2)) for _ in range(size)]
    unit, mass = (10 ** rng.uniform(-6, 6, size) for _ in range(2))
    arrays = random_batch(rng, n, m, kinds, loss, unit, mass)
    epsilon = unit * (1 + mass) / 2 * np.exp(rng.uniform(np.log(0.02), 0, size))
    found, arrays = solve(arrays, dtype, epsilon, loss, 60)
    check(found, arrays, loss)
    return found.converged


@pytest.mark.parametrize("dtype", [pytest.param(torch.float32, marks=pytest.mark.sample), torch.float64], ids=str)
def test_certificates_of_random_problems(dtype):
    assert random_solve(0, dtype).any()


@pytest.mark.parametrize("dtype", PACKS)
@pytest.mark.parametrize("block", range(2))
def test_certificates_of_many_random_problems(dtype, block):
    converged = torch.cat([random_solve(seed, dtype) for seed in range(1 + 4 * block, 5 + 4 * block)])
    assert converged.double().mean() >= 0.5


@pytest.mark.sample
def test_what_rounding_hides_is_not_called_converged():
    """Costs of 1e8 epsilon: the rounding of log T in float32 is larger than any residual."""
    rng = np.random.default_rng(0)
    arrays = random_batch(rng, 4, 4, [("indefinite", "indefinite")] * 4, "square", unit=1e7)
    found, _ = solve(arrays, torch.float32, 0.1, "square", 4)
    assert not found.converged.any()
