r"""One pass over a plan that is never stored.

Every plan here is T = exp(a (+) b - U V) with n x r and r x m factors and rows that sum to p: its row potentials a
follow from the rest. A pass goes over it in blocks of rows, as flash attention goes over its weights, and keeps
vectors only.
On the CPU Numba's loops make it, on torch's number of threads; torch makes it by blocks where there is no Numba and on
other devices. Sums are in a fixed order, which no number of threads changes.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cache

import torch
from torch import Tensor

from fgwot.backend import forced

_PARTS = 32  # of the rows: column sums of each part are kept apart
_WORTH_A_THREAD = 100_000  # entries of a plan
_BLOCK = 1 << 22  # entries that torch holds at once


@dataclass(frozen=True)
class Kernel:
    """T = exp(a (+) b - U V) with the row sums p.

    Attributes
    ----------
    U, V : Tensor (n, r), (r, m)
    b : Tensor (m,)
    p : Tensor (n,), float64
        Positive.
    dtype : torch.dtype
        Entries are computed in it; the tensors are float64.
    """

    U: Tensor
    V: Tensor
    b: Tensor
    p: Tensor
    dtype: torch.dtype

    def at(self, b: Tensor) -> "Kernel":
        """Return the kernel with other column potentials."""
        return replace(self, b=b)

    @property
    def entries(self) -> tuple[Tensor, Tensor, Tensor]:
        """U, b and V as entries are computed from them."""
        return self.U.to(self.dtype), self.b.to(self.dtype), self.V.to(self.dtype).contiguous()


@dataclass(frozen=True)
class Pass:
    """What a pass finds: row potentials a (n,), column sums (m,), and T Z (n, k); float64."""

    a: Tensor
    columns: Tensor
    products: Tensor


def one_pass(kernel: Kernel, Z: Tensor) -> Pass:
    """Pass over the plan of a kernel, for Z (m, k)."""
    run = _compiled_rows if _uses_numba(kernel.p.device) else _torch_rows
    return run(kernel, Z)


def difference(one: Kernel, other: Kernel) -> float:
    """Return the L1 distance of two plans with the same rows p."""
    run = _compiled_difference if _uses_numba(one.p.device) else _torch_difference
    return run(one, other)


def _uses_numba(device: torch.device) -> bool:
    if device.type != "cpu" or forced() not in (None, "numba"):
        return False
    reason = failure_of_loops()
    if reason is not None and forced() == "numba":
        raise ImportError(f"fgwot.backend('numba') needs Numba (pip install numba): {reason}")
    return reason is None


@cache
def failure_of_loops() -> str | None:
    """Import the loops, which compiles them the first time; say why if that fails."""
    try:
        from numba.core import event

        from fgwot.whole.announcement import Announcement

        with event.install_listener("numba:compile", Announcement("fgwot.streamed", "lazy plans")):
            import fgwot.streamed.loops  # noqa: F401
    except (ImportError, OSError, RuntimeError, SystemError) as error:  # what Numba raises, see fgwot.drivers
        return str(error).partition("\n")[0]
    return None


def _in_parts(n: int, m: int, run: Callable[[int, int, int], None]) -> None:
    """Run (part, first, before last) for all rows, on torch's number of threads if there is work for them."""
    parts = min(_PARTS, n)
    bounds = [n * k // parts for k in range(parts + 1)]
    threads = min(torch.get_num_threads(), parts, 1 + n * m // _WORTH_A_THREAD)
    if threads == 1:
        for part in range(parts):
            run(part, bounds[part], bounds[part + 1])
        return
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(run, range(parts), bounds[:-1], bounds[1:]))


def _compiled_rows(kernel: Kernel, Z: Tensor) -> Pass:
    from fgwot.streamed import loops

    U, b, V = (t.numpy() for t in kernel.entries)
    p, z = kernel.p.numpy(), Z.to(kernel.dtype).T.contiguous().numpy()
    a, products = torch.empty_like(kernel.p), kernel.p.new_empty(len(p), len(z))
    columns = kernel.p.new_zeros(min(_PARTS, len(p)), len(b))

    def run(part: int, first: int, last: int) -> None:
        loops.rows(U, b, V, p, z, a.numpy(), columns[part].numpy(), products.numpy(), first, last)

    _in_parts(len(p), len(b), run)
    return Pass(a, columns.sum(0), products)


def _compiled_difference(one: Kernel, other: Kernel) -> float:
    from fgwot.streamed import loops

    arrays = [t.numpy() for kernel in (one, other) for t in kernel.entries]
    sums = torch.empty_like(one.p)

    def run(_: int, first: int, last: int) -> None:
        loops.difference(*arrays, one.p.numpy(), sums.numpy(), first, last)

    _in_parts(len(sums), len(one.b), run)
    return float(sums.sum())


def blocks(n: int, m: int) -> list[slice]:
    """Slices of rows of which torch holds one at once."""
    size = max(1, _BLOCK // m)
    return [slice(k, min(k + size, n)) for k in range(0, n, size)]


def _torch_rows(kernel: Kernel, Z: Tensor) -> Pass:
    U, b, V = kernel.entries
    Z = Z.to(kernel.dtype)
    columns, parts = torch.zeros_like(kernel.b), []
    for rows in blocks(len(U), len(b)):
        logits = torch.addmm(b, U[rows], V, alpha=-1)
        normaliser = logits.logsumexp(1, keepdim=True)
        T = logits.sub_(normaliser).exp_().mul_(kernel.p[rows, None].to(kernel.dtype))
        columns += T.sum(0, dtype=torch.float64)
        parts.append((kernel.p[rows].log() - normaliser[:, 0], (T @ Z).double()))
    a, products = (torch.cat(part) for part in zip(*parts, strict=True))
    return Pass(a, columns, products)


def _torch_difference(one: Kernel, other: Kernel) -> float:
    (U, b, V), (other_U, other_b, other_V) = one.entries, other.entries
    total = torch.zeros_like(one.p[0])
    for rows in blocks(len(U), len(b)):
        T = torch.softmax(torch.addmm(b, U[rows], V, alpha=-1), 1)
        T -= torch.softmax(torch.addmm(other_b, other_U[rows], other_V, alpha=-1), 1)
        total += one.p[rows] @ T.abs_().sum(1, dtype=torch.float64)
    return float(total)
