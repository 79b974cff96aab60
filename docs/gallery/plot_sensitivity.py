"""
How a matching depends on the data
==================================

``adjoint="implicit"`` differentiates the plan itself. Which entries of a structure would change a given match, and how? One backward
pass answers for all of them.
"""

# %%
import matplotlib.pyplot as plt
import torch

import fgwot
from fgwot import plot

generator = torch.Generator().manual_seed(5)
x = torch.randn(14, 2, generator=generator, dtype=torch.float64)
y = x + 0.25 * torch.randn(14, 2, generator=generator, dtype=torch.float64)
C1 = torch.cdist(x, x).requires_grad_()
solution = fgwot.fused_gromov_wasserstein(
    torch.cdist(x, y), C1, torch.cdist(y, y), alpha=0.5, epsilon=0.3, adjoint="implicit", tol=1e-10
)

# %%
# The mass between point 0 and its own copy, and its derivative in every distance of the first cloud.
solution.plan[0, 0].backward()
sensitivity = C1.grad + C1.grad.T

# %%
# It is what differences say, too.
with torch.no_grad():
    step = torch.zeros_like(C1)
    step[0, 3] = step[3, 0] = 1e-5
    M, C2 = torch.cdist(x, y), torch.cdist(y, y)
    ends = [
        fgwot.fused_gromov_wasserstein(M, C1 + s * step, C2, alpha=0.5, epsilon=0.3, tol=1e-11).plan[0, 0]
        for s in (1, -1)
    ]
print(f"implicit {float(sensitivity[0, 3]):+.6f}, by differences {float((ends[0] - ends[1]) / 2e-5):+.6f}")

# %%
figure, axes = plt.subplots(1, 2, figsize=(10, 4))
plot.matching(solution.detach(), x, y, ax=axes[0])
bound = float(sensitivity.abs().max())
image = axes[1].imshow(sensitivity, cmap="RdBu_r", vmin=-bound, vmax=bound)
figure.colorbar(image, ax=axes[1], label="change of the match 0 - 0 by a distance")
axes[1].set(xlabel="point", ylabel="point")
figure.tight_layout()
