"""Draw the frozen benchmark: ``python -m kmat.phantom.generate``.

The images are shipped, not redrawn, because NumPy does not promise the same random stream in every version.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kmat.phantom import CHEST_FILE, CLASSES, anatomy, factors, render

if TYPE_CHECKING:
    from numpy.typing import NDArray

SEED = 20_261_124

#: Scanners the backbones never saw: more display contrast than in pretraining. docs/phantom.md says what decided it.
SCANNERS = {
    modality: render.Scanner(contrast, render.PRETRAINING[modality].noise)
    for modality, contrast in (("high", 1.05), ("low", 1.1))
}

#: Patients per class of each split and the modalities in which they are imaged.
SPLITS: dict[str, tuple[int, tuple[str, ...]]] = {
    "train": (48, ("high",)),
    "val": (30, ("high",)),
    "test": (150, ("high", "low")),
    "probe": (64, ("low",)),
}


def benchmark(seed: int = SEED) -> dict[str, NDArray[np.generic]]:
    """Draw every image of the benchmark.

    Parameters
    ----------
    seed : int
        The shipped file has the default.

    Returns
    -------
    dict of arrays
        ``images`` (N, 64, 64) uint8, ``label`` and ``patient`` (N,) int64, ``modality`` and ``split`` (N,) str. A
        patient has one id, one label and one split; test patients are imaged in both modalities.
    """
    columns: dict[str, list[NDArray[np.generic]]] = {k: [] for k in ("images", "label", "patient", "modality", "split")}
    first = 0
    for s, (split, (n, modalities)) in enumerate(SPLITS.items()):
        for label in range(len(CLASSES)):
            rng = np.random.default_rng([seed, s, label])
            chest = anatomy.build(factors.draw(factors.CLASS_TABLE[label], n, rng), rng)
            for modality in modalities:
                images = render.RENDER[modality](chest, SCANNERS[modality], rng)
                columns["images"].append(images & 0xFE)  # the last bit is noise, and a fifth of the file
                columns["label"].append(np.full(n, label, np.int64))
                columns["patient"].append(np.arange(first, first + n, dtype=np.int64))
                columns["modality"].append(np.full(n, modality))
                columns["split"].append(np.full(n, split))
            first += n
    return {name: np.concatenate(arrays) for name, arrays in columns.items()}


def main() -> None:
    """Write the file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=CHEST_FILE, help="the npz to write")
    out = parser.parse_args().out
    out.parent.mkdir(parents=True, exist_ok=True)
    columns: dict[str, Any] = benchmark()
    np.savez_compressed(out, **columns)


if __name__ == "__main__":
    main()
