"""
From POT, side by side
======================

A script of POT's with one import changed. NumPy goes in, NumPy comes out; what changes is the time, and that the result says whether
it converged. :doc:`/porting` has the table of names.
"""

# %%
import time

import matplotlib.pyplot as plt
import numpy as np
import ot as original

from fgwot import plot
from fgwot import pot as ot

rng = np.random.default_rng(0)
angle = np.linspace(0, 2 * np.pi, 60, endpoint=False)
x = np.stack([np.cos(angle), 0.4 * np.sin(angle) + 0.2 * np.cos(2 * angle)], 1)
y = np.concatenate([x @ [[0.8, 0.6], [-0.6, 0.8]], 0.1 * rng.random((60, 1))], 1)
C1, C2 = (np.linalg.norm(z[:, None] - z[None], axis=-1) for z in (x, y))
a = b = np.full(60, 1 / 60)


# %%
# The same lines for both libraries.
def script(ot):
    begin = time.perf_counter()
    plan, log = ot.gromov.entropic_gromov_wasserstein(
        C1, C2, a, b, "square_loss", epsilon=0.01, max_iter=1000, tol=1e-9, log=True
    )
    return plan, float(log["gw_dist"]), time.perf_counter() - begin


script(ot)  # fgwot's first call on a machine compiles its loops
for name, library in (("POT", original), ("fgwot", ot)):
    plan, distance, seconds = script(library)
    print(
        f"{name:6s} {distance:.6f} in {1000 * seconds:7.1f} ms; error of the marginals {abs(plan.sum(0) - b).sum():.0e}"
    )

# %%
figure, axes = plt.subplots(1, 2, figsize=(10, 4))
plot.matching(plan, x, y[:, :2], ax=axes[0])
plot.heat_map(plan, ax=axes[1])
figure.tight_layout()
