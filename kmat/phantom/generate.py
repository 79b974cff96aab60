"""Draw a frozen benchmark: ``python -m kmat.phantom.generate --phantom chest``.

The images are shipped, not redrawn, because NumPy does not promise the same random stream in every version.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kmat.phantom.recipe import RECIPES, Recipe

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: Patients per class of each split and the modalities in which they are imaged.
SPLITS: dict[str, tuple[int, tuple[str, ...]]] = {
    "train": (48, ("high",)),
    "val": (30, ("high",)),
    "test": (150, ("high", "low")),
    "probe": (64, ("low",)),
}


def benchmark(recipe: Recipe, seed: int | None = None) -> dict[str, NDArray[np.generic]]:
    """Draw every image of a benchmark.

    Parameters
    ----------
    recipe : Recipe
        Of the phantom.
    seed : int, optional
        The shipped file has the recipe's.

    Returns
    -------
    dict of arrays
        ``images`` (N, 64, 64) uint8, ``label`` and ``patient`` (N,) int64, ``modality`` and ``split`` (N,) str. A
        patient has one id, one label and one split; test patients are imaged in both modalities.
    """
    columns: dict[str, list[NDArray[np.generic]]] = {k: [] for k in ("images", "label", "patient", "modality", "split")}
    first = 0
    for s, (split, (n, modalities)) in enumerate(SPLITS.items()):
        for label in range(len(recipe.classes)):
            rng = np.random.default_rng([recipe.seed if seed is None else seed, s, label])
            anatomy = recipe.build(recipe.draw(recipe.classes[label], n, rng), rng)
            for modality in modalities:
                images = recipe.render[modality](anatomy, recipe.scanners[modality], rng)
                columns["images"].append(images >> recipe.noise_bits << recipe.noise_bits)
                columns["label"].append(np.full(n, label, np.int64))
                columns["patient"].append(np.arange(first, first + n, dtype=np.int64))
                columns["modality"].append(np.full(n, modality))
                columns["split"].append(np.full(n, split))
            first += n
    return {name: np.concatenate(arrays) for name, arrays in columns.items()}


def main() -> None:
    """Write the file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--phantom", choices=RECIPES, default="chest")
    parser.add_argument("--out", type=Path, help="the npz to write; the shipped one by default")
    args = parser.parse_args()
    recipe = RECIPES[args.phantom]
    out = args.out or recipe.bench.frozen.folder / recipe.file
    out.parent.mkdir(parents=True, exist_ok=True)
    columns: dict[str, Any] = benchmark(recipe)
    np.savez_compressed(out, **columns)


if __name__ == "__main__":
    main()
