"""
Outliers
========

Balanced transport must match every point. A price for each marginal lets it leave out what fits nowhere, and so does a mass of the
plan where one knows how much fits: here a shape, turned, with a dozen stray points.
"""

# %%
import matplotlib.pyplot as plt
import torch

import fgwot
from fgwot import plot

generator = torch.Generator().manual_seed(0)
t = torch.linspace(0, 1, 36, dtype=torch.float64)
shape = torch.stack([3 * t, (7 * t).sin() * t], 1)
turn = torch.tensor([[0.5, -0.866], [0.866, 0.5]], dtype=torch.float64)
stray = torch.rand(12, 2, generator=generator, dtype=torch.float64) * 4 - torch.tensor([5.0, 2.0])
other = torch.cat([shape @ turn.T, stray])
C1, C2 = torch.cdist(shape, shape), torch.cdist(other, other)
p, q = torch.full((36,), 1 / 48, dtype=torch.float64), torch.full((48,), 1 / 48, dtype=torch.float64)

# %%
# The start is the balanced plan; a low price, or a mass of three quarters, then lets the stray points go.
balanced = fgwot.gromov_wasserstein(C1, C2, epsilon=0.02, init=fgwot.MultiInit(4))
relaxed = fgwot.fused_gromov_wasserstein(None, C1, C2, p, q, rho=0.5, epsilon=0.01, init=balanced.plan * 0.75)
partial = fgwot.gromov_wasserstein(C1, C2, p, q, mass=0.75, epsilon=0.01, init=balanced.plan * 0.75)
found = {"balanced": balanced, "a price, rho=0.5": relaxed, "a mass, 0.75": partial}
for name, solution in found.items():
    columns = solution.plan.sum(0)
    print(f"{name}: {float(columns[36:].sum() / columns.sum()):.1%} of the mass goes to stray points; {solution}")

# %%
figure, axes = plt.subplots(1, 3, figsize=(12, 3.4))
for ax, (name, solution) in zip(axes, found.items(), strict=True):
    plot.matching(solution, shape, other, shift=(6.0, 0.0), ax=ax)
    ax.set_title(name)
figure.tight_layout()
