"""How well predictions, and the probabilities behind them, fit labels; by class."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

BINS = 10
"""Of confidence, in reliability diagrams and the expected calibration error."""

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Means:
    """The two scores that the paper has, in [0, 1]."""

    accuracy: float
    macro_f1: float


@dataclass(frozen=True)
class Scores:
    """How well predictions fit labels, in [0, 1]. What has a default is missing in runs of earlier versions.

    Attributes
    ----------
    n : int
        Images.
    accuracy : float
    macro_f1 : float
        Mean F1 over the classes that occur among the labels, as in Dassl.
    per_class : tuple of float or None
        Accuracy within each class, its recall or sensitivity; None for a class without images.
    specificity : tuple of float or None
        Share of the other classes' images that are not taken for it; None if there are none.
    precision : tuple of float or None
        Share of the images taken for it that are of it; None if there are none.
    confusion : tuple of tuples of int
        Rows are labels, columns predictions.
    """

    n: int
    accuracy: float
    macro_f1: float
    per_class: tuple[float | None, ...]
    specificity: tuple[float | None, ...] = ()
    precision: tuple[float | None, ...] = ()
    confusion: tuple[tuple[int, ...], ...] = ()


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
        per_class=_shares(hits, support),
        specificity=_shares(len(labels) - support - chosen + hits, len(labels) - support),
        precision=_shares(hits, chosen),
        confusion=tuple(tuple(row) for row in confusion.tolist()),
    )


def _shares(part: Tensor, whole: Tensor) -> tuple[float | None, ...]:
    return tuple(float(a / b) if b else None for a, b in zip(part, whole, strict=True))


@dataclass(frozen=True)
class Certainty:
    """What probabilities are worth. All of it is missing in runs of earlier versions.

    Attributes
    ----------
    auc : tuple of float or None
        Area under each class's ROC curve against all others; None if there are no images of it, or no others.
    macro_auc : float or None
        Their mean.
    ece : float
        Expected calibration error (Naeini et al. 2015; Guo et al. 2017): over :data:`BINS` bins of the confidence in
        the predicted class, the mean distance of accuracy and confidence, weighted by images.
    reliability : tuple of triples
        By bin: images, mean confidence, accuracy; the last two 0 without images.
    """

    auc: tuple[float | None, ...] = ()
    macro_auc: float | None = None
    ece: float = math.nan
    reliability: tuple[tuple[int, float, float], ...] = ()


def certainty(probabilities: Tensor, labels: Tensor) -> Certainty:
    """Judge probabilities (N, C) by labels (N,), N >= 1.

    Examples
    --------
    >>> found = certainty(torch.tensor([[0.95, 0.05], [0.55, 0.45], [0.75, 0.25]]), torch.tensor([0, 1, 0]))
    >>> found.auc, round(found.ece, 3)
    ((1.0, 1.0), 0.283)
    """
    p, y = probabilities.double().numpy(), labels.numpy()
    auc = tuple(area_under_roc(p[:, label], y == label) for label in range(p.shape[1]))
    confidence, hit = p.max(1), p.argmax(1) == y
    bins = np.minimum((confidence * BINS).astype(int), BINS - 1)
    counts = [int((bins == b).sum()) for b in range(BINS)]
    rows = tuple(
        (count, float(confidence[bins == b].mean()), float(hit[bins == b].mean())) if count else (0, 0.0, 0.0)
        for b, count in enumerate(counts)
    )
    ece = sum(count * abs(mean - accuracy) for count, mean, accuracy in rows) / len(y)
    return Certainty(auc, _mean(auc), ece, rows)


def area_under_roc(scores: Array, positive: NDArray[np.bool_]) -> float | None:
    """Probability that a positive one scores higher than a negative one, ties counting half; None without either.

    Examples
    --------
    >>> area_under_roc(np.array([0.1, 0.4, 0.4, 0.8]), np.array([False, False, True, True]))
    0.875
    """
    n = int(positive.sum())
    if n in (0, len(positive)):
        return None
    _, where, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (counts.cumsum() - (counts - 1) / 2)[where]
    return float((ranks[positive].sum() - n * (n + 1) / 2) / (n * (len(positive) - n)))


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def floors(labels: Tensor, n_classes: int) -> dict[str, Means]:
    """Accuracy and macro-F1 of guessing uniformly (in expectation) and of always naming the largest class.

    Examples
    --------
    >>> floors(torch.tensor([0, 0, 0, 1]), n_classes=2)["largest class"].accuracy
    0.75
    """
    frequency = labels.bincount(minlength=n_classes).double() / len(labels)
    present = frequency[frequency > 0]
    guess = 1 / n_classes
    chance_f1 = 2 * present * guess / (present + guess)  # precision of a class is its frequency, recall is 1/C
    largest = score(torch.full_like(labels, int(frequency.argmax())), labels, n_classes)
    return {
        "chance": Means(guess, float(chance_f1.mean())),
        "largest class": Means(largest.accuracy, largest.macro_f1),
    }


def harmonic_mean(a: float, b: float) -> float:
    """2ab / (a + b), the paper's H; 0 where both are 0.

    Examples
    --------
    >>> harmonic_mean(0.5, 0.25), harmonic_mean(0.0, 0.0)
    (0.3333333333333333, 0.0)
    """
    return 2 * a * b / (a + b) if a + b else 0.0
