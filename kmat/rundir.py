"""The folder of one run: what is in it, and when it may be written to."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kmat import atomic, lock
from kmat.errors import UserError
from kmat.tasks.base import Skipped

# What --overwrite deletes, and nothing else. Not config.json, which is replaced: half a run without it would be no run.
FILES = (
    "result.json",
    "split.csv",
    "skipped.csv",
    "metrics.jsonl",
    "checkpoint.safetensors",
    "prompts.safetensors",
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
    """Paths and small files of a run folder.

    A run is finished once it has its ``result.json``, and its checkpoint, then of no use, is gone. Whoever writes holds
    the ``lock``.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.split = path / "split.csv"
        self.metrics = path / "metrics.jsonl"
        self.checkpoint = path / "checkpoint.safetensors"
        self.prompts = path / "prompts.safetensors"
        self.lock = lock.Lock(path)

    @property
    def finished(self) -> bool:
        """Whether the run got to its end."""
        return (self.path / "result.json").exists() and not self.checkpoint.exists()

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
        if not (self.path.is_dir() and any(map(_counts, self.path.iterdir()))):
            return  # nothing there, or a run that was cut off before it began
        if not (self.path / "config.json").exists():
            raise UserError(f"{self.path} holds files but no run; choose another folder with --out")
        if overwrite:
            return
        if not resume:
            state = "a finished" if self.finished else "an unfinished"
            raise UserError(f"{self.path} already holds {state} run; use --resume, --overwrite or another --out")
        if changed := sorted(_differences(self.read("config.json"), _plain(identity))):
            raise UserError(f"{self.path} holds another run, cannot resume: {', '.join(changed)} differ")

    def begin(self, identity: dict[str, Any], *, overwrite: bool) -> None:
        """Write ``config.json``, without an earlier run if told to ``overwrite``, and without halves of files."""
        for name in FILES if overwrite else ():
            (self.path / name).unlink(missing_ok=True)
        for partial in self.path.glob(f"*{atomic.PARTIAL}"):
            partial.unlink()
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
        """Write a JSON file."""
        atomic.write(self.path / name, json.dumps(table, indent=2) + "\n")

    def write_skipped(self, skipped: Sequence[Skipped]) -> None:
        """List what was left out and why; a list without rows says that nothing was."""
        atomic.write_csv(self.path / "skipped.csv", ("path", "reason"), ((item.ref, item.reason) for item in skipped))


def _counts(file: Path) -> bool:
    return file.suffix != atomic.PARTIAL and file.name != lock.NAME


def _plain(table: dict[str, Any]) -> dict[str, Any]:
    plain: dict[str, Any] = json.loads(json.dumps(table))
    return plain


def _differences(a: Any, b: Any, prefix: str = "") -> set[str]:
    if isinstance(a, dict) and isinstance(b, dict):
        return {name for key in a.keys() | b.keys() for name in _differences(a.get(key), b.get(key), f"{prefix}{key}.")}
    return set() if a == b else {prefix.rstrip(".")}
