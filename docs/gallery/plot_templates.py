"""
Telling graphs apart by learned templates
=========================================

A layer of FGW distances to templates turns graphs of any size into vectors. Templates are small graphs that are learned with the
rest of the network. The graphs here are generated, with one, two or three communities.
"""

# %%
import matplotlib.pyplot as plt
import torch

import fgwot
from fgwot import plot
from fgwot.nn import TemplateLayer

generator = torch.Generator().manual_seed(0)


def community_graph(communities, n):
    group = torch.arange(n) * communities // n
    likely = torch.where(group[:, None] == group, 0.8, 0.06)
    edges = torch.rand(n, n, generator=generator).triu(1) < likely.triu(1)
    return (edges | edges.T).double()


def padded(graphs, size=20):
    """Shortest paths, degrees as features, and weights; points of zero mass fill up."""
    C, X, p = torch.zeros(len(graphs), size, size), torch.zeros(len(graphs), size, 1), torch.zeros(len(graphs), size)
    for k, A in enumerate(graphs):
        n = len(A)
        C[k, :n, :n] = fgwot.geodesic(A.to_sparse(), unreachable=6.0) / 3
        X[k, :n, 0] = A.sum(1) / n
        p[k, :n] = 1 / n
    return C, X, p


labels = torch.arange(48) % 3
graphs = [community_graph(int(label) + 1, 14 + k % 7) for k, label in enumerate(labels)]
train, test = padded(graphs[:30]), padded(graphs[30:])

# %%
# Full batches of 30 graphs and four templates are 120 problems, solved and differentiated at once.
layer = TemplateLayer(templates=4, points=6, features=1, epsilon=0.1, seed=0)
network = torch.nn.Linear(4, 3)
optimiser = torch.optim.Adam([*layer.parameters(), *network.parameters()], lr=0.1)
losses = []
for _ in range(40):
    loss = torch.nn.functional.cross_entropy(network(layer(*train)), labels[:30])
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()
    losses.append(loss.item())
with torch.no_grad():
    right = network(layer(*test)).argmax(1) == labels[30:]
print(
    f"loss {losses[0]:.2f} -> {losses[-1]:.2f}; {right.double().mean():.0%} of 18 graphs not seen in training are right"
)

# %%
figure, (left, centre) = plt.subplots(1, 2, figsize=(9, 3.4))
left.plot(losses, color=plot.FIRST)
left.set(xlabel="step", ylabel="cross-entropy", ylim=(0, None))
with torch.no_grad():
    distances = layer(*test)
for c, colour in enumerate((plot.FIRST, plot.SECOND, plot.LINES)):
    at = labels[30:] == c
    centre.scatter(distances[at, 0], distances[at, 1], color=colour, label=("one community", "two", "three")[c])
centre.set(xlabel="distance to template 1", ylabel="distance to template 2")
centre.legend(frameon=False)
figure.tight_layout()
