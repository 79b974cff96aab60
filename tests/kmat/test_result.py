"""``result.json`` and its type."""

import json

import pytest
import torch

from kmat.errors import UserError
from kmat.runs.evaluation import Means, certainty, floors, score
from kmat.runs.folder import RunDir
from kmat.runs.result import PartScores, Result

P = torch.tensor([[0.8, 0.2], [0.4, 0.6], [0.7, 0.3]])
Y = torch.tensor([0, 1, 1])


@pytest.fixture
def result():
    tested = PartScores(**vars(score(P.argmax(1), Y, 2)), **vars(certainty(P, Y)))
    return Result(
        task="skin",
        backbone="tiny",
        method={"name": "coop", "csc": False},
        seed=1,
        banner="",
        labels=("mole", "melanoma"),
        classes=("mole", "melanoma"),
        modality_names={"high": "dermoscopy", "low": "photo"},
        augmented=True,
        train_images=8,
        skipped=0,
        diagnostics={},
        scores={"high": {"val": None, "test": tested}, "low": {"test": tested}},
        harmonic=Means(tested.accuracy, tested.macro_f1),
        floors={"high": floors(Y, 2), "low": floors(Y, 2)},
    )


def test_json_and_back(result):
    assert Result.from_json(json.loads(json.dumps(result.to_json()))) == result
    assert result.both_tests() == {modality: result.scores[modality]["test"] for modality in ("high", "low")}


def test_runs_of_earlier_versions_lack_what_probabilities_are_worth(result):
    table = result.to_json()
    for name in ("specificity", "precision", "confusion", "auc", "macro_auc", "ece", "reliability"):
        del table["scores"]["low"]["test"][name]
    old = Result.from_json(table)
    assert old.scores["low"]["test"].auc == ()
    assert old.scores["low"]["test"].accuracy == result.scores["low"]["test"].accuracy
    assert old.scores["high"] == result.scores["high"]


DAMAGE = [
    (("seed",), "1", "seed is '1', expected int"),
    (("labels", 1), 5, "labels.1 is 5, expected str"),
    (("scores", "low", "test", "accuracy"), None, "scores.low.test.accuracy is None, expected float"),
    (("scores", "low", "test", "confusion", 0, 1), 0.5, "scores.low.test.confusion.0.1 is 0.5, expected int"),
    (("scores", "low", "test", "auc"), [0.5], "scores.low.test is not of 2 classes"),
    (("scores", "low", "test", "confusion", 0), [1], "scores.low.test is not of 2 classes"),
    (("scores", "low"), {}, "scores.low.test is missing"),
    (("scores", "high"), {"test": None}, "scores.high.val is missing"),
    (("scores", "low", "test"), None, "a harmonic mean of one test set"),
    (("harmonic", "macro_f1"), float("nan"), "harmonic.macro_f1 is nan, expected float"),
    (("floors", "low", "chance"), {"accuracy": 0.5}, "floors.low.chance.macro_f1 is missing, expected float"),
    (("floors"), {}, "a harmonic mean of one test set"),
    (("modality_names",), {"high": "CT"}, "no name for modality low"),
    (("classes",), ["one"], "2 labels for 1 classes"),
]


@pytest.mark.parametrize(("where", "value", "says"), DAMAGE)
def test_the_file_and_the_key_are_named(result, tmp_path, where, value, says):
    table = json.loads(json.dumps(result.to_json()))
    *path, last = (where,) if isinstance(where, str) else where
    part = table
    for key in path:
        part = part[key]
    part[last] = value
    (tmp_path / "result.json").write_text(json.dumps(table))
    with pytest.raises(UserError, match="is not a complete run: in result.json, ") as error:
        RunDir(tmp_path).result()
    assert f"in result.json, {says}; train it again" in str(error.value)


def test_a_missing_key_is_named(result):
    table = result.to_json()
    del table["scores"]["low"]["test"]["n"]
    with pytest.raises(UserError, match=r"^scores.low.test.n is missing, expected int$"):
        Result.from_json(table)
