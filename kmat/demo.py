"""The embedded benchmark: every method of the first table on every tiny backbone, with every seed."""

import multiprocessing
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

from kmat.backbone import Backbone, load_backbone
from kmat.config import RunConfig
from kmat.console import note, track
from kmat.errors import UserError
from kmat.evaluation import harmonic_mean
from kmat.features import FeatureCache
from kmat.methods import CoOpConfig, KMaTConfig, MethodConfig, ZeroShotConfig
from kmat.prompts import HIGH, MODALITIES
from kmat.report import Entry, Report
from kmat.run import train
from kmat.rundir import slug
from kmat.tasks import TaskConfig
from kmat.tasks.base import Task
from kmat.training import Schedule

Result = dict[str, Any]  # as kmat.run.train returns it
Key = tuple[str, str, int]  # row of the table, backbone, seed
Results = dict[Key, Result]

FULL = "K-MaT"
NO_FGW = "K-MaT no FGW"

FLOORS = ("chance", "largest class")

# Chosen per backbone by mean high-end validation accuracy over seeds; a tie goes to the first. Fixed before any
# comparison. lambda_fgw cannot be chosen that way, high-end predictions do not depend on it: it stays at 1.
LAMBDA_ANC = (10.0, 1.0)

BASELINES: dict[str, MethodConfig] = {
    "zero-shot template": ZeroShotConfig("template"),
    "zero-shot descriptions": ZeroShotConfig("descriptions"),
    "CoOp shared": CoOpConfig(csc=False),
    "CoOp class-specific": CoOpConfig(csc=True),
}


@dataclass(frozen=True)
class Job:
    """One run of the grid."""

    config: RunConfig
    folder: Path


def run_demo(
    out: Path, backbones: Sequence[str], seeds: Sequence[int], epochs: int, workers: int, features: Path | None
) -> Report:
    """Run the grid on the chest phantom and write its tables and figure.

    Parameters
    ----------
    out : Path
        Results go here, runs to ``out/runs``. Finished runs of the same settings are not repeated.
    backbones : sequence of str
        Names for :func:`kmat.backbone.load_backbone`.
    seeds : sequence of int
    epochs : int
    workers : int
        Processes, one thread each.
    features : Path, optional
        Folder of the feature cache.
    """
    if not (backbones and seeds) or workers < 1:
        raise UserError("the demo needs at least one backbone, one seed and one worker")
    base = RunConfig(data=TaskConfig(task="chest-phantom"), schedule=Schedule(epochs=epochs))
    pairs = [(backbone, seed) for backbone in backbones for seed in seeds]

    def job(name: str, backbone: str, seed: int, method: MethodConfig) -> Job:
        config = replace(base, method=method, backbone=backbone, seed=seed)
        return Job(config, out / "runs" / slug(backbone) / f"{slug(name)}-seed{seed}")

    anchored = {weight: f"{NO_FGW}, lambda_anc {weight:g}" for weight in LAMBDA_ANC}
    methods = BASELINES | {name: KMaTConfig(lambda_anc=weight, lambda_fgw=0) for weight, name in anchored.items()}
    with _mapping(workers) as mapping:
        work = partial(_run_one, features)
        results = _run_all(
            mapping,
            work,
            {(name, *pair): job(name, *pair, method) for pair in pairs for name, method in methods.items()},
        )
        chosen = {backbone: _choose(results, anchored, backbone, seeds) for backbone in backbones}
        results |= _run_all(
            mapping, work, {(FULL, *pair): job(FULL, *pair, KMaTConfig(lambda_anc=chosen[pair[0]])) for pair in pairs}
        )
    for pair in pairs:
        results[NO_FGW, *pair] = results[anchored[chosen[pair[0]]], *pair]

    rows = [_entry(f"floor: {name}", *pair, _floor(results[FULL, *pair], name)) for name in FLOORS for pair in pairs]
    rows += [_entry(name, *pair, _test(results[name, *pair])) for name in (*BASELINES, NO_FGW, FULL) for pair in pairs]
    report = Report(
        rows,
        banner=results[FULL, *pairs[0]]["banner"],
        notes=(
            "lambda_anc by high-end validation accuracy: "
            + ", ".join(f"{backbone} {weight:g}" for backbone, weight in chosen.items())
            + "; lambda_fgw = 1, which no high-end image can choose.",
            f"{len(seeds)} seeds, {epochs} epochs, {base.shots} shots per class of the high end, none of the low end.",
        ),
    )
    report.write(out, compare=FULL)
    return report


def _choose(results: Results, anchored: dict[float, str], backbone: str, seeds: Sequence[int]) -> float:
    """Return the lambda_anc of the best mean high-end validation accuracy, the first of equals."""
    accuracy = {
        weight: fmean(results[name, backbone, seed]["scores"][HIGH]["val"]["accuracy"] for seed in seeds)
        for weight, name in anchored.items()
    }
    return max(accuracy, key=accuracy.__getitem__)


def _run_all(mapping: Callable[..., Iterator[Result]], work: Callable[[Job], Result], jobs: dict[Key, Job]) -> Results:
    """Run jobs; they are ordered so that a process rarely changes its backbone."""
    done = sum((job.folder / "result.json").exists() for job in jobs.values())
    if done:
        note(
            f"{done} of {len(jobs)} runs are already finished and used as they are; delete their folders to repeat them"
        )
    return dict(zip(jobs, track(mapping(work, jobs.values()), "training", len(jobs)), strict=True))


@contextmanager
def _mapping(workers: int) -> Iterator[Callable[..., Iterator[Result]]]:
    """Yield a ``map``: in this process, or over processes that keep their backbone. One thread each."""
    if workers == 1:
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            yield map
        finally:
            torch.set_num_threads(threads)
        return
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, spawn, initializer=_prepare_worker) as pool:
        try:
            yield pool.map
        except BaseException:
            pool.shutdown(cancel_futures=True)  # an error or ctrl-C: start nothing more
            raise


def _prepare_worker() -> None:
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # ctrl-C is the parent's to handle: no traceback per worker


def _run_one(features: Path | None, job: Job) -> Result:
    return train(
        job.config,
        job.folder,
        task=_task(job.config.data),
        backbone=_backbone(job.config.backbone),
        cache=FeatureCache(features),
        resume=True,
    )


@cache
def _task(config: TaskConfig) -> Task:
    return config.load()


@cache
def _backbone(name: str) -> Backbone:
    return load_backbone(name)


def _test(result: Result) -> dict[str, dict[str, float]]:
    return {modality: result["scores"][modality]["test"] for modality in MODALITIES}


def _floor(result: Result, name: str) -> dict[str, dict[str, float]]:
    return {modality: result["floors"][modality][name] for modality in MODALITIES}


def _entry(method: str, backbone: str, seed: int, scores: dict[str, dict[str, float]]) -> Entry:
    percent: dict[str, float] = {}
    for metric in ("accuracy", "macro_f1"):
        high, low = (scores[modality][metric] for modality in MODALITIES)
        percent |= {f"high_{metric}": high, f"low_{metric}": low, f"h_{metric}": harmonic_mean(high, low)}
    return Entry(method, backbone, seed, **{name: 100 * value for name, value in percent.items()})
