"""All pairs of sets of spaces, against the same problems one by one."""

import warnings

import numpy as np
import pytest
import torch
from problems import structure

import fgwot

SIZES = (9, 3, 12, 17, 4, 10)
OPTIONS = {"epsilon": 0.1, "tol": 1e-9}


def a_set(seed=0, sizes=SIZES, kind="euclidean", dtype=torch.float64):
    """Structures, features and weights of spaces of several sizes."""
    rng = np.random.default_rng(seed)
    arrays = [(structure(rng, n, kind), rng.uniform(size=(n, 2)), rng.dirichlet(np.full(n, 3.0))) for n in sizes]
    return tuple([torch.from_numpy(a).to(dtype) for a in kind] for kind in zip(*arrays, strict=True))


def one_by_one(first, second, with_features=True, **options):
    """Value and cost of each pair of two sets."""
    found = []
    for C1, x, p in zip(*first, strict=True):
        for C2, y, q in zip(*second, strict=True):
            M = torch.cdist(x, y).square() if with_features else None
            found.append(fgwot.fused_gromov_wasserstein(M, C1, C2, p, q, **options))
    shape = len(first[0]), len(second[0])
    return (torch.stack([getattr(s, name) for s in found]).reshape(shape) for name in ("value", "cost"))


@pytest.mark.parametrize("loss", ["square", "kl"])
@pytest.mark.parametrize("with_features", [True, False])
def test_pairs_of_one_set(loss, with_features):
    spaces = a_set()
    value, cost = one_by_one(spaces, spaces, with_features, loss=loss, **OPTIONS)
    C, x, p = spaces
    found = fgwot.pairwise(C, x if with_features else None, p, loss=loss, **OPTIONS)
    assert bool(found.converged.all())
    if loss == "square":  # each pair is solved once, the larger space first
        assert torch.equal(found.value, found.value.T)
        assert torch.equal(found.cost, found.cost.T)
    np.testing.assert_allclose(found.value, value, rtol=1e-7)
    np.testing.assert_allclose(found.cost, cost, rtol=1e-6)


def test_pairs_between_two_sets():
    first, second = a_set(), a_set(1, (6, 2, 11))
    value, cost = one_by_one(first, second, **OPTIONS)
    found = fgwot.pairwise(*first, others=second, **OPTIONS)
    np.testing.assert_allclose(found.value, value, rtol=1e-7)
    np.testing.assert_allclose(found.cost, cost, rtol=1e-6)


@pytest.mark.parametrize("marginals", [{"rho": 0.5}, {"rho": (float("inf"), 0.3)}, {"mass": 0.4}], ids=str)
def test_prices_and_a_mass_for_spaces_of_any_mass(marginals):
    C, x, p = a_set(sizes=(5, 3, 6))
    p = [w * scale for w, scale in zip(p, (1.0, 0.5, 2.0), strict=True)]
    value, cost = one_by_one((C, x, p), (C, x, p), **OPTIONS, **marginals)
    found = fgwot.pairwise(C, x, p, **OPTIONS, **marginals)
    np.testing.assert_allclose(found.value, value, rtol=1e-6)
    np.testing.assert_allclose(found.cost, cost, rtol=1e-5)
    assert torch.equal(found.value, found.value.T) == (not isinstance(marginals.get("rho"), tuple))


def test_an_asymmetric_structure_keeps_the_square_loss_symmetric():
    spaces = a_set(kind="asymmetric", sizes=(4, 6))
    value, _ = one_by_one(spaces, spaces, **OPTIONS)
    np.testing.assert_allclose(fgwot.pairwise(*spaces, **OPTIONS).value, value, rtol=1e-7)


def test_neither_memory_nor_order_changes_a_value():
    C, x, p = a_set()
    whole = fgwot.pairwise(C, x, p, **OPTIONS)
    one_at_a_time = fgwot.pairwise(C, x, p, memory=1, **OPTIONS)
    assert torch.equal(whole.value, one_at_a_time.value)
    turned = fgwot.pairwise(C[::-1], x[::-1], p[::-1], **OPTIONS)
    np.testing.assert_allclose(whole.value.flip(0, 1), turned.value, rtol=1e-7)


def test_progress_counts_the_problems():
    C, x, p = a_set()
    heard = []
    fgwot.pairwise(C, x, p, memory=1, progress=lambda done, total: heard.append((done, total)), **OPTIONS)
    assert heard == [(k, 21) for k in range(1, 22)]
    heard.clear()
    fgwot.pairwise(C, x, p, (C[:2], x[:2], p[:2]), progress=lambda *counts: heard.append(counts), **OPTIONS)
    assert heard[-1] == (12, 12)


def test_sets_as_tensors_and_in_float32():
    C, x, _ = a_set(sizes=(5, 5, 5), dtype=torch.float32)
    found = fgwot.pairwise(torch.stack(C), torch.stack(x), epsilon=0.1)
    assert found.value.dtype == torch.float32
    np.testing.assert_allclose(found.value, fgwot.pairwise(C, x, epsilon=0.1).value)


def test_more_starts_find_a_smaller_objective():
    spaces = a_set(kind="adjacency", sizes=(5, 6))
    once = fgwot.pairwise(*spaces, epsilon=0.05)
    assert bool((fgwot.pairwise(*spaces, epsilon=0.05, init=fgwot.MultiInit(4)).value <= once.value + 1e-7).all())


def test_one_warning_for_all_pairs_that_did_not_converge():
    C, x, p = a_set()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = fgwot.pairwise(C, x, p, epsilon=0.01, max_iter=2)
    assert [w.category for w in caught] == [fgwot.ConvergenceWarning]
    assert str(caught[0].message).startswith(f"{int((found.status != 0).triu().sum())} of 21 FGW problems")
    assert caught[0].filename == __file__


C, X, P = a_set(sizes=(3, 4))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"structures": []}, ValueError, "structures is empty"),
        ({"structures": C[0][:2]}, ValueError, r"structures\[0\] must be of shape \(n, n\) with n >= 1, got \(3,\)"),
        ({"structures": {0: C[0]}}, TypeError, "structures must be a sequence of tensors, .* got dict"),
        ({"structures": [C[0], C[1].numpy()]}, TypeError, "arrays of one library"),
        ({"structures": [C[0], C[1].long()]}, TypeError, r"structures\[1\] must be floating point, got torch.int64"),
        ({"structures": [C[0], C[1].float()]}, TypeError, "all tensors must have one dtype and device; .*float32"),
        ({"structures": [C[0], C[1][:3]]}, ValueError, r"structures\[1\] must be of shape \(n, n\).*got \(3, 4\)"),
        ({"structures": [C[0], C[1] * torch.nan]}, ValueError, r"structures\[1\] has entries that are not finite"),
        ({"structures": [C[0], -C[1]], "loss": "kl"}, ValueError, r"non-negative structures, structures\[1\] has -"),
        ({"features": X[:1]}, ValueError, "2 structures came with 1 features"),
        ({"features": [X[0], X[0]]}, ValueError, r"features\[1\] must be of shape \(4, d\), got \(3, 2\)"),
        ({"features": [X[0], X[1][:, :1]]}, ValueError, r"different dimensions: features\[0\] 2, features\[1\] 1"),
        ({"weights": [P[0], P[0]]}, ValueError, r"weights\[1\] must be of shape \(4,\), got \(3,\)"),
        ({"weights": [P[0], P[1] - 0.5]}, ValueError, r"weights\[1\] must be non-negative, its smallest is -"),
        ({"weights": [P[0], P[1] * 0]}, ValueError, r"weights\[1\] sums to zero"),
        ({"weights": [P[0], P[1] * 2]}, ValueError, r"equal mass; weights\[0\] has 1, weights\[1\] 2"),
        ({"others": (C, X)}, ValueError, "others must be structures, features and weights.*got 2 values"),
        ({"others": C}, TypeError, "others must be a tuple of structures, features and weights, got list"),
        ({"others": (C, None, None)}, ValueError, "features of one dimension or none, got 2 and None"),
        ({"others": (C, X, [2 * p for p in P])}, ValueError, "both sets must have equal mass, got 1 and 2"),
        ({"others": ([c.float() for c in C], None, None)}, TypeError, "both sets must have one dtype and device"),
        ({"init": torch.ones(3, 3)}, TypeError, "init must be None or a fgwot.MultiInit, got Tensor"),
        ({"loss": "cosine"}, ValueError, "unknown loss 'cosine'"),
        ({"epsilon": 0.0}, ValueError, "epsilon must be positive, got 0"),
    ],
)
def test_bad_input_is_one_clear_error(change, error, message):
    arguments = {"structures": C, "features": X, "weights": P} | change
    with pytest.raises(error, match=message):
        fgwot.pairwise(**arguments)
