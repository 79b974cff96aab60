"""How many different crops of an image training needs: `python -m benchmarks.views`.

Prompts are trained on crops with few views and with one for each epoch, on phantoms whose images are cropped for this
only; and the time that an image takes is measured on BiomedCLIP's architecture (random weights: time does not depend on
them).
"""

import argparse
import statistics
import tempfile
from itertools import product
from pathlib import Path

import torch

from benchmarks.first_run import images_per_second
from benchmarks.kmat_step import random_biomedclip
from benchmarks.machine import describe
from kmat import phantom
from kmat.grids.results import Difference
from kmat.grids.rows import BENCH
from kmat.model.backbone import load_backbone
from kmat.model.features import FeatureCache
from kmat.runs.config import RunConfig
from kmat.runs.run import train
from kmat.tasks import BACKBONES, TaskConfig

VIEWS = (1, 5, 10, None)
ROWS = ("CoOp shared", "K-MaT")
COLUMNS = {"high": "Hi", "low": "Lo", "h": "H"}

Scores = dict[str, float]


def scores(task: str, seeds: range, folder: Path) -> dict[tuple[str, int | None], dict[tuple[str, int], Scores]]:
    """Test accuracies in per cent by row and number of views, then by backbone and seed."""
    loaded, cache = TaskConfig(task=task).load(), FeatureCache(folder / "cache")
    found: dict[tuple[str, int | None], dict[tuple[str, int], Scores]] = {}
    for name in BACKBONES[task]:
        backbone = load_backbone(name)
        for row, views, seed in product(ROWS, VIEWS, seeds):
            config = RunConfig(BENCH[row], TaskConfig(task=task), name, seed=seed, augment="crop", views=views)
            run = folder / task / name.replace(":", "-") / f"{row}-{views}-{seed}"
            result = train(config, run, task=loaded, backbone=backbone, cache=cache, resume=True)
            assert result.harmonic
            tests = {end: 100 * result.scores[end]["test"].accuracy for end in ("high", "low")}
            found.setdefault((row, views), {})[name, seed] = {**tests, "h": 100 * result.harmonic.accuracy}
    return found


def seconds_per_image(repeats: int) -> float:
    """Median time of one image, decoded and cropped already, in BiomedCLIP's image tower; batches of 16."""
    with tempfile.TemporaryDirectory() as folder:
        backbone = random_biomedclip(phantom.backbone_dir("seed0"), Path(folder))
        return 1 / images_per_second(backbone, 16, repeats)


def against_all(few: dict[tuple[str, int], Scores], every: dict[tuple[str, int], Scores], metric: str) -> Difference:
    """Difference to a view for each epoch, paired by seed: mean over backbones, its error over seeds."""
    seeds = sorted({seed for _, seed in few})
    return Difference.of(
        [statistics.fmean(few[key][metric] - every[key][metric] for key in few if key[1] == seed) for seed in seeds]
    )


def main(arguments: list[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.views", description="few crops against many")
    parser.add_argument("--tasks", nargs="+", default=["chest-phantom", "breast-phantom"], help="embedded ones")
    parser.add_argument("--seeds", type=int, default=3, help="from 1 on (default %(default)s)")
    parser.add_argument("--repeats", type=int, default=5, help="of the timing (default %(default)s)")
    parser.add_argument("--out", type=Path, default=Path("runs/views"), help="folder of the runs, which are resumed")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    machine, images, epochs = describe(1), 48, RunConfig().schedule.epochs
    each = seconds_per_image(options.repeats)
    print(
        f"{machine['processor']}, one thread, torch {torch.__version__}, commit {machine['commit']}; synthetic images"
    )
    print(f"BiomedCLIP's architecture: {each:.2f} s an image\n\n| views | encodings of {images} images | minutes |")
    print("|---|---|---|")
    for views in VIEWS:
        count = images * (views or epochs)
        print(f"| {views or f'{epochs}, one an epoch'} | {count} | {count * each / 60:.1f} |")
    for task in options.tasks:
        found = scores(task, range(1, options.seeds + 1), options.out)
        print(f"\n| {task} | views | " + " | ".join([*COLUMNS.values(), *(f"Δ{c}" for c in COLUMNS.values())]) + " |")
        print("|---|---|" + "---|" * (2 * len(COLUMNS)))
        for (row, views), few in found.items():
            means = [f"{statistics.fmean(each[metric] for each in few.values()):.1f}" for metric in COLUMNS]
            gains = [str(against_all(few, found[row, None], metric)) if views else "" for metric in COLUMNS]
            print(f"| {row} | {views or epochs} | " + " | ".join([*means, *gains]) + " |")


if __name__ == "__main__":
    main()
