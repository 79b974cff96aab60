"""Tensors that start with the same batch dimension."""

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import fields
from typing import Any, Self

import torch
from torch import Tensor


def take(t: Tensor, index: Tensor) -> Tensor:
    """t[index] along the batch, for ascending positions, which are all of them if they are as many.

    Taking all costs no copy, and what the batch shares stays shared.
    """
    if len(index) == len(t):
        return t
    if t.stride(0) == 0 and len(t):
        return t[:1].expand(len(index), *t.shape[1:])
    return t[index]


class Selectable(ABC):
    """What belongs to the problems of a batch."""

    @abstractmethod
    def select(self, index: Tensor) -> Self:
        """Return what belongs to some problems, given by ascending positions."""


class Batch(Selectable):
    """A dataclass of tensors that start with the batch dimension, of other batches, and of what all problems share."""

    def select(self, index: Tensor) -> Self:
        """Return what belongs to some problems, given by ascending positions."""
        return type(self)(**{name: _taken(part, index) for name, part in _parts(self)})

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """Its tensors and those of its batches, in the order of the fields."""
        return tuple(tensor for _, part in _parts(self) for tensor in _flat(part))

    def clone(self) -> Self:
        """Return the same in memory of its own, each part in another."""
        return type(self)(**{name: _copied(part) for name, part in _parts(self)})

    def put(self, index: Tensor, other: Self) -> Self:
        """Self with some problems replaced."""
        pairs = ((name, part, getattr(other, name)) for name, part in _parts(self))
        return type(self)(**{name: _replaced(part, index, new) for name, part, new in pairs})

    def where(self, chosen: Tensor, other: Self) -> Self:
        """Self for the chosen problems (B,), `other` for the rest."""
        pairs = ((name, part, getattr(other, name)) for name, part in _parts(self))
        return type(self)(**{name: _mixed(chosen, part, rest) for name, part, rest in pairs})


def _parts(batch: Batch) -> Iterable[tuple[str, Any]]:
    return ((field.name, getattr(batch, field.name)) for field in fields(batch))  # type: ignore[arg-type]


def _flat(part: Any) -> tuple[Tensor, ...]:
    if isinstance(part, Tensor):
        return (part,)
    return part.tensors if isinstance(part, Batch) else ()


def _taken(part: Any, index: Tensor) -> Any:
    if isinstance(part, Tensor):
        return take(part, index)
    return part.select(index) if isinstance(part, Selectable) else part


def _copied(part: Any) -> Any:
    return part.clone() if isinstance(part, Tensor | Batch) else part


def _replaced(part: Any, index: Tensor, new: Any) -> Any:
    if isinstance(part, Tensor):
        return new if len(index) == len(part) else part.index_copy(0, index, new)
    return part.put(index, new) if isinstance(part, Batch) else part


def _mixed(chosen: Tensor, part: Any, rest: Any) -> Any:
    if isinstance(part, Tensor):
        return torch.where(chosen.view(-1, *[1] * (part.ndim - 1)), part, rest)
    return part.where(chosen, rest) if isinstance(part, Batch) else part


def inner(a: Tensor, b: Tensor) -> Tensor:
    """Sums (B,) of products of entries; a single problem's without an array of them."""
    if len(a) == 1:
        return torch.dot(a.flatten(), b.flatten())[None]
    return (a * b).sum((-2, -1))


def broadcast(shapes: Iterable[torch.Size]) -> torch.Size:
    """`torch.broadcast_shapes`, called only where shapes differ: it imports sympy, and takes a tenth of a small solve.

    Examples
    --------
    >>> broadcast([torch.Size([3]), torch.Size([]), torch.Size([3])])
    torch.Size([3])
    """
    different = {shape for shape in shapes if shape}
    return torch.broadcast_shapes(*different) if len(different) > 1 else next(iter(different), torch.Size())


def flatten(t: Tensor, trailing: int, batch: torch.Size) -> Tensor:
    """Give t, whose last `trailing` dimensions are not batch, the one batch dimension that `batch` comes to."""
    own = t.shape[t.ndim - trailing :]
    if t.shape[: t.ndim - trailing].numel() == batch.numel():  # nothing to broadcast, or to sum in the backward pass
        return t.reshape(batch.numel(), *own)
    if t.ndim == trailing:  # shared by the whole batch: a view, no copy
        return t.expand(batch.numel(), *own)
    return t.expand(batch + own).reshape(batch.numel(), *own)
