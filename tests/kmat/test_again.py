"""Runs by the settings of another, and predictions by several runs."""

import csv
import io
import json
import shutil
from pathlib import Path

import numpy as np
from conftest import one_line


def table(text):
    rows = list(csv.DictReader(io.StringIO(text)))
    labels = list(rows[0])[2:]
    return [row["path"] for row in rows], np.array([[float(row[label]) for label in labels] for row in rows])


def test_a_run_takes_back_what_another_dumped(kmat, trained):
    code, _, err = kmat("train", "--config", trained / "config.json", "--out", "again")
    assert code == 0, err
    for name in ("config.json", "prompts.safetensors", "result.json"):
        assert Path("again", name).read_bytes() == (trained / name).read_bytes()
    settings = json.loads((trained / "config.json").read_text())
    settings["config"]["seed"] = 2
    Path("other.json").write_text(json.dumps({"config": settings["config"]}))
    assert kmat("train", "--config", "other.json", "--out", "other")[0] == 0
    assert json.loads(Path("other/config.json").read_text())["config"]["seed"] == 2


def test_settings_that_are_none_are_one_line(kmat, trained):
    config = trained / "config.json"
    for arguments in (("--seed", 2), ("--published",), ("coop",)):
        code, _, err = kmat("train", "--config", config, *arguments)
        assert code == 1
        assert "--config has all settings of the run" in one_line(err)
    damaged = json.loads(config.read_text())
    damaged["config"]["backbone"] = 5
    Path("typed.json").write_text(json.dumps(damaged))
    Path("list.json").write_text("[]")
    for name, says in (
        ("typed.json", "typed.json: not a configuration of this version of kmat: backbone is 5, expected str"),
        ("list.json", "list.json is no config.json of a run"),
        ("none.json", "cannot read none.json: No such file or directory"),
    ):
        code, _, err = kmat("train", "--config", name)
        assert code == 1
        assert says in one_line(err)


def test_several_runs_predict_the_mean_of_their_probabilities(kmat, trained, options, shapes_dir):
    assert kmat("train", "coop", *options, "--seed", 2, "--out", "other")[0] == 0
    images = shapes_dir / "low"
    alone = [table(kmat("predict", run, images)[1]) for run in (trained, "other")]
    code, out, err = kmat("predict", trained, images, "--also", "other")
    assert code == 0, err
    paths, mean = table(out)
    assert paths == alone[0][0]
    np.testing.assert_allclose(mean, (alone[0][1] + alone[1][1]) / 2, atol=1.1e-6)
    assert not np.allclose(alone[0][1], alone[1][1], atol=1e-4)


def test_runs_with_other_classes_have_no_mean(kmat, trained, shapes_dir):
    other = shutil.copytree(trained, "other")
    result = json.loads((Path(other) / "result.json").read_text())
    result["labels"] = result["labels"][::-1]
    (Path(other) / "result.json").write_text(json.dumps(result))
    code, _, err = kmat("predict", trained, shapes_dir / "low", "--also", other)
    assert code == 1
    assert "no mean of runs with other classes" in one_line(err)
