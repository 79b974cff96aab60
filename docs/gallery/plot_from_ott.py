"""
From OTT-JAX, side by side
==========================

JAX's arrays in, JAX's arrays out. OTT halves the quadratic term, hence the two numbers that are translated; :doc:`/porting` derives them.
"""

# %%
import time
import warnings

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

import fgwot
from fgwot import plot

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of its dependencies
    from ott.geometry.geometry import Geometry
    from ott.problems.quadratic.quadratic_problem import QuadraticProblem
    from ott.solvers.linear.sinkhorn import Sinkhorn
    from ott.solvers.quadratic.gromov_wasserstein import GromovWasserstein

rng = np.random.default_rng(1)
x = rng.normal(size=(50, 2))
y = x[rng.permutation(50)] + 0.1 * rng.normal(size=(50, 2))
M, C1, C2 = (jnp.asarray(((u[:, None] - v) ** 2).sum(-1)) for u, v in ((x, y), (x, x), (y, y)))
penalty, e = 1.0, 2.0

# %%
# OTT, as a compiled function: the first call compiles it, the second is timed.
solver = jax.jit(GromovWasserstein(Sinkhorn(threshold=1e-4, max_iterations=5000), epsilon=e, threshold=1e-5))
problem = QuadraticProblem(Geometry(C1), Geometry(C2), Geometry(M), fused_penalty=penalty)
solver(problem).matrix.block_until_ready()
begin = time.perf_counter()
theirs = solver(problem).matrix.block_until_ready()
print(f"OTT-JAX {1000 * (time.perf_counter() - begin):.1f} ms")

# %%
# fgwot, with what the table says.
options = {"alpha": 1 / (1 + 2 * penalty), "epsilon": e * 2 / (1 + 2 * penalty)}
fgwot.fused_gromov_wasserstein(M, C1, C2, **options)
begin = time.perf_counter()
ours = fgwot.fused_gromov_wasserstein(M, C1, C2, **options)
print(f"fgwot   {1000 * (time.perf_counter() - begin):.1f} ms; {ours}, residual {float(ours.residual):.0e}")
print(
    f"largest difference of the plans {float(abs(ours.plan - theirs).max()):.0e}, of entries up to {float(theirs.max()):.3f}"
)

# %%
figure, axes = plt.subplots(1, 2, figsize=(9, 4))
plot.matching(np.asarray(ours.plan), x, y, ax=axes[0])
plot.heat_map(np.asarray(ours.plan), np.asarray(C1), ax=axes[1])
figure.tight_layout()
