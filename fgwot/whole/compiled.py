"""Small problems on the CPU, solved and differentiated by compiled loops.

An outer step on ten points is a few microseconds of arithmetic, but sixty calls of torch; here it is arithmetic alone,
in float64 whatever the inputs are. The import compiles the loops, or loads what an earlier one has left in Numba's
cache, and raises what Numba raises; whoever needs the loops asks `fgwot.drivers` whether it succeeds.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import cache
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
from numba.core import event
from numpy.typing import NDArray
from torch import Tensor

from fgwot import constants
from fgwot.constants import LARGEST_TOLERANCE, MAX_STEPS
from fgwot.iteration.initial import MultiInit
from fgwot.iteration.result import default_tolerance
from fgwot.problem import allowed_imbalance, computed_in
from fgwot.solution import Status
from fgwot.solvers import MirrorDescent
from fgwot.whole import arithmetic
from fgwot.whole.announcement import Announcement
from fgwot.whole.solve import Found, Setting


def drop_stale_loops() -> None:
    """Let Numba compile anew what was compiled before any of its files changed: it looks at a function's own file."""
    files = [Path(__file__).with_name(f"{name}.py") for name in ("arithmetic", "undamped", "inner", "guarded")]
    changed = max(file.stat().st_mtime for file in (*files, Path(constants.__file__)))
    for index in Path(arithmetic.times.stats.cache_path).glob("*.nbi"):  # type: ignore[attr-defined]
        with suppress(OSError):  # another process was faster, or the folder is not ours
            if index.stat().st_mtime < changed:
                index.unlink()


drop_stale_loops()
with event.install_listener("numba:compile", Announcement("fgwot.whole", "small problems")):
    from fgwot.whole import undamped

_WORTH_A_THREAD = 100_000  # plan entries

_Array = NDArray[np.float64]


def _array(t: Tensor) -> _Array:
    """Contiguous float64 array of a tensor that starts with a batch; of length 1 if the batch shares it."""
    shared = t[:1] if t.stride(0) == 0 else t
    array: _Array = shared.detach().to(torch.float64).contiguous().numpy()
    return array


def _arrays(tensors: Sequence[Tensor | None], sizes: Sequence[tuple[int, ...]]) -> list[_Array]:
    """Arrays of tensors, of length 0 where there is none."""
    return [np.empty((0, *size)) if t is None else _array(t) for t, size in zip(tensors, sizes, strict=True)]


def _weights(t: Tensor | None, number: float | None) -> _Array:
    """Array of one weight for each problem, of one number for all, or of none."""
    if t is not None:
        return _array(t)
    return np.empty(0) if number is None else np.array([number])


def _random_plans(starts: MultiInit, costs: list[_Array], batch: int) -> _Array:
    """Plans to start from, `starts.k` for each problem: p q', of the geometric mean of their masses, and noise."""
    _, C1, C2, p, q = costs
    (n, m), mass = (C1.shape[1], C2.shape[1]), p.sum(1, keepdims=True) if len(p) else np.ones((1, 1))
    q = q if len(q) else np.full((1, m), 1 / m) * mass
    p = p if len(p) else np.full((1, n), 1 / n) * q.sum(1, keepdims=True)
    independent = p[:, :, None] * q[:, None, :] / np.sqrt(p.sum(1) * q.sum(1))[:, None, None]
    plans: _Array = (
        np.broadcast_to(independent, (batch, n, m))[:, None] * np.exp(-starts.noise(n, m).numpy())
    ).reshape(-1, n, m)
    return plans


@cache
def guarded_loops() -> ModuleType:
    """Import the loops of the guarded iteration, which many programs do not need."""
    with event.install_listener("numba:compile", Announcement("fgwot.whole", "small guarded problems")):
        from fgwot.whole import guarded
    return guarded


def _over_the_batch(run: Callable[[int, int], None], batch: int, work: int) -> None:
    """`run` parts of a batch, from first to before last, on torch's number of threads where there is work for them."""
    threads = min(torch.get_num_threads(), batch, 1 + batch * work // _WORTH_A_THREAD)
    if threads == 1:
        run(0, batch)
        return
    bounds = [batch * k // (4 * threads) for k in range(4 * threads + 1)]
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(run, bounds[:-1], bounds[1:]))


def _undamped(
    inputs: list[_Array], results: list[_Array], setting: Setting, limits: tuple[float, ...], allowed: float
) -> None:
    """Make undamped steps; write plan, f, g and numbers."""
    steps, kl = min(setting.max_iter, MAX_STEPS), setting.loss == "kl"
    size, n, m = results[0].shape

    def run(first: int, last: int) -> None:
        undamped.solve_batch(*inputs, kl, *limits, steps, allowed, first, last, *results)

    _over_the_batch(run, size, n * m)


def _guarded(
    inputs: list[_Array], size: int, setting: Setting, limits: tuple[float, ...], allowed: float
) -> list[_Array]:
    """Make guarded steps; return plan, f, g, numbers, and derivatives in p and q."""
    solver, kl, solve = setting.solver, setting.loss == "kl", guarded_loops().solve_batch
    damping = -1.0 if solver.damping is None else float(solver.damping)
    n, m = inputs[1].shape[1], inputs[2].shape[1]
    results = [np.empty((size, *shape)) for shape in ((n, m), (n,), (m,), (12,), (n,), (m,))]

    def run(first: int, last: int) -> None:
        solve(*inputs, kl, solver.entropic, damping, *limits, setting.max_iter, allowed, first, last, *results)

    _over_the_batch(run, size, n * m)
    return results


def _go_on(
    inputs: list[_Array], results: list[_Array], setting: Setting, limits: tuple[float, ...], allowed: float
) -> None:
    """Make guarded steps where undamped ones have left a problem open."""
    status, steps = results[3][:, 7:].T
    left = ((status == Status.MAX_ITER) & (steps < setting.max_iter)).nonzero()[0]
    if not len(left):
        return
    spent = int(steps[left].max())
    some = [x[left] if len(x) > 1 else x for x in inputs]
    rest = setting._replace(max_iter=setting.max_iter - spent)
    plan, f, g, numbers, *_ = _guarded([*some, results[0][left]], len(left), rest, limits, allowed)
    for own, found in zip(results, (plan, f, g, numbers[:, :9]), strict=True):
        own[left] = found
    results[3][left, 8] += spent


def _found(results: list[Tensor], dtype: torch.dtype) -> Found:
    plan, f, g, numbers, *by = results
    columns = numbers.unbind(1)
    status, n_iter = (x.to(torch.int64) for x in columns[7:9])
    floating = [plan, f, g, *columns[:7], *by, *columns[9:]]
    if dtype != torch.float64:  # a small problem would notice what `to` takes to do nothing
        floating = [x.to(dtype) for x in floating]
    plan, f, g, value, cost, linear, quad, entropy, residual, error, *by = floating
    by_p, by_q, *by_rest = by or (f, g, None, None, None)
    values = plan, f, g, value, cost, linear, quad, residual, error, status, n_iter
    return Found(*values, entropy, by_p, by_q, tuple(by_rest))


class Loops:
    """The loops, as a driver of `fgwot.whole.solve`."""

    def solve(self, tensors: Sequence[Tensor | None], setting: Setting) -> Found:
        """Undamped steps, where they are all that is asked for, and a guarded iteration of what is open then."""
        M, C1, C2, p, q, *weights, start, potential = tensors
        assert C1 is not None and C2 is not None  # noqa: S101, PT018 - for the type checker
        batch, n, m, dtype = len(C1), C1.shape[-1], C2.shape[-1], computed_in(C1.dtype)
        costs = _arrays((M, C1, C2, p, q), ((n, m), (n, n), (m, m), (n,), (m,)))
        numbers = [_weights(*pair) for pair in zip(weights, setting.numbers, strict=True)]
        starts, k = _arrays((start, potential), ((n, m), (m,))), 1
        if setting.starts is not None:
            k = setting.starts.k
            starts[0] = _random_plans(setting.starts, costs, batch)
            costs, numbers = ([np.repeat(x, k, 0) if len(x) > 1 else x for x in some] for some in (costs, numbers))
        limits = setting.tol, default_tolerance(dtype), torch.finfo(dtype).eps, LARGEST_TOLERANCE
        allowed = allowed_imbalance(C1.dtype)
        if setting.solver == MirrorDescent() and not any(map(len, numbers[2:])):
            results = [np.empty((k * batch, *size)) for size in ((n, m), (n,), (m,), (9,))]
            _undamped([*costs, *numbers[:2], *starts], results, setting, limits, allowed)
            if results[3][:, 7].any():
                _go_on([*costs, *numbers], results, setting, limits, allowed)
        else:
            results = _guarded([*costs, *numbers, starts[0]], k * batch, setting, limits, allowed)
        if k > 1:
            best = np.nan_to_num(results[3][:, 0], nan=np.inf).reshape(-1, k).argmin(1) + k * np.arange(batch)
            results = [x[best] for x in results]
        return _found([torch.from_numpy(x) for x in results], dtype)

    def adjoint(
        self,
        found: tuple[Tensor, Tensor, Tensor],
        structures: tuple[Tensor, Tensor],
        cotangents: Sequence[Tensor | None],
        alphas: Tensor | None,
        setting: Setting,
        wanted: Sequence[bool],
    ) -> list[Tensor]:
        """Gradients of what `solve` returned."""
        plan = found[0]
        batch, n, m = plan.shape
        sizes = ((n, m), (n, n), (m, m), (n,), (m,))
        arrays = _arrays((plan, *structures, *found[1:]), sizes)
        given = np.zeros((batch, 4))
        for column, cotangent in enumerate(cotangents):
            if cotangent is not None:
                given[:, column] = cotangent.detach().numpy()
        gradients = [np.empty((batch if asked else 0, *size)) for size, asked in zip(sizes, wanted, strict=True)]
        alpha, kl = _weights(alphas, setting.numbers[0]), setting.loss == "kl"

        def run(first: int, last: int) -> None:
            undamped.adjoint_batch(*arrays, given, alpha, kl, *gradients, first, last)

        _over_the_batch(run, batch, n * m)
        return [torch.from_numpy(x).to(plan.dtype) for x, asked in zip(gradients, wanted, strict=True) if asked]
