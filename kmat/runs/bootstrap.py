"""What chance may have done to test scores: intervals and paired tests, by patient."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

Array = NDArray[np.float64]

RESAMPLES, FLIPS = 1000, 10_000


class Judged(NamedTuple):
    """What runs say of the images of one test set.

    Attributes
    ----------
    probabilities : ndarray, shape (R, N, C)
        Of R runs.
    labels : ndarray, shape (N,)
        The right classes.
    patients : tuple of str
        Of whom each image is.
    """

    probabilities: Array
    labels: NDArray[np.int64]
    patients: tuple[str, ...]

    @classmethod
    def of(cls, probabilities: Tensor, labels: Tensor, patients: Sequence[str]) -> "Judged":
        """Take probabilities (R, N, C) and labels (N,)."""
        return cls(probabilities.double().numpy(), labels.numpy(), tuple(patients))

    @property
    def predicted(self) -> NDArray[np.int64]:
        """The likeliest classes (R, N)."""
        likeliest: NDArray[np.int64] = self.probabilities.argmax(-1)
        return likeliest


class Comparison(NamedTuple):
    """Accuracy of one method minus that of another, in [-1, 1]: its 95 % interval, and how likely by chance."""

    difference: float
    low: float
    high: float
    p: float


def intervals(judged: Judged, resamples: int = RESAMPLES, seed: int = 0) -> dict[str, tuple[float, float]]:
    """95 % intervals of accuracy, macro-F1 and macro AUC by the percentile bootstrap over patients.

    All images of a patient come and go together: they are not independent. Of several runs it is the mean score, on
    the same patients: what other seeds would give is not in it. Resamples without two classes have no AUC and do not
    count for it.

    Examples
    --------
    >>> import torch
    >>> p, labels = torch.eye(2)[[0, 1, 0, 1]], torch.tensor([0, 1, 1, 1])
    >>> low, high = intervals(Judged.of(p[None], labels, "abcd"))["accuracy"]
    >>> low < 0.75 < high
    True
    """
    drawn = _draw(judged.patients, resamples, seed)
    measures: dict[str, Callable[[Judged, Array], Array]] = {
        "accuracy": _accuracy,
        "macro_f1": _macro_f1,
        "macro_auc": _macro_auc,
    }
    values = {name: measure(judged, drawn) for name, measure in measures.items()}
    known = {name: value[~np.isnan(value)] for name, value in values.items()}
    return {name: _ends(value) for name, value in known.items() if len(value)}


def compare(one: Judged, other: Judged, resamples: int = RESAMPLES, flips: int = FLIPS, seed: int = 0) -> Comparison:
    """Test whether two methods, run by run on the same images, differ in accuracy by more than chance.

    The interval is the bootstrap's of :func:`intervals`, with the same patients for both. The test exchanges the two
    methods' answers on each patient with probability one half, which changes nothing if they are equally good: ``p``
    is the share of such exchanges, the given one among them, with a difference at least as large (McNemar's idea for
    images in clusters, e.g. Good, "Permutation, Parametric and Bootstrap Tests of Hypotheses", 2005).

    Examples
    --------
    >>> import torch
    >>> labels, patients = torch.zeros(40, dtype=torch.int64), tuple(map(str, range(40)))
    >>> right, wrong = torch.eye(2)[labels][None], torch.eye(2)[1 - labels][None]
    >>> compare(Judged.of(right, labels, patients), Judged.of(wrong, labels, patients)).p < 0.001
    True
    """
    gained = _correct(one).mean(0) - _correct(other).mean(0)
    drawn = _draw(one.patients, resamples, seed)
    low, high = _ends(drawn @ gained / drawn.sum(1))
    _, owner = np.unique(one.patients, return_inverse=True)
    by_patient = np.bincount(owner, weights=gained)
    rng = np.random.default_rng(seed)
    signs = rng.integers(2, size=(flips, len(by_patient)), dtype=np.int8) * 2 - 1
    # Differences that are equal but for the order of their sums count as equal.
    reached = np.abs(signs @ by_patient) >= np.abs(by_patient.sum()) - 1e-9
    return Comparison(float(gained.mean()), low, high, float((1 + reached.sum()) / (1 + flips)))


def holm(p: Sequence[float]) -> list[float]:
    """Adjust p values for their number (Holm, Scandinavian Journal of Statistics 1979).

    Examples
    --------
    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    adjusted, highest = [0.0] * len(p), 0.0
    for rank, index in enumerate(np.argsort(p, kind="stable").tolist()):
        highest = max(highest, min(1.0, (len(p) - rank) * p[index]))
        adjusted[index] = highest
    return adjusted


def _draw(patients: Sequence[str], resamples: int, seed: int) -> Array:
    """How often each image (N,) comes in each resample, (resamples, N): as often as its patient is drawn."""
    names, owner = np.unique(list(patients), return_inverse=True)
    counts = np.random.default_rng(seed).multinomial(len(names), np.full(len(names), 1 / len(names)), size=resamples)
    return counts[:, owner].astype(np.float64)


def _ends(values: Array) -> tuple[float, float]:
    low, high = np.percentile(values, (2.5, 97.5))
    return float(low), float(high)


def _correct(judged: Judged) -> NDArray[np.bool_]:
    right: NDArray[np.bool_] = judged.predicted == judged.labels
    return right


def _accuracy(judged: Judged, drawn: Array) -> Array:
    shares: Array = drawn @ _correct(judged).mean(0) / drawn.sum(1)
    return shares


def _macro_f1(judged: Judged, drawn: Array) -> Array:
    """Mean F1 over the classes that occur among the labels, as :func:`kmat.runs.evaluation.score`."""
    n_classes = judged.probabilities.shape[-1]
    truth = np.eye(n_classes)[judged.labels]
    support = drawn @ truth
    per_run = []
    for predicted in judged.predicted:
        chosen = np.eye(n_classes)[predicted]
        f1 = 2 * (drawn @ (chosen * truth)) / np.maximum(support + drawn @ chosen, 1)
        per_run.append((f1 * (support > 0)).sum(1) / (support > 0).sum(1))
    mean: Array = np.mean(per_run, axis=0)
    return mean


def _macro_auc(judged: Judged, drawn: Array) -> Array:
    """Mean over classes of the areas under their ROC curves; NaN of a resample that has none."""
    per_run = []
    for p in judged.probabilities:
        areas = np.stack([_area(p[:, c], judged.labels == c, drawn) for c in range(p.shape[1])])
        known = ~np.isnan(areas)
        total, count = np.where(known, areas, 0).sum(0), known.sum(0)
        per_run.append(np.where(count > 0, total / np.maximum(count, 1), np.nan))
    mean: Array = np.mean(per_run, axis=0)
    return mean


def _area(scores: Array, positive: NDArray[np.bool_], drawn: Array) -> Array:
    """Share of pairs, one positive and one not, in which the positive one scores higher; ties count half."""
    order = np.argsort(scores, kind="stable")
    _, begins = np.unique(scores[order], return_index=True)
    hits, others = (np.add.reduceat(drawn[:, order] * of[order], begins, axis=1) for of in (positive, ~positive))
    below = others.cumsum(1) - others / 2
    pairs = hits.sum(1) * others.sum(1)
    areas: Array = np.where(pairs > 0, (hits * below).sum(1) / np.maximum(pairs, 1), np.nan)
    return areas
