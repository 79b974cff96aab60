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
from ott.problems.linear.linear_problem import LinearProblem
from ott.problems.quadratic.gw_barycenter import GWBarycenterProblem
from ott.problems.quadratic.quadratic_problem import QuadraticProblem
from ott.solvers.linear.sinkhorn import Sinkhorn
from ott.solvers.quadratic.gromov_wasserstein import GromovWasserstein
from ott.solvers.quadratic.gw_barycenter import GromovWassersteinBarycenter

from benchmarks.cases import Case
from benchmarks.methods.base import Method, Setting
from benchmarks.problems import Array, Problem
from benchmarks.sets import Spaces, sampled

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


class Dense(Method):
    """Cost matrices; batches through `vmap`."""

    ladder = _LADDER  # and JAX_PLATFORMS says where it runs

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


class Unbalanced(Method):
    """Linear problems with prices; quadratic ones it prices by the product measures of the plan's marginals."""

    ladder = tuple({"threshold": threshold} for threshold in (1e-4, 1e-6, 1e-8, 1e-10))

    def accepts(self, case: Case) -> bool:
        """Linear problems."""
        return not case.alpha

    def prepare(self, case: Case, problem: Problem, setting: Setting) -> Callable[[], Any]:
        """Return one forward solve."""
        M, _, _, p, q = _on_device(case, *problem.first)
        taus = [float(price / (price + case.epsilon)) for price in problem.rho]
        numbers = (case.epsilon, *taus, setting["threshold"])
        return lambda: jax.block_until_ready(_unbalanced(M, p, q, *numbers))

    def plan(self, result: Any) -> Array:
        """Plan as a batch."""
        return np.array(result)[None]


class Barycenter(Method):
    """`GromovWassersteinBarycenter`, jitted, from the given start."""

    ladder = tuple(
        setting | {"change": change, "steps": steps}
        for setting, change, steps in (
            (_LADDER[0], 1e-3, 5),
            (_LADDER[1], 1e-5, 5),
            (_LADDER[2], 1e-7, 20),
            (_LADDER[2], 1e-7, 100),
        )
    )

    def prepare(self, case: Case, problem: Spaces, setting: Setting) -> Callable[[], Any]:
        """Return one barycenter."""
        costs, features = _on_device(case, *(np.stack(x) for x in (problem.structures, problem.features)))
        start = _on_device(case, *problem.start)
        numbers = setting["inner"], setting["outer"], setting["min_iterations"], setting["change"], setting["steps"]
        options = (problem.alpha, problem.epsilon, *numbers)
        return lambda: jax.block_until_ready(_barycenter(costs, features, *start, *options))

    def plan(self, result: Any) -> tuple[Array, Array, None]:
        """Structure and features; it keeps no plans."""
        C, X = map(np.array, result)
        return C, X, None


class Pairs(Dense):
    """The sample of a set's pairs one after the other, padded by points without mass, so that all have one size."""

    def part(self, case: Case) -> float:
        """How much of all pairs the sample is."""
        return sampled(case)

    def prepare(self, case: Case, problem: Spaces, setting: Setting) -> Callable[[], Any]:
        """Return the sample's solution."""
        most = max(map(len, problem.structures))
        shapes = [pair.first[0].shape for pair in problem.sample]
        padded = [_on_device(case, *(_padded(a, most) for a in pair.first)) for pair in problem.sample]
        numbers = (problem.alpha, problem.epsilon, setting["inner"], setting["outer"], setting["min_iterations"])

        def run() -> Any:
            plans = [jax.block_until_ready(_single(*arrays, *numbers)) for arrays in padded]
            return list(zip(plans, shapes, strict=True))

        return run

    def plan(self, result: Any) -> Any:
        """Plans of the sample."""
        return [np.array(T)[:n, :m] for T, (n, m) in result]


def _padded(a: Array, size: int) -> Array:
    return np.pad(a, [(0, size - length) for length in a.shape])


@partial(jax.jit, static_argnums=(4, 8, 9, 10))
def _barycenter(
    costs: Any,
    features: Any,
    C: Any,
    X: Any,
    alpha: Any,
    epsilon: Any,
    inner: Any,
    outer: Any,
    least: int,
    change: float,
    steps: int,
) -> Any:
    count, m = features.shape[:2]
    fused = alpha < 1
    problem = GWBarycenterProblem(
        costs=costs,
        b=jax.numpy.full((count, m), 1 / m),
        weights=jax.numpy.full(count, 1 / count),
        y_fused=features if fused else None,
        fused_penalty=(1 - alpha) / (2 * alpha),
    )
    solver = GromovWassersteinBarycenter(
        _solver(alpha, epsilon, inner, outer, least), threshold=change, min_iterations=steps, max_iterations=500
    )
    found = solver(problem, len(C), bar_init=(C, X) if fused else C)
    return found.cost, found.x if fused else X


@partial(jax.jit, static_argnums=(4, 5))
def _unbalanced(M: Any, p: Any, q: Any, epsilon: Any, tau_a: Any, tau_b: Any, threshold: Any) -> Any:
    problem = LinearProblem(Geometry(M, epsilon=epsilon), a=p, b=q, tau_a=tau_a, tau_b=tau_b)
    return Sinkhorn(threshold=threshold, max_iterations=20_000)(problem).matrix


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
    problem = QuadraticProblem(xx, yy, xy, fused_penalty=(1 - alpha) / (2 * alpha), a=p, b=q)
    return _solver(alpha, epsilon, inner, outer, least)(problem).matrix


def _solver(alpha: Any, epsilon: Any, inner: Any, outer: Any, least: int) -> GromovWasserstein:
    return GromovWasserstein(
        Sinkhorn(threshold=inner, max_iterations=20_000),
        epsilon=epsilon / (2 * alpha),
        threshold=outer,
        warm_start=True,
        min_iterations=least,
        max_iterations=2000,
    )


_single = jax.jit(_matrices, static_argnums=9)


@partial(jax.jit, static_argnums=9)
def _batch(
    M: Any, C1: Any, C2: Any, p: Any, q: Any, alpha: Any, epsilon: Any, inner: Any, outer: Any, least: int
) -> Any:
    return jax.vmap(lambda *arrays: _matrices(*arrays, alpha, epsilon, inner, outer, least))(M, C1, C2, p, q)
