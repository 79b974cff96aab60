"""The command line: which commands there are, and how one ends."""

import os
import sys
import warnings
from collections.abc import Sequence
from contextlib import redirect_stdout, suppress
from dataclasses import dataclass
from functools import reduce
from io import StringIO
from operator import or_
from typing import Annotated, Any, ClassVar, Literal

import tyro
from tyro.conf import CascadeSubcommandArgs, OmitSubcommandPrefixes, Positional, subcommand

from kmat.commands.base import Command
from kmat.commands.data import CheckData, Tasks
from kmat.commands.descriptions import Descriptions
from kmat.commands.fetch import Fetch
from kmat.commands.grids import Ablate, Bench, Demo, Report, Shots
from kmat.commands.help import ASKED, page
from kmat.commands.runs import Evaluate, Predict, Train
from kmat.console import encode_with, err, note, one_line
from kmat.errors import UserError, explain
from kmat.signals import Terminated, terminable


@dataclass(frozen=True)
class Completion(Command):
    """Write the script by which a shell completes kmat's commands, options and their values."""

    example: ClassVar[str] = "source <(kmat completion bash)"

    shell: Positional[Literal["bash", "zsh", "fish"]]
    """Which shell."""

    def __call__(self) -> None:
        """Write it."""
        with redirect_stdout(StringIO()) as script, suppress(SystemExit):
            parse(("--tyro-print-completion", self.shell))
        for line in script.getvalue().splitlines():
            # A line break in what is said of an option would make completions of the lines after it.
            print(line.replace("\\n", " ") if line.startswith("COMPLETION_SPEC = ") else line)


COMMANDS: dict[str, type[Command]] = {
    "demo": Demo,
    "train": Train,
    "evaluate": Evaluate,
    "predict": Predict,
    "tasks": Tasks,
    "check-data": CheckData,
    "descriptions": Descriptions,
    "fetch": Fetch,
    "bench": Bench,
    "shots": Shots,
    "ablate": Ablate,
    "report": Report,
    "completion": Completion,
}

_GOES_ON: dict[type | None, str] = {
    Fetch: "; the same command goes on with what has come so far",
    Train: "; the same command with --resume goes on from the last finished epoch",
    **dict.fromkeys((Demo, Bench, Shots, Ablate), "; the same command goes on from the last finished epochs"),
}


def parse(arguments: Sequence[str]) -> Command:
    """Make a command of the arguments; SystemExit if it is none, or if something was asked about kmat instead."""
    if ASKED.intersection(arguments):
        print(page(COMMANDS, arguments))
        raise SystemExit(0)
    if arguments and (kind := COMMANDS.get(arguments[0])):  # by itself, so that errors are about this one
        return _parse(kind, f"kmat {arguments[0]}", arguments[1:])
    kinds = reduce(or_, (Annotated[kind, subcommand(name)] for name, kind in COMMANDS.items()))
    return _parse(kinds, "kmat", arguments)


def _parse(kind: Any, prog: str, arguments: Sequence[str]) -> Command:
    config = CascadeSubcommandArgs, OmitSubcommandPrefixes
    command: Command = tyro.cli(kind, prog=prog, args=arguments, compact_help=True, config=config)
    return command


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code. Whatever the user can mend is one line on stderr."""
    encode_with("backslashreplace", sys.stdout, sys.stderr)
    command: Command | None = None
    try:
        with terminable(), warnings.catch_warnings():
            warnings.showwarning = lambda message, *_, **__: note(f"warning: {message}")
            command = parse(sys.argv[1:] if arguments is None else arguments)
            command()
            sys.stdout.flush()
    except UserError as error:
        return _fail(str(error))
    except BrokenPipeError:  # the reader of our output, `head` say, has seen enough
        _drop_output()
        return 1
    except OSError as error:
        if error.filename is None:
            _drop_output()
            return _fail(f"cannot write to standard output: {explain(error)}")
        return _fail(explain(error))
    except KeyboardInterrupt as stop:
        err.print(f"interrupted{_GOES_ON.get(type(command), '')}", style="red", highlight=False)
        return 143 if isinstance(stop, Terminated) else 130
    return 0


def _fail(message: str) -> int:
    """Say in one line what went wrong; returns the exit code."""
    err.print(f"error: {one_line(message)}", style="red", highlight=False)
    return 1


def _drop_output() -> None:
    """Keep Python from writing, and failing, once more when it ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
