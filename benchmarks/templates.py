"""Graph classification with template layers: ``python -m benchmarks.templates``.

Generated data: graphs of the stochastic block model on 15 to 30 nodes with one, two or three communities of about one
size; nodes are joined with probability 0.8 within and 0.1 across, and have their degree over the number of nodes as
feature. The network is a layer of six templates on six points and one linear layer. Beside fgwot's layer, with entropy,
runs POT's `ot.gnn.TFGWPooling`, without, if torch_geometric is installed: same graphs, sizes, alpha and optimiser, full
batches. Time is that of an epoch: forward, backward and step; the median of all epochs but the first.
"""

import argparse
import statistics
import time
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from fgwot.nn import TemplateLayer

if TYPE_CHECKING:
    from collections.abc import Callable

TEMPLATES, POINTS, ALPHA, EPSILON = 6, 6, 0.5, 0.1


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
        self.seconds = float("nan")

    def forward(self, graphs: Graphs) -> Tensor:
        """Logits of each graph."""
        ours = isinstance(self.layer, TemplateLayer)
        distances = self.layer(graphs) if ours else self.layer(graphs.x, graphs.edge_index, graphs.batch)
        if self.training:
            self.moments = distances.mean(0).detach(), distances.std(0).detach()
        assert self.moments is not None
        logits: Tensor = self.linear((distances - self.moments[0]) / self.moments[1])
        return logits


def train(graphs: Graphs, epochs: int, seed: int, layer: nn.Module | None = None) -> Network:
    """Train a network on all graphs at once, and keep the median time of an epoch as its `seconds`."""
    torch.manual_seed(seed)
    layer = TemplateLayer(TEMPLATES, POINTS, 1, alpha=ALPHA, epsilon=EPSILON) if layer is None else layer
    network = Network(layer)
    optimiser = torch.optim.Adam(network.parameters(), lr=0.05)
    times = []
    for _ in range(epochs):
        start = time.perf_counter()
        loss = cross_entropy(network(graphs), graphs.labels)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        times.append(time.perf_counter() - start)
    network.seconds = statistics.median(times[1:] or times)
    with torch.no_grad():
        network(graphs)  # the last step has moved the distances, and their moments with them
    return network.eval()


def accuracy(network: Network, graphs: Graphs) -> float:
    """Part of the graphs whose number of communities is found."""
    with torch.no_grad():
        return float((network(graphs).argmax(1) == graphs.labels).float().mean())


def main() -> None:
    """Print a table in Markdown."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.templates", description="graph classification")
    parser.add_argument("--graphs", type=int, default=60, help="of training, and of the test (default %(default)s)")
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    graphs, test = sampled(options.graphs, seed=0), sampled(options.graphs, seed=1)
    layers: dict[str, Callable[[], nn.Module | None]] = {"fgwot.nn.TemplateLayer": lambda: None}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import torch_geometric  # noqa: F401
            from ot.gnn import TFGWPooling
    except ImportError:
        print("torch_geometric is not installed: POT's layer is left out\n")
    else:
        layers["ot.gnn.TFGWPooling"] = lambda: TFGWPooling(1, TEMPLATES, POINTS, alpha=ALPHA)
    print("| layer | seed | accuracy, training | accuracy, test | time of an epoch |\n|" + " --- |" * 5)
    for seed in range(options.seeds):
        for name, layer in layers.items():
            torch.manual_seed(seed)
            network = train(graphs, options.epochs, seed, layer())
            scores = f"{accuracy(network, graphs):.2f} | {accuracy(network, test):.2f}"
            print(f"| {name} | {seed} | {scores} | {network.seconds:.3f} s |", flush=True)


if __name__ == "__main__":
    main()
