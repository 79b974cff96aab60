"""Measure how hard the benchmark is: ``python -m kmat.phantom.levels``.

Zero-shot and linear probes only. These are the numbers that difficulty was set from, before any method was compared.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from torch.nn import functional

from kmat.phantom import BANNER, CLASSES, backbone_dir, backbone_names, factors, load_chest
from kmat.phantom.descriptions import PATH
from kmat.phantom.layout import load, pixels

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from kmat.phantom import Phantom

MODALITIES = ("high", "low")
TEMPLATE = "a photo of a {}."
_PROBE_C = (0.01, 0.1, 1.0, 10.0, 100.0)


@torch.no_grad()
def _image_features(model: torch.nn.Module, images: NDArray[np.uint8]) -> torch.Tensor:
    return torch.cat([functional.normalize(model.encode_image(x), dim=-1) for x in pixels(images).split(256)])


@torch.no_grad()
def _prototypes(model: torch.nn.Module, tokenizer: object, sentences: list[list[str]]) -> torch.Tensor:
    """(classes, d) unit mean of the unit features of each class's sentences."""
    means = [functional.normalize(model.encode_text(tokenizer(s)), dim=-1).mean(0) for s in sentences]
    return functional.normalize(torch.stack(means), dim=-1)


def _score(predicted: NDArray[np.int64], label: NDArray[np.int64]) -> dict[str, object]:
    recall = [float((predicted[label == c] == c).mean() * 100) for c in range(len(CLASSES))]
    return {"accuracy": float((predicted == label).mean() * 100), "per_class": recall}


def _probe(x: NDArray[np.float64], y: NDArray[np.int64], test: NDArray[np.float64]) -> NDArray[np.int64]:
    """Fit a linear probe; regularisation by 4-fold accuracy on its own training data."""
    fold = np.arange(len(y)) % 4

    def held_out(c: float) -> float:
        hits = [LogisticRegression(C=c, max_iter=2000).fit(x[fold != k], y[fold != k]).predict(x[fold == k]) == y[fold == k] for k in range(4)]
        return float(np.concatenate(hits).mean())

    return LogisticRegression(C=max(_PROBE_C, key=held_out), max_iter=2000).fit(x, y).predict(test)


def measure(folder: Path, chest: Phantom, book: Mapping[str, Mapping[str, list[str]]]) -> dict[str, object]:
    """Measure one backbone.

    Parameters
    ----------
    folder : Path
        In the layout of `kmat.phantom.layout`.
    chest : Phantom
        Tested on its split "test"; probes train on "train" (high) and "probe" (low).
    book : mapping of class to modality to sentences
        The descriptions.

    Returns
    -------
    dict
        ``{row: {modality: {"accuracy": float, "per_class": [float, ...]}}}`` in per cent.
    """
    model, tokenizer = load(folder)
    feature = _image_features(model, chest.images)
    named = {m: [book[name][m] for name in CLASSES] for m in MODALITIES}
    other = {"high": "low", "low": "high"}
    text = {
        "zero-shot, class string": {m: [[TEMPLATE.format(name)] for name in CLASSES] for m in MODALITIES},
        "zero-shot, 50 descriptions": named,
        "zero-shot, other modality's descriptions": {m: named[other[m]] for m in MODALITIES},
    }
    rows: dict[str, object] = {}
    test = {m: (chest.split == "test") & (chest.modality == m) for m in MODALITIES}
    for row, sentences in text.items():
        rows[row] = {}
        for m, mask in test.items():
            scores = feature[torch.from_numpy(mask)] @ _prototypes(model, tokenizer, sentences[m]).T
            rows[row][m] = _score(scores.argmax(1).numpy(), chest.label[mask])
    x = feature.double().numpy()
    labelled = {"high": chest.split == "train", "low": chest.split == "probe"}
    for row, source in (("linear probe", {m: m for m in MODALITIES}), ("linear probe, other modality", other)):
        rows[row] = {}
        for m, mask in test.items():
            known = np.random.default_rng(0).permutation(np.flatnonzero(labelled[source[m]]))
            rows[row][m] = _score(_probe(x[known], chest.label[known], x[mask]), chest.label[mask])
    return rows


def main() -> None:
    """Print and, if asked, write the levels."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backbone", type=Path, nargs="*", help="folders; the shipped ones if left out")
    parser.add_argument("--json", type=Path, help="also write everything here")
    args = parser.parse_args()
    torch.set_num_threads(1)
    book = json.loads(PATH.read_text(encoding="utf-8"))["descriptions"]
    folders = args.backbone or [backbone_dir(name) for name in backbone_names()]
    chest = load_chest()
    table = {folder.name: measure(folder, chest, book) for folder in folders}
    print(BANNER)
    for row in next(iter(table.values())):
        for name, rows in table.items():
            cells = [f"{rows[row][m]['accuracy']:5.1f} ({'/'.join(f'{r:.0f}' for r in rows[row][m]['per_class'])})" for m in MODALITIES]
            print(f"{row:42s} {name:8s} high {cells[0]:18s} low {cells[1]}")
    if args.json:
        args.json.write_text(json.dumps({"banner": BANNER, "levels": table}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
