"""The studies of residual transport: what they change of a task, and the tables that they print."""

import pytest
import torch
from torch.nn import functional as F  # noqa: N812

import kmat
from benchmarks import residuals


def test_merged_classes_keep_every_image_that_is_not_dropped():
    whole = kmat.load_task("chest-phantom")
    task = residuals.merge(whole, {"opacity": ("dense opacity", "clear lungs")}, ("hazy opacities",))
    assert task.labels == (*whole.labels, "opacity")
    assert task.one_sided() == "only in CT: clear lungs, dense opacity, hazy opacities; only in X-ray: opacity"
    assert task.select("high", "train") == whole.select("high", "train")
    assert whole.count("low", "test") == (150, 150, 150)
    assert task.count("low", "test") == (0, 0, 0, 300)
    clear, dense, _ = whole.descriptions["low"]
    assert task.descriptions == {"high": whole.descriptions["high"], "low": ((*dense, *clear),)}


@pytest.mark.parametrize("name", residuals.MERGED)
def test_what_is_merged_exists(name):
    groups, dropped = residuals.MERGED[name]
    labels = residuals.EMBEDDED[name].classes
    parts = [part for group in groups.values() for part in group] + list(dropped)
    assert set(parts) < set(labels)
    assert len(parts) == len(set(parts))
    assert not set(groups) & set(labels)


def test_variants_change_the_texts_of_one_end():
    described = F.normalize(torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0]]), dim=-1)
    texts = (("a", "b", "c", "d", "e", "f"), ("g", "h"), ("i",))
    found = dict(residuals.variants(("one", "two", "three"), texts, described))
    assert found["as they are"] == texts
    assert found["5 of each class"] == (("a", "b", "c", "d", "e"), ("g", "h"), ("i",))
    assert found["two described by all texts"] == (texts[0], tuple("abcdefghi"), texts[2])
    assert found["one and two exchanged"] == (texts[1], texts[0], texts[2])
    assert found["one and three exchanged"] == (texts[2], texts[1], texts[0])


def rows(out):
    lines = [line.split("|")[1:-1] for line in out.splitlines() if line.startswith("| ")]
    return {cells[0].strip(): [cell.strip() for cell in cells[1:]] for cells in lines[2:]}


def test_a_coupling_by_names_follows_them_and_shares_between_names_that_are_alike():
    names = F.normalize(torch.tensor([[1.0, 0.0, 0.0], [0.98, 0.2, 0.0], [0.0, 0.0, 1.0]]), dim=-1)
    high = torch.eye(3)
    crosswise = high[[1, 0, 2]]
    assert residuals.couple(high, crosswise, 0.1, 0.1)[0, 1] > 0.3
    plan = residuals.couple_by_names((names, names), high, crosswise)
    shares = plan / plan.sum(dim=0)
    assert 0.05 < shares[1, 0] < 0.5 < shares[0, 0]
    assert shares[2, 2] > 0.99


@pytest.mark.parametrize("study", ["couplings", "names", "descriptions"])
def test_a_study_prints_its_table(study, capsys, tmp_path):
    options = ["--backbone", "breast-phantom:seed0", "--seeds", "1", "--epochs", "1", "--cache", str(tmp_path)]
    options += ["--lambda-anc", "0"]
    residuals.main([study, *options])
    out = capsys.readouterr().out
    assert out.startswith("synthetic phantoms")
    table = rows(out)
    if study == "couplings":
        assert set(table) >= {"the rule", "descriptions alone", "b = 0", "b = 1"}
    elif study == "names":
        assert table["the rule"][0] != table["by names"][0]
        assert table["class to class"][0] == "100.0"
        assert table["the rule"][-1] == "+0.0"
    else:
        assert len(table) == 16
        assert table["low end: as they are"] == table["high end: as they are"]


def test_a_task_without_merged_classes_is_refused(capsys):
    with pytest.raises(SystemExit):
        residuals.main(["merged", "--task", "digits"])
    assert "merged: --task is one of chest-phantom" in capsys.readouterr().err


@pytest.mark.exhaustive
def test_the_merged_task_has_every_row(capsys, tmp_path):
    options = ["--backbone", "breast-phantom:seed0", "--seeds", "1", "--epochs", "1", "--cache", str(tmp_path)]
    residuals.main(["merged", *options])
    table = rows(capsys.readouterr().out)
    assert "K-MaT, merged after" in table
    assert table["Residual transport"][-1] == ""
    assert len(table) == 11
