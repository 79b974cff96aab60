"""Accuracy, macro-F1, per-class accuracy, and the harmonic mean of two modalities."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Scores:
    """How well predictions fit labels, in [0, 1].

    Attributes
    ----------
    n : int
        Images.
    accuracy : float
    macro_f1 : float
        Mean F1 over the classes that occur among the labels, as in Dassl.
    per_class : tuple of float or None
        Accuracy within each class, its recall; None for a class without images.
    confusion : tuple of tuples of int
        Rows are labels, columns predictions.
    """

    n: int
    accuracy: float
    macro_f1: float
    per_class: tuple[float | None, ...]
    confusion: tuple[tuple[int, ...], ...]


def score(predicted: Tensor, labels: Tensor, n_classes: int) -> Scores:
    """Score predicted classes (N,) against labels (N,), N >= 1.

    Examples
    --------
    >>> scores = score(torch.tensor([0, 1, 1, 0]), torch.tensor([0, 1, 0, 0]), n_classes=3)
    >>> scores.accuracy, round(scores.macro_f1, 4), scores.per_class
    (0.75, 0.7333, (0.6666666666666666, 1.0, None))
    """
    confusion = torch.bincount(labels * n_classes + predicted, minlength=n_classes**2).view(n_classes, n_classes)
    hits, support, chosen = confusion.diagonal().double(), confusion.sum(1).double(), confusion.sum(0).double()
    present = support > 0
    f1 = 2 * hits[present] / (support + chosen)[present]
    return Scores(
        n=len(labels),
        accuracy=float(hits.sum() / support.sum()),
        macro_f1=float(f1.mean()),
        per_class=tuple(float(h / s) if s else None for h, s in zip(hits, support, strict=True)),
        confusion=tuple(tuple(row) for row in confusion.tolist()),
    )


def floors(labels: Tensor, n_classes: int) -> dict[str, dict[str, float]]:
    """Accuracy and macro-F1 of guessing uniformly (in expectation) and of always naming the largest class.

    Examples
    --------
    >>> floors(torch.tensor([0, 0, 0, 1]), n_classes=2)["largest class"]["accuracy"]
    0.75
    """
    frequency = labels.bincount(minlength=n_classes).double() / len(labels)
    present = frequency[frequency > 0]
    guess = 1 / n_classes
    chance_f1 = 2 * present * guess / (present + guess)  # precision of a class is its frequency, recall is 1/C
    largest = score(torch.full_like(labels, int(frequency.argmax())), labels, n_classes)
    return {
        "chance": {"accuracy": guess, "macro_f1": float(chance_f1.mean())},
        "largest class": {"accuracy": largest.accuracy, "macro_f1": largest.macro_f1},
    }


def harmonic_mean(a: float, b: float) -> float:
    """2ab / (a + b), the paper's H; 0 where both are 0.

    Examples
    --------
    >>> harmonic_mean(0.5, 0.25), harmonic_mean(0.0, 0.0)
    (0.3333333333333333, 0.0)
    """
    return 2 * a * b / (a + b) if a + b else 0.0
