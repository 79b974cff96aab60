"""Finished grids and runs, read back from their folders."""

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from kmat.console import note
from kmat.errors import UserError
from kmat.grids.results import FLOOR, FLOORS, Entry, Results
from kmat.grids.rows import row_of
from kmat.methods import KMaTConfig
from kmat.modalities import LOW, MODALITIES
from kmat.runs.config import RunConfig
from kmat.runs.folder import RunDir
from kmat.runs.predictions import Predictions, read_csv
from kmat.runs.result import PartScores
from kmat.tasks.base import present


@dataclass(frozen=True)
class FinishedRun:
    """What a report shows of a run.

    Attributes
    ----------
    entry : Entry
    config : RunConfig
    labels : tuple of str
    absent : mapping
        Classes that a modality lacks, by modality, where the two do not have the same.
    tested : mapping of str to PartScores
        By modality the scores of its test set.
    text : mapping of str to Tensor, shape (C, D)
        Unit text features by modality, of its classes; empty if they depend on the image.
    described : mapping of str to Tensor, shape (C, D)
        Those of the descriptions, where the run has kept them; residual transport does.
    epochs : tuple of mapping
        The lines of ``metrics.jsonl``; empty for a method that is not trained.
    folder : Path
    """

    entry: Entry
    config: RunConfig
    labels: tuple[str, ...]
    absent: Mapping[str, frozenset[int]]
    tested: Mapping[str, PartScores]
    text: Mapping[str, Tensor]
    described: Mapping[str, Tensor]
    epochs: tuple[Mapping[str, Any], ...]
    folder: Path

    def predictions(self) -> dict[str, Predictions]:
        """Read what it says of each test image, by modality; nothing if its folder does not hold that.

        Raises
        ------
        UserError
            If the file is damaged.
        """
        return read_csv(RunDir(self.folder).predictions, self.labels)

    def present(self, modality: str) -> tuple[int, ...]:
        """Numbers of the classes that a modality has."""
        return present(len(self.labels), self.absent, modality)

    @property
    def low_per_class(self) -> tuple[float | None, ...]:
        """Low-end test accuracy within each class, in percent; None for a class without images."""
        return tuple(None if recall is None else 100 * recall for recall in self.tested[LOW].per_class)


@dataclass(frozen=True)
class Pair:
    """Two runs of K-MaT that differ in FGW alone."""

    off: FinishedRun
    on: FinishedRun
    anchored: bool


def load(folders: Sequence[Path]) -> dict[str, tuple[Results, list[FinishedRun]]]:
    """Read grids, and single runs in folders that hold no grid; those of one kind are put together.

    Raises
    ------
    UserError
        If there is nothing in a folder, or a file is damaged.
    """
    found: dict[str, tuple[Results, list[FinishedRun]]] = {}
    for folder in folders:
        results, runs = _grid(folder) if (folder / "results.json").is_file() else _loose(folder)
        if results.kind in found:
            known, others = found[results.kind]
            notes = dict.fromkeys((*known.notes, *results.notes))
            merged = Results(
                results.kind,
                known.entries + results.entries,
                known.banners | results.banners,
                tuple(notes),
                known.failed + results.failed,
            )
            found[results.kind] = merged, others + runs
        else:
            found[results.kind] = results, runs
    if "runs" in found and len(found) > 1:
        found["runs"] = _apart(*found["runs"])
    return found


def _apart(results: Results, runs: Sequence[FinishedRun]) -> tuple[Results, list[FinishedRun]]:
    """Say of single runs that they are, beside grids whose rows may be called the same and have other settings."""

    def alone(entry: Entry) -> Entry:
        return entry if entry.method.startswith(FLOOR) else replace(entry, method=f"{entry.method}, single")

    renamed = Results("runs", [alone(entry) for entry in results.entries], results.banners, results.notes)
    return renamed, [replace(run, entry=alone(run.entry)) for run in runs]


def pairs(runs: Iterable[FinishedRun]) -> list[Pair]:
    """Match each full-context K-MaT run with FGW to the one without it, all else being equal.

    Of several settings on one backbone and seed, with or without the anchor, the first stands for K-MaT.
    """
    both = {run.config: run for run in runs if isinstance(run.config.method, KMaTConfig)}
    matched: dict[tuple[str, str, int, bool], Pair] = {}
    for config, run in both.items():
        method = config.method
        if isinstance(method, KMaTConfig) and method.csc and method.msc and method.lambda_fgw:
            off = both.get(replace(config, method=replace(method, lambda_fgw=0.0)))
            anchored = method.lambda_anc > 0
            if off:
                key = run.entry.task, run.entry.backbone, run.entry.seed, anchored
                matched.setdefault(key, Pair(off, run, anchored))
    return list(matched.values())


def _grid(folder: Path) -> tuple[Results, list[FinishedRun]]:
    results = Results.read(folder / "results.json")
    runs = []
    for entry in results.entries:
        if entry.run:
            path = Path(os.path.realpath(folder / entry.run))
            if not path.is_relative_to(os.path.realpath(folder)):
                raise UserError(f"{folder / 'results.json'}: the run {entry.run!r} leads out of the folder")
            try:
                runs.append(_run(RunDir(path), entry))
            except UserError as error:
                note(f"{error}: in the tables, but in no figure")
    return results, runs


def _loose(folder: Path) -> tuple[Results, list[FinishedRun]]:
    runs: list[FinishedRun] = []
    floors: list[Entry] = []
    banners, damaged = {}, []
    for path in sorted(file.parent for file in folder.rglob("result.json")):
        run = RunDir(path)
        try:
            result, config = run.result(), run.config()
            tested = result.both_tests()
            if tested is None:
                note(f"{path} was not tested on both modalities: left out")
                continue
            where = config.backbone, config.seed
            runs.append(_run(run, Entry.of(result.task, row_of(config), *where, str(path), tested)))
            for floor in FLOORS:
                scores = {modality: result.floors[modality][floor] for modality in MODALITIES}
                floors.append(Entry.of(result.task, FLOOR + floor, *where, "", scores))
            banners[result.task] = result.banner
        except UserError as error:
            damaged.append(str(error))
    if not runs:
        raise UserError("; ".join(damaged) or f"{folder} holds neither a finished grid nor a finished run")
    for why in damaged:
        note(f"{why}: left out")
    return Results("runs", floors + [run.entry for run in runs], banners, ()), runs


def _run(run: RunDir, entry: Entry) -> FinishedRun:
    result, tensors = run.result(), run.tensors()
    text = {m: tensors[f"text_features.{m}"] for m in MODALITIES if f"text_features.{m}" in tensors}
    described = {m: F.normalize(tensors[f"described_{m}"], dim=-1) for m in MODALITIES if f"described_{m}" in tensors}
    tested, absent = result.both_tests(), result.lacking()
    expected = {modality: len(present(len(result.labels), absent, modality)) for modality in MODALITIES}
    if tested is None or any(len(each[m]) != expected[m] for each in (text, described) for m in each):
        raise UserError(f"{run.path} is not a complete run: its result.json does not belong to it")
    return FinishedRun(
        entry=entry,
        config=run.config(),
        labels=result.labels,
        absent=absent,
        tested=tested,
        text=text,
        described=described,
        epochs=tuple(run.epochs()),
        folder=run.path,
    )
