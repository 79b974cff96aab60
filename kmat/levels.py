"""Measure how hard an embedded benchmark is: ``python -m kmat.levels --task chest-phantom``.

Zero-shot and linear probes only. These are the numbers that difficulty was set from, before any method was compared.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from torch.nn import functional

from kmat.embedded import EMBEDDED
from kmat.methods.configs import TEMPLATE
from kmat.modalities import MODALITIES
from kmat.tinyclip.layout import load, pixels

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from kmat.tinyclip.frozen import LabelledImages

_OTHER = {"high": "low", "low": "high"}
_LABELLED = {"high": "train", "low": "probe"}
_PENALTIES = (0.01, 0.1, 1.0, 10.0, 100.0)
_FOLDS = 4


@dataclass(frozen=True)
class Score:
    """Accuracy and recall of each class, in per cent."""

    accuracy: float
    recall: tuple[float, ...]

    def __str__(self) -> str:
        return f"{self.accuracy:.1f} ({'/'.join(f'{r:.0f}' for r in self.recall)})"


def _score(predicted: NDArray[np.int64], label: NDArray[np.int64]) -> Score:
    hit = predicted == label
    return Score(float(hit.mean() * 100), tuple(float(hit[label == c].mean() * 100) for c in np.unique(label)))


@torch.no_grad()
def _image_features(model: Any, images: NDArray[np.uint8]) -> torch.Tensor:
    return torch.cat([functional.normalize(model.encode_image(x), dim=-1) for x in pixels(images).split(256)])


@torch.no_grad()
def _prototypes(model: Any, tokenizer: Any, sentences: Sequence[list[str]]) -> torch.Tensor:
    """(classes, d) unit mean of the unit features of each class's sentences."""
    means = [functional.normalize(model.encode_text(tokenizer(s)), dim=-1).mean(0) for s in sentences]
    return functional.normalize(torch.stack(means), dim=-1)


def _probe(x: NDArray[np.float64], y: NDArray[np.int64], test: NDArray[np.float64]) -> NDArray[np.int64]:
    """Fit a linear probe; its penalty by cross-validation on its own training data."""
    fold = np.arange(len(y)) % _FOLDS

    def fit(c: float, rows: NDArray[np.bool_]) -> Any:
        return LogisticRegression(C=c, max_iter=2000).fit(x[rows], y[rows])

    def held_out(c: float) -> float:
        return sum(float(fit(c, fold != k).score(x[fold == k], y[fold == k])) for k in range(_FOLDS))

    return np.asarray(fit(max(_PENALTIES, key=held_out), fold >= 0).predict(test))


def measure(
    folder: Path, data: LabelledImages, book: Mapping[str, Mapping[str, list[str]]]
) -> dict[str, dict[str, Score]]:
    """Measure one backbone.

    Parameters
    ----------
    folder : Path
        In the layout of `kmat.tinyclip.layout`.
    data : LabelledImages
        PartScores on its split "test"; probes train on "train" (high) and "probe" (low).
    book : mapping of class to modality to sentences
        The descriptions, classes in the order of the labels.

    Returns
    -------
    dict of str to dict of str to Score
        Row, then the modality of the test images.
    """
    model, tokenizer = load(folder)
    feature = _image_features(model, data.images)
    x = feature.double().numpy()

    def test(modality: str) -> NDArray[np.bool_]:
        return np.asarray((data.split == "test") & (data.modality == modality))

    def zero_shot(sentences: Sequence[list[str]], modality: str) -> Score:
        mask = test(modality)
        similarity = feature[torch.from_numpy(mask)] @ _prototypes(model, tokenizer, sentences).T
        return _score(similarity.argmax(1).numpy(), data.label[mask])

    def probe(source: str, modality: str) -> Score:
        mask = test(modality)
        known = np.random.default_rng(0).permutation(np.flatnonzero(data.split == _LABELLED[source]))
        return _score(_probe(x[known], data.label[known], x[mask]), data.label[mask])

    names = [[TEMPLATE.replace("{name}", name)] for name in book]
    described = {m: [book[name][m] for name in book] for m in MODALITIES}
    return {
        "zero-shot, template": {m: zero_shot(names, m) for m in MODALITIES},
        "zero-shot, descriptions": {m: zero_shot(described[m], m) for m in MODALITIES},
        "zero-shot, other modality's descriptions": {m: zero_shot(described[_OTHER[m]], m) for m in MODALITIES},
        "linear probe": {m: probe(m, m) for m in MODALITIES},
        "linear probe of the other modality": {m: probe(_OTHER[m], m) for m in MODALITIES},
    }


def main() -> None:
    """Print the levels as a Markdown table and, if asked, write them as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--task", choices=EMBEDDED, default="chest-phantom")
    parser.add_argument("--backbone", type=Path, nargs="*", help="folders; the shipped ones if left out")
    parser.add_argument("--json", type=Path, help="write the levels here, too")
    args = parser.parse_args()
    torch.set_num_threads(1)
    bench = EMBEDDED[args.task]
    book = json.loads(bench.descriptions.read_text(encoding="utf-8"))["descriptions"]
    data = bench.load()
    folders = args.backbone or [bench.frozen.backbone_dir(name) for name in bench.frozen.backbones]
    levels = {folder.name: measure(folder, data, {name: book[name] for name in bench.classes}) for folder in folders}
    print(f"{bench.banner}\nTest accuracy (recall of each class) in per cent; chance {100 / len(bench.classes):.1f}.\n")
    print("| row | backbone | high | low |\n|---|---|---|---|")
    for row in next(iter(levels.values())):
        for name, rows in levels.items():
            print(f"| {row} | {name} | {rows[row]['high']} | {rows[row]['low']} |")
        mean = {m: np.mean([rows[row][m].accuracy for rows in levels.values()]) for m in MODALITIES}
        print(f"| {row} | mean | {mean['high']:.1f} | {mean['low']:.1f} |")
    if args.json:
        plain = {
            name: {row: {m: asdict(score) for m, score in by.items()} for row, by in rows.items()}
            for name, rows in levels.items()
        }
        args.json.write_text(json.dumps({"banner": bench.banner, "levels": plain}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
