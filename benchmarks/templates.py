"""Graph classification with template layers.

Generated data: graphs of the stochastic block model on 15 to 30 nodes with one, two or three communities of about one
size; nodes are joined with probability 0.8 within and 0.1 across, and have their degree over the number of nodes as
feature. The network is a layer of six templates on six points and one linear layer, trained on full batches. Beside
fgwot's layer, with entropy, runs POT's `ot.gnn.TFGWPooling`, without, if torch_geometric is installed: same graphs,
sizes, alpha and optimiser.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from benchmarks.accuracy import Accuracy
from benchmarks.cases import Case
from benchmarks.problems import Array
from fgwot.nn import TemplateLayer

TEMPLATES, POINTS, ALPHA, EPSILON, EPOCHS = 6, 6, 0.5, 0.1, 15


@dataclass(frozen=True)
class Graphs:
    """A batch as torch_geometric holds it, and the number of communities of each graph, from zero."""

    x: Tensor
    edge_index: Tensor
    batch: Tensor
    labels: Tensor


def sampled(count: int, seed: int) -> Graphs:
    """Draw graphs of all classes in turn."""
    rng = np.random.default_rng(seed)
    features, edges, graph, nodes = [], [], [], 0
    for g in range(count):
        n = int(rng.integers(15, 31))
        community = np.arange(n) % (1 + g % 3)
        joined = np.triu(rng.uniform(size=(n, n)) < np.where(community[:, None] == community, 0.8, 0.1), 1)
        adjacency = joined | joined.T
        features.append(adjacency.sum(1) / n)
        edges.append(np.stack(adjacency.nonzero()) + nodes)
        graph.append(np.full(n, g))
        nodes += n
    return Graphs(
        x=torch.tensor(np.concatenate(features), dtype=torch.float32)[:, None],
        edge_index=torch.tensor(np.concatenate(edges, 1)),
        batch=torch.tensor(np.concatenate(graph)),
        labels=torch.arange(count) % 3,
    )


class Network(nn.Module):
    """Distances to templates, brought to mean zero and deviation one over the training graphs, and a linear layer."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer, self.linear = layer, nn.Linear(TEMPLATES, 3)
        self.moments: tuple[Tensor, Tensor] | None = None

    def forward(self, graphs: Graphs) -> Tensor:
        """Logits of each graph."""
        ours = isinstance(self.layer, TemplateLayer)
        distances = self.layer(graphs) if ours else self.layer(graphs.x, graphs.edge_index, graphs.batch)
        if self.training:
            self.moments = distances.mean(0).detach(), distances.std(0).detach()
        assert self.moments is not None
        logits: Tensor = self.linear((distances - self.moments[0]) / self.moments[1])
        return logits


def ours() -> TemplateLayer:
    """Return a new layer of fgwot's."""
    return TemplateLayer(TEMPLATES, POINTS, 1, alpha=ALPHA, epsilon=EPSILON)


def train(graphs: Graphs, epochs: int, seed: int, layer: Callable[[], nn.Module] = ours) -> Network:
    """Train a network with a new layer on all graphs at once."""
    torch.manual_seed(seed)
    network = Network(layer())
    optimiser = torch.optim.Adam(network.parameters(), lr=0.05)
    for _ in range(epochs):
        loss = cross_entropy(network(graphs), graphs.labels)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    with torch.no_grad():
        network(graphs)  # the last step has moved the distances, and their moments with them
    return network.eval()


def accuracy(network: Network, graphs: Graphs) -> float:
    """Part of the graphs whose number of communities is found."""
    with torch.no_grad():
        return float((network(graphs).argmax(1) == graphs.labels).float().mean())


@dataclass(frozen=True)
class Split:
    """Graphs of the training and of the test."""

    training: Graphs
    test: Graphs

    def errors(self, network: Network) -> Array:
        """Parts of both whose number of communities is not found."""
        return np.array([1 - accuracy(network, graphs) for graphs in (self.training, self.test)])


def split(case: Case) -> Split:
    """Draw as many graphs for each as the case has in its batch, the same for all seeds."""
    return Split(sampled(case.batch, seed=0), sampled(case.batch, seed=1))


def measured(errors: Array) -> Accuracy:
    """Both errors in place of residuals, the training's first."""
    return Accuracy(errors[:1], errors[1:], np.zeros(1), rounded=True)
