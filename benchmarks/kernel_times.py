"""The calls by which the kernels are timed, see `benchmarks.gpu.kernels`."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

WHOLE = (4, 8, 16, 32, 64)
BATCHES = (1, 1024)


def readable(seconds: float) -> str:
    """Two digits with a unit."""
    for factor, unit in ((1, "s"), (1e3, "ms"), (1e6, "us")):
        if seconds * factor >= 1:
            return f"{seconds * factor:.2g} {unit}" if seconds * factor < 100 else f"{seconds * factor:.0f} {unit}"
    return f"{seconds * 1e6:.2g} us"


def large(
    n: int, device: torch.device, dtype: torch.dtype = torch.float32
) -> Iterator[tuple[str, Callable[[], object]]]:
    """Names and calls of the kernels of large problems, for one problem of n = m."""
    from fgwot.kernels.adjoint import adjoint
    from fgwot.kernels.contraction import contraction
    from fgwot.kernels.sinkhorn import half_sweep, sweeps

    C1, C2, W, T = torch.rand(4, n, n, device=device, dtype=dtype)
    for loss in ("abs", "huber"):
        yield f"contraction, {loss}", lambda loss=loss: contraction(C1, C2, T, loss, 1.0)
        yield f"adjoint, {loss}", lambda loss=loss: adjoint(C1, C2, W, T, loss, 1.0)
    p = torch.full((1, n), 1 / n, device=device, dtype=dtype)
    y = torch.zeros_like(p)
    for name, log in (("log", True), ("scaling", False)):
        X = W[None] if log else (-W[None]).exp()
        start = y if log else y.exp()
        yield f"one sweep, {name}", lambda X=X, y=start, log=log: sweeps(X, p, p, y, 1, log)
        yield f"last half sweep and plan, {name}", lambda X=X, y=start, log=log: half_sweep(X, p, p, y, log)


def whole(n: int, batch: int, device: torch.device) -> Iterator[tuple[str, Callable[[], object]]]:
    """Names and calls of the kernels of small problems, for clouds of n points in float32, uniform, epsilon 0.05."""
    from fgwot.kernels.solve import solve
    from fgwot.kernels.solve_adjoint import solve_adjoint

    generator = torch.Generator().manual_seed(0)
    x, y = (torch.rand(batch, n, 2, generator=generator).to(device) for _ in range(2))
    C1, C2, M = torch.cdist(x, x), torch.cdist(y, y), torch.cdist(x, y).square()

    def solved() -> list[Tensor]:
        return solve(M, C1, C2, *[None] * 6, 0.5, 0.05, "square", 0.0, 1000)

    yield "whole solve", solved
    plan, f, g, value, *_ = solved()
    of_values = [torch.ones_like(value), None, None, None]
    yield "its gradients", lambda: solve_adjoint(plan, C1, C2, f, g, of_values, None, 0.5, "square", [True] * 5)
