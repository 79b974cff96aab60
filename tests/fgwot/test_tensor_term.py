"""The quartic contraction against its four nested sums."""

import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import fgwot
from fgwot import reference
from fgwot.losses import BY_NAME
from fgwot.tensor_term import structure_adjoints

LOSSES = list(BY_NAME)


def random_inputs(seed, n, m, *batch):
    rng = np.random.default_rng(seed)
    # kl needs entries >= 0; the others get them too. T is any matrix, negative entries included.
    shapes = (*batch, n, n), (*batch, m, m)
    C1, C2 = (torch.from_numpy(rng.uniform(0.1, 3, size=shape)) for shape in shapes)
    return C1, C2, torch.from_numpy(rng.normal(size=(*batch, n, m)))


@pytest.mark.parametrize("loss", LOSSES)
@given(seed=st.integers(0, 10**6), n=st.integers(1, 9), m=st.integers(1, 9))
def test_equals_the_four_sums(loss, seed, n, m):
    C1, C2, T = random_inputs(seed, n, m)
    expected = reference.tensor_term(C1.numpy(), C2.numpy(), T.numpy(), loss)
    np.testing.assert_allclose(fgwot.tensor_term(C1, C2, T, loss), expected, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("loss", LOSSES)
def test_broadcasts_leading_dimensions(loss):
    C1, C2, T = random_inputs(0, 4, 3, 2, 5)
    result = fgwot.tensor_term(C1[0, 0], C2[:, :1], T, loss)
    assert result.shape == (2, 5, 4, 3)
    np.testing.assert_allclose(result[1, 3], fgwot.tensor_term(C1[0, 0], C2[1, 0], T[1, 3], loss), rtol=1e-12)


@pytest.mark.parametrize("loss", LOSSES)
def test_gradients_match_central_differences(loss):
    inputs = [t.requires_grad_() for t in random_inputs(1, 4, 3, 2)]
    assert torch.autograd.gradcheck(lambda *args: fgwot.tensor_term(*args, loss), inputs, eps=1e-6, atol=1e-6)


@pytest.mark.parametrize("loss", ["square", "kl"])
def test_factored_losses_differentiate_twice(loss):
    inputs = [t.requires_grad_() for t in random_inputs(2, 3, 2)]
    assert torch.autograd.gradgradcheck(lambda *args: fgwot.tensor_term(*args, loss), inputs, atol=1e-6)


@pytest.mark.parametrize("loss", LOSSES)
def test_structure_adjoints_are_the_gradients_of_the_weighted_sum(loss):
    C1, C2, T = random_inputs(3, 4, 5)
    W = torch.randn(4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    C1.requires_grad_()
    C2.requires_grad_()
    expected = torch.autograd.grad((fgwot.tensor_term(C1, C2, T, loss) * W).sum(), (C1, C2))
    actual = structure_adjoints(C1.detach(), C2.detach(), W, T, BY_NAME[loss])
    for a, e in zip(actual, expected, strict=True):
        np.testing.assert_allclose(a, e, rtol=1e-10, atol=1e-12)


def test_direct_sum_is_the_same_in_any_block_size(monkeypatch):
    C1, C2, T = random_inputs(4, 6, 5, 2)
    whole = fgwot.tensor_term(C1, C2, T, "abs")
    # The package exports the function under the name of its module.
    monkeypatch.setattr(sys.modules["fgwot.tensor_term"], "BLOCK", 100)
    np.testing.assert_allclose(fgwot.tensor_term(C1, C2, T, "abs"), whole, rtol=1e-13)


def test_user_loss_is_used():
    quartic = fgwot.GroundLoss(
        "quartic", lambda a, b: (a - b) ** 4, lambda a, b: 4 * (a - b) ** 3, lambda a, b: -4 * (a - b) ** 3
    )
    C1, C2, T = random_inputs(5, 3, 4)
    expected = np.einsum("ikjl,kl->ij", (C1.numpy()[:, :, None, None] - C2.numpy()[None, None]) ** 4, T.numpy())
    np.testing.assert_allclose(fgwot.tensor_term(C1, C2, T, quartic), expected, rtol=1e-12)


def test_shapes_that_do_not_fit_are_named():
    with pytest.raises(ValueError, match=r"needs C1 \(..., 4, 4\) and C2 \(..., 3, 3\); got \(3, 3\)"):
        fgwot.tensor_term(torch.ones(3, 3), torch.ones(3, 3), torch.ones(4, 3))


def test_unknown_losses_are_refused():
    T = torch.ones(2, 2)
    with pytest.raises(ValueError, match="unknown loss 'cosine'; known: square, kl, abs, huber"):
        fgwot.tensor_term(T, T, T, "cosine")
    with pytest.raises(TypeError, match=r"loss must be a name or a fgwot\.GroundLoss, got int"):
        fgwot.tensor_term(T, T, T, 2)
    with pytest.raises(ValueError, match=r"huber needs delta > 0"):
        fgwot.huber(0.0)
