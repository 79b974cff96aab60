"""The command line: which commands there are, and how one ends."""

import os
import sys
import warnings
from collections.abc import Callable, Sequence
from typing import Annotated

import tyro
from tyro.conf import CascadeSubcommandArgs, OmitSubcommandPrefixes, subcommand

from kmat.commands.data import CheckData, Tasks
from kmat.commands.descriptions import Descriptions
from kmat.commands.fetch import Fetch
from kmat.commands.grids import Ablate, Bench, Demo, Report, Shots
from kmat.commands.runs import Evaluate, Predict, Train
from kmat.console import encode_with, err, note, one_line
from kmat.errors import UserError, explain
from kmat.signals import Terminated, terminable

Command = (
    Annotated[Demo, subcommand("demo")]
    | Annotated[Train, subcommand("train")]
    | Annotated[Evaluate, subcommand("evaluate")]
    | Annotated[Predict, subcommand("predict")]
    | Annotated[Tasks, subcommand("tasks")]
    | Annotated[CheckData, subcommand("check-data")]
    | Annotated[Descriptions, subcommand("descriptions")]
    | Annotated[Fetch, subcommand("fetch")]
    | Annotated[Bench, subcommand("bench")]
    | Annotated[Shots, subcommand("shots")]
    | Annotated[Ablate, subcommand("ablate")]
    | Annotated[Report, subcommand("report")]
)

_GOES_ON = {
    Fetch: "; the same command goes on with what has come so far",
    Train: "; the same command with --resume goes on from the last finished epoch",
    **dict.fromkeys((Demo, Bench, Shots, Ablate), "; the same command goes on from the last finished epochs"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code. Whatever the user can mend is one line on stderr."""
    encode_with("backslashreplace", sys.stdout, sys.stderr)
    command: Callable[[], None] | None = None
    try:
        with terminable(), warnings.catch_warnings():
            warnings.showwarning = lambda message, *_, **__: note(f"warning: {message}")
            command = tyro.cli(
                Command,
                prog="kmat",
                description="K-MaT: prompt learning across imaging modalities.",
                args=arguments,
                config=(CascadeSubcommandArgs, OmitSubcommandPrefixes),
            )
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
