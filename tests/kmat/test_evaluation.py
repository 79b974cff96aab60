import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import (
    accuracy_score,
    confusion_matrix,
    f1_score,
    precision_score,
    recall_score,
    roc_auc_score,
)

from kmat.runs.evaluation import area_under_roc, certainty, floors, harmonic_mean, score

pairs = st.integers(2, 6).flatmap(
    lambda c: st.tuples(
        st.just(c),
        st.lists(st.tuples(st.integers(0, c - 1), st.integers(0, c - 1)), min_size=1, max_size=40),
    )
)


@given(pairs)
def test_scores_are_scikit_learns(case):
    n_classes, rows = case
    labels, predicted = (torch.tensor(column) for column in zip(*rows, strict=True))
    scores = score(predicted, labels, n_classes)
    present = np.unique(labels)
    assert scores.n == len(rows)
    assert scores.accuracy == pytest.approx(accuracy_score(labels, predicted))
    assert scores.macro_f1 == pytest.approx(f1_score(labels, predicted, labels=present, average="macro"))
    recall = recall_score(labels, predicted, labels=present, average=None)
    assert [value for value in scores.per_class if value is not None] == pytest.approx(list(recall))
    assert [i for i, value in enumerate(scores.per_class) if value is not None] == list(present)
    np.testing.assert_array_equal(scores.confusion, confusion_matrix(labels, predicted, labels=range(n_classes)))
    for label in range(n_classes):
        true, guess = labels == label, predicted == label
        assert (scores.specificity[label] is None) == bool(true.all())
        if not true.all():
            assert scores.specificity[label] == pytest.approx(recall_score(~true, ~guess))
        assert (scores.precision[label] is None) == (not guess.any())
        if guess.any():
            assert scores.precision[label] == pytest.approx(precision_score(true, guess, zero_division=0))


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 5)), min_size=1, max_size=30))
def test_the_area_under_roc_is_scikit_learns(rows):
    positive, values = (np.array(column) for column in zip(*rows, strict=True))
    found = area_under_roc(values / 5, positive)
    if positive.all() or not positive.any():
        assert found is None
    else:
        assert found == pytest.approx(roc_auc_score(positive, values))


def test_calibration_of_known_probabilities():
    """Of 1,000 images that get 0.75, 60 % are right: the error is 15 points, and all are in one bin."""
    p = torch.tensor([[0.75, 0.25]]).repeat(1000, 1)
    labels = (torch.arange(1000) % 10 >= 6).long()
    found = certainty(p, labels)
    assert found.ece == pytest.approx(0.15)
    assert found.reliability[7] == (1000, pytest.approx(0.75), pytest.approx(0.6))
    assert sum(count for count, *_ in found.reliability) == 1000
    assert found.macro_auc == 0.5
    sure = certainty(torch.eye(3)[[0, 1, 1]], torch.tensor([0, 1, 1]))
    assert (sure.ece, sure.auc) == (0.0, (1.0, 1.0, None))


def test_harmonic_mean():
    assert harmonic_mean(0.568, 0.464) == pytest.approx(0.5108, abs=1e-4), "Skin I of the paper, recomputed"
    assert harmonic_mean(0.0, 0.0) == 0.0
    assert harmonic_mean(0.0, 1.0) == 0.0


def test_floors():
    labels = torch.tensor([0] * 6 + [1] * 3 + [2] * 1)
    found = floors(labels, 4)
    assert found["largest class"].accuracy == 0.6
    constant = f1_score(labels, [0] * 10, average="macro", zero_division=0)
    assert found["largest class"].macro_f1 == pytest.approx(constant)
    many = labels.repeat(20_000)
    guess = torch.randint(4, many.shape, generator=torch.Generator().manual_seed(0))
    assert found["chance"].accuracy == pytest.approx(accuracy_score(many, guess), abs=5e-3)
    expected = f1_score(many, guess, labels=[0, 1, 2], average="macro")
    assert found["chance"].macro_f1 == pytest.approx(expected, abs=5e-3)
