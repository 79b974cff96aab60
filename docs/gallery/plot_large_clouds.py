"""
Large clouds, no n x m array
============================

Squared distances of points have low rank, and a plan between such structures need not be stored. 2,500 points a side are
few, so that this page is built quickly; nothing of n x m is ever allocated. :doc:`/clouds` says how far it goes.
"""

# %%
import matplotlib.pyplot as plt
import torch

import fgwot

generator = torch.Generator().manual_seed(0)
n = 2500
t = 3 * torch.pi * torch.rand(n, generator=generator).sqrt()
swirl = torch.stack([t * t.cos(), t * t.sin(), torch.rand(n, generator=generator)], 1) / 9
turn, _ = torch.linalg.qr(torch.randn(3, 3, generator=generator))
order = torch.randperm(n, generator=generator)
turned = (swirl @ turn)[order] + 0.01 * torch.randn(n, 3, generator=generator)

C1, C2 = fgwot.LowRank.squared_distances(swirl), fgwot.LowRank.squared_distances(turned)
solution = fgwot.gromov_wasserstein(C1, C2, epsilon=0.05, plan="lazy", tol=1e-3)
print(solution, solution.plan)

# %%
# A lazy plan answers products: where each point goes, on average.
image = solution.plan @ turned / solution.plan.sum(1)[:, None]
back = image @ turn.T
flips = torch.tensor([[a, b, c] for a in (1.0, -1.0) for b in (1.0, -1.0) for c in (1.0, -1.0)])
error = min(((back - swirl * f).norm(dim=1).mean() for f in flips), key=float)
print(f"mean distance from where each point came, up to mirrors: {float(error):.3f}")
figure, axes = plt.subplots(1, 2, figsize=(9, 4))
for ax, points, name in zip(axes, (swirl, image), ("points", "where they go (coloured by origin)"), strict=True):
    u, _, v = torch.pca_lowrank(points, 2)
    ax.scatter(*(points @ v).T, c=t, s=3, cmap="viridis")
    ax.set_title(name)
    ax.set_aspect("equal")
    ax.set_axis_off()
figure.tight_layout()
