import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score, recall_score

from kmat.evaluation import floors, harmonic_mean, score

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


def test_harmonic_mean():
    assert harmonic_mean(0.568, 0.464) == pytest.approx(0.5108, abs=1e-4), "Skin I of the paper, recomputed"
    assert harmonic_mean(0.0, 0.0) == 0.0
    assert harmonic_mean(0.0, 1.0) == 0.0


def test_floors():
    labels = torch.tensor([0] * 6 + [1] * 3 + [2] * 1)
    found = floors(labels, 4)
    assert found["largest class"]["accuracy"] == 0.6
    constant = f1_score(labels, [0] * 10, average="macro", zero_division=0)
    assert found["largest class"]["macro_f1"] == pytest.approx(constant)
    many = labels.repeat(20_000)
    guess = torch.randint(4, many.shape, generator=torch.Generator().manual_seed(0))
    assert found["chance"]["accuracy"] == pytest.approx(accuracy_score(many, guess), abs=5e-3)
    expected = f1_score(many, guess, labels=[0, 1, 2], average="macro")
    assert found["chance"]["macro_f1"] == pytest.approx(expected, abs=5e-3)
