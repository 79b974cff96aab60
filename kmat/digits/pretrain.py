"""Train a tiny CLIP on printed characters: ``python -m kmat.digits.pretrain --seed 0 --out DIR``."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from kmat.digits import BANNER, SIZE, glyphs
from kmat.tinyclip.training import Corpus, train, write_card

N_HIGH, N_LOW = 20_000, 5_000
EPOCHS = 6
SHIFT = 2
_ENTROPY = 41_418


def pretrain(seed: int, out: Path, *, n_high: int = N_HIGH, n_low: int = N_LOW, epochs: int = EPOCHS) -> list[float]:
    """Pretrain from scratch on ``n_high`` smooth and ``n_low`` coarse characters; the mean loss of every epoch."""
    rng = np.random.default_rng([_ENTROPY, seed])
    modality = ["high"] * n_high + ["low"] * n_low
    character = rng.choice(list(glyphs.SHAPES), len(modality)).tolist()
    images, style = zip(*(glyphs.glyph(c, m, rng) for c, m in zip(character, modality, strict=True)), strict=True)
    facts = list(zip(character, modality, style, strict=True))
    corpus = Corpus(
        np.stack(images),
        lambda rng: [glyphs.caption(*fact, rng) for fact in facts],
        glyphs.vocabulary(),
        SHIFT,
    )
    losses = train(corpus, seed, rng, out, epochs)
    write_card(
        out,
        title=f"Tiny CLIP for the digits, pretraining seed {seed}",
        banner=BANNER,
        size=SIZE,
        data=(
            f"{n_high} smooth and {n_low} coarse (8 x 8) pictures of characters from matplotlib's fonts, a third of "
            "them digits, with captions\n  of names and shapes from a grammar. No handwriting was among them."
        ),
        command=f"python -m kmat.digits.pretrain --seed {seed} --out DIR",
        losses=losses,
    )
    return losses


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    pretrain(args.seed, args.out)


if __name__ == "__main__":
    main()
