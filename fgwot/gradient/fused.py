r"""The factored contraction as one operator: a matrix product with all that follows it, written once.

out = linear M + quadratic (rows (+) columns - W H'). With W = h1(C1) T and H = h2(C2) the bracket is L (x) T.
"""

from typing import Any, Optional

import torch
from torch import Tensor

from fgwot.operations import without_autocast

_Maybe = Optional[Tensor]  # noqa: UP045 - the form that torch.library reads


@torch.library.custom_op("fgwot::factored", mutates_args=())
def factored(
    W: Tensor,
    H: Tensor,
    rows: _Maybe,
    columns: _Maybe,
    M: _Maybe,
    linear: _Maybe,
    quadratic: Tensor,
    precision: str,
) -> Tensor:
    """Run the kernel. Of one batch shape: W (..., n, k), H (..., m, k), rows (..., n), columns (..., m), M (..., n, m).

    `linear` and `quadratic` (...) hold one number per problem. Rows and columns come together or not at all, and so do
    M and linear. Sums are float64 for float64 and float32 for everything else, and so is the result.
    """
    from fgwot.kernels.factored import factored as launch

    return launch(W, H, rows, columns, M, linear, quadratic, precision)


@factored.register_fake
def _(W: Tensor, H: Tensor, *_others: Any) -> Tensor:
    dtype = torch.float64 if W.dtype == torch.float64 else torch.float32
    return W.new_empty(*W.shape[:-1], H.shape[-2], dtype=dtype)


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:  # noqa: ARG001
    ctx.save_for_backward(*inputs[:-1])


@without_autocast
def _backward(ctx: Any, d: Tensor) -> tuple[Tensor | None, ...]:
    W, H, rows, columns, M, linear, quadratic = ctx.saved_tensors
    bracket = quadratic[..., None, None] * d
    # Products in the type of the inputs; <d, W H'> = <W, d H> spares the product itself.
    dH, product = -(bracket.mT.to(W.dtype) @ W), d.to(W.dtype) @ H
    dquadratic = -(W * product).sum((-2, -1))
    drows = dcolumns = dM = dlinear = None
    if rows is not None:
        drows, dcolumns = bracket.sum(-1).to(rows.dtype), bracket.sum(-2).to(columns.dtype)
        dquadratic = dquadratic + (rows * d.sum(-1)).sum(-1) + (columns * d.sum(-2)).sum(-1)
    if M is not None:
        dM, dlinear = (linear[..., None, None] * d).to(M.dtype), (M * d).sum((-2, -1)).to(linear.dtype)
    dW = -(quadratic[..., None, None] * product).to(W.dtype)
    return dW, dH, drows, dcolumns, dM, dlinear, dquadratic.to(quadratic.dtype), None


factored.register_autograd(_backward, setup_context=_save)
