"""One section's process: `python -m benchmarks.gpu.section` runs a function that adds rows to the results."""

import argparse
import importlib
import json
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Row = dict[str, Any]


@dataclass(frozen=True)
class Run:
    """What a section is given.

    Attributes
    ----------
    section : str
        Its name.
    results : Path
        Lines of JSON, one per row.
    small : bool
        Whether to run every part, but at sizes that Triton's interpreter can do.
    end : float
        Second since the epoch at which the process is killed.
    """

    section: str
    results: Path
    small: bool
    end: float

    @property
    def device(self) -> str:
        """Where to run: "cuda" if there is a card."""
        import torch

        return "cuda" if torch.cuda.is_available() else "cpu"

    @property
    def left(self) -> float:
        """Seconds until the end."""
        return self.end - time.time()

    def add(self, **row: Any) -> None:
        """Keep a row, whatever happens next."""
        append(self.results, {"section": self.section, **row})

    def attempt(self, find: Callable[[], Row], **row: Any) -> None:
        """Keep a row with what is found, or with what went wrong."""
        try:
            found = find()
        except Exception as error:
            traceback.print_exc()
            found = {"error": f"{type(error).__name__}: {error}".splitlines()[0]}
        self.add(**row, **found)


def append(path: Path, row: Row) -> None:
    """Write one line of JSON."""
    with path.open("a") as file:
        file.write(json.dumps(row) + "\n")


def main() -> None:
    """Run the section that the command line names."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu.section")
    parser.add_argument("name")
    parser.add_argument("target", help="MODULE:FUNCTION")
    parser.add_argument("results", type=Path)
    parser.add_argument("end", type=float)
    parser.add_argument("--small", action="store_true")
    options = parser.parse_args()
    module, function = options.target.split(":")
    run = Run(options.name, options.results, options.small, options.end)
    getattr(importlib.import_module(module), function)(run)


if __name__ == "__main__":
    main()
