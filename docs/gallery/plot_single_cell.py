"""
Two modalities of single cells
==============================

**Generated data.** Two assays see the same three cell types on a branching path, in 20 and in 12 features that have nothing in
common, and in other proportions: the second has few cells of the last type. Relaxed marginals keep types from being forced
onto each other.
"""

# %%
import matplotlib.pyplot as plt
import torch

import fgwot
from fgwot import plot

generator = torch.Generator().manual_seed(3)


def assay(counts, features):
    """Cells (n, features) along three branches, and their types."""
    types = torch.repeat_interleave(torch.arange(3), torch.tensor(counts))
    along = torch.rand(len(types), 1, generator=generator)
    ends = torch.tensor([[2.2, 0.0], [-0.3, 0.8], [-0.7, -1.2]])
    latent = ends[types] * along + 0.04 * torch.randn(len(types), 2, generator=generator)
    directions, _ = torch.linalg.qr(torch.randn(features, 2, generator=generator))
    cells = latent @ directions.T + 0.02 * torch.randn(len(types), features, generator=generator)
    return latent.double(), cells.double(), types


latent1, cells1, types1 = assay((50, 50, 50), 20)
latent2, cells2, types2 = assay((60, 50, 10), 12)
C1, C2 = (torch.cdist(c, c) for c in (cells1, cells2))

# %%
# No feature is shared, so there is no linear cost. How much of a type's mass arrives at its own type?
options = {"epsilon": 0.03}
balanced = fgwot.gromov_wasserstein(C1, C2, **options, init=fgwot.MultiInit(6))
relaxed = fgwot.fused_gromov_wasserstein(None, C1, C2, rho=0.3, **options, init=balanced.plan)
figure, axes = plt.subplots(1, 2, figsize=(11, 4))
for ax, solution, name in zip(axes, (balanced, relaxed), ("balanced", "relaxed"), strict=True):
    same = solution.plan[types1[:, None] == types2].sum() / solution.plan.sum()
    print(f"{name}: {same:.0%} of the mass stays within its type; {solution}")
    plot.matching(solution, latent1, latent2, ax=ax)
    ax.set_title(f"{name}: {same:.0%} within types")
figure.tight_layout()
