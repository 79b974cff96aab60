"""OTT-JAX, jitted, with warm-started Sinkhorn.

OTT takes no factor 2 on the gradient of the quadratic term: its fixed point is L (x) T + w M + e log T = f (+) g.
Dividing fgwot's by 2 alpha gives w = (1 - alpha) / (2 alpha) and e = epsilon / (2 alpha).

Its outer loop stops on the change of the cost with an absolute tolerance of 1e-8 that cannot be set, so the tighter
settings raise `min_iterations`.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import numpy as np
from ott.geometry.geometry import Geometry
from ott.geometry.pointcloud import PointCloud
from ott.problems.quadratic.quadratic_problem import QuadraticProblem
from ott.solvers.linear.sinkhorn import Sinkhorn
from ott.solvers.quadratic.gromov_wasserstein import GromovWasserstein

from benchmarks.cases import Case
from benchmarks.methods.base import Setting
from benchmarks.problems import Array, Problem

_LADDER: tuple[Setting, ...] = tuple(
    {"inner": inner, "outer": outer, "min_iterations": least}
    for inner, outer, least in (
        (1e-6, 1e-5, 5),
        (1e-7, 1e-7, 5),
        (1e-8, 1e-10, 5),
        (1e-9, 1e-10, 20),
        (1e-9, 1e-10, 60),
        (1e-10, 1e-10, 200),
    )
)


class Dense:
    """Cost matrices; batches through `vmap`."""

    device = "cpu"  # JAX_PLATFORMS says where it runs
    ladder = _LADDER

    def accepts(self, case: Case) -> bool:
        """Symmetric structures: OTT linearises asymmetric ones from one side only."""
        return case.symmetric

    def prepare(self, case: Case, problem: Problem, setting: Setting) -> Callable[[], Any]:
        """Return one forward solve."""
        arrays = _on_device(case, *(problem.arrays if case.batch else problem.first))
        numbers = (problem.alpha, problem.epsilon, setting["inner"], setting["outer"])
        solve = _batch if case.batch else _single
        return lambda: jax.block_until_ready(solve(*arrays, *numbers, setting["min_iterations"]))

    def plan(self, result: Any) -> Array | None:
        """Plans."""
        T = np.array(result)
        return T.reshape(-1, *T.shape[-2:])


class Cloud(Dense):
    """Point clouds with squared Euclidean costs, which OTT handles in low-rank form."""

    def accepts(self, case: Case) -> bool:
        """Clouds."""
        return case.structure == "cloud"

    def prepare(self, case: Case, problem: Problem, setting: Setting) -> Callable[[], Any]:
        """Return one forward solve."""
        x, y, p, q = _on_device(case, problem.x, problem.y, problem.p[0], problem.q[0])
        numbers = (problem.alpha, problem.epsilon, setting["inner"], setting["outer"])
        return lambda: jax.block_until_ready(_cloud(x, y, p, q, *numbers, setting["min_iterations"]))


def _on_device(case: Case, *arrays: Any) -> Any:
    """Put arrays where JAX computes, in the case's precision."""
    jax.config.update("jax_enable_x64", case.dtype == "float64")
    jax.config.update("jax_default_matmul_precision", "highest")  # a GPU's default for float32 is TF32; torch's is not
    return jax.device_put([a.astype(case.dtype) for a in arrays])


def _matrices(
    M: Any, C1: Any, C2: Any, p: Any, q: Any, alpha: Any, epsilon: Any, inner: Any, outer: Any, least: int
) -> Any:
    return _run(Geometry(C1), Geometry(C2), Geometry(M), p, q, alpha, epsilon, inner, outer, least)


@partial(jax.jit, static_argnums=8)
def _cloud(x: Any, y: Any, p: Any, q: Any, alpha: Any, epsilon: Any, inner: Any, outer: Any, least: int) -> Any:
    return _run(PointCloud(x), PointCloud(y), PointCloud(x, y), p, q, alpha, epsilon, inner, outer, least)


def _run(
    xx: Any, yy: Any, xy: Any, p: Any, q: Any, alpha: Any, epsilon: Any, inner: Any, outer: Any, least: int
) -> Any:
    solver = GromovWasserstein(
        Sinkhorn(threshold=inner, max_iterations=20_000),
        epsilon=epsilon / (2 * alpha),
        threshold=outer,
        warm_start=True,
        min_iterations=least,
        max_iterations=2000,
    )
    return solver(QuadraticProblem(xx, yy, xy, fused_penalty=(1 - alpha) / (2 * alpha), a=p, b=q)).matrix


_single = jax.jit(_matrices, static_argnums=9)


@partial(jax.jit, static_argnums=9)
def _batch(
    M: Any, C1: Any, C2: Any, p: Any, q: Any, alpha: Any, epsilon: Any, inner: Any, outer: Any, least: int
) -> Any:
    return jax.vmap(lambda *arrays: _matrices(*arrays, alpha, epsilon, inner, outer, least))(M, C1, C2, p, q)
