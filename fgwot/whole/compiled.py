"""Small problems on the CPU, solved and differentiated by compiled loops.

An outer step on ten points is a few microseconds of arithmetic, but sixty calls of torch; here it is arithmetic alone,
in float64 whatever the inputs are. The import compiles the loops, or loads what an earlier one has left in Numba's
cache, and raises what Numba raises; whoever needs the loops asks `fgwot.drivers` whether it succeeds.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from numba.core import event
from numpy.typing import NDArray
from torch import Tensor

from fgwot.constants import LARGEST_TOLERANCE, MAX_STEPS
from fgwot.iteration.result import default_tolerance
from fgwot.problem import allowed_imbalance, computed_in
from fgwot.whole.announcement import Announcement

with event.install_listener("numba:compile", Announcement("fgwot.whole.loops", "small problems")):
    from fgwot.whole import loops

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


def _weights(t: Tensor | None, number: float) -> _Array:
    """Array of one weight for each problem, or of one number for all."""
    return np.array([number]) if t is None else _array(t)


def _over_the_batch(run: Callable[[int, int], None], batch: int, work: int) -> None:
    """`run` parts of a batch, from first to before last, on torch's number of threads where there is work for them."""
    threads = min(torch.get_num_threads(), batch, 1 + batch * work // _WORTH_A_THREAD)
    if threads == 1:
        run(0, batch)
        return
    bounds = [batch * k // (4 * threads) for k in range(4 * threads + 1)]
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(run, bounds[:-1], bounds[1:]))


def solve(
    M: Tensor | None,
    C1: Tensor,
    C2: Tensor,
    p: Tensor | None,
    q: Tensor | None,
    alphas: Tensor | None,
    epsilons: Tensor | None,
    start: Tensor | None,
    start_g: Tensor | None,
    alpha: float,
    epsilon: float,
    loss: str,
    tol: float,
    max_iter: int,
) -> list[Tensor]:
    """Solve M (B, n, m), C1 (B, n, n), C2 (B, m, m), p (B, n) and q (B, m), as `fgwot.kernels.solve.solve` does."""
    batch, n, m, dtype = len(C1), C1.shape[-1], C2.shape[-1], computed_in(C1.dtype)
    arrays = _arrays((M, C1, C2, p, q), ((n, m), (n, n), (m, m), (n,), (m,)))
    weights = _weights(alphas, alpha), _weights(epsilons, epsilon)
    starts = _arrays((start, start_g), ((n, m), (m,)))
    plan, f, g, numbers = (np.empty((batch, *size)) for size in ((n, m), (n,), (m,), (9,)))

    def run(first: int, last: int) -> None:
        loops.solve_batch(
            *arrays, *weights, *starts, loss == "kl", tol, default_tolerance(dtype), torch.finfo(dtype).eps,
            LARGEST_TOLERANCE, min(max_iter, MAX_STEPS), allowed_imbalance(C1.dtype), first, last, plan, f, g, numbers,
        )  # fmt: skip

    _over_the_batch(run, batch, n * m)
    columns = torch.from_numpy(numbers).unbind(1)
    floating = [torch.from_numpy(x) for x in (plan, f, g)] + list(columns[:7])
    return [x.to(dtype) for x in floating] + [x.to(torch.int64) for x in columns[7:]]


def solve_adjoint(
    plan: Tensor,
    C1: Tensor,
    C2: Tensor,
    f: Tensor,
    g: Tensor,
    cotangents: Sequence[Tensor | None],
    alphas: Tensor | None,
    alpha: float,
    loss: str,
    wanted: Sequence[bool],
) -> list[Tensor]:
    """Gradients of what `solve` returned, as `fgwot.kernels.solve_adjoint.solve_adjoint` gives them."""
    batch, n, m = plan.shape
    sizes = ((n, m), (n, n), (m, m), (n,), (m,))
    arrays = _arrays((plan, C1, C2, f, g), sizes)
    given = np.zeros((batch, 4))
    for column, cotangent in enumerate(cotangents):
        if cotangent is not None:
            given[:, column] = cotangent.detach().numpy()
    gradients = [np.empty((batch if asked else 0, *size)) for size, asked in zip(sizes, wanted, strict=True)]

    def run(first: int, last: int) -> None:
        loops.adjoint_batch(*arrays, given, _weights(alphas, alpha), loss == "kl", *gradients, first, last)

    _over_the_batch(run, batch, n * m)
    return [torch.from_numpy(x).to(plan.dtype) for x, asked in zip(gradients, wanted, strict=True) if asked]
