"""What a first run on a real backbone costs: `python -m benchmarks.first_run`.

BiomedCLIP's architecture (random weights: time does not depend on them), three classes of 16 images. Images per second
of the image tower and milliseconds of a step of each method are measured; what a run and a bench of the paper's setting
take is counted from them.
"""

import argparse
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch

from benchmarks.kmat_step import random_biomedclip, training_step
from benchmarks.machine import describe, timed
from kmat import phantom
from kmat.grids.rows import BENCH
from kmat.methods import MethodConfig
from kmat.methods.base import Setting
from kmat.model.backbone import Backbone
from kmat.model.features import FeatureCache
from kmat.runs.schedule import Schedule
from kmat.tasks.embedded import load_embedded

SEEDS, ANCHORS = 3, 2  # of the paper's setting; weights of an anchor that kmat bench chooses from
TRAIN, TEST = 48, 900  # images of three classes with 16 shots; of both test sets of the phantom


def images_per_second(backbone: Backbone, batch: int, repeats: int) -> float:
    """Of decoded images, median over batches."""
    pixels = torch.randn(batch, 3, *backbone.image_size)
    # Features come back to the CPU: that waits for the device.
    return batch / _median(lambda: backbone.encode_images(pixels), repeats)


def step_seconds(config: MethodConfig, setting: Setting, repeats: int) -> float:
    """Median time of a training step with the paper's batch."""
    torch.manual_seed(0)
    width, device = setting.backbone.encode_texts(["width"]).shape[-1], setting.backbone.device
    step = training_step(config.build(setting).to(device), width, len(setting.task.labels))

    def ended() -> None:
        step()
        if device.type == "cuda":
            torch.cuda.synchronize()

    return _median(ended, repeats)


def _median(run: Callable[[], object], repeats: int) -> float:
    return statistics.median([timed(run) for _ in range(repeats + 1)][1:])  # the first one warms up


def main(arguments: list[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.first_run", description="cost of a first run")
    parser.add_argument("--repeats", type=int, default=5, help="steps, and batches of images (default %(default)s)")
    parser.add_argument("--batch", type=int, default=16, help="images (default %(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="of torch (default %(default)s)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    machine, schedule = describe(options.threads), Schedule()
    where = torch.cuda.get_device_name() if options.device == "cuda" else machine["processor"]
    with tempfile.TemporaryDirectory() as folder:
        snapshot = Path(folder, "snapshot")
        snapshot.mkdir()
        backbone = random_biomedclip(phantom.backbone_dir("seed0"), snapshot, options.device)
        setting = Setting(backbone, load_embedded(phantom.CHEST), FeatureCache(Path(folder, "cache")), seed=0)
        rate = images_per_second(backbone, options.batch, options.repeats)
        trained = {name: config for name, config in BENCH.items() if not name.startswith("zero-shot")}
        steps = {name: step_seconds(config, setting, options.repeats) for name, config in trained.items()}
    per_run = schedule.epochs * TRAIN // schedule.batch_size
    print(f"{where}, {options.threads} thread(s), torch {torch.__version__}, commit {machine['commit']}\n")
    print(f"| of BiomedCLIP's architecture, {backbone.image_precision} images | |\n|---|---|")
    print(f"| images encoded | {rate:.3g} per second |")
    crops = TRAIN * schedule.epochs
    print(f"| a run's {crops} crops and {TEST} test images, once for each seed | {_minutes((crops + TEST) / rate)} |")
    for name, seconds in steps.items():
        print(f"| {name}: a step, and a run of {per_run} | {1e3 * seconds:.0f} ms, {_minutes(per_run * seconds)} |")
    runs = {name: SEEDS * (ANCHORS if name == "K-MaT no FGW" else 1) for name in trained}
    training = sum(runs[name] * per_run * seconds for name, seconds in steps.items())
    encoding = (SEEDS * crops + TEST) / rate
    print(
        f"| `kmat bench` with {SEEDS} seeds: {sum(runs.values())} runs, some to choose the anchor's weight | "
        f"{_minutes(training + encoding)}, {_minutes(encoding)} of it encoding |"
    )


def _minutes(seconds: float) -> str:
    return f"{seconds / 60:.1f} min"


if __name__ == "__main__":
    main()
