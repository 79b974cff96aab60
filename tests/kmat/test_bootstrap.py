"""Intervals and paired tests by patient, beside naive resampling and exact counts."""

from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import f1_score, roc_auc_score

from kmat.runs.bootstrap import Judged, _draw, compare, holm, intervals


def one_run(p, labels, patients):
    return Judged.of(p[None], labels, patients)


def test_intervals_cover_what_they_should():
    """Of accuracies of 70 % on 200 patients 95 in 100 intervals hold 70 %; copies of images add no certainty."""
    rng, held, widths = np.random.default_rng(0), 0, []
    names = [str(i) for i in range(200)]
    for seed in range(200):
        hit = torch.from_numpy(rng.uniform(size=200) < 0.7)
        labels = torch.from_numpy(rng.integers(2, size=200))
        p = torch.eye(2)[torch.where(hit, labels, 1 - labels)]
        low, high = intervals(one_run(p, labels, names), 200, seed)["accuracy"]
        held += low <= 0.7 <= high
        widths.append(high - low)
    assert 0.9 <= held / 200 <= 0.985
    low, high = intervals(one_run(p.repeat(4, 1), labels.repeat(4), names * 4))["accuracy"]
    assert high - low == pytest.approx(np.mean(widths), rel=0.25)


@pytest.mark.parametrize("ties", [False, True])
def test_each_resample_is_scored_as_its_images_would_be(ties):
    """Weights stand for copies: images are repeated, and scored by scikit-learn, run by run."""
    rng = np.random.default_rng(1)
    p = rng.dirichlet(np.ones(3), size=(2, 30))
    p = np.round(p, 1) if ties else p
    labels = rng.integers(3, size=30)
    patients = tuple(str(i // 3) for i in range(30))
    judged = Judged.of(torch.from_numpy(p), torch.from_numpy(labels), patients)
    found = {"accuracy": [], "macro_f1": [], "macro_auc": []}
    for counts in _draw(patients, 40, 7).astype(int):
        at = np.repeat(np.arange(30), counts)
        y, present = labels[at], np.unique(labels[at])
        found["accuracy"].append(np.mean([(run[at].argmax(1) == y).mean() for run in p]))
        f1 = [f1_score(y, run[at].argmax(1), labels=present, average="macro", zero_division=0) for run in p]
        found["macro_f1"].append(np.mean(f1))
        if len(present) > 1:
            auc = [[roc_auc_score(y == c, run[at, c]) for c in present] for run in p]
            found["macro_auc"].append(np.mean(auc))
    ends = {name: np.percentile(values, (2.5, 97.5)) for name, values in found.items()}
    for name, given_ends in intervals(judged, 40, 7).items():
        np.testing.assert_allclose(given_ends, ends[name], atol=1e-12, err_msg=name)


def test_images_of_a_patient_come_and_go_together():
    drawn = _draw(("a", "b", "a", "c"), 50, 0)
    assert (drawn[:, 0] == drawn[:, 2]).all()
    assert (drawn[:, [0, 1, 3]].sum(1) == 3).all()


def test_no_area_without_two_classes():
    only = one_run(torch.eye(2)[[0, 0, 1]], torch.zeros(3, dtype=torch.int64), "abc")
    assert set(intervals(only)) == {"accuracy", "macro_f1"}


def test_p_is_the_exact_share_of_exchanges():
    """Beside all 2^8 exchanges of eight patients, two images each."""
    rng = np.random.default_rng(3)
    labels = torch.from_numpy(rng.integers(2, size=16))
    patients = tuple(str(i // 2) for i in range(16))
    good, bad = (
        one_run(
            torch.eye(2)[torch.from_numpy(np.where(rng.uniform(size=16) < share, labels, 1 - labels))], labels, patients
        )
        for share in (0.9, 0.4)
    )
    gained = (good.predicted == good.labels)[0].astype(int) - (bad.predicted == bad.labels)[0]
    by_patient = gained.reshape(8, 2).sum(1)
    exact = np.mean([abs(np.dot(signs, by_patient)) >= abs(by_patient.sum()) for signs in product((-1, 1), repeat=8)])
    found = compare(good, bad)
    assert found.difference == pytest.approx(gained.mean())
    assert found.low <= found.difference <= found.high
    assert found.p == pytest.approx(exact, abs=4 * np.sqrt(exact / 10_000))
    other = compare(bad, good)
    assert (other.difference, other.p) == (pytest.approx(-found.difference), found.p)


def test_equal_methods_are_rarely_told_apart():
    """Of 60 pairs of methods that are equally good about 5 in 100 have p below 0.05; a method beside itself, none."""
    rng, below = np.random.default_rng(5), 0
    labels, patients = torch.zeros(80, dtype=torch.int64), tuple(map(str, range(80)))
    for _ in range(60):
        one, other = (
            one_run(torch.eye(2)[torch.from_numpy((rng.uniform(size=80) < 0.4).astype(int))], labels, patients)
            for _ in range(2)
        )
        below += compare(one, other, flips=500).p < 0.05
    assert below <= 8
    assert compare(one, one) == (0, 0, 0, 1)


@given(st.lists(st.floats(0, 1), max_size=8))
def test_holm(p):
    adjusted = holm(p)
    assert all(raw <= each <= 1 for raw, each in zip(p, adjusted, strict=True))
    order = np.argsort(p, kind="stable")
    assert (np.diff(np.array(adjusted)[order]) >= 0).all()
    for level in (0.01, 0.05, 0.3):  # Holm's own words: reject in order while p is at most level / number left
        rejected = set()
        for rank, index in enumerate(order):
            if p[index] > level / (len(p) - rank):
                break
            rejected.add(index)
        near = any(abs(each - level) < 1e-12 for each in adjusted)
        assert near or {i for i, each in enumerate(adjusted) if each <= level} == rejected
