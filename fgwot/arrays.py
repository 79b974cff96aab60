"""Arrays of other libraries: in as tensors, and results back in the caller's kind, through DLPack."""

import functools
import inspect
import sys
from collections.abc import Callable, Iterable
from dataclasses import fields, is_dataclass, replace
from types import ModuleType, NoneType
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor, nn

_P = ParamSpec("_P")
_R = TypeVar("_R")
# What a plain call with tensors is made of: it is let through at the price of a look at types.
_OWN = frozenset({Tensor, nn.Parameter, NoneType, bool, float, int, str})


def any_array(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """Let `function`, which takes and returns tensors, take and return arrays of one other library too.

    An array is whatever has ``__dlpack__`` and a library with ``from_dlpack``: NumPy's, CuPy's and JAX's, say. They
    are found as arguments and in tuples, lists and dataclasses among these (a `fgwot.LowRank`, a `fgwot.Solution`).
    Memory is shared where DLPack permits: contiguous and transposed arrays are not copied, reversed ones are. Arrays
    without dimensions count as numbers. Annotations speak of tensors alone.

    Raises
    ------
    TypeError
        For arrays of two libraries (tensors are one), for what is not floating point, and for traced arrays of JAX.
    """
    signature = inspect.signature(function)

    @functools.wraps(function)
    def call(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        # A compiler sees tensors; the look at types would only burden its graph.
        if torch.compiler.is_compiling() or (
            _OWN.issuperset(map(type, args)) and _OWN.issuperset(map(type, kwargs.values()))
        ):
            return function(*args, **kwargs)
        if not any(map(_is_foreign, _leaves((*args, *kwargs.values())))):
            return function(*args, **kwargs)
        given = signature.bind(*args, **kwargs)
        library = _library(given.arguments)
        given.arguments = {
            name: _mapped(functools.partial(_tensor, name), value) for name, value in given.arguments.items()
        }
        result = function(*given.args, **given.kwargs)
        returned: _R = result if library is None else _mapped(functools.partial(_array, library), result)
        return returned

    return call


def _is_foreign(leaf: Any) -> bool:
    return type(leaf) not in _OWN and hasattr(leaf, "__dlpack__") and not isinstance(leaf, Tensor)


def _is_record(value: Any) -> bool:
    return is_dataclass(value) and not isinstance(value, type)


def _leaves(values: Iterable[Any]) -> list[Any]:
    found = []
    for value in values:
        if type(value) in _OWN:
            found.append(value)
        elif isinstance(value, tuple | list):
            found += _leaves(value)
        elif _is_record(value):
            found += _leaves(vars(value).values())
        else:
            found.append(value)
    return found


def _mapped(function: Callable[[Any], Any], value: Any) -> Any:
    if isinstance(value, tuple | list):
        rest = (_mapped(function, each) for each in value)
        return type(value)(*rest) if hasattr(value, "_fields") else type(value)(rest)
    if _is_record(value):
        return replace(value, **{field.name: _mapped(function, getattr(value, field.name)) for field in fields(value)})
    return function(value)


def _namespace(array: Any) -> ModuleType:
    """Return the library of an array; CuPy's and old NumPy's arrays do not name it themselves."""
    if isinstance(array, Tensor):
        return torch
    if hasattr(array, "__array_namespace__"):
        found: ModuleType = array.__array_namespace__()
        return found
    return sys.modules[type(array).__module__.partition(".")[0]]


def _library(arguments: dict[str, Any]) -> ModuleType | None:
    """Return the one library of all arrays that are more than a number, None if there are none."""
    found: dict[ModuleType, str] = {}
    for name, value in arguments.items():
        for leaf in _leaves([value]):
            if isinstance(leaf, Tensor) or (_is_foreign(leaf) and leaf.ndim):
                found.setdefault(_namespace(leaf), name)
    if len(found) > 1:
        kinds = ", ".join(f"{name} is of {library.__name__.partition('.')[0]}" for library, name in found.items())
        raise TypeError(f"arguments must be arrays of one library: {kinds}")
    library = next(iter(found), None)
    if library is not None and not hasattr(library, "from_dlpack"):
        raise TypeError(
            f"{found[library]} is of {library.__name__}, which has no from_dlpack; pass tensors or arrays of NumPy, "
            "CuPy or JAX"
        )
    return library


def _tensor(name: str, value: Any) -> Any:
    """Return an array as a tensor, a number as a float, anything else as it is."""
    if not _is_foreign(value):
        return value
    jax = sys.modules.get("jax")
    if jax is not None and isinstance(value, jax.core.Tracer):
        raise TypeError(
            f"{name} has no values yet, it is traced by jax.jit, jax.grad or jax.vmap: call fgwot outside of them, or "
            "through jax.pure_callback; for gradients use tensors"
        )
    if not value.ndim:
        return float(value)
    if min(getattr(value, "strides", (0,))) < 0:  # tensors have no such strides, and torch 2.9 aborts at them
        tensor = _copied(name, value)
    else:
        try:
            tensor = torch.utils.dlpack.from_dlpack(value)
        except (BufferError, RuntimeError):  # read-only before NumPy 2.1
            tensor = _copied(name, value)
    if not tensor.is_floating_point():
        raise TypeError(f"{name} must be floating point, got {value.dtype}; convert it with .astype(float)")
    return tensor


def _copied(name: str, value: Any) -> Tensor:
    try:
        return torch.utils.dlpack.from_dlpack(value.copy())
    except (BufferError, RuntimeError, TypeError) as error:
        raise TypeError(f"{name} of {value.dtype} cannot be shared with torch ({error}); use .astype(float)") from error


def _array(library: ModuleType, value: Any) -> Any:
    """Return a tensor as an array, anything else as it is."""
    if not isinstance(value, Tensor):
        return value
    # JAX takes no other strides, and no entry of a result is to be another's.
    tensor = value.detach().contiguous()
    # Before 2.1 NumPy's from_dlpack made arrays read-only.
    return tensor.numpy() if library.__name__ == "numpy" else library.from_dlpack(tensor)
