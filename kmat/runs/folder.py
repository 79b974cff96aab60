"""The folder of one run: what is in it, and when it may be written to."""

import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypedDict

from torch import Tensor

from kmat.errors import UserError
from kmat.runs.config import RunConfig
from kmat.runs.result import Result
from kmat.storage import atomic, lock
from kmat.storage.schema import misfit, read_json
from kmat.storage.tensors import load_tensors
from kmat.tasks.base import Skipped

# What --overwrite deletes, and nothing else. Not config.json, which is replaced: half a run without it would be no run.
FILES = (
    "result.json",
    "split.csv",
    "skipped.csv",
    "predictions.csv",
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


class Identity(TypedDict):
    """What ``config.json`` holds: what determines a run's numbers."""

    config: dict[str, Any]
    task: str
    backbone: str
    draw: dict[str, str]


class Epoch(TypedDict):
    """A line of ``metrics.jsonl``."""

    losses: dict[str, float]
    diagnostics: dict[str, int]


class RunDir:
    """Paths and small files of a run folder.

    A run is finished once it has its ``result.json``, and its checkpoint, then of no use, is gone. Whoever writes holds
    the ``lock``.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.split = path / "split.csv"
        self.predictions = path / "predictions.csv"
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
        if os.path.exists(self.path) and not self.path.is_dir():  # noqa: PTH110 (unlike Path's, raises nothing)
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
        if changed := sorted(_differences(_wherever(self.identity()), _wherever(_plain(identity)))):
            raise UserError(f"{self.path} holds another run, cannot resume: {', '.join(changed)} differ")

    def begin(self, identity: dict[str, Any], *, overwrite: bool) -> None:
        """Write ``config.json``, without an earlier run if told to ``overwrite``, and without halves of files."""
        for name in FILES if overwrite else ():
            (self.path / name).unlink(missing_ok=True)
        for partial in self.path.glob(f"*{atomic.PARTIAL}"):
            partial.unlink()
        self.write("config.json", identity)

    def identity(self) -> dict[str, Any]:
        """Read ``config.json``: what :meth:`begin` was told.

        Raises
        ------
        UserError
            If it is missing or damaged.
        """
        table: dict[str, Any] = self._read("config.json")
        if wrong := misfit(table, Identity):
            raise self._incomplete(f"in config.json, {wrong}")
        return table

    def config(self) -> RunConfig:
        """Read the configuration in ``config.json``.

        Raises
        ------
        UserError
            If it is missing or damaged.
        """
        try:
            return RunConfig.from_json(self.identity()["config"])
        except UserError as error:
            raise UserError(f"{self.path}: config.json: {error}") from error

    def result(self) -> Result:
        """Read ``result.json``.

        Raises
        ------
        UserError
            If it is missing or damaged.
        """
        table = self._read("result.json")
        try:
            return Result.from_json(table)
        except UserError as error:
            raise self._incomplete(f"in result.json, {error}") from error

    def epochs(self) -> list[dict[str, Any]]:
        """Read the lines of ``metrics.jsonl``; none if nothing was trained.

        Raises
        ------
        UserError
            If a line is damaged.
        """
        try:
            lines = self.metrics.read_text(encoding="utf-8").splitlines() if self.metrics.exists() else []
            found = [json.loads(line) for line in lines]
        except (OSError, ValueError, RecursionError) as error:
            raise self._incomplete(f"cannot read metrics.jsonl ({error})") from error
        if wrong := misfit(found, list[Epoch]):
            raise self._incomplete(f"in metrics.jsonl, {wrong}")
        return found

    def tensors(self) -> dict[str, Tensor]:
        """Read ``prompts.safetensors``.

        Raises
        ------
        UserError
            If it is missing or damaged.
        """
        try:
            return load_tensors(self.prompts)[0]
        except UserError as error:
            raise self._incomplete(str(error)) from error

    def _read(self, name: str) -> Any:
        try:
            return read_json(self.path / name)
        except UserError as error:
            raise self._incomplete(str(error)) from error

    def _incomplete(self, why: str) -> UserError:
        return UserError(f"{self.path} is not a complete run: {why}; train it again with --overwrite")

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


def _wherever(identity: dict[str, Any]) -> dict[str, Any]:
    """Leave out where things lie: what they are, the fingerprints say."""
    config = {key: value for key, value in identity["config"].items() if key != "backbone"}
    if isinstance(data := config.get("data"), dict):
        places = ("task", "root", "descriptions", "labels")
        config["data"] = {key: value for key, value in data.items() if key not in places}
    return {**identity, "config": config}


def _differences(a: Any, b: Any, prefix: str = "") -> set[str]:
    if isinstance(a, dict) and isinstance(b, dict):
        return {name for key in a.keys() | b.keys() for name in _differences(a.get(key), b.get(key), f"{prefix}{key}.")}
    return set() if a == b else {prefix.rstrip(".")}
