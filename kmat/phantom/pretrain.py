"""Train one tiny CLIP on synthetic image-caption pairs, and write it in BiomedCLIP's on-disk layout.

``python -m kmat.phantom.pretrain --seed 0 --out DIR``
"""

from __future__ import annotations

import argparse
import copy
import math
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from kmat.phantom import BANNER, anatomy, factors, language, render
from kmat.phantom.layout import create, load, pixels, save

if TYPE_CHECKING:
    from numpy.typing import NDArray

N_HIGH, N_LOW = 40_000, 20_000
EPOCHS = 10
BATCH = 192
PEAK_LR, FINAL_LR = 2e-3, 4e-5
WARM_UP = 100
WEIGHT_DECAY = 0.05
EMA_DECAY = 0.998
SHIFT = 3
_ENTROPY = 41_417  # pretraining patients; `kmat.phantom.generate` uses another stream
_CHUNK = 50


def patients(n: int, modality: str, seed: int) -> tuple[NDArray[np.uint8], list[dict[str, str]]]:
    """Return images (n, 64, 64) uint8 of ``n`` pretraining patients and the factor values captions are made of."""
    rng = np.random.default_rng([_ENTROPY, seed, ("high", "low").index(modality)])
    images = np.empty((n, render.SIZE, render.SIZE), np.uint8)
    values: list[dict[str, str]] = []
    for start in range(0, n, _CHUNK):
        drawn = factors.draw(factors.pretraining_table(), min(_CHUNK, n - start), rng)
        chest = anatomy.build(drawn, rng)
        images[start : start + _CHUNK] = render.RENDER[modality](chest, render.PRETRAINING[modality], rng)
        values += [{f: factors.VALUES[f][v[i]] for f, v in drawn.items()} for i in range(len(drawn["count"]))]
    return images, values


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
    # The fused CPU attention is ten times slower backwards than the plain one at this size.
    with torch.autocast("cpu", torch.bfloat16), sdpa_kernel(SDPBackend.MATH):
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
# Tiny CLIP for the chest phantom, pretraining seed {seed}

**{banner}.**

- What: a CustomTextCLIP in BiomedCLIP's on-disk layout (timm `test_byobnet` at 64 x 64, 2-layer BERT, 128-d embedding,
  fp16 weights). Load it with open_clip's `local-dir:`, `hf_model_name` overridden by this folder.
- Data: {n_high} CT-like and {n_low} X-ray-like synthetic images, each with captions of attributes from a grammar. No
  clinical class name, no patient and no image of the benchmark was among them.
- Training: {epochs} epochs of symmetric InfoNCE in batches of {batch} from random weights, AdamW, cosine schedule; the
  weights are the exponential moving average after the last step. No checkpoint was picked.
- Mean loss by epoch (ln {batch} = {chance:.2f}): {losses}.
- Made by: `python -m kmat.phantom.pretrain --seed {seed} --out DIR`. The seed fixes every draw; low-order bits of the
  weights depend on the processor and on the version of torch.
- Not for: any clinical or diagnostic use. It has never seen a medical image. Licence: that of this repository (MIT).
"""


def write_card(out: Path, seed: int, losses: list[float], n_high: int = N_HIGH, n_low: int = N_LOW) -> None:
    """Write the model card, ``README.md``, into ``out``."""
    card = _CARD.format(
        seed=seed,
        banner=BANNER,
        n_high=n_high,
        n_low=n_low,
        epochs=len(losses),
        batch=BATCH,
        chance=math.log(BATCH),
        losses=", ".join(f"{loss:.3f}" for loss in losses),
    )
    (out / "README.md").write_text(card, encoding="utf-8")


def train(seed: int, out: Path, *, n_high: int = N_HIGH, n_low: int = N_LOW, epochs: int = EPOCHS) -> list[float]:
    """Pretrain from scratch and save to ``out``.

    Parameters
    ----------
    seed : int
        Decides patients, captions, initial weights and batches.
    out : Path
        Folder to create, in the layout of `kmat.phantom.layout`.
    n_high, n_low : int
        Image-caption pairs of each modality.
    epochs : int
        Captions are written anew in each.

    Returns
    -------
    list of float
        Mean loss of every epoch.
    """
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    rng = np.random.default_rng([_ENTROPY, seed, 2])
    high, low = patients(n_high, "high", seed), patients(n_low, "low", seed)
    images = np.concatenate([high[0], low[0]])
    values = high[1] + low[1]
    modality = ["high"] * n_high + ["low"] * n_low

    create(out)
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
        captions = [language.caption(v, m, rng) for v, m in zip(values, modality, strict=True)]
        tokens = tokenizer(captions)
        total = 0.0
        for i, batch in enumerate(rng.permutation(len(images))[: per_epoch * BATCH].reshape(per_epoch, BATCH)):
            step = epoch * per_epoch + i
            for group in optimizer.param_groups:
                group["lr"] = _learning_rate(step, per_epoch * epochs)
            shift = tuple(rng.integers(-SHIFT, SHIFT + 1, 2).tolist())
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
    write_card(out, seed, losses, n_high, n_low)
    return losses


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    args = parser.parse_args()
    train(args.seed, args.out, epochs=args.epochs)


if __name__ == "__main__":
    main()
