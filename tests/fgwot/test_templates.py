"""The template layer: its values, derivatives and input, and a network that it trains."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from problems import structure

import fgwot
from fgwot.nn import TemplateLayer, dense


def graphs(seed, sizes=(5, 3, 6)):
    """A batch of random graphs as torch_geometric holds it, in float64, and their adjacency matrices."""
    rng = np.random.default_rng(seed)
    matrices = [torch.from_numpy(structure(rng, n, "adjacency")) for n in sizes]
    offsets = np.cumsum([0, *sizes])
    edges = torch.cat([A.nonzero().T + int(at) for A, at in zip(matrices, offsets, strict=False)], 1)
    x = torch.from_numpy(rng.uniform(size=(sum(sizes), 2)))
    batch = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
    return SimpleNamespace(x=x, edge_index=edges, batch=batch), matrices


def layer(**options):
    return TemplateLayer(templates=2, points=4, features=2, epsilon=0.2, seed=0, tol=1e-10, **options).double()


def test_outputs_are_the_entropic_distances_of_each_graph_to_each_template():
    batch, matrices = graphs(0)
    found, templates = layer(alpha=0.3), layer().state_dict()
    values = found(batch).detach()
    assert bool((values >= 0).all())
    for g, A in enumerate(matrices):
        x = batch.x[batch.batch == g]
        for k in range(2):
            C = (templates["structures"][k] + templates["structures"][k].T) / 2
            M = torch.cdist(x, templates["features"][k]).square()
            one = fgwot.fused_gromov_wasserstein(M, A, C, alpha=0.3, epsilon=0.2, tol=1e-10)
            product = one.plan.sum(1, keepdim=True) * one.plan.sum(0)
            expected = one.cost + 0.2 * (one.plan * (one.plan / product).log()).sum()
            torch.testing.assert_close(values[g, k], expected, rtol=1e-7, atol=0)


def test_one_graph_and_dense_input_are_the_same():
    batch, _ = graphs(1)
    found = layer()
    torch.testing.assert_close(found(batch), found(*dense(batch)))
    alone, _ = graphs(2, sizes=(5,))
    with_batch = found(alone)
    alone.batch = None
    torch.testing.assert_close(found(alone), with_batch)


def test_edges_that_are_given_twice_count_once():
    batch, _ = graphs(1)
    once = dense(batch)
    batch.edge_index = torch.cat([batch.edge_index, batch.edge_index], 1)
    for one, two in zip(once, dense(batch), strict=True):
        assert torch.equal(one, two)


def test_gradients_in_all_parameters_and_inputs():
    batch, _ = graphs(3, sizes=(4, 3))
    C, X, p = dense(batch)
    module = layer(alpha=0.4, learn_alpha=True)
    parameters = dict(module.named_parameters())
    weights = torch.tensor([[0.7, -0.2], [0.4, 1.0]], dtype=torch.float64)

    def value(tensors):
        own = {name: tensors[name] for name in parameters}
        return (weights * torch.func.functional_call(module, own, (tensors["C"], tensors["X"], p))).sum()

    tensors = {name: t.detach().clone().requires_grad_() for name, t in (parameters | {"C": C, "X": X}).items()}
    gradients = dict(zip(tensors, torch.autograd.grad(value(tensors), list(tensors.values())), strict=True))
    assert set(parameters) == {"structures", "features", "logits", "alpha_logit"}
    rng, step = np.random.default_rng(0), 1e-5
    for name, t in tensors.items():
        direction = torch.from_numpy(np.asarray(rng.normal(size=tuple(t.shape))))
        with torch.no_grad():
            up, down = (value(tensors | {name: t + sign * step * direction}) for sign in (1, -1))
        expected, actual = float(up - down) / (2 * step), float((gradients[name] * direction).sum())
        assert abs(actual - expected) <= 1e-6 * max(1.0, abs(expected)), name


def test_what_is_not_learned_has_no_gradient():
    fixed = TemplateLayer(templates=2, points=3, features=1, learn_weights=False)
    assert {name for name, p in fixed.named_parameters() if p.requires_grad} == {"structures", "features"}
    assert fixed.alpha == 0.5


def test_a_network_with_the_layer_learns_the_number_of_communities():
    """Generated graphs of the stochastic block model with one, two or three communities."""
    from benchmarks.templates import accuracy, sampled, train

    trained = train(sampled(45, seed=0), epochs=15, seed=0)
    assert accuracy(trained, sampled(45, seed=1)) >= 0.9


GOOD, _ = graphs(0, sizes=(2, 3))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": torch.ones(5)}, r"x must be of shape \(nodes, d\), .* got \(5,\)"),
        ({"batch": torch.zeros(3, dtype=torch.int64)}, r"batch \(nodes,\) and edge_index \(2, edges\), got .*\(3,\)"),
        ({"edge_index": torch.zeros(3, 2, dtype=torch.int64)}, r"got .*\(3, 2\)"),
        ({"edge_index": torch.tensor([[0], [5]])}, "edge_index must name nodes from 0 to 4"),
        ({"edge_index": torch.tensor([[0], [4]])}, "edge_index joins nodes of different graphs"),
        ({"batch": torch.tensor([0, 1, 0, 1, 1])}, "batch must be ascending and leave no graph without nodes"),
        ({"batch": torch.tensor([0, 0, 2, 2, 2])}, "batch must be ascending and leave no graph without nodes"),
    ],
)
def test_bad_batches_of_graphs(change, message):
    with pytest.raises(ValueError, match=message):
        layer()(SimpleNamespace(**(vars(GOOD) | change)))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((GOOD, torch.ones(2, 3, 2)), "a batch of graphs has features of its own, and uniform weights"),
        ((torch.ones(2, 3, 3),), r"dense structures need features \(G, n, d\)"),
        ((torch.ones(2, 3, 3), torch.ones(2, 3, 5)), r"features \(G, n, 2\), got \(2, 3, 3\) and \(2, 3, 5\)"),
        ((torch.ones(3, 3), torch.ones(3, 2)), r"got \(3, 3\) and \(3, 2\)"),
    ],
)
def test_bad_dense_input(arguments, message):
    with pytest.raises(ValueError, match=message):
        layer()(*arguments)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"templates": 0}, "templates, points and features must be at least 1, got 0, 3 and 1"),
        ({"alpha": 1.5}, r"alpha must lie in \[0, 1\], got 1.5"),
        ({"alpha": 1.0, "learn_alpha": True}, r"alpha must lie in \(0, 1\) to be learned, got 1.0"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        TemplateLayer(**({"templates": 2, "points": 3, "features": 1} | options))
