"""K-MaT on the card: its FGW term from distances on, and its whole step and images on BiomedCLIP's architecture."""

import os
import warnings
from collections.abc import Callable
from importlib.util import find_spec

import torch

import fgwot
from benchmarks.cases import Case
from benchmarks.gpu.clock import host_seconds
from benchmarks.gpu.section import Run
from benchmarks.methods.tensors import DTYPES, tensors
from benchmarks.problems import build

_STEPS = 20
_NEEDED = ("open_clip", "transformers", "tyro", "rich", "openpyxl")  # of kmat, what torch does not bring


def measure(run: Run) -> None:
    """Add a row per number of classes and type for the term, and one per device for the parts of a step."""
    warnings.simplefilter("ignore", fgwot.ConvergenceWarning)  # of the first step's cold start, if any
    for classes in (3,) if run.small else (3, 6):
        for dtype in DTYPES:
            for device in dict.fromkeys((run.device, "cpu")):
                call = criterion(term(classes, dtype), device)
                row = {"part": "FGW term, forward and backward", "classes": classes, "dtype": dtype, "device": device}
                run.add(**row, seconds=host_seconds(call, device, 3 if run.small else 100))
    missing = [name for name in _NEEDED if find_spec(name) is None]
    if missing:
        run.add(part="whole step", error=f"not installed: {', '.join(missing)}")
        return
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # nothing is fetched, and nobody is asked
    from benchmarks import first_run, kmat_step

    model = "tiny CLIP" if run.small else "BiomedCLIP's architecture"
    for device in dict.fromkeys((run.device, "cpu")):
        with kmat_step.method(device, tiny=run.small) as method:
            times = kmat_step.breakdown(method, 2 if run.small or device == "cpu" else _STEPS)
            rate = first_run.images_per_second(method.backbone, 4 if run.small or device == "cpu" else 64, 3)
            times["an image through the image tower"] = 1 / rate
        for part, seconds in times.items():
            run.add(part=part, model=model, classes=3, dtype="float32", device=device, seconds=seconds)


def term(classes: int, dtype: str) -> Case:
    """The problem of a step of K-MaT: distances of unit vectors, with the paper's alpha and epsilon."""
    return Case("training", "unit vectors", classes, classes, 0.1, 0.1, dtype=dtype)


def criterion(case: Case, device: str) -> Callable[[], object]:
    """K-MaT's loss of a problem, with its gradient: solved anew each time."""
    *costs, p, q = tensors(case, build(case), device)
    loss = fgwot.FGWLoss(alpha=case.alpha, epsilon=case.epsilon, returns="cost", warm_start=False)
    for cost in costs:
        cost.requires_grad_()
    return lambda: torch.autograd.grad(loss(*costs, p, q), costs)
