"""Which implementation runs: torch, or Triton's kernels where there is one."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec

import torch

_NAMES = ("torch", "triton")


def _known(name: str | None) -> str | None:
    if name is not None and name not in _NAMES:
        raise ValueError(f"unknown backend {name!r}; known: {', '.join(_NAMES)}")
    return name


_forced = _known(os.environ.get("FGWOT_BACKEND"))
_triton_installed = find_spec("triton") is not None


@contextmanager
def backend(name: str) -> Iterator[None]:
    """Force one implementation for all threads while the context lasts.

    By default CUDA tensors go to Triton, where it is installed and has a kernel for the loss, and all else to torch.
    The variable FGWOT_BACKEND, read when fgwot is imported, changes that for the whole process. Gradients use the
    implementation that their forward pass used. Losses without a kernel (square and kl, which factor, and those of
    your own) always use torch. A kernel that fails raises; torch never takes over unasked.

    Parameters
    ----------
    name : {"torch", "triton"}
        Triton needs CUDA tensors, or TRITON_INTERPRET=1 in the environment when triton is first imported.

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
    before, _forced = _forced, _known(name)
    try:
        yield
    finally:
        _forced = before


def uses_triton(device: torch.device) -> bool:
    """Whether tensors on `device` go to a kernel if there is one."""
    if _forced is None:
        return device.type == "cuda" and _triton_installed
    return _forced == "triton"
