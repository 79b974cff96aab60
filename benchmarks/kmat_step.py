"""What a step of K-MaT's training spends its time on: `python -m benchmarks.kmat_step`.

BiomedCLIP's architecture (12 layers of BERT-base, random weights: time does not depend on them), three classes, prompts
of both modalities, cached image features. Each part runs on its own between whole steps, so that all see the same
machine.
"""

import argparse
import json
import shutil
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import open_clip
import torch
from torch.nn import functional as F  # noqa: N812

from benchmarks.machine import describe
from kmat import phantom
from kmat.methods.base import Batch, Method, Setting
from kmat.methods.configs import KMaTConfig
from kmat.methods.kmat import KMaT
from kmat.modalities import MODALITIES
from kmat.model.backbone import BIOMEDBERT, BIOMEDCLIP_CONTEXT, Backbone, load_backbone, text_overrides
from kmat.model.features import FeatureCache
from kmat.runs.schedule import Schedule
from kmat.tasks.embedded import load_embedded

if TYPE_CHECKING:
    from collections.abc import Callable

RUN_STEPS = 600  # three classes of 16 images, batches of 4, 50 epochs


def random_biomedclip(tokenizer_dir: Path, folder: Path, device: str = "cpu") -> Backbone:
    """Build BiomedCLIP's architecture with random weights; `folder` is laid out as the published snapshot."""
    for name in ("vocab.txt", "tokenizer_config.json"):
        shutil.copy(tokenizer_dir / name, folder)
    vision = {
        "timm_model_name": "vit_base_patch16_224",
        "timm_model_pretrained": False,
        "timm_pool": "",
        "timm_proj": "linear",
        "image_size": 224,
    }
    text = {
        "hf_model_name": BIOMEDBERT,
        "hf_tokenizer_name": BIOMEDBERT,
        "hf_proj_type": "mlp",
        "hf_pooler_type": "cls_last_hidden_state_pooler",
        "context_length": BIOMEDCLIP_CONTEXT,
    }
    pixels = {"mean": [0.48145466, 0.4578275, 0.40821073], "std": [0.26862954, 0.26130258, 0.27577711]}
    config = {"model_cfg": {"embed_dim": 512, "vision_cfg": vision, "text_cfg": text}, "preprocess_cfg": pixels}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    with ExitStack() as stack:
        overrides = text_overrides(folder, stack)
        model = open_clip.create_model(f"local-dir:{folder}", load_weights=False, pretrained_text=False, **overrides)
    return Backbone("biomedclip", model, None, open_clip.get_tokenizer(f"local-dir:{folder}"), device)


@contextmanager
def method(device: str = "cpu", *, tiny: bool = False) -> Iterator[KMaT]:
    """K-MaT on a random BiomedCLIP and the chest phantom's three classes; or on the phantom's own tiny CLIP."""
    with tempfile.TemporaryDirectory() as folder:
        snapshot, cache = Path(folder, "snapshot"), Path(folder, "cache")
        snapshot.mkdir()
        if tiny:
            backbone = load_backbone("phantom:seed0", device)
        else:
            backbone = random_biomedclip(phantom.backbone_dir("seed0"), snapshot, device)
        setting = Setting(backbone, load_embedded(phantom.CHEST), FeatureCache(cache), seed=0)
        yield KMaT(KMaTConfig(), setting).to(backbone.device)


def training_step(method: Method, width: int, n_classes: int) -> "Callable[[], None]":
    """Return a step of the paper's schedule on random image features of some width."""
    schedule, device = Schedule(), method.backbone.device
    images = F.normalize(torch.randn(schedule.batch_size, width, device=device), dim=-1)
    batch = Batch(images, torch.arange(schedule.batch_size, device=device) % n_classes)
    optimiser = torch.optim.SGD(method.parameters(), lr=schedule.lr, momentum=schedule.momentum)

    def step() -> None:
        optimiser.zero_grad()
        torch.stack(list(method.loss(batch).values())).sum().backward()
        optimiser.step()

    return step


def breakdown(method: KMaT, steps: int) -> dict[str, float]:
    """Seconds of a training step and of its parts, each the median of `steps`."""
    torch.manual_seed(0)
    w = method.encode(MODALITIES).detach().requires_grad_()
    cotangent = torch.randn_like(w)
    parts: dict[str, Callable[[], None]] = {
        "whole step": training_step(method, w.shape[-1], method.contexts.n_classes),
        "text encoder": lambda: method.encode(MODALITIES).backward(cotangent),
        "FGW term": lambda: method.fgw_loss(F.normalize(w, dim=-1)).backward(),
    }
    times: dict[str, list[float]] = {name: [] for name in parts}
    for repeat in range(steps + 2):
        for name, part in parts.items():
            start = time.perf_counter()
            part()
            if w.is_cuda:
                torch.cuda.synchronize()
            if repeat > 1:  # the first ones warm up
                times[name].append(time.perf_counter() - start)
    return {name: statistics.median(each) for name, each in times.items()}


def main(arguments: list[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.kmat_step", description="K-MaT's training step")
    parser.add_argument("--steps", type=int, default=30, help="steps measured (default %(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="of torch (default %(default)s)")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    with method() as built:
        times, classes = breakdown(built, options.steps), built.contexts.n_classes
    whole, encoder, fgw = times.values()
    machine = describe(options.threads)
    print(f"K-MaT on BiomedCLIP's architecture (random weights), {classes} classes, median of {options.steps}")
    print(
        f"{machine['processor']}, {options.threads} thread(s), torch {torch.__version__}, commit {machine['commit']}\n"
    )
    print("| part | ms | of the step |\n|---|---|---|")
    rest = whole - encoder - fgw
    for name, seconds in (*times.items(), ("all else, by difference", rest)):
        print(f"| {name} | {1e3 * seconds:.2f} | {seconds / whole:.1%} |")
    print(
        f"\nFGW and all else: {1 - encoder / whole:.1%} of the step; {RUN_STEPS} steps take {RUN_STEPS * whole:.0f} s."
    )


if __name__ == "__main__":
    main()
