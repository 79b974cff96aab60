"""Train a tiny CLIP for a phantom: ``python -m kmat.phantom.pretrain --phantom chest --seed 0 --out DIR``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from kmat.phantom.recipe import RECIPES, Recipe
from kmat.phantom.render import SIZE
from kmat.tinyclip.training import Corpus, train, write_card

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

SHIFT = 3
_CHUNK = 50


def patients(recipe: Recipe, n: int, modality: str, seed: int) -> tuple[NDArray[np.uint8], list[dict[str, str]]]:
    """Return images (n, 64, 64) uint8 of ``n`` pretraining patients and the factor values captions are made of."""
    rng = np.random.default_rng([recipe.entropy, seed, ("high", "low").index(modality)])
    images = np.empty((n, SIZE, SIZE), np.uint8)
    values: list[dict[str, str]] = []
    for start in range(0, n, _CHUNK):
        drawn = recipe.draw(recipe.flat, min(_CHUNK, n - start), rng)
        anatomy = recipe.build(drawn, rng)
        images[start : start + _CHUNK] = recipe.render[modality](anatomy, recipe.pretraining[modality], rng)
        values += recipe.value_names(drawn)
    return images, values


def pretrain(
    recipe: Recipe, seed: int, out: Path, *, pairs: Mapping[str, int] | None = None, epochs: int | None = None
) -> list[float]:
    """Pretrain from scratch and save to ``out``.

    Parameters
    ----------
    recipe : Recipe
        Of the phantom.
    seed : int
        Decides patients, captions, initial weights and batches.
    out : Path
        Folder to create, in the layout of `kmat.tinyclip.layout`.
    pairs : mapping, optional
        Image-caption pairs of each modality; the recipe's by default.
    epochs : int, optional
        Captions are written anew in each; the recipe's number by default.

    Returns
    -------
    list of float
        Mean loss of every epoch.
    """
    pairs = pairs or recipe.pairs
    drawn = {modality: patients(recipe, n, modality, seed) for modality, n in pairs.items()}
    values = [(v, modality) for modality, (_, of_each) in drawn.items() for v in of_each]
    corpus = Corpus(
        np.concatenate([images for images, _ in drawn.values()]),
        lambda rng: [recipe.caption(v, m, rng) for v, m in values],
        recipe.vocabulary(),
        SHIFT,
    )
    losses = train(corpus, seed, np.random.default_rng([recipe.entropy, seed, 2]), out, epochs or recipe.epochs)
    name = recipe.bench.task.removesuffix("-phantom")
    counts = " and ".join(f"{n} {recipe.bench.modality_names[m]}-like" for m, n in pairs.items())
    write_card(
        out,
        title=f"Tiny CLIP for the {name} phantom, pretraining seed {seed}",
        banner=recipe.bench.banner,
        size=SIZE,
        data=(
            f"{counts} synthetic images, each with captions of attributes from a grammar. No\n"
            "  clinical class name, no patient and no image of the benchmark was among them."
        ),
        command=f"python -m kmat.phantom.pretrain --phantom {name} --seed {seed} --out DIR",
        losses=losses,
    )
    return losses


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--phantom", choices=RECIPES, default="chest")
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    pretrain(RECIPES[args.phantom], args.seed, args.out)


if __name__ == "__main__":
    main()
