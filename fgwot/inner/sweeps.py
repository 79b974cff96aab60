r"""Sinkhorn's sweeps as operators, which Triton runs.

There is no gradient through them: the solver's gradients come from its answer, by the envelope and implicit function
theorems, and not from the iterations that led to it.
"""

import torch
from torch import Tensor


@torch.library.custom_op("fgwot::sweeps", mutates_args=())
def sweeps(X: Tensor, p: Tensor, q: Tensor, y: Tensor, count: int, log: bool) -> tuple[Tensor, Tensor]:
    """Update rows and columns `count` times for X (B, n, m), p (B, n), q (B, m) and column potentials y (B, m).

    With `log`, X are costs divided by epsilon and potentials logarithms, -inf without mass; otherwise X is a kernel
    and y its scaling. Returns the potentials and the error |c - q|_1 (B,) that their last update corrected.
    """
    from fgwot.kernels.sinkhorn import sweeps as launch

    return launch(X, p, q, y, count, log)


@torch.library.custom_op("fgwot::half_sweep", mutates_args=())
def half_sweep(X: Tensor, p: Tensor, q: Tensor, y: Tensor, log: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Plan (B, n, m) with exact rows for column potentials y; row potentials (B, n); error |c - q|_1 (B,)."""
    from fgwot.kernels.sinkhorn import half_sweep as launch

    return launch(X, p, q, y, log)


@sweeps.register_fake
def _(X: Tensor, p: Tensor, q: Tensor, y: Tensor, count: int, log: bool) -> tuple[Tensor, Tensor]:  # noqa: ARG001
    return y.new_empty(y.shape), y.new_empty(len(y))


@half_sweep.register_fake
def _(X: Tensor, p: Tensor, q: Tensor, y: Tensor, log: bool) -> tuple[Tensor, Tensor, Tensor]:  # noqa: ARG001
    return X.new_empty(X.shape), p.new_empty(p.shape), y.new_empty(len(y))
