"""Train one tiny CLIP on image-caption pairs, and write it in BiomedCLIP's on-disk layout."""

from __future__ import annotations

import copy
import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from kmat.tinyclip.layout import create, load, pixels, save

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

BATCH = 192
PEAK_LR, FINAL_LR = 2e-3, 4e-5
WARM_UP = 100
WEIGHT_DECAY = 0.05
EMA_DECAY = 0.998


@dataclass(frozen=True)
class Corpus:
    """Image-caption pairs.

    Attributes
    ----------
    images : (N, s, s) uint8
    captions : callable
        Writes N new captions from a random generator.
    words : sequence of str
        The vocabulary.
    shift : int
        Images are rolled by up to so many pixels in training.
    """

    images: NDArray[np.uint8]
    captions: Callable[[np.random.Generator], list[str]]
    words: Sequence[str]
    shift: int


def _parameter_groups(model: torch.nn.Module) -> list[dict[str, object]]:
    decay: list[torch.nn.Parameter] = []
    rest: list[torch.nn.Parameter] = []
    for name, p in model.named_parameters():
        (decay if p.ndim > 1 and "embeddings" not in name else rest).append(p)
    return [{"params": decay, "weight_decay": WEIGHT_DECAY}, {"params": rest, "weight_decay": 0.0}]


def _learning_rate(step: int, steps: int) -> float:
    if step < WARM_UP:
        return PEAK_LR * (step + 1) / WARM_UP
    progress = (step - WARM_UP) / max(1, steps - WARM_UP)
    return FINAL_LR + (PEAK_LR - FINAL_LR) * (1 + math.cos(math.pi * progress)) / 2


def _contrastive_loss(model: Any, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """Symmetric InfoNCE of images (n, 3, 64, 64) and token ids (n, length)."""
    # The fused CPU attention is ten times slower backwards than the plain one at this size, and bfloat16 five times
    # slower than float32 where the processor has only AVX2.
    fast = torch.backends.cpu.get_cpu_capability() != "AVX2"
    with torch.autocast("cpu", torch.bfloat16, enabled=fast), sdpa_kernel(SDPBackend.MATH):
        u, w = model.encode_image(x), model.encode_text(t)
    u, w = functional.normalize(u.float(), dim=-1), functional.normalize(w.float(), dim=-1)
    logits = model.logit_scale.exp() * u @ w.T
    target = torch.arange(len(x))
    return (functional.cross_entropy(logits, target) + functional.cross_entropy(logits.T, target)) / 2


@torch.no_grad()
def _average(ema: torch.nn.Module, model: torch.nn.Module, step: int) -> None:
    """Exponential average of weights and batch-norm statistics; a plain mean at first, to forget the start."""
    weight = max(1 - EMA_DECAY, 1 / (step + 1))
    for a, b in zip(ema.state_dict().values(), model.state_dict().values(), strict=True):
        if a.is_floating_point():
            a.lerp_(b, weight)
        else:
            a.copy_(b)


_CARD = """\
# {title}

**{banner}.**

- What: a CustomTextCLIP in BiomedCLIP's on-disk layout (timm `test_byobnet` at {size} x {size}, 2-layer BERT, 128-d
  embedding, fp16 weights). Load it with open_clip's `local-dir:`, `hf_model_name` overridden by this folder.
- Data: {data}
- Training: {epochs} epochs of symmetric InfoNCE in batches of {batch} from random weights, AdamW, cosine schedule; the
  weights are the exponential moving average after the last step. No checkpoint was picked.
- Mean loss by epoch (ln {batch} = {chance:.2f}): {losses}.
- Made by: `{command}`. The seed fixes every draw; low-order bits of the
  weights depend on the processor and on the version of torch.
- Not for: any clinical or diagnostic use. It has never seen a medical image. Licence: that of this repository (MIT).
"""


def write_card(
    out: Path, *, title: str, banner: str, size: int, data: str, command: str, losses: Sequence[float]
) -> None:
    """Write the model card, ``README.md``, into ``out``."""
    card = _CARD.format(
        title=title,
        banner=banner,
        size=size,
        data=data,
        command=command,
        epochs=len(losses),
        batch=BATCH,
        chance=math.log(BATCH),
        losses=", ".join(f"{loss:.3f}" for loss in losses),
    )
    (out / "README.md").write_text(card, encoding="utf-8")


def train(corpus: Corpus, seed: int, rng: np.random.Generator, out: Path, epochs: int) -> list[float]:
    """Pretrain from scratch and save to ``out``.

    Parameters
    ----------
    corpus : Corpus
    seed : int
        Of the initial weights.
    rng : numpy.random.Generator
        Of captions and batches.
    out : Path
        Folder to create, in the layout of `kmat.tinyclip.layout`.
    epochs : int
        Captions are written anew in each.

    Returns
    -------
    list of float
        Mean loss of every epoch.
    """
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    images, reach = corpus.images, corpus.shift
    create(out, corpus.words, images.shape[-1])
    model, tokenizer = load(out, weights=False)
    model.to(memory_format=torch.channels_last)
    model.visual.train()
    model.text.eval()  # no dropout: the config has 0.1 to expose users who forget eval(), but it would slow learning
    ema = copy.deepcopy(model).eval()
    optimizer = torch.optim.AdamW(_parameter_groups(model), lr=PEAK_LR, betas=(0.9, 0.98), fused=True)
    per_epoch = len(images) // BATCH
    losses = []
    start = time.perf_counter()
    for epoch in range(epochs):
        tokens = tokenizer(corpus.captions(rng))
        total = 0.0
        for i, batch in enumerate(rng.permutation(len(images))[: per_epoch * BATCH].reshape(per_epoch, BATCH)):
            step = epoch * per_epoch + i
            for group in optimizer.param_groups:
                group["lr"] = _learning_rate(step, per_epoch * epochs)
            shift = tuple(rng.integers(-reach, reach + 1, 2).tolist())
            x = pixels(np.roll(images[batch], shift, axis=(1, 2)))
            t = tokens[torch.from_numpy(batch)]
            t = t[:, : int((t != 0).sum(1).max())]  # [PAD] is 0
            loss = _contrastive_loss(model, x, t)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            with torch.no_grad():
                model.logit_scale.clamp_(max=math.log(100))
            _average(ema, model, step)
            total += loss.item()
        losses.append(total / per_epoch)
        print(
            f"epoch {epoch} loss {losses[-1]:.3f} scale {model.logit_scale.exp().item():.1f} "
            f"{time.perf_counter() - start:.0f} s",
            flush=True,
        )
        save(ema, out)
    return losses
