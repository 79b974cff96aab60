r"""One pass over a plan that is never stored.

Every plan here is T = exp(a (+) b - U V) with n x r and r x m factors, and its row potentials follow from the rest:

    a = min(s - tau l, t),    l = logsumexp_j(b - U V),

so that rows sum to exp(s) for tau = 1 and infinite t, for a smaller tau to what their price asks for, and for a finite
t to exp(s) at most (`fgwot.streamed.prices`, `fgwot.streamed.bounds`).
A pass goes over it in blocks of rows, as flash attention goes over its weights, and keeps vectors only.
On the CPU Numba's loops make it, on torch's number of threads; torch makes it by blocks where there is no Numba and on
other devices, or under `fgwot.backend("triton")` Triton's kernels on CUDA. Sums are in a fixed order, which no number
of threads changes.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from functools import cache
from math import log
from typing import Any, TypeVar

import torch
from torch import Tensor

from fgwot.backend import forced

_PARTS = 32  # of the rows: column sums of each part are kept apart
_WORTH_A_THREAD = 1_000_000  # entries of a plan: a millisecond or two
_BLOCK = 1 << 22  # entries that torch holds at once
_Run = TypeVar("_Run")
_threads: ContextVar[int | None] = ContextVar("threads of the loops, where torch has one", default=None)


@dataclass(frozen=True)
class Kernel:
    """T = exp(a (+) b - U V) with a = min(s - tau logsumexp_j(b - U V), most).

    Attributes
    ----------
    U, V : Tensor (n, r), (r, m)
    b : Tensor (m,)
    s : Tensor (n,)
    tau : float
    most : Tensor (n,)
    dtype : torch.dtype
        Entries are computed in it; the tensors are float64.
    """

    U: Tensor
    V: Tensor
    b: Tensor
    s: Tensor
    tau: float
    most: Tensor
    dtype: torch.dtype

    def with_rows(self, sums: Tensor) -> "Kernel":
        """Return the kernel whose rows sum to these (n,)."""
        s = sums.clamp_min(torch.finfo(sums.dtype).tiny).log()
        return replace(self, s=s, tau=1.0, most=torch.full_like(s, torch.inf))

    def turned(self, a: Tensor, columns: Tensor) -> "Kernel":
        """Return the kernel of the transposed plan, which has row potentials a (n,) and column sums (m,)."""
        turned = replace(self, U=self.V.T.contiguous(), V=self.U.T.contiguous(), b=a)
        return turned.with_rows(columns)

    def a(self, normaliser: Tensor) -> Tensor:
        """Row potentials (n,), from l of a pass."""
        return torch.minimum(self.s - self.tau * normaliser, self.most)

    def sums(self, normaliser: Tensor) -> Tensor:
        """Row sums (n,), from l of a pass."""
        return torch.minimum(self.s + (1 - self.tau) * normaliser, self.most + normaliser).exp()

    def at(self, b: Tensor) -> "Kernel":
        """Return the kernel with other column potentials."""
        return replace(self, b=b)

    @property
    def centre(self) -> float:
        """A number near most of b, which entries are computed without."""
        return float(self.b.median())

    @property
    def entries(self) -> "Kernel":
        """The kernel as entries are computed from it: U, V and b in their type, and b and l less the centre."""
        U, V, b = (t.to(self.dtype).contiguous() for t in (self.U, self.V, self.b - self.centre))
        return replace(self, U=U, V=V, b=b, s=self.s + (1 - self.tau) * self.centre, most=self.most + self.centre)

    def part(self, rows: slice) -> "Kernel":
        """The kernel of some rows."""
        return replace(self, U=self.U[rows], s=self.s[rows], most=self.most[rows])


@dataclass(frozen=True)
class Pass:
    """What a pass finds: l (n,), column sums (m,), and T Z (n, k); float64."""

    normaliser: Tensor
    columns: Tensor
    products: Tensor


def one_pass(kernel: Kernel, Z: Tensor) -> Pass:
    """Pass over the plan of a kernel, for Z (m, k)."""
    return _choose(kernel.b.device, _compiled_rows, _triton_rows, _torch_rows)(kernel, Z)


def difference(one: Kernel, other: Kernel) -> float:
    """Return the L1 distance of two plans."""
    return _choose(one.b.device, _compiled_difference, _triton_difference, _torch_difference)(one, other)


def _choose(device: torch.device, compiled: _Run, kernels: _Run, blocked: _Run) -> _Run:
    if uses_loops(device):
        return compiled
    return kernels if forced() == "triton" else blocked  # which no card has compared yet


def uses_loops(device: torch.device) -> bool:
    """Whether Numba's loops make the passes on a device."""
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


@contextmanager
def threads_for_loops(device: torch.device) -> Iterator[None]:
    """Leave torch's number of threads to the loops alone, if they make the passes.

    Threads of OpenMP spin for a while after each of torch's operations, all of which are small beside a pass, and take
    the cores from the loops'.
    """
    threads = torch.get_num_threads()
    if threads == 1 or not uses_loops(device):
        yield
        return
    token = _threads.set(threads)
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        _threads.reset(token)


def _in_parts(n: int, m: int, run: Callable[[int, int, int], None]) -> None:
    """Run (part, first, before last) for all rows, on torch's number of threads if there is work for them."""
    parts = min(_PARTS, n)
    bounds = [n * k // parts for k in range(parts + 1)]
    threads = min(_threads.get() or torch.get_num_threads(), parts, max(1, n * m // _WORTH_A_THREAD))
    if threads == 1:
        for part in range(parts):
            run(part, bounds[part], bounds[part + 1])
        return
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(run, range(parts), bounds[:-1], bounds[1:]))


def _compiled_rows(kernel: Kernel, Z: Tensor) -> Pass:
    from fgwot.streamed import loops

    n, m, arguments = len(kernel.s), len(kernel.b), _for_loops(kernel)
    z = Z.to(kernel.dtype).T.contiguous().numpy()
    normaliser, products = torch.empty_like(kernel.s), kernel.s.new_empty(n, len(z))
    columns = kernel.s.new_zeros(min(_PARTS, n), m)

    def run(part: int, first: int, last: int) -> None:
        out = normaliser.numpy(), columns[part].numpy(), products.numpy()
        loops.rows(*arguments, z, *out, first, last)

    _in_parts(n, m, run)
    return Pass(normaliser + kernel.centre, columns.sum(0), products)


def _compiled_difference(one: Kernel, other: Kernel) -> float:
    from fgwot.streamed import loops

    arguments = *_for_loops(one), *_for_loops(other)
    sums = torch.empty_like(one.s)

    def run(_: int, first: int, last: int) -> None:
        loops.difference(*arguments, sums.numpy(), first, last)

    _in_parts(len(sums), len(one.b), run)
    return float(sums.sum())


def _for_loops(kernel: Kernel) -> tuple[Any, ...]:
    k = kernel.entries
    return *(t.numpy() for t in (k.U, k.b, k.V, k.s)), k.tau, k.most.numpy()


def _triton_rows(kernel: Kernel, Z: Tensor) -> Pass:
    from fgwot.kernels.streams import column_sums

    factors, top, weight, normaliser, products = _with_triton(kernel, Z)
    columns = column_sums(factors, top, weight)
    return Pass(normaliser + kernel.centre, columns, products * weight[:, None])


def _triton_difference(one: Kernel, other: Kernel) -> float:
    from fgwot.kernels.streams import distances

    nothing = one.V.new_zeros(len(one.b), 0)
    first, second = (_with_triton(kernel, nothing)[:3] for kernel in (one, other))
    return float(distances(*first, *second).sum())


def _with_triton(kernel: Kernel, Z: Tensor) -> tuple[Any, Tensor, Tensor, Tensor, Tensor]:
    """Factors, largest exponents and weights of rows, l less the centre, and T Z up to the weights."""
    from fgwot.kernels.streams import Factors, row_sums

    factors = Factors.of(kernel.U, kernel.V, kernel.b - kernel.centre, kernel.dtype)
    top, total, products = row_sums(factors, Z)
    normaliser = top.double() * log(2) + total.log()
    return factors, top, kernel.entries.sums(normaliser) / total, normaliser, products


def blocks(n: int, m: int) -> list[slice]:
    """Slices of rows of which torch holds one at once."""
    size = max(1, _BLOCK // m)
    return [slice(k, min(k + size, n)) for k in range(0, n, size)]


def _torch_rows(kernel: Kernel, Z: Tensor) -> Pass:
    entries, Z = kernel.entries, Z.to(kernel.dtype)
    columns, parts = torch.zeros_like(kernel.b), []
    for rows in blocks(len(kernel.s), len(kernel.b)):
        T, normaliser = _torch_block(entries.part(rows))
        columns += T.sum(0, dtype=torch.float64)
        parts.append((normaliser, (T @ Z).double()))
    normaliser, products = (torch.cat(part) for part in zip(*parts, strict=True))
    return Pass(normaliser + kernel.centre, columns, products)


def _torch_difference(one: Kernel, other: Kernel) -> float:
    entries, others = one.entries, other.entries
    total = torch.zeros_like(one.s[0])
    for rows in blocks(len(one.s), len(one.b)):
        T, _ = _torch_block(entries.part(rows))
        T -= _torch_block(others.part(rows))[0]
        total += T.abs_().sum(dtype=torch.float64)
    return float(total)


def _torch_block(entries: Kernel) -> tuple[Tensor, Tensor]:
    """Some rows of T, and their l."""
    logits = torch.addmm(entries.b, entries.U, entries.V, alpha=-1)
    top = logits.amax(1, keepdim=True)
    T = logits.sub_(top).exp_()
    total = T.sum(1, dtype=torch.float64)
    normaliser = top[:, 0].double() + total.log()
    return T.mul_((entries.sums(normaliser) / total)[:, None].to(T.dtype)), normaliser
