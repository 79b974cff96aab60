"""The embedded benchmark: every method of the first table on every tiny backbone, with every seed."""

import multiprocessing
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
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
from kmat.methods import CoOpConfig, KMaTConfig, ZeroShotConfig
from kmat.prompts import MODALITIES
from kmat.report import Entry, Report
from kmat.run import train
from kmat.rundir import slug
from kmat.tasks import TaskConfig
from kmat.tasks.base import Task
from kmat.training import Schedule

FULL = "K-MaT"
NO_FGW = "K-MaT no FGW"

FLOORS = ("chance", "largest class")

# Chosen per backbone by mean high-end validation accuracy over seeds; a tie goes to the first. Fixed before any
# comparison. lambda_fgw cannot be chosen that way, high-end predictions do not depend on it: it stays at 1.
LAMBDA_ANC = (10.0, 1.0)

BASELINES = {
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

    def job(name: str, backbone: str, seed: int, method: Any) -> Job:
        config = replace(base, method=method, backbone=backbone, seed=seed)
        return Job(config, out / "runs" / slug(backbone) / f"{slug(name)}-seed{seed}")

    pairs = [(backbone, seed) for backbone in backbones for seed in seeds]
    anchored = {
        f"{NO_FGW}, lambda_anc {weight:g}": KMaTConfig(lambda_anc=weight, lambda_fgw=0) for weight in LAMBDA_ANC
    }
    first = {
        (name, *pair): job(name, *pair, method) for pair in pairs for name, method in (BASELINES | anchored).items()
    }
    results = _run_all(first, workers, features)

    chosen: dict[str, float] = {}
    for backbone in backbones:
        validation = {
            weight: fmean(results[name, backbone, seed]["scores"]["high"]["val"]["accuracy"] for seed in seeds)
            for weight, name in zip(LAMBDA_ANC, anchored, strict=True)
        }
        chosen[backbone] = max(validation, key=lambda weight: validation[weight])  # the first of equals
    second = {
        (FULL, backbone, seed): job(FULL, backbone, seed, KMaTConfig(lambda_anc=chosen[backbone]))
        for backbone, seed in pairs
    }
    results |= _run_all(second, workers, features)
    for (backbone, seed), weight in ((pair, chosen[pair[0]]) for pair in pairs):
        results[NO_FGW, backbone, seed] = results[f"{NO_FGW}, lambda_anc {weight:g}", backbone, seed]

    entries = [
        _entry(name, *pair, _scores(results[name, *pair])) for name in (*BASELINES, NO_FGW, FULL) for pair in pairs
    ]
    floors = [_entry(f"floor: {name}", *pair, _floor(results[FULL, *pair], name)) for name in FLOORS for pair in pairs]
    report = Report(
        floors + entries,
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


def _run_all(
    jobs: dict[tuple[str, str, int], Job], workers: int, features: Path | None
) -> dict[tuple[str, str, int], dict[str, Any]]:
    """Run jobs in processes that keep their backbone; jobs are ordered so that it rarely changes."""
    done = sum((job.folder / "result.json").exists() for job in jobs.values())
    if done:
        note(f"{done} of {len(jobs)} runs are already finished and are used as they are")
    work = partial(_run_one, features)
    if workers == 1:
        found = list(track(map(work, jobs.values()), "training", len(jobs)))
    else:
        with ProcessPoolExecutor(
            workers, multiprocessing.get_context("spawn"), initializer=torch.set_num_threads, initargs=(1,)
        ) as pool:
            found = list(track(_unless_failed(pool, pool.map(work, jobs.values())), "training", len(jobs)))
    return dict(zip(jobs, found, strict=True))


def _unless_failed(pool: ProcessPoolExecutor, results: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Pass results on; drop what is still waiting when one of them is an error."""
    try:
        yield from results
    except BaseException:
        pool.shutdown(cancel_futures=True)
        raise


def _run_one(features: Path | None, job: Job) -> dict[str, Any]:
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


def _scores(result: dict[str, Any]) -> dict[str, dict[str, float]]:
    return {modality: result["scores"][modality]["test"] for modality in MODALITIES}


def _floor(result: dict[str, Any], name: str) -> dict[str, dict[str, float]]:
    return {modality: result["floors"][modality][name] for modality in MODALITIES}


def _entry(method: str, backbone: str, seed: int, scores: dict[str, dict[str, float]]) -> Entry:
    percent: dict[str, float] = {}
    for metric in ("accuracy", "macro_f1"):
        high, low = (scores[modality][metric] for modality in MODALITIES)
        percent |= {f"high_{metric}": high, f"low_{metric}": low, f"h_{metric}": harmonic_mean(high, low)}
    return Entry(method, backbone, seed, **{name: 100 * value for name, value in percent.items()})
