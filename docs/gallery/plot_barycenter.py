"""
The barycenter of shapes
========================

Gromov-Wasserstein averages shapes by their inner distances alone: it does not matter how each is turned or where it lies. Here
noisy ellipses of several widths, each turned by another angle and with another number of points.
"""

# %%
import matplotlib.pyplot as plt
import torch

import fgwot
from fgwot import plot

generator = torch.Generator().manual_seed(0)
shapes = []
for width, count in ((1.0, 22), (0.7, 26), (0.4, 24), (0.3, 28)):
    t = torch.arange(count, dtype=torch.float64) * 2 * torch.pi / count
    points = torch.stack([t.cos(), width * t.sin()], 1)
    points += 0.03 * torch.randn(count, 2, generator=generator, dtype=torch.float64)
    a = torch.rand((), generator=generator, dtype=torch.float64) * 2 * torch.pi
    shapes.append(points @ torch.stack([torch.stack([a.cos(), -a.sin()]), torch.stack([a.sin(), a.cos()])]))
structures = [torch.cdist(x, x) for x in shapes]

# %%
# The structure of the barycenter is a matrix of distances. Classical scaling draws it.
found = fgwot.barycenter(structures, n=24, epsilon=0.01)
print(f"{found.status.name} after {found.n_iter} steps, residual {found.residual:.1e}")
squared = found.structure**2
centred = squared - squared.mean(0) - squared.mean(1, keepdim=True) + squared.mean()
values, vectors = torch.linalg.eigh(-centred / 2)
mean = vectors[:, -2:] * values[-2:].clamp_min(0).sqrt()

# %%
figure, axes = plt.subplots(1, 5, figsize=(11, 2.6))
for ax, points in zip(axes, [*shapes, mean], strict=True):
    last = points is mean
    ax.scatter(*points.T, s=22, color=plot.SECOND if last else plot.FIRST)
    ax.set(aspect="equal", xlim=(-1.3, 1.3), ylim=(-1.3, 1.3), title="barycenter" if last else "")
    ax.axis("off")
figure.tight_layout()
