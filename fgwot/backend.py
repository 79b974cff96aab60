"""The switch: which implementation runs, torch, Numba's loops or Triton's kernels."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec

import torch

_NAMES = ("auto", "torch", "numba", "triton", "graphs")


def _chosen(name: str) -> str | None:
    """Name of an implementation, None for "auto"."""
    if name not in _NAMES:
        raise ValueError(f"unknown backend {name!r}; known: {', '.join(_NAMES)}")
    return None if name == "auto" else name


_forced = _chosen(os.environ.get("FGWOT_BACKEND", "auto"))
_triton_installed = find_spec("triton") is not None


@contextmanager
def backend(name: str) -> Iterator[None]:
    """Choose the implementation for all threads while the context lasts.

    The variable FGWOT_BACKEND, read when fgwot is imported, chooses it for the whole process. Gradients use the
    implementation that their forward pass used. Losses of your own that do not factor have no kernel and always use
    torch. A kernel that fails raises; torch never takes over unasked.

    Parameters
    ----------
    name : {"auto", "torch", "numba", "triton", "graphs"}
        "auto", the default, takes the fastest that knows the problem: Triton's kernels on CUDA, loops that Numba
        compiles on the CPU, each where it is installed, and torch for all else: matrix products are always torch's,
        and follow its settings. The other names allow one of them, beside torch for what it does not know; one that
        cannot be imported is then an ImportError. `fgwot.explain` says what would run, and why. "triton" takes whole
        small problems even where "auto" expects torch to be faster; it needs CUDA tensors, or TRITON_INTERPRET=1 in
        the environment when triton is first imported. "graphs" is torch on CUDA, whose steps are recorded when problems
        of a kind and shape come for the second time, and then replayed: not the default, as no card has timed it yet.

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
    global _forced
    before, _forced = _forced, _chosen(name)
    try:
        yield
    finally:
        _forced = before


def forced() -> str | None:
    """Name of the implementation that was asked for; None under "auto"."""
    return _forced


def uses_triton(device: torch.device) -> bool:
    """Whether tensors on `device` go to kernels."""
    if _forced is None:
        return device.type == "cuda" and _triton_installed
    return _forced == "triton"


def uses_graphs(device: torch.device) -> bool:
    """Whether steps on `device` are recorded and replayed."""
    return _forced == "graphs" and device.type == "cuda" and not torch.cuda.is_current_stream_capturing()
