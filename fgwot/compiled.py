"""Small problems on the CPU, solved and differentiated by compiled loops.

An outer step on ten points is a few microseconds of arithmetic, but sixty calls of torch; here it is arithmetic alone,
in float64 whatever the inputs are. Numba compiles the loops when they are first used, and keeps them on disk.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

try:
    import numpy as np
    from numpy.typing import NDArray

    from fgwot import loops
except ImportError as error:
    raise ImportError("compile=True needs Numba: pip install 'fgwot[compile]'") from error

LARGEST = 200  # points of a side; above, torch's matrix products and threads win
_MAX_STEPS = 200  # as in fgwot.undamped
_WORTH_A_THREAD = 100_000  # plan entries

_Array = NDArray[np.float64]


def _arrays(tensors: Sequence[Tensor | None], sizes: Sequence[tuple[int, ...]]) -> list[_Array]:
    """Contiguous float64 arrays of tensors that start with a batch; one that the batch shares has the length 1."""
    shared = (None if t is None else t[:1] if t.stride(0) == 0 else t for t in tensors)
    return [
        np.empty((0, *size)) if t is None else t.detach().to(torch.float64).contiguous().numpy()
        for t, size in zip(shared, sizes, strict=True)
    ]


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
    batch, n, m, dtype = len(C1), C1.shape[-1], C2.shape[-1], C1.dtype
    arrays = _arrays((M, C1, C2, p, q), ((n, m), (n, n), (m, m), (n,), (m,)))
    weights = [
        np.array([number]) if t is None else t.detach().to(torch.float64).contiguous().numpy()
        for t, number in ((alphas, alpha), (epsilons, epsilon))
    ]
    starts = _arrays((start, start_g), ((n, m), (m,)))
    single = dtype != torch.float64
    eps = torch.finfo(dtype).eps
    plan, f, g, numbers = (np.empty((batch, *size)) for size in ((n, m), (n,), (m,), (9,)))

    def run(first: int, last: int) -> None:
        loops.solve_batch(
            *arrays, *weights, *starts, loss == "kl", tol, 1e-5 if single else 1e-7, eps, min(max_iter, _MAX_STEPS),
            max(1e-6, 4 * eps), first, last, plan, f, g, numbers,
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
    weights = np.array([alpha]) if alphas is None else alphas.detach().to(torch.float64).contiguous().numpy()
    given = np.zeros((batch, 4))
    for column, cotangent in enumerate(cotangents):
        if cotangent is not None:
            given[:, column] = cotangent.detach().numpy()
    gradients = [np.empty((batch if asked else 0, *size)) for size, asked in zip(sizes, wanted, strict=True)]

    def run(first: int, last: int) -> None:
        loops.adjoint_batch(*arrays, given, weights, loss == "kl", *gradients, first, last)

    _over_the_batch(run, batch, n * m)
    return [torch.from_numpy(x).to(plan.dtype) for x, asked in zip(gradients, wanted, strict=True) if asked]
