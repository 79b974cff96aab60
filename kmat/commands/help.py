"""Help that fits a screen. What it leaves out, tyro's own has: ``--help-verbose``."""

import ast
import inspect
import shutil
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass
from itertools import pairwise
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, NamedTuple, Union, get_args, get_origin, get_type_hints

from tyro.conf import Positional

from kmat.commands.base import Command
from kmat.methods.configs import Config

ASKED = frozenset({"-h", "--help"})
LINES, WIDTH = 40, 100
EXITS = {
    0: "done",
    1: "something you can mend, which one line says; of a grid, some runs failed",
    2: "no such command or option",
    130: "interrupted by ctrl-C",
    143: "terminated by SIGTERM",
}


class Row(NamedTuple):
    """A line of help: a name, what it is, and perhaps its default."""

    name: str
    text: str
    default: str = ""


def page(commands: Mapping[str, type[Command]], arguments: Sequence[str]) -> str:
    """Help on the command among the arguments, and on the method if there is one; else on what commands there are.

    Texts are cut where the page would not fit a screen otherwise.
    """
    width = min(shutil.get_terminal_size().columns, WIDTH)
    name = next((each for each in arguments if each in commands), None)
    for cut in (False, True):
        lines = _command(name, commands[name], arguments, width, cut) if name else _overview(commands, width, cut)
        text = "\n".join(lines)
        if text.count("\n") < LINES:
            break
    return text


def _overview(commands: Mapping[str, type[Command]], width: int, cut: bool) -> Iterator[str]:
    yield "example: kmat demo\n\nkmat COMMAND [OPTIONS]: prompt learning across imaging modalities\n"
    yield from _table([Row(name, _first_sentence(kind.__doc__ or "")) for name, kind in commands.items()], width, cut)
    yield "\nMore of one: kmat COMMAND --help. Which version: kmat --version.\n\nexit codes"
    yield from _table([Row(str(code), meaning) for code, meaning in EXITS.items()], width, cut)


def _command(name: str, kind: type[Command], arguments: Sequence[str], width: int, cut: bool) -> Iterator[str]:
    methods = _choices(kind)
    method = next((each for each in arguments if each in methods), None)
    about = methods[method] if method else kind
    example = kind.example.replace(" kmat ", f" {method} ", 1) if method else kind.example
    yield f"example: {example}\n"
    yield from textwrap.wrap(" ".join((about.__doc__ or "").split()), width)
    yield ""
    rows = dict(_options(kind))
    explained = dict(_options(about)) if method else {each: rows[each] for each in kind.usual.split() or rows}
    if methods and not method:
        explained = {
            "method": Row("METHOD", f"{', '.join(methods)}; more of one: kmat {name} METHOD --help"),
            **explained,
        }
    yield from _table(list(explained.values()), width, cut)
    if others := [row.name for field, row in rows.items() if field not in explained]:
        listed = f"others: {' '.join(others)}"
        yield from textwrap.wrap(listed, width, subsequent_indent="  ", break_on_hyphens=False)
    words = " ".join(filter(None, ("kmat", name, method)))
    yield f"\nAll that there is to say of each: {words} --help-verbose"


def _table(rows: Sequence[Row], width: int, cut: bool) -> Iterator[str]:
    """Lay out names and texts in two columns; if they are to be cut, in a line each."""
    left = max(len(row.name) for row in rows) + 4
    for name, text, default in rows:
        end = f" [{default}]" if default and not (cut and len(default) > width // 3) else ""
        if cut:
            body = [textwrap.shorten(text, width - left - len(end), placeholder=" ...", break_on_hyphens=False) + end]
        else:
            body = textwrap.wrap(text + end, width - left, break_on_hyphens=False)
        yield textwrap.indent("\n".join(body), " " * left).replace(" " * left, f"  {name:<{left - 2}}", 1)


def _choices(kind: type) -> dict[str, type[Config]]:
    """Methods that a command has among its options, by name."""
    found: dict[str, type[Config]] = {}
    for hint in get_type_hints(kind).values():
        if get_origin(hint) in (Union, UnionType):
            found |= {each.name: each for each in get_args(hint) if isinstance(each, type) and issubclass(each, Config)}
        elif is_dataclass(hint) and isinstance(hint, type):
            found |= _choices(hint)
    return found


def _options(kind: type, defaults: object = None) -> Iterator[tuple[str, Row]]:
    """Every option of a dataclass and of those in it, by field; its own before those that it extends others by."""
    hints, marked, texts = get_type_hints(kind), get_type_hints(kind, include_extras=True), _texts(kind)
    for field in sorted(fields(kind), key=lambda each: each.name not in kind.__annotations__):
        hint, default = hints[field.name], getattr(defaults, field.name, field.default)
        if default is MISSING and field.default_factory is not MISSING:
            default = field.default_factory()
        if is_dataclass(hint) and isinstance(hint, type):
            yield from _options(hint, default)
        elif not any(is_dataclass(part) for part in get_args(hint)):
            marks = marked[field.name].__metadata__ if get_origin(marked[field.name]) is Annotated else ()
            name = field.name.replace("_", "-")
            flag = name.upper() if Positional in marks else f"--no-{name}" if default is True else f"--{name}"
            yield field.name, Row(flag, _first_sentence(texts.get(field.name, "")), _shown(default))


def _shown(default: Any) -> str:
    if isinstance(default, tuple):
        return " ".join(map(str, default))
    return str(default) if isinstance(default, str | int | float | Path) and not isinstance(default, bool) else ""


def _texts(kind: type) -> dict[str, str]:
    """Say what stands below each field in the source of a dataclass, and of those that it extends."""
    found: dict[str, str] = {}
    for base in filter(is_dataclass, reversed(kind.__mro__)):
        for definition in ast.parse(textwrap.dedent(inspect.getsource(base))).body:
            for field, text in pairwise(definition.body if isinstance(definition, ast.ClassDef) else []):
                if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr):
                    found[ast.unparse(field.target)] = ast.literal_eval(text.value)
    return found


def _first_sentence(text: str) -> str:
    return " ".join(text.split()).partition(". ")[0].removesuffix(".")
