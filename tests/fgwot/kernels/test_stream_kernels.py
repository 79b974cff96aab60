"""Passes by Triton's kernels against torch's blocks, on a CUDA device or in Triton's interpreter."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import fgwot
from fgwot import LowRank
from fgwot.backend import backend
from fgwot.streamed import passes
from fgwot.streamed.passes import Kernel, difference, one_pass

pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("poison")]

TOLERANCE = {torch.float64: 1e-12, torch.float32: 2e-5}


def kernel(seed, n, m, rank, dtype, device, *, tau=1.0, bounded=False, spread=3.0):
    """A plan of random factors; one of the rows has almost no mass."""
    rng = np.random.default_rng(seed)
    U, V, b, p = rng.normal(size=(n, rank)), rng.normal(size=(rank, m)), rng.normal(size=m), rng.uniform(0.5, 1, n)
    p[n // 2] = 1e-300 if n > 1 else 1
    most = rng.normal(size=n) if bounded else np.full(n, np.inf)
    parts = (torch.from_numpy(x).to(device) for x in (spread * U, V, spread * b, np.log(p), most))
    *factors, s, most = parts
    return Kernel(*factors, s, tau, most, dtype)


def check(plan, kinds=3, rtol=None):
    """Row normalisers, column sums and products are those of float64, as far as the entries' type allows."""
    rtol = rtol or TOLERANCE[plan.dtype]
    generator = torch.Generator().manual_seed(0)
    Z = torch.rand(len(plan.b), kinds, generator=generator, dtype=torch.float64).to(plan.b.device)
    with backend("torch"):
        wanted = one_pass(Kernel(plan.U, plan.V, plan.b, plan.s, plan.tau, plan.most, torch.float64), Z)
    with backend("triton"):
        found = one_pass(plan, Z)
    for name in ("normaliser", "columns", "products"):
        ours, theirs = getattr(found, name), getattr(wanted, name)
        assert (ours.dtype, ours.shape) == (torch.float64, theirs.shape)
        torch.testing.assert_close(ours, theirs, rtol=rtol, atol=rtol * float(theirs.abs().max()))


@pytest.mark.sample
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize(("n", "m", "rank"), [(1, 1, 1), (3, 1, 4), (1, 3, 2), (70, 130, 4), (64, 64, 5)])
def test_each_dtype_and_shape(device, n, m, rank, dtype):
    check(kernel(0, n, m, rank, dtype, device))


points = st.integers(1, 70)


@settings(max_examples=6)
@given(n=points, m=points, rank=st.integers(0, 5), kinds=st.integers(1, 5), seed=st.integers(0, 99))
def test_any_shape(device, n, m, rank, kinds, seed):
    check(kernel(seed, n, m, rank, torch.float64, device), kinds)


@pytest.mark.parametrize("over", [-1, 0, 1])
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_edges_of_tiles(device, dtype, over):
    check(kernel(1, 64 + over, 128 + over, 3, dtype, device))


def test_more_vectors_than_a_kernel_takes_at_once(device):
    check(kernel(2, 20, 30, 4, torch.float64, device), kinds=35)


@pytest.mark.sample
@pytest.mark.parametrize("asked", [{"tau": 0.3}, {"tau": 0.0}, {"bounded": True}], ids=str)
def test_marginals_that_are_paid_for_or_bounded(device, asked):
    check(kernel(3, 20, 30, 4, torch.float64, device, **asked))


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_exponents_far_apart(device, dtype):
    """Hundreds of powers of two below their row's largest entry, and in columns of which all are."""
    plan = kernel(4, 40, 70, 3, dtype, device, spread=1.0)
    plan.U.mul_(30), plan.b.mul_(30)
    plan.b[5] -= 3000
    check(plan, rtol=1e-10 if dtype == torch.float64 else 1e-3)


@pytest.mark.sample
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_distances_of_plans(device, dtype):
    one, other = kernel(5, 70, 90, 4, dtype, device), kernel(6, 70, 90, 2, dtype, device, tau=0.5)
    exact = (Kernel(k.U, k.V, k.b, k.s, k.tau, k.most, torch.float64) for k in (one, other))
    with backend("torch"):
        wanted = difference(*exact)
    with backend("triton"):
        assert difference(one, other) == pytest.approx(wanted, rel=TOLERANCE[dtype])
        assert difference(one, one) == 0


def test_every_run_has_the_same_bits(device):
    plan, Z = kernel(7, 200, 70, 4, torch.float32, device), torch.ones(70, 1, dtype=torch.float64, device=device)
    with backend("triton"):
        first, again = one_pass(plan, Z), one_pass(plan, Z)
    for name in ("normaliser", "columns", "products"):
        assert torch.equal(getattr(first, name), getattr(again, name))


@pytest.mark.parametrize("asked", [{}, {"mass": 0.7}], ids=["exact", "mass"])
def test_a_whole_solve_and_its_gradient(device, asked):
    rng = np.random.default_rng(0)
    x, y = (torch.from_numpy(rng.uniform(size=(k, 2))).to(device).requires_grad_() for k in (20, 30))
    found = []
    for name in ("torch", "triton"):
        costs = LowRank.squared_distances(x, y), LowRank.squared_distances(x), LowRank.squared_distances(y)
        with backend(name):
            solution = fgwot.fused_gromov_wasserstein(*costs, epsilon=0.5, tol=1e-6, **asked, plan="lazy")
            found.append((solution.plan.to_dense(), *torch.autograd.grad(solution.value, (x, y))))
        assert solution.converged
    for blocked, ours in zip(*found, strict=True):
        torch.testing.assert_close(ours, blocked, rtol=0, atol=1e-6)


def test_blocks_stay_the_default_until_a_card_has_compared_them():
    device = torch.device("cuda")
    assert passes._choose(device, "loops", "kernels", "blocks") == "blocks"
    with backend("triton"):
        assert passes._choose(device, "loops", "kernels", "blocks") == "kernels"
