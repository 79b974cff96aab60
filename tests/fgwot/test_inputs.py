"""Bad input raises one clear error; the loss module and the distribution behave."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from problems import random_case

import fgwot

fgw = fgwot.fused_gromov_wasserstein
unbalanced = fgwot.fused_gromov_wasserstein
M, C1, C2 = torch.ones(3, 4), torch.ones(3, 3), torch.ones(4, 4)
THIRD, QUARTER = torch.full((3,), 1 / 3), torch.full((4,), 1 / 4)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"C1": [[1.0] * 3] * 3}, TypeError, "C1 must be a torch.Tensor, or an array of .*, got list; convert it with"),
        ({"C1": torch.ones(3, 3, dtype=torch.int64)}, TypeError, "C1 must be floating point, got torch.int64"),
        ({"M": M.double()}, TypeError, "all tensors must have one dtype"),
        ({"M": M.to("meta")}, ValueError, "all tensors must be on one device"),
        ({"C1": torch.ones(3, 2)}, ValueError, r"C1 must be square, of shape \(..., n, n\) with n >= 1; got \(3, 2\)"),
        ({"C2": torch.ones(4)}, ValueError, r"C2 must be square.*got \(4,\)"),
        ({"M": M.T}, ValueError, r"M must have shape \(..., 3, 4\) to match C1 \(3 points\) and C2 \(4 points\)"),
        ({"p": QUARTER}, ValueError, r"p must have shape \(..., 3\).*got \(4,\)"),
        ({"q": THIRD}, ValueError, r"q must have shape \(..., 4\).*got \(3,\)"),
        ({"M": M.expand(2, 3, 4), "C1": C1.expand(3, 3, 3)}, ValueError, "leading .batch. shapes do not broadcast"),
        ({"M": torch.full((3, 4), torch.nan)}, ValueError, "M has 12 entries that are not finite"),
        ({"C2": torch.full((4, 4), torch.inf)}, ValueError, "C2 has 16 entries that are not finite"),
        ({"p": torch.tensor([1.5, -0.5, 0.0])}, ValueError, "p must be non-negative, got values from -0.5 to 1.5"),
        ({"p": torch.zeros(3)}, ValueError, "p must have positive mass"),
        ({"p": THIRD * 2, "q": QUARTER}, ValueError, "p and q must have equal mass; problem 0 has 2 and 1. Rescale"),
        ({"alpha": 1.5}, ValueError, r"alpha must lie in \[0, 1\], got 1.5"),
        ({"alpha": torch.tensor([0.5, -1.0])}, ValueError, r"alpha must lie in \[0, 1\], got values from -1 to 0.5"),
        ({"alpha": float("nan")}, ValueError, "alpha has 1 entries that are not finite"),
        ({"epsilon": 0.0}, ValueError, "epsilon must be positive, got 0; .*ProximalPoint"),
        ({"M": None, "alpha": 0.5}, ValueError, "without M the problem is purely quadratic and alpha must be 1"),
        ({"loss": "cosine"}, ValueError, "unknown loss 'cosine'; known: square, kl, abs, huber"),
        ({"loss": "kl", "C1": -C1}, ValueError, "the kl loss needs non-negative structure, C1 has -1"),
        ({"solver": "PGD"}, TypeError, "solver must be a fgwot.MirrorDescent or fgwot.ProximalPoint, got str"),
        ({"adjoint": "exact"}, ValueError, "unknown adjoint 'exact'; known: envelope, implicit, unrolled"),
        ({"adjoint": 3}, TypeError, "adjoint must be a name or an fgwot adjoint, got int"),
        ({"adjoint": "implicit", "solver": fgwot.ProximalPoint()}, ValueError, "no smooth plan to differentiate"),
        ({"max_iter": 0}, ValueError, "max_iter must be at least 1, got 0"),
        ({"tol": 0.0}, ValueError, "tol must be positive, got 0.0"),
        ({"init": torch.ones(2, 2)}, ValueError, r"init must be a plan of shape \(..., 3, 4\), got \(2, 2\)"),
        ({"init": torch.ones(3, 4).double()}, ValueError, "init must have dtype torch.float32"),
        ({"init": -torch.ones(3, 4)}, ValueError, "init must be a plan with finite, non-negative entries"),
        (
            {"init": torch.ones(2, 3, 4)},
            ValueError,
            r"init of shape \(2, 3, 4\) does not broadcast to batch shape \(\)",
        ),
        ({"init": "pq"}, TypeError, "init must be None, a plan, a Solution or a MultiInit, got str"),
    ],
)
@pytest.mark.parametrize("backend", ["torch", "auto"])
def test_bad_input_is_explained(change, error, message, backend):
    arguments = {"M": M, "C1": C1, "C2": C2} | change
    with fgwot.backend(backend), pytest.raises(error, match=message):
        fgw(**arguments)


def test_multi_init_needs_a_start():
    with pytest.raises(ValueError, match="MultiInit needs k >= 1, got 0"):
        fgwot.MultiInit(0)


def test_missing_marginals_are_uniform_with_the_mass_of_the_other():
    solution = fgw(M, C1, C2, p=2 * THIRD)
    assert solution.plan.sum(0).tolist() == pytest.approx([0.5] * 4)
    assert fgw(M, C1, C2, q=QUARTER).plan.sum(1).tolist() == pytest.approx([1 / 3] * 3)


def test_gromov_wasserstein_is_the_problem_without_linear_cost():
    case = random_case(0, kind="euclidean")
    M, C1, C2, p, q = case.tensors()
    pure = fgwot.gromov_wasserstein(C1, C2, p, q, epsilon=case.epsilon)
    fused = fgw(M, C1, C2, p, q, alpha=1.0, epsilon=case.epsilon)
    np.testing.assert_allclose(pure.plan, fused.plan, atol=1e-9)
    np.testing.assert_allclose(pure.value, fused.value)
    assert pure.value_linear == 0


def test_loss_module_returns_value_or_cost_and_warm_starts():
    case = random_case(1, kind="euclidean")
    M, C1, C2, p, q = case.tensors()
    expected = fgw(M, C1, C2, p, q, alpha=0.3, epsilon=0.1)
    for returns in ("value", "cost"):
        criterion = fgwot.FGWLoss(0.3, 0.1, returns=returns)
        assert criterion.plan is None
        np.testing.assert_allclose(criterion(M, C1, C2, p, q), getattr(expected, returns), rtol=1e-6)
        cold = criterion.solution.n_iter.item()
        criterion((M + 1e-4).requires_grad_(), C1, C2, p, q).backward()
        assert criterion.solution.n_iter.item() < cold
        assert not criterion.plan.requires_grad
        criterion(M[:, :1], C1, C2[:1, :1], p)  # another shape starts afresh
    with pytest.raises(ValueError, match="returns must be 'value' or 'cost', got 'plan'"):
        fgwot.FGWLoss(returns="plan")


def test_loss_module_starts_afresh_when_the_batch_has_another_size():
    """The last batch of an epoch is often smaller; its plans cannot start from those of the batch before."""
    case = random_case(2, kind="euclidean")
    M, C1, C2, p, q = case.tensors()
    criterion = fgwot.FGWLoss(0.3, 0.1)
    full, rest = torch.stack([M, 2 * M, 3 * M]), torch.stack([M, 3 * M])
    criterion(full, C1, C2, p, q)
    expected = fgw(rest, C1, C2, p, q, alpha=0.3, epsilon=0.1).value
    np.testing.assert_allclose(criterion(rest, C1, C2, p, q), expected, rtol=1e-7)
    np.testing.assert_allclose(criterion(M, C1, C2, p, q), expected[0], rtol=1e-7)
    assert criterion.plan.shape == M.shape
    with pytest.raises(ValueError, match="leading .batch. shapes do not broadcast"):
        criterion(full, C1.expand(2, *C1.shape), C2, p, q)


def test_loss_module_goes_on_from_a_checkpoint_as_if_it_had_never_stopped():
    """Same bits: the plan and its potentials are all that a next call takes up."""
    rng = torch.Generator().manual_seed(0)
    M, x, y = (torch.rand(shape, generator=rng, dtype=torch.float64) for shape in ((3, 5), (3, 2), (5, 2)))
    C1, C2 = torch.cdist(x, x), torch.cdist(y, y)
    criterion = fgwot.FGWLoss(0.3, 0.1)
    assert criterion.start_dict() == {}
    assert not criterion.state_dict(), "keys that come and go with calls would break load_state_dict"
    criterion(M, C1, C2)
    kept = {name: tensor.clone() for name, tensor in criterion.start_dict().items()}
    assert {name: tuple(tensor.shape) for name, tensor in kept.items()} == {"plan": (3, 5), "f": (3,), "g": (5,)}
    resumed = fgwot.FGWLoss(0.3, 0.1)
    resumed.load_start(kept)
    assert resumed(M + 0.01, C1, C2).equal(criterion(M + 0.01, C1, C2))
    assert resumed.plan.equal(criterion.plan)
    resumed.load_start({})
    assert resumed.start is None
    with pytest.raises(ValueError, match="expected tensors plan, f and g, or none, got plan"):
        resumed.load_start({"plan": kept["plan"]})
    with pytest.raises(ValueError, match=r"got \(3, 5\), \(5,\) and \(3,\)"):
        resumed.load_start({"plan": kept["plan"], "f": kept["g"], "g": kept["f"]})


def test_loss_module_without_a_linear_cost_is_gromov_wasserstein():
    case = random_case(3, kind="euclidean")
    _, C1, C2, p, q = case.tensors()
    expected = fgwot.gromov_wasserstein(C1, C2, p, q, epsilon=0.1).value
    np.testing.assert_allclose(fgwot.FGWLoss(epsilon=0.1)(None, C1, C2, p, q), expected)


def low_rank(M, C1, C2, **options):
    return fgw(M, *(fgwot.LowRank(C[..., :2], C[..., 2:4]) for C in (C1, C2)), **options)


AUTOCAST = {
    "envelope": lambda *t: fgw(*t, epsilon=0.3).value,
    "abs": lambda *t: fgw(*t, epsilon=0.3, loss="abs").value,
    "implicit plan": lambda *t: fgw(*t, epsilon=0.3, adjoint=fgwot.Implicit(1e-5)).plan.square(),
    "implicit cost": lambda *t: fgw(*t, epsilon=0.3, adjoint=fgwot.Implicit(1e-5)).cost,
    "low rank": lambda *t: low_rank(*t, epsilon=0.3).value,
    "unbalanced": lambda *t: unbalanced(*t, rho=1.0, epsilon=0.3).value,
    "unbalanced plan": lambda *t: unbalanced(*t, rho=1.0, epsilon=0.3).plan + 0 * t[0],
    "term": lambda M, C1, C2: fgwot.tensor_term(C1, C2, M),
    "term of abs": lambda M, C1, C2: fgwot.tensor_term(C1, C2, M, "abs"),
}


@pytest.mark.parametrize("backend", ["torch", "auto"])
@pytest.mark.parametrize("name", AUTOCAST)
def test_autocast_changes_nothing(name, backend):
    rng = np.random.default_rng(0)
    found = []
    for enabled in (False, True):
        rng = np.random.default_rng(0)
        leaves = [torch.from_numpy(rng.uniform(size=(2, *s))).requires_grad_() for s in ((6, 5), (6, 6), (5, 5))]
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled), fgwot.backend(backend):
            result = AUTOCAST[name](*(t.float() for t in leaves))
            gradients = torch.autograd.grad(result.sum(), leaves, materialize_grads=True)
        found.append((result.detach(), *gradients))
    for plain, mixed in zip(*found, strict=True):
        torch.testing.assert_close(mixed, plain, rtol=0, atol=0)


@pytest.mark.parametrize("backend", ["torch", "auto"])
def test_values_that_half_precision_cannot_hold_are_returned(backend):
    generator = torch.Generator().manual_seed(0)
    C1, C2 = ((torch.rand(3, 3, generator=generator) * scale).half() for scale in (300, 1000))
    # float32, in which it is computed, does not resolve this epsilon: that is said, and its values are returned.
    with fgwot.backend(backend), pytest.warns(fgwot.ConvergenceWarning, match="rounding"):
        found = fgwot.gromov_wasserstein(C1, C2, epsilon=torch.tensor(5.0).half())
    with fgwot.backend(backend), pytest.warns(fgwot.ConvergenceWarning, match="rounding"):
        wanted = fgwot.gromov_wasserstein(C1.float(), C2.float(), epsilon=5.0)
    assert found.status == fgwot.Status.STALLED
    assert found.value > torch.finfo(torch.float16).max
    assert torch.equal(found.value, wanted.value)
    assert torch.equal(found.plan, wanted.plan)
    assert all(map(torch.equal, found.potentials, wanted.potentials))


def test_plans_whose_entries_half_precision_cannot_hold_keep_their_mass():
    C = torch.zeros(400, 400, dtype=torch.float16)
    plan = fgwot.gromov_wasserstein(C, C, p=torch.full((400,), 2.0**-14).half(), epsilon=1.0).plan
    assert plan.sum().item() == pytest.approx(400 * 2.0**-14, rel=1e-5)


def test_importing_fgwot_needs_torch_alone():
    """fgwot must not import kmat, nor anything its distribution does not depend on."""
    code = "import sys, fgwot; print(*sorted({m.split('.')[0] for m in sys.modules}))"
    modules = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "torch" in modules
    assert not {"kmat", "triton", "numba", "open_clip", "transformers", "ot", "scipy", "sklearn", "matplotlib"} & set(
        modules
    )
