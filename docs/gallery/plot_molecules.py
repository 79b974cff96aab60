"""
A batch of small graphs
=======================

Graphs of different sizes go into one batch: smaller ones are filled up with nodes of no mass, which change nothing. Here
all pairs of 24 molecule-like graphs (generated: rings, chains and stars with two kinds of atoms) are compared in one call.
"""

# %%
import matplotlib.pyplot as plt
import networkx as nx
import numpy as np
import torch

import fgwot
from fgwot import plot

generator = torch.Generator().manual_seed(2)
kinds = {"ring": nx.cycle_graph, "chain": nx.path_graph, "star": lambda n: nx.star_graph(n - 1)}
graphs = [make(6 + k % 5) for make in kinds.values() for k in range(8)]
largest = max(map(len, graphs))


def padded(graph):
    """Structure, atoms and masses, filled up to the largest graph."""
    n = len(graph)
    C, atoms, p = torch.zeros(largest, largest), torch.zeros(largest), torch.zeros(largest)
    C[:n, :n] = torch.as_tensor(nx.floyd_warshall_numpy(graph)) / n
    atoms[:n] = (torch.rand(n, generator=generator) < 0.2).float()
    p[:n] = 1 / n
    return C, atoms, p


C, atoms, p = (torch.stack(t) for t in zip(*map(padded, graphs), strict=True))

# %%
# Every pair once: 300 problems, each of which stops on its own.
i, j = torch.triu_indices(len(graphs), len(graphs))
M = (atoms[i][:, :, None] - atoms[j][:, None, :]).abs()
solution = fgwot.fused_gromov_wasserstein(M, C[i], C[j], p[i], p[j], alpha=0.8, epsilon=0.01)
print(solution)
distances = torch.zeros(len(graphs), len(graphs))
distances[i, j] = distances[j, i] = solution.cost
distances = distances - (distances.diagonal()[:, None] + distances.diagonal()) / 2  # what a graph costs against itself

# %%
figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4))
image = left.imshow(distances.clamp_min(0).sqrt(), cmap="viridis")
figure.colorbar(image, ax=left, label="distance")
left.set_xticks([4, 12, 20], kinds)
left.set_yticks([4, 12, 20], kinds)
at = int(((i == 11) & (j == 14)).nonzero()[0, 0])
n1, n2 = len(graphs[11]), len(graphs[14])
places = [torch.as_tensor(np.array(list(nx.kamada_kawai_layout(graphs[k]).values()))) for k in (11, 14)]
edges = [torch.as_tensor(nx.to_numpy_array(graphs[k])) for k in (11, 14)]
plot.matching(solution.plan[at, :n1, :n2], *places, edges1=edges[0], edges2=edges[1], ax=right)
right.set_title("two chains")
figure.tight_layout()
