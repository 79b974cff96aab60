"""Each loss against NumPy sums written from the paper's formulas."""

from itertools import product

import numpy as np
import pytest
import torch

import fgwot
from kmat.methods.losses import (
    anchor_loss,
    distances,
    distillation_loss,
    fgw_cost,
    squared_distances,
    squared_error_of_mean,
    template_loss,
    typical,
)


@pytest.fixture
def w():
    return torch.randn(2, 4, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) / 3


def numpy_fgw(high, low, plan, alpha):
    n = len(high)
    norm = np.linalg.norm
    linear = sum(norm(high[i] - low[j]) ** 2 * plan[i, j] for i, j in product(range(n), repeat=2))
    quadratic = sum(
        (norm(high[i] - high[k]) - norm(low[j] - low[m])) ** 2 * plan[i, j] * plan[k, m]
        for i, j, k, m in product(range(n), repeat=4)
    )
    return (1 - alpha) * linear + alpha * quadratic


def test_distances(w):
    a, b = w[0].numpy(), w[1].numpy()
    expected = [[np.sum((x - y) ** 2) for y in b] for x in a]
    np.testing.assert_allclose(squared_distances(w[0], w[1]), expected, rtol=1e-12)
    np.testing.assert_allclose(distances(w[0]), [[np.linalg.norm(x - y) for y in a] for x in a], rtol=1e-12)


def test_distances_have_finite_gradients_where_rows_coincide(w):
    x = w[0].clone()
    x[1] = x[0]
    x.requires_grad_()
    distances(x).square().sum().backward()
    assert x.grad.isfinite().all()
    assert torch.autograd.gradcheck(distances, w[0].clone().requires_grad_())


def test_anchor(w):
    prototypes = torch.randn(2, 4, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    a, p = w.numpy(), prototypes.numpy()
    expected = sum(np.linalg.norm(a[m, i] - p[m, i]) ** 2 for m in range(2) for i in range(4)) / (2 * 4)
    assert float(anchor_loss(w, prototypes)) == pytest.approx(expected, rel=1e-12)


def test_template(w):
    unit = w / w.norm(dim=-1, keepdim=True)
    a, b = w.numpy()
    cosines = [np.dot(a[i], b[i]) / (np.linalg.norm(a[i]) * np.linalg.norm(b[i])) for i in range(4)]
    expected = 1 - np.mean(cosines)
    assert float(template_loss(*unit)) == pytest.approx(expected, rel=1e-12)


def test_distillation(w):
    student, teacher = (np.exp(logits) / np.exp(logits).sum(1, keepdims=True) for logits in w.numpy())
    expected = sum(teacher[b, c] * np.log(teacher[b, c] / student[b, c]) for b in range(4) for c in range(7)) / (4 * 7)
    assert float(distillation_loss(*w)) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("tau", [1.0, 1.5, 2.0])
def test_typical_is_the_published_selection(tau):
    for seed in range(20):
        scores = np.random.default_rng(seed).normal(25, 2, 50)
        z = (scores - np.median(scores)) / np.median(np.abs(scores - np.median(scores)))
        expected = np.abs((z - z.mean()) / z.std(ddof=1)) <= tau
        np.testing.assert_array_equal(typical(torch.from_numpy(scores), tau), expected)


@pytest.mark.parametrize("scores", [[0.3], [0.3] * 50, [0.0, 1.0], [0.0] * 9 + [1.0]])
def test_typical_never_selects_nothing(scores):
    for dtype in (torch.float32, torch.float64):
        assert typical(torch.tensor(scores, dtype=dtype), 0.5).any()
    assert typical(torch.tensor(scores[:1] * 7), 1.5).all(), "no spread"


def test_fgw_cost_is_the_printed_formula(w):
    criterion = fgwot.FGWLoss(alpha=0.1, epsilon=0.1, returns="cost")
    value = criterion(squared_distances(w[0], w[1]), distances(w[0]), distances(w[1]))
    plan = criterion.plan.numpy()
    assert float(value) == pytest.approx(numpy_fgw(w[0].numpy(), w[1].numpy(), plan, 0.1), rel=1e-9)
    np.testing.assert_allclose(plan.sum(0), 0.25, atol=1e-6)
    np.testing.assert_allclose(plan.sum(1), 0.25, atol=1e-6)


def test_fgw_cost_of_a_given_plan_is_the_printed_formula(w):
    plan = np.random.default_rng(0).random((4, 4))
    for given in (plan / plan.sum(), np.eye(4) / 4):
        value = fgw_cost(torch.from_numpy(given), w[0], w[1], 0.3)
        assert float(value) == pytest.approx(numpy_fgw(w[0].numpy(), w[1].numpy(), given, 0.3), rel=1e-12)


def test_squared_error_of_a_mean(w):
    f = w[0].numpy()
    expected = sum(np.linalg.norm(row - f.mean(0)) ** 2 for row in f) / (4 * 3)
    assert float(squared_error_of_mean(w[0])) == pytest.approx(expected, rel=1e-12)


def test_fgw_gradient_holds_the_plan_fixed(w):
    low = w[1].clone().requires_grad_()
    criterion = fgwot.FGWLoss(alpha=0.1, epsilon=0.1, returns="cost")
    criterion(squared_distances(w[0], low), distances(w[0]), distances(low)).backward()
    plan, step = criterion.plan.numpy(), 1e-6
    for i, d in product(range(4), range(7)):
        up, down = (w[1].numpy().copy() for _ in range(2))
        up[i, d] += step
        down[i, d] -= step
        high = w[0].numpy()
        slope = (numpy_fgw(high, up, plan, 0.1) - numpy_fgw(high, down, plan, 0.1)) / (2 * step)
        assert float(low.grad[i, d]) == pytest.approx(slope, abs=1e-6)
