"""Which driver solves a call, and why the others do not: their reasons to decline are the conditions."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fgwot.arrays import any_array
from fgwot.backend import forced, uses_triton
from fgwot.call import Call
from fgwot.iteration.initial import MultiInit
from fgwot.losses import BY_NAME
from fgwot.problem import Weight, moves
from fgwot.solvers import MirrorDescent
from fgwot.streamed.conditions import against_streaming
from fgwot.structure import Structure

_log = logging.getLogger("fgwot")
LARGEST = 200  # points of a side that the loops take; above, torch's matrix products and threads win
_SMALLEST_BATCHED = 8  # points of a side up to which batches are not the kernel's
_LOOP_DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
_REFUSED = "the check will refuse the arguments"


class Explanation(NamedTuple):
    """The driver that solves a call, and why those that would have come first do not.

    Attributes
    ----------
    driver : str
        "numba" or "triton", which solve small problems as a whole, "streamed", which solves large ones without storing
        plans, or "torch", which solves the rest.
    declined : dict of str
        A reason by driver.
    """

    driver: str
    declined: dict[str, str]

    def __str__(self) -> str:
        return "\n".join([self.driver, *(f"  {name}: {reason}" for name, reason in self.declined.items())])


@any_array
def explain(
    M: Structure | None,
    C1: Structure,
    C2: Structure,
    p: Tensor | None = None,
    q: Tensor | None = None,
    *,
    validate: bool = True,  # noqa: ARG001 - no part in it
    **options: Any,
) -> Explanation:
    """Say which driver `fused_gromov_wasserstein` would use for these arguments, and why no faster one.

    The log "fgwot" has the same at level DEBUG for every call. Problems that a driver leaves open go on in torch.

    Parameters
    ----------
    M, C1, C2, p, q, validate, **options
        Those of `fgwot.fused_gromov_wasserstein`.

    Returns
    -------
    Explanation
        ``driver`` and ``declined``, a reason by driver; ``print`` shows both.

    Examples
    --------
    >>> import torch
    >>> C = torch.rand(300, 300)
    >>> print(explain(C, C, C, epsilon=0.1))
    torch
      triton: the tensors are on cpu
      numba: 300 points; the loops take at most 200
    """
    return choose(Call.of(M, C1, C2, p, q, **options))


def choose(call: Call) -> Explanation:
    """Ask the drivers in turn.

    Raises
    ------
    ImportError
        If the one that was asked for would take the call, but cannot be imported.
    """
    declined: dict[str, str] = {}
    chosen = "torch"
    reason = against_streaming(call)
    if reason is None:
        chosen = "streamed"
    elif call.low_rank is not None:
        declined["streamed"] = reason
        call = call.built()
    for driver in _WHOLE if reason is not None else ():
        reason = driver.declines(call)
        if reason is None:
            chosen = driver.name
            break
        declined[driver.name] = reason
    if _log.isEnabledFor(logging.DEBUG):
        _log.debug("solved by %s; declined: %s", chosen, declined)
    return Explanation(chosen, declined)


@dataclass(frozen=True)
class _Whole:
    """A driver that solves small problems in one piece; its functions give a reason against something, or None."""

    name: str
    against_device: Callable[[torch.device], str | None]
    against_options: Callable[[Call], str | None]
    against_size: Callable[[int, int, torch.dtype], str | None]
    against_rest: Callable[[Call, int], str | None]

    def declines(self, call: Call) -> str | None:
        """Give the first reason, in ascending order of the time to find it; None if there is none."""
        if forced() not in (None, self.name):
            return f"fgwot.backend({forced()!r}) is in force"
        C1, C2 = call.C1, call.C2
        if not (isinstance(C1, Tensor) and isinstance(C2, Tensor)):
            return "the structures are no dense tensors"
        reason = self.against_device(C1.device) or self.against_options(call)
        if reason is not None:
            return reason
        tensors = [t for t in (call.M, C2, call.p, call.q, *call.weights) if isinstance(t, Tensor)]
        if min(C1.ndim, C2.ndim) < 2 or any(t.dtype != C1.dtype or t.device != C1.device for t in tensors):
            return _REFUSED
        reason = self.against_size(C1.shape[-1], C2.shape[-1], C1.dtype)
        if reason is not None:
            return reason
        return _REFUSED if call.flat is None else self.against_rest(call, call.flat.batch.numel())


def _not_in_kernels(call: Call) -> str | None:
    if call.solver != MirrorDescent():
        return f"{call.solver}; it knows MirrorDescent()"
    if moves(call.rho, call.mass):
        return "rho or mass; it knows exact marginals"
    if isinstance(call.init, MultiInit):
        return "a MultiInit; it starts once"
    return _not_in_loops(call)


def _not_in_loops(call: Call) -> str | None:
    loss, alpha = call.loss, call.alpha
    name = loss if isinstance(loss, str) else getattr(loss, "name", None)
    if name not in ("square", "kl") or loss not in (name, BY_NAME[name]):
        return f"the {name} loss; it knows square and kl"
    if call.max_iter == 1:
        return "max_iter=1; its last step is torch's"
    if call.M is None and isinstance(alpha, Tensor):
        return "a tensor alpha without M; it would have to be looked at"
    known = isinstance(alpha, Tensor) or (alpha == 1 if call.M is None else 0 <= alpha <= 1)
    known = known and all(_positive(weight) for weight in (call.epsilon, call.mass))
    return None if known else _REFUSED


def _positive(weight: Weight | None) -> bool:
    """Whether that is so, or not known."""
    return weight is None or isinstance(weight, Tensor) or 0 < weight < float("inf")


def _not_for_kernels(device: torch.device) -> str | None:
    if uses_triton(device):
        return None
    return "Triton is not installed" if device.type == "cuda" else f"the tensors are on {device.type}"


def _too_large_for_kernels(n: int, m: int, dtype: torch.dtype) -> str | None:
    from fgwot.kernels.shapes import pack_for

    return None if pack_for(n, m, dtype) else f"{max(n, m)} points in {dtype}; the kernel takes fewer"


def _slower_in_batches(call: Call, batch: int) -> str | None:
    """On an H100 batches of so small problems took longer than on one thread of a CPU; not measured since 26f0a5c."""
    from fgwot.kernels.shapes import pack_for

    pack = pack_for(call.C1.shape[-1], call.C2.shape[-1], call.C1.dtype)
    if forced() is None and batch > 1 and pack is not None and pack.side <= _SMALLEST_BATCHED:
        return f"a batch of problems of at most {pack.side} points; on an H100 one thread of a CPU was faster"
    return None


def _not_for_loops(device: torch.device) -> str | None:
    return None if device.type == "cpu" else f"the tensors are on {device.type}"


def _too_large_for_loops(n: int, m: int, dtype: torch.dtype) -> str | None:
    if dtype not in _LOOP_DTYPES:
        return f"{dtype}"
    return None if max(n, m) <= LARGEST else f"{max(n, m)} points; the loops take at most {LARGEST}"


def _without_loops(_call: Call, _batch: int) -> str | None:
    reason = failure_of_loops()
    if reason is not None and forced() == "numba":
        raise ImportError(f"fgwot.backend('numba') needs Numba (pip install numba): {reason}")
    return reason


@cache
def failure_of_loops() -> str | None:
    """Import the loops; say why if that fails."""
    try:
        import fgwot.whole.compiled  # noqa: F401
    # Numba raises all of these: no Numba, one for another NumPy, no library, no folder to keep compiled loops in.
    except (ImportError, OSError, RuntimeError, SystemError) as error:
        return str(error).partition("\n")[0]
    return None


_WHOLE = (
    _Whole("triton", _not_for_kernels, _not_in_kernels, _too_large_for_kernels, _slower_in_batches),
    _Whole("numba", _not_for_loops, _not_in_loops, _too_large_for_loops, _without_loops),
)
