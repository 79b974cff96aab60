"""Whether JSON is what a type says: what a file holds is checked once, where it is read."""

import json
import sys
from collections.abc import Iterable
from dataclasses import MISSING, Field, fields, is_dataclass
from itertools import repeat
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints, is_typeddict

from kmat.errors import UserError


def read_json(path: Path, what: str = "") -> Any:
    """Read a JSON file; errors call it ``what``.

    Raises
    ------
    UserError
        If it cannot be read or is damaged.
    """
    name = f"{what} {path}".lstrip()
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"cannot read {name}: {error.strerror}") from error
    except ValueError as error:
        raise UserError(f"cannot read {name}: {error}") from error
    except RecursionError as error:
        raise UserError(f"cannot read {name}: nested too deeply") from error


def misfit(value: object, kind: Any, where: str = "") -> str | None:
    """Say where a value is not of a type; None if it is.

    Parameters
    ----------
    value : object
        Of JSON's types, or a dataclass that was made of them.
    kind : type
        A plain type, union, ``Literal``, ``list``, ``tuple``, ``dict``, dataclass, or ``TypedDict``. A dictionary may
        stand for a dataclass, and a list for a tuple; it may have other keys, and lack those of fields with a default.
        Numbers must be finite.
    where : str
        Name of the value.

    Examples
    --------
    >>> misfit({"a": [1, "2"]}, dict[str, list[int]])
    "a.1 is '2', expected int"
    """
    origin, arguments = get_origin(kind), get_args(kind)
    if kind is Any:
        return None
    if origin in (Union, UnionType):
        faults = [misfit(value, each, where) for each in arguments]
        # Of several ways not to fit, the one that goes deepest is about the type that was meant.
        return None if None in faults else max(filter(None, faults), key=lambda text: text.split(" ")[0].count("."))
    parts = _parts(value, kind, origin, arguments)
    if parts is None:
        expected = str(kind) if origin else kind.__name__
        return f"{where or 'the whole'} is {_short(value)}, expected {expected}"
    named = ((f"{where}.{key}" if where else str(key), part, part_kind) for key, part, part_kind in parts)
    return next((found for name, part, part_kind in named if (found := misfit(part, part_kind, name))), None)


def restore(value: Any, kind: Any) -> Any:
    """Make dataclasses and tuples of JSON's dictionaries and lists, where :func:`misfit` has found nothing wrong.

    Examples
    --------
    >>> restore({"a": [[1, 2], [3, 4]]}, dict[str, list[tuple[int, ...]]])
    {'a': [(1, 2), (3, 4)]}
    """
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        return restore(value, next(each for each in arguments if misfit(value, each) is None))
    if is_dataclass(kind) and isinstance(kind, type) and isinstance(value, dict):
        hints = get_type_hints(kind)
        names = (each.name for each in fields(kind) if each.name in value)
        return kind(**{name: restore(value[name], hints[name]) for name in names})
    if origin is dict:
        return {key: restore(part, arguments[1]) for key, part in value.items()}
    if origin is list:
        return [restore(part, arguments[0]) for part in value]
    if origin is tuple:
        kinds = repeat(arguments[0]) if arguments[1:] == (...,) else arguments
        return tuple(restore(part, each) for part, each in zip(value, kinds, strict=False))
    return value


_MISSING = object()


def _parts(value: Any, kind: Any, origin: Any, arguments: tuple[Any, ...]) -> Iterable[tuple[object, Any, Any]] | None:
    """List a value's parts: key, part and the type that it must have. None if the value itself is not of its type."""
    if origin is Literal:
        return () if value in arguments else None
    if is_typeddict(kind):
        keys = get_type_hints(kind).items()
        return ((key, value.get(key, _MISSING), hint) for key, hint in keys) if isinstance(value, dict) else None
    if is_dataclass(kind) and isinstance(value, dict):
        hints = get_type_hints(kind)
        known = [each.name for each in fields(kind) if each.name in value or _required(each)]
        return ((name, value.get(name, _MISSING), hints[name]) for name in known)
    if not isinstance(value, _plain(origin or kind)) or (isinstance(value, bool) and kind is not bool):
        return None
    if isinstance(value, int | float):
        return () if abs(value) <= sys.float_info.max else None
    if is_dataclass(kind):
        hints = get_type_hints(kind)
        return ((each.name, getattr(value, each.name), hints[each.name]) for each in fields(kind))
    if origin is dict:
        return ((key, part, arguments[1]) for key, part in value.items())
    if origin is list or arguments[1:] == (...,):
        return ((index, part, arguments[0]) for index, part in enumerate(value))
    if origin is tuple:
        return zip(range(len(value)), value, arguments, strict=True) if len(value) == len(arguments) else None
    return ()


def _required(field: "Field[Any]") -> bool:
    return field.default is MISSING and field.default_factory is MISSING


def _plain(kind: Any) -> Any:
    return {float: (int, float), None: type(None), tuple: (tuple, list)}.get(kind, kind)


def _short(value: object) -> str:
    if value is _MISSING:
        return "missing"
    text = type(value).__name__ if isinstance(value, dict | list | tuple) else repr(value)
    return text if len(text) <= 40 else f"{text[:40]}..."
