"""The switch: which implementation runs, torch, Numba's loops or Triton's kernels."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec

import torch

_NAMES = ("auto", "torch", "numba", "triton", "graphs")
_PRECISIONS = ("ieee", "tf32x3")
# The kernels that CUDA tensors get unasked. "factored" is none of them: for n = 1000 in float32 it takes 174 us on an
# H100, and cuBLAS 52, which adds the linear cost as well. Whether torch's sweeps are faster has not been measured,
# and that "streams" are faster than torch's blocks neither: until a card has compared them they are asked for.
_ON_CUDA = frozenset({"direct", "sweeps", "whole"})


def _known(kind: str, name: str, names: tuple[str, ...]) -> str:
    if name not in names:
        raise ValueError(f"unknown {kind} {name!r}; known: {', '.join(names)}")
    return name


def _chosen(name: str) -> str | None:
    """Name of an implementation, None for "auto"."""
    return None if _known("backend", name, _NAMES) == "auto" else name


_forced = _chosen(os.environ.get("FGWOT_BACKEND", "auto"))
_precision = "ieee"
_triton_installed = find_spec("triton") is not None


@contextmanager
def backend(name: str, precision: str = "ieee") -> Iterator[None]:
    """Choose the implementation for all threads while the context lasts.

    The variable FGWOT_BACKEND, read when fgwot is imported, chooses it for the whole process. Gradients use the
    implementation that their forward pass used. Losses of your own that do not factor have no kernel and always use
    torch. A kernel that fails raises; torch never takes over unasked.

    Parameters
    ----------
    name : {"auto", "torch", "numba", "triton", "graphs"}
        "auto", the default, takes the fastest that knows the problem: Triton's kernels on CUDA, but for those that an
        H100 found slower than torch, loops that Numba compiles on the CPU, each where it is installed, and torch for
        all else. The other names allow one of them,
        beside torch for what it does not know; one that cannot be imported is then an ImportError. `fgwot.explain` says
        what would run, and why. Triton needs CUDA tensors, or TRITON_INTERPRET=1 in the environment when triton is
        first imported. "graphs" is torch on CUDA, whose steps are recorded when problems of a kind and shape come for
        the second time, and then replayed: not the default, as no card has timed it yet.
    precision : {"ieee", "tf32x3"}
        How Triton multiplies float32 matrices: in full precision, or on tensor cores as three TF32 products, which is
        about as accurate. torch's own products follow torch's own settings.

    Examples
    --------
    >>> import torch
    >>> from fgwot import tensor_term
    >>> C = torch.tensor([[0.0, 1.0], [1.0, 0.0]])
    >>> with backend("torch"):
    ...     tensor_term(C, C, torch.eye(2) / 2, "abs")
    tensor([[0., 1.],
            [1., 0.]])
    """
    global _forced, _precision
    before = _forced, _precision
    _forced, _precision = _chosen(name), _known("precision", precision, _PRECISIONS)
    try:
        yield
    finally:
        _forced, _precision = before


def forced() -> str | None:
    """Name of the implementation that was asked for; None under "auto"."""
    return _forced


def uses_triton(device: torch.device, kernel: str) -> bool:
    """Whether tensors on `device` go to a kernel: "direct", "factored", "sweeps", "streams" or "whole"."""
    if _forced is None:
        return device.type == "cuda" and _triton_installed and kernel in _ON_CUDA
    return _forced == "triton"


def uses_graphs(device: torch.device) -> bool:
    """Whether steps on `device` are recorded and replayed."""
    return _forced == "graphs" and device.type == "cuda" and not torch.cuda.is_current_stream_capturing()


def precision() -> str:
    """How kernels multiply float32 matrices."""
    return _precision
