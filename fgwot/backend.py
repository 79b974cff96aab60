"""Which implementation runs: torch, or Triton's kernels where there is one."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec

import torch

_NAMES = ("torch", "triton")
_PRECISIONS = ("ieee", "tf32x3")


def _known(kind: str, name: str, names: tuple[str, ...]) -> str:
    if name not in names:
        raise ValueError(f"unknown {kind} {name!r}; known: {', '.join(names)}")
    return name


_variable = os.environ.get("FGWOT_BACKEND")
_forced = None if _variable is None else _known("backend", _variable, _NAMES)
_precision = "ieee"
_triton_installed = find_spec("triton") is not None


@contextmanager
def backend(name: str, precision: str = "ieee") -> Iterator[None]:
    """Force one implementation for all threads while the context lasts.

    By default CUDA tensors go to Triton, where it is installed, and all else to torch.
    The variable FGWOT_BACKEND, read when fgwot is imported, changes that for the whole process. Gradients use the
    implementation that their forward pass used. Losses of your own that do not factor have no kernel and always use
    torch. A kernel that fails raises; torch never takes over unasked.

    Parameters
    ----------
    name : {"torch", "triton"}
        Triton needs CUDA tensors, or TRITON_INTERPRET=1 in the environment when triton is first imported.
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
    _forced, _precision = _known("backend", name, _NAMES), _known("precision", precision, _PRECISIONS)
    try:
        yield
    finally:
        _forced, _precision = before


def uses_triton(device: torch.device) -> bool:
    """Whether tensors on `device` go to a kernel if there is one."""
    if _forced is None:
        return device.type == "cuda" and _triton_installed
    return _forced == "triton"


def precision() -> str:
    """How kernels multiply float32 matrices."""
    return _precision
