"""How fgwot's loops appear to torch: as single operations to vmap, to autograd and to compilers."""

import functools
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor

_P = ParamSpec("_P")
_R = TypeVar("_R")
_Tensors = tuple[Tensor, ...]


def outside_graphs(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """Make a compiled caller's graph break once at `function`, and not at every loop in it.

    Like `torch.compiler.disable`, which as a decorator would import the whole compiler along with fgwot.
    """

    @functools.wraps(function)
    def call(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        if torch.compiler.is_compiling():
            disabled: Callable[_P, _R] = torch.compiler.disable(function)
            return disabled(*args, **kwargs)
        return function(*args, **kwargs)

    return call


def without_autocast(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """Run `function`, with tensors among its arguments, outside `torch.autocast`: costs keep their precision."""

    @functools.wraps(function)
    def call(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        if not torch._C._is_any_autocast_enabled():
            return function(*args, **kwargs)
        devices = (getattr(value, "device", None) for value in (*args, *kwargs.values()))
        with ExitStack() as stack:
            for kind in {device.type for device in devices if isinstance(device, torch.device)}:
                stack.enter_context(torch.autocast(kind, enabled=False))
            return function(*args, **kwargs)

    return call


class _Product(torch.autograd.Function):
    """A B, whose derivatives keep their precision where the backward pass is inside `torch.autocast`."""

    generate_vmap_rule = True

    @staticmethod
    @without_autocast
    def forward(A: Tensor, B: Tensor) -> Tensor:
        return A @ B

    @staticmethod
    def setup_context(ctx: Any, inputs: _Tensors, output: Tensor) -> None:  # noqa: ARG004
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, d: Tensor) -> _Tensors:
        A, B = ctx.saved_tensors
        return product(d, B.mT).sum_to_size(A.shape), product(A.mT, d).sum_to_size(B.shape)


def product(A: Tensor, B: Tensor) -> Tensor:
    """Return A B (..., n, m), outside `torch.autocast` in every derivative too."""
    result: Tensor = _Product.apply(A, B)
    return result


def transformed() -> bool:
    """Whether this is inside a transform of `torch.func`."""
    active: bool = torch._C._are_functorch_transforms_active()
    return active


def folded(operation: Callable[..., _Tensors], *tensors: Tensor) -> _Tensors:
    """Return `operation` of tensors that all start with one batch dimension, as do its results; without gradients.

    Under `torch.func.vmap` the operation sees plain tensors, whose batch is B times larger.
    """
    if transformed():
        results: _Tensors = _Folded.apply(operation, *tensors)
        return results
    with torch.no_grad():  # small problems would notice the cost of a Function
        return operation(*tensors)


class _Folded(torch.autograd.Function):
    @staticmethod
    def forward(operation: Callable[..., _Tensors], *tensors: Tensor) -> _Tensors:
        return operation(*tensors)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: _Tensors) -> None:  # noqa: ARG004
        ctx.mark_non_differentiable(*output)

    @staticmethod
    def backward(_: Any, *__: Tensor) -> None:
        raise AssertionError("nothing that is not differentiable has a backward pass")

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], operation: Any, *tensors: Tensor) -> tuple[_Tensors, int]:
        def fold(t: Tensor, dim: int | None) -> Tensor:
            return (t.expand(info.batch_size, *t.shape) if dim is None else t.movedim(dim, 0)).flatten(0, 1)

        flat = (fold(t, dim) for t, dim in zip(tensors, in_dims[1:], strict=True))
        return tuple(t.unflatten(0, (info.batch_size, -1)) for t in folded(operation, *flat)), 0


def once(grads: tuple[Tensor | None, ...], reason: str, *inputs: Tensor | None) -> tuple[Tensor | None, ...]:
    """Return the gradients of a backward pass; differentiating them again, in `inputs`, is an error."""
    if not torch.is_grad_enabled():  # no backward(create_graph=True)
        return grads
    given = [grad for grad in grads if grad is not None]
    marked = iter(_Once.apply(reason, len(given), *given, *(t for t in inputs if t is not None)))
    return tuple(None if grad is None else next(marked) for grad in grads)


class _Once(torch.autograd.Function):
    """Identity whose own backward refuses."""

    generate_vmap_rule = True

    @staticmethod
    def forward(_: str, count: int, *tensors: Tensor) -> _Tensors:
        return tuple(t.clone() for t in tensors[:count])

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: _Tensors) -> None:  # noqa: ARG004
        ctx.reason = inputs[0]

    @staticmethod
    def backward(ctx: Any, *_: Tensor) -> None:
        raise RuntimeError(ctx.reason)
