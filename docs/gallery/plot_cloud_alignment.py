"""
Moving a cloud by gradients
===========================

The value of a solve has exact gradients in every argument. Here points descend on it until their distances are those of
another cloud, in another dimension: no rotation is ever named.
"""

# %%
# A spiral of 30 points in space gives the distances; 30 random points of the plane are to take them on.
import matplotlib.pyplot as plt
import torch

import fgwot
from fgwot import plot

generator = torch.Generator().manual_seed(1)
t = torch.linspace(0, 1, 30, dtype=torch.float64)
spiral = torch.stack([(1 + t) * (5 * t).cos(), (1 + t) * (5 * t).sin(), 0.3 * t], 1)
C1 = torch.cdist(spiral, spiral)
start = torch.randn(30, 2, generator=generator, dtype=torch.float64)
points = start.clone().requires_grad_()

# %%
# ``FGWLoss`` starts each solve from the last one.
criterion = fgwot.FGWLoss(epsilon=0.05)
optimiser = torch.optim.Adam([points], lr=0.05)
values = []
for _ in range(150):
    optimiser.zero_grad()
    distances = (points[:, None] - points + 1e-9).square().sum(-1).sqrt()
    loss = criterion(None, C1, distances)
    loss.backward()
    optimiser.step()
    values.append(loss.item())

# %%
figure, axes = plt.subplots(1, 3, figsize=(11, 3.6))
plot.matching(criterion.plan, spiral[:, :2], start, ax=axes[0])
axes[0].set_title("spiral, and the start")
plot.matching(criterion.plan, spiral[:, :2], points.detach(), ax=axes[1])
axes[1].set_title("after 150 steps")
axes[2].plot(values, color=plot.FIRST)
axes[2].set(xlabel="step", ylabel="value", title="descent")
figure.tight_layout()
