"""Whether JSON is what a type says: what a file holds is checked once, where it is read."""

import json
import sys
from collections.abc import Iterable
from dataclasses import fields, is_dataclass
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
        A plain type, union, ``Literal``, ``list``, ``tuple``, ``dict``, dataclass, or ``TypedDict``, beside whose keys
        there may be others. Numbers must be finite.
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


_MISSING = object()


def _parts(value: Any, kind: Any, origin: Any, arguments: tuple[Any, ...]) -> Iterable[tuple[object, Any, Any]] | None:
    """List a value's parts: key, part and the type that it must have. None if the value itself is not of its type."""
    if origin is Literal:
        return () if value in arguments else None
    if is_typeddict(kind):
        keys = get_type_hints(kind).items()
        if not isinstance(value, dict):
            return None
        return ((k, value.get(k, _MISSING), hint) for k, hint in keys if k in value or k in kind.__required_keys__)
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


def _plain(kind: Any) -> Any:
    return {float: (int, float), None: type(None)}.get(kind, kind)


def _short(value: object) -> str:
    if value is _MISSING:
        return "missing"
    text = type(value).__name__ if isinstance(value, dict | list | tuple) else repr(value)
    return text if len(text) <= 40 else f"{text[:40]}..."
