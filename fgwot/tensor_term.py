r"""The quartic contraction (L (x) T)_ij = sum_kl L(C1_ik, C2_jl) T_kl and its adjoints."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from fgwot.arrays import any_array
from fgwot.backend import uses_triton
from fgwot.constants import BLOCK
from fgwot.losses import BY_NAME, Factors, GroundLoss, Pairwise, ground_loss, huber
from fgwot.operations import folded, once, product, without_autocast


@any_array
def tensor_term(C1: Tensor, C2: Tensor, T: Tensor, loss: str | GroundLoss = "square") -> Tensor:
    r"""Contract the ground loss with a plan: sum_kl L(C1_ik, C2_jl) T_kl.

    Differentiable in C1, C2 and T. Losses that factor (square, kl) cost O(n^2 m + n m^2) and may be
    differentiated any number of times; the others cost O(n^2 m^2) time and O(n m) memory, once.

    Parameters
    ----------
    C1 : Tensor (..., n, n)
    C2 : Tensor (..., m, m)
    T : Tensor (..., n, m)
        Any matrix; its own row and column sums are used where the formula needs them.
    loss : str or GroundLoss

    Returns
    -------
    Tensor (..., n, m)

    References
    ----------
    Peyré, Cuturi and Solomon, "Gromov-Wasserstein averaging of kernel and distance matrices", ICML 2016,
    proposition 1.

    Examples
    --------
    >>> import torch
    >>> C = torch.tensor([[0.0, 1.0], [1.0, 0.0]])
    >>> tensor_term(C, C, torch.eye(2) / 2)
    tensor([[0., 1.],
            [1., 0.]])
    """
    mixed = torch._C._is_any_autocast_enabled() and not torch.compiler.is_compiling()
    return contract(C1, C2, T, ground_loss(loss), product if mixed else torch.matmul)


@without_autocast
def contract(C1: Tensor, C2: Tensor, T: Tensor, loss: GroundLoss, multiply: Callable[..., Tensor] = product) -> Tensor:
    """`tensor_term`, whose derivatives are made of the given products if the loss factors."""
    n, m = T.shape[-2:]
    if C1.shape[-2:] != (n, n) or C2.shape[-2:] != (m, m):
        raise ValueError(
            f"T of shape {tuple(T.shape)} needs C1 (..., {n}, {n}) and C2 (..., {m}, {m}); "
            f"got {tuple(C1.shape)} and {tuple(C2.shape)}"
        )
    if loss.factors is not None:
        return _factored(C1, C2, T, loss.factors, multiply)
    batch = torch.broadcast_shapes(C1.shape[:-2], C2.shape[:-2], T.shape[:-2])
    C1, C2, T = (x.expand(*batch, *x.shape[-2:]) for x in (C1, C2, T))
    if torch.compiler.is_compiling() and loss.kernel is not None:
        contracted: Tensor = _contraction(C1, C2, T, *loss.kernel, uses_triton(T.device))
        return contracted
    summed: Tensor = _Direct.apply(*(x.reshape(batch.numel(), *x.shape[-2:]) for x in (C1, C2, T)), loss)
    return summed.reshape(*batch, n, m)


@without_autocast
def structure_adjoints(C1: Tensor, C2: Tensor, W: Tensor, T: Tensor, loss: GroundLoss) -> tuple[Tensor, Tensor]:
    r"""Gradients of <W, L (x) T> with respect to C1 and C2.

    dC1_ik = sum_jl dL/da(C1_ik, C2_jl) W_ij T_kl and dC2_jl = sum_ik dL/db(C1_ik, C2_jl) W_ij T_kl.
    """
    if loss.factors is not None:
        fs = loss.factors
        rows = W.sum(-1)[..., :, None] * T.sum(-1)[..., None, :]
        columns = W.sum(-2)[..., :, None] * T.sum(-2)[..., None, :]
        dC1 = fs.df1(C1) * rows - fs.dh1(C1) * (W @ fs.h2(C2) @ T.mT)
        dC2 = fs.df2(C2) * columns - fs.dh2(C2) * (W.mT @ fs.h1(C1) @ T)
        return dC1, dC2
    if loss.kernel is not None:
        return _kernel_adjoints(C1, C2, W, T, *loss.kernel, uses_triton(T.device))
    swapped_db: Pairwise = lambda b, a: loss.db(a, b)  # noqa: E731
    return _direct_adjoint(loss.da, C1, C2, W, T), _direct_adjoint(swapped_db, C2, C1, W.mT, T.mT)


def _factored(C1: Tensor, C2: Tensor, T: Tensor, fs: Factors, multiply: Callable[..., Tensor]) -> Tensor:
    rows = multiply(fs.f1(C1), T.sum(-1, keepdim=True))
    columns = multiply(fs.f2(C2), T.sum(-2).unsqueeze(-1))
    return rows + columns.mT - multiply(multiply(fs.h1(C1), T), fs.h2(C2).mT)


def _blocks(C1: Tensor, C2: Tensor) -> range:
    """Block starts over the n^2 pairs (i, k), sized to the memory bound."""
    per_pair = max(1, C2.numel())
    return range(0, C1.shape[-1] ** 2, max(1, BLOCK // per_pair))


def _direct(C1: Tensor, C2: Tensor, T: Tensor, value: Pairwise) -> Tensor:
    n = C1.shape[-1]
    flat = C1.flatten(-2)
    G = T.new_zeros(T.shape)
    starts = _blocks(C1, C2)
    for start in starts:
        pairs = torch.arange(start, min(start + starts.step, n * n), device=T.device)
        i, k = pairs // n, pairs % n
        compared = value(flat[..., pairs, None, None], C2[..., None, :, :])  # (..., pairs, m, m)
        G.index_add_(-2, i, (compared @ T[..., k, :, None]).squeeze(-1))
    return G


def _direct_adjoint(derivative: Pairwise, C1: Tensor, C2: Tensor, W: Tensor, T: Tensor) -> Tensor:
    n = C1.shape[-1]
    flat = C1.flatten(-2)
    starts = _blocks(C1, C2)
    parts = []
    for start in starts:
        pairs = torch.arange(start, min(start + starts.step, n * n), device=T.device)
        i, k = pairs // n, pairs % n
        compared = derivative(flat[..., pairs, None, None], C2[..., None, :, :])
        parts.append((W[..., i, None, :] @ compared @ T[..., k, :, None]).flatten(-3))
    return torch.cat(parts, -1).reshape(C1.shape)


def _by_name(name: str, delta: float) -> GroundLoss:
    return huber(delta) if name == "huber" else BY_NAME[name]


@torch.library.custom_op("fgwot::contraction", mutates_args=())
@without_autocast
def _contraction(C1: Tensor, C2: Tensor, T: Tensor, loss: str, delta: float, triton: bool) -> Tensor:
    """`tensor_term` for a loss with a kernel: an operator, so that compilers see one node and not its loops."""
    if triton:
        from fgwot.kernels.contraction import contraction

        return contraction(C1, C2, T, loss, delta)
    return _direct(C1, C2, T, _by_name(loss, delta).value)


@torch.library.custom_op("fgwot::adjoint", mutates_args=())
@without_autocast
def _adjoint(C1: Tensor, C2: Tensor, W: Tensor, T: Tensor, loss: str, delta: float, triton: bool) -> Tensor:
    """Gradient of <W, L (x) T> in C1."""
    if triton:
        from fgwot.kernels.adjoint import adjoint

        return adjoint(C1, C2, W, T, loss, delta)
    return _direct_adjoint(_by_name(loss, delta).da, C1, C2, W, T)


@_contraction.register_fake
def _(_C1: Tensor, _C2: Tensor, T: Tensor, *_how: Any) -> Tensor:
    return T.new_empty(T.shape)


@_adjoint.register_fake
def _(C1: Tensor, *_others: Any) -> Tensor:
    return C1.new_empty(C1.shape)


def _kernel_adjoints(C1: Tensor, C2: Tensor, W: Tensor, T: Tensor, *how: Any) -> tuple[Tensor, Tensor]:
    # The losses with a kernel are symmetric, L(a, b) = L(b, a): the structures may change places.
    return _adjoint(C1, C2, W, T, *how), _adjoint(C2, C1, W.mT, T.mT, *how)


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:  # noqa: ARG001
    C1, C2, T, *ctx.how = inputs
    ctx.save_for_backward(C1, C2, T)


def _contraction_backward(ctx: Any, W: Tensor) -> tuple[Tensor | None, ...]:
    C1, C2, T = ctx.saved_tensors
    dC1, dC2 = _kernel_adjoints(C1, C2, W, T, *ctx.how)
    return dC1, dC2, _contraction(C1.mT, C2.mT, W, *ctx.how), None, None, None


_contraction.register_autograd(_contraction_backward, setup_context=_save)


class _Direct(torch.autograd.Function):
    """The contraction where nothing is compiled: any loss, and the transforms of `torch.func`, which operators lack.

    The backward pass recomputes the blocks, so that no n^2 m^2 array is kept.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(C1: Tensor, C2: Tensor, T: Tensor, loss: GroundLoss) -> Tensor:
        (contracted,) = folded(partial(_contracted, loss), C1, C2, T)
        return contracted

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:  # noqa: ARG004
        *tensors, ctx.loss = inputs
        ctx.save_for_backward(*tensors)

    @staticmethod
    @without_autocast
    def backward(ctx: Any, W: Tensor) -> tuple[Tensor | None, ...]:
        C1, C2, T = ctx.saved_tensors
        with torch.no_grad():
            dC1, dC2 = folded(partial(structure_adjoints, loss=ctx.loss), C1, C2, W, T)
            (dT,) = folded(partial(_contracted, ctx.loss), C1.mT, C2.mT, W)
        reason = f"the contraction with the {ctx.loss.name} loss is differentiable once"
        return *once((dC1, dC2, dT), reason, C1, C2, T, W), None


def _contracted(loss: GroundLoss, C1: Tensor, C2: Tensor, T: Tensor) -> tuple[Tensor]:
    if loss.kernel is None:
        return (_direct(C1, C2, T, loss.value),)
    return (_contraction(C1, C2, T, *loss.kernel, uses_triton(T.device)),)
