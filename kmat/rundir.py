"""The folder of one run: what is in it, and when it may be written to."""

import csv
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kmat.errors import UserError
from kmat.tasks.base import Skipped

# Everything kmat ever writes there; --overwrite deletes these and nothing else.
FILES = (
    "config.json",
    "split.csv",
    "skipped.csv",
    "metrics.jsonl",
    "checkpoint.safetensors",
    "prompts.safetensors",
    "result.json",
    "versions.json",
)


def slug(name: str) -> str:
    """Turn a name into one that is safe in a path.

    Examples
    --------
    >>> slug("local-dir:/models/My CLIP"), slug("K-MaT, lambda_anc 0.5")
    ('local-dir-models-my-clip', 'k-mat-lambda_anc-0.5')
    """
    return re.sub(r"[^a-z0-9_.]+", "-", name.lower()).strip("-.")


class RunDir:
    """Paths and small files of a run folder. ``result.json`` is written last: a run that has it is finished."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.split = path / "split.csv"
        self.metrics = path / "metrics.jsonl"
        self.checkpoint = path / "checkpoint.safetensors"
        self.prompts = path / "prompts.safetensors"

    @property
    def finished(self) -> bool:
        """Whether the run got to its end."""
        return (self.path / "result.json").exists()

    def check(self, identity: dict[str, Any], *, resume: bool, overwrite: bool) -> None:
        """Check, without touching anything, that the run which ``identity`` describes may use the folder.

        Parameters
        ----------
        identity : dict
            Configuration and fingerprints; two runs with the same one give the same numbers.
        resume : bool
            Go on with an interrupted run, or accept a finished one, of the same identity.
        overwrite : bool
            Delete an earlier run.

        Raises
        ------
        UserError
            If the folder holds anything that these flags do not allow for.
        """
        if self.path.exists() and not self.path.is_dir():
            raise UserError(f"{self.path} is a file; a run needs a folder")
        if not (self.path.is_dir() and any(file.suffix != ".partial" for file in self.path.iterdir())):
            return  # nothing there, or a run that was cut off before it began
        if not (self.path / "config.json").exists():
            raise UserError(f"{self.path} holds files but no run; choose another folder with --out")
        if overwrite:
            return
        if not resume:
            state = "a finished" if self.finished else "an interrupted"
            raise UserError(f"{self.path} already holds {state} run; use --resume, --overwrite or another --out")
        if changed := sorted(_differences(self.read("config.json"), _plain(identity))):
            raise UserError(f"{self.path} holds another run, cannot resume: {', '.join(changed)} differ")

    def begin(self, identity: dict[str, Any], *, overwrite: bool) -> None:
        """Make the folder, without the files of an earlier run if told to ``overwrite``, and write ``config.json``."""
        if overwrite:
            for name in FILES:
                (self.path / name).unlink(missing_ok=True)
        self.path.mkdir(parents=True, exist_ok=True)
        self.write("config.json", identity)

    def read(self, name: str) -> dict[str, Any]:
        """Read one of the run's JSON files.

        Raises
        ------
        UserError
            If it is missing or damaged.
        """
        try:
            table: dict[str, Any] = json.loads((self.path / name).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise UserError(f"{self.path} is not a complete run: cannot read {name} ({error})") from error
        return table

    def write(self, name: str, table: dict[str, Any]) -> None:
        """Write a JSON file, whole or not at all."""
        partial = self.path / f"{name}.partial"
        partial.write_text(json.dumps(table, indent=2) + "\n", encoding="utf-8")
        partial.replace(self.path / name)

    def write_skipped(self, skipped: Sequence[Skipped]) -> None:
        """List what was left out and why; a list without rows says that nothing was."""
        with (self.path / "skipped.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(("path", "reason"))
            writer.writerows((item.ref, item.reason) for item in skipped)


def _plain(table: dict[str, Any]) -> dict[str, Any]:
    plain: dict[str, Any] = json.loads(json.dumps(table))
    return plain


def _differences(a: Any, b: Any, prefix: str = "") -> set[str]:
    if isinstance(a, dict) and isinstance(b, dict):
        return {name for key in a.keys() | b.keys() for name in _differences(a.get(key), b.get(key), f"{prefix}{key}.")}
    return set() if a == b else {prefix.rstrip(".")}
