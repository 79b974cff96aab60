"""
Matching two graphs
===================

Two copies of one random graph, their nodes in different order, and four of the edges of one taken away. Shortest paths are
the structure; the plan finds the nodes again.
"""

# %%
# ``fgwot.geodesic`` takes a sparse adjacency. The second graph has its nodes shuffled.
import matplotlib.pyplot as plt
import torch

import fgwot
from fgwot import plot

generator = torch.Generator().manual_seed(4)
n = 40
x = torch.rand(n, 2, generator=generator, dtype=torch.float64)
near = torch.cdist(x, x) < 0.27
first = near & ~torch.eye(n, dtype=torch.bool)
order = torch.randperm(n, generator=generator)
second = first.clone()
edges = first.triu(1).nonzero()
i, j = edges[torch.randperm(len(edges), generator=generator)[:4]].T
second[i, j] = second[j, i] = False
second = second[order][:, order]

C1, C2 = (fgwot.geodesic(A.double().to_sparse(), unreachable=12.0) for A in (first, second))

# %%
# A few random starts, as Gromov-Wasserstein has local minima.
solution = fgwot.gromov_wasserstein(C1, C2, epsilon=0.05, init=fgwot.MultiInit(8))
found = solution.plan.argmax(1)
right = (order[found] == torch.arange(n)).double().mean()
print(f"{solution}; {right:.0%} of the nodes are matched to themselves")

# %%
figure, (left, centre) = plt.subplots(1, 2, figsize=(10, 4.2), width_ratios=(1.7, 1))
plot.matching(solution, x, x[order], edges1=first, edges2=second, ax=left)
plot.heat_map(solution, C1, ax=centre)
figure.tight_layout()

# %%
# What each step is worth, from one of the starts: the residual says how far the plan is from where the next step takes it.
figure, axes = plt.subplots(figsize=(6, 3.2))
plot.convergence(None, C1, C2, epsilon=0.05, alpha=1.0, ax=axes)
figure.tight_layout()
