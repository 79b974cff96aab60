import json
import math
import shutil
from dataclasses import replace

import pytest
import torch
from conftest import write_shapes
from safetensors.torch import load_file

from kmat.errors import UserError
from kmat.methods import (
    BiomedCoOpConfig,
    CoCoOpConfig,
    CoOpConfig,
    KgCoOpConfig,
    KMaTConfig,
    ResidualConfig,
    ZeroShotConfig,
)
from kmat.runs.config import RunConfig
from kmat.runs.run import train
from kmat.runs.schedule import Schedule
from kmat.tasks import TaskConfig


class InterruptionError(Exception):
    pass


def after(epochs):
    """A callback that raises once so many epochs are done."""
    left = [epochs]

    def callback():
        left[0] -= 1
        if left[0] == 0:
            raise InterruptionError

    return callback


@pytest.fixture
def go(tiny, tiny_dir, shapes, shapes_config, cache, tmp_path):
    def run(folder, method=None, epochs=4, views=None, **options):
        config = RunConfig(
            method=method or KMaTConfig(),
            data=shapes_config,
            backbone=f"local-dir:{tiny_dir}",
            shots=5,
            views=views,
            schedule=Schedule(epochs=epochs),
        )
        return train(config, tmp_path / folder, task=shapes, backbone=tiny, cache=cache, **options)

    return run


def test_schedule_is_dassls_sequence():
    """A constant warm-up epoch, then a cosine over all epochs, stepped per epoch: written out for E = 5."""
    rates = [Schedule(epochs=5).rate(epoch) for epoch in range(5)]
    cos = [math.cos(math.pi * k / 5) for k in range(4)]
    assert rates == pytest.approx([1e-5, *(0.00125 * (1 + c) for c in cos)])
    paper = [Schedule().rate(epoch) for epoch in range(50)]
    assert paper[:3] == pytest.approx([1e-5, 0.0025, 0.0024975], rel=1e-4)
    assert paper[-1] == pytest.approx(9.86e-6, rel=1e-3)
    assert paper[1:] == sorted(paper[1:], reverse=True)


def test_schedule_matches_torchs_cosine():
    parameter = torch.nn.Parameter(torch.zeros(()))
    optimiser = torch.optim.SGD([parameter], lr=0.0025)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, T_max=50)
    for epoch in range(1, 50):
        assert optimiser.param_groups[0]["lr"] == pytest.approx(Schedule().rate(epoch), rel=1e-6)
        optimiser.step()
        cosine.step()


def test_every_image_is_used_each_epoch(go, tmp_path, monkeypatch):
    seen = []
    from kmat.methods.base import PromptLearner

    original = PromptLearner.loss
    monkeypatch.setattr(
        PromptLearner, "loss", lambda self, batch: seen.append(len(batch.labels)) or original(self, batch)
    )
    go("run", CoOpConfig(), epochs=2)
    assert seen == [4, 4, 2] * 2, "5 shots of 2 classes in batches of 4, the rest not dropped"
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["lr"] for line in lines] == [1e-5, 0.0025]


def test_few_views_are_encoded_once_and_taken_in_turn(go, tiny, tmp_path, monkeypatch):
    encoded, encode = [], tiny.encode_images
    monkeypatch.setattr(tiny, "encode_images", lambda pixels: encoded.append(len(pixels)) or encode(pixels))
    go("zero", ZeroShotConfig(), views=1)
    tested = sum(encoded) - 10
    found = {}
    for views in (1, 2, 4, None, 9):
        encoded.clear()
        go(f"views-{views}", CoOpConfig(), views=views)
        found[views] = sum(encoded), load_file(tmp_path / f"views-{views}" / "prompts.safetensors")
    assert tested > 0
    assert [count for count, _ in found.values()] == [0, 10, 20, 0, 0], "of 10 images, those that were new"
    every = found[None][1]["contexts.vectors.0"]
    assert torch.equal(found[4][1]["contexts.vectors.0"], every)
    assert torch.equal(found[9][1]["contexts.vectors.0"], every), "no more than there are epochs"
    assert not torch.equal(found[2][1]["contexts.vectors.0"], every)


def test_training_learns(go, tmp_path):
    go("run", CoOpConfig(csc=True), epochs=12)
    losses = [json.loads(s)["losses"]["ce"] for s in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert losses[-1] < losses[0]


@pytest.mark.parametrize(
    "method",
    [
        KMaTConfig(),
        KMaTConfig(coupling="proximal"),
        KMaTConfig(coupling="diagonal", fgw_unit="discrepancy", low_start="anchor"),
        CoOpConfig(),
        CoCoOpConfig(),
        KgCoOpConfig(),
        BiomedCoOpConfig(),
        ResidualConfig(),
    ],
)
@pytest.mark.parametrize("epoch", [1, 3])
def test_an_interrupted_run_resumes_to_the_same_bits(go, tmp_path, method, epoch):
    whole = go("whole", method)
    with pytest.raises(InterruptionError):
        go("broken", method, after_epoch=after(epoch))
    assert (tmp_path / "broken" / "checkpoint.safetensors").exists()
    # An epoch may also be cut between its metrics and its checkpoint.
    with (tmp_path / "broken" / "metrics.jsonl").open("a") as file:
        file.write('{"epoch": "half"}\n')
    assert go("broken", method, resume=True) == whole
    for name in ("metrics.jsonl", "result.json", "split.csv"):
        assert (tmp_path / "whole" / name).read_text() == (tmp_path / "broken" / name).read_text()
    a, b = (load_file(tmp_path / run / "prompts.safetensors") for run in ("whole", "broken"))
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert not (tmp_path / "broken" / "checkpoint.safetensors").exists()


@pytest.mark.parametrize("epoch", [2, 3, 5])
def test_a_run_of_two_stages_resumes_in_either_and_between(go, tmp_path, epoch):
    method = KMaTConfig(low_start="high")
    whole = go("whole", method, epochs=3)
    with pytest.raises(InterruptionError):
        go("broken", method, epochs=3, after_epoch=after(epoch))
    assert go("broken", method, epochs=3, resume=True) == whole
    a, b = (load_file(tmp_path / run / "prompts.safetensors") for run in ("whole", "broken"))
    assert all(torch.equal(a[name], b[name]) for name in a)
    lines = [json.loads(line) for line in (tmp_path / "broken" / "metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == list(range(6))
    assert [line["lr"] for line in lines] == [Schedule(epochs=3).rate(epoch) for epoch in range(3)] * 2
    go("plain", KMaTConfig(), epochs=3)
    plain = load_file(tmp_path / "plain" / "prompts.safetensors")
    torch.testing.assert_close(a["contexts.vectors.0"], plain["contexts.vectors.0"])
    assert not torch.allclose(a["contexts.vectors.1"], plain["contexts.vectors.1"], atol=1e-3)


def test_the_same_run_twice_gives_the_same_bits_and_another_seed_does_not(go, tiny, shapes, cache, tmp_path):
    assert go("a") == go("b")
    config = RunConfig.from_json(json.loads((tmp_path / "a" / "config.json").read_text())["config"])
    train(replace(config, seed=2), tmp_path / "c", task=shapes, backbone=tiny, cache=cache)
    a, c = (load_file(tmp_path / run / "prompts.safetensors")["contexts.vectors.1"] for run in "ac")
    assert not torch.equal(a, c)


def test_high_end_results_do_not_depend_on_lambda_fgw(go, tmp_path):
    """The reason why it cannot be tuned on high-end validation images."""
    results = [go(f"fgw{weight}", KMaTConfig(lambda_fgw=weight)) for weight in (0.0, 1.0, 10.0)]
    prompts = [load_file(tmp_path / f"fgw{w}" / "prompts.safetensors") for w in (0.0, 1.0, 10.0)]
    assert results[0].scores["high"] == results[1].scores["high"] == results[2].scores["high"]
    assert torch.equal(prompts[0]["text_features.high"], prompts[2]["text_features.high"])
    assert not torch.equal(prompts[0]["text_features.low"], prompts[2]["text_features.low"])


def test_zero_shot_is_not_trained(go, tmp_path):
    result = go("run", ZeroShotConfig())
    assert result.scores["high"]["test"].n == 10
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_a_taken_folder_is_never_reused_silently(go, tmp_path):
    with pytest.raises(InterruptionError):
        go("run", after_epoch=after(1))
    with pytest.raises(UserError, match="already holds an unfinished run; use --resume, --overwrite or another --out"):
        go("run")
    go("run", resume=True)
    with pytest.raises(UserError, match="already holds a finished run"):
        go("run")
    with pytest.raises(UserError, match=r"another run, cannot resume: config\.method\.lambda_anc"):
        go("run", KMaTConfig(lambda_anc=1), resume=True)
    other = go("run", KMaTConfig(lambda_anc=1), overwrite=True)
    assert other.method["lambda_anc"] == 1
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("precious")
    for options in ({}, {"resume": True}, {"overwrite": True}):
        with pytest.raises(UserError, match="holds files but no run"):
            go("mine", **options)
    assert (tmp_path / "mine" / "notes.txt").read_text() == "precious"
    with pytest.raises(UserError, match="is a file"):
        go("mine/notes.txt")


def test_a_resumed_run_needs_the_same_pixels(tiny, tiny_dir, cache, tmp_path):
    data = TaskConfig(task=str(write_shapes(tmp_path / "data")))
    config = RunConfig(method=CoOpConfig(), data=data, backbone=f"local-dir:{tiny_dir}", schedule=Schedule(epochs=2))
    parts = {"task": data.load(), "backbone": tiny, "cache": cache}
    with pytest.raises(InterruptionError):
        train(config, tmp_path / "run", **parts, after_epoch=after(1))
    shutil.copy(tmp_path / "data/high/round_bright-test-0.png", tmp_path / "data/high/square_dark-train-0.png")
    with pytest.raises(UserError, match=r"cannot resume: draw\.high/square_dark-train-0\.png differ"):
        train(config, tmp_path / "run", **parts, resume=True)


def test_overwrite_deletes_a_runs_files_only(go, tmp_path):
    go("run")
    (tmp_path / "run" / "notes.txt").write_text("precious")
    go("run", overwrite=True)
    assert (tmp_path / "run" / "notes.txt").read_text() == "precious"


def test_a_damaged_checkpoint_is_an_error_not_a_fresh_start(go, tmp_path):
    with pytest.raises(InterruptionError):
        go("run", after_epoch=after(1))
    (tmp_path / "run" / "checkpoint.safetensors").write_bytes(b"half a file")
    with pytest.raises(UserError, match="cannot resume from .*--overwrite"):
        go("run", resume=True)


def test_a_diverging_loss_is_an_error(tiny, tiny_dir, shapes, shapes_config, cache, tmp_path):
    config = RunConfig(
        method=CoOpConfig(), data=shapes_config, backbone=f"local-dir:{tiny_dir}", schedule=Schedule(epochs=6, lr=1e38)
    )
    with pytest.raises(UserError, match="no longer finite in epoch"):
        train(config, tmp_path / "run", task=shapes, backbone=tiny, cache=cache)


def test_run_folder_says_all(go, tmp_path):
    result = go("run")
    folder = tmp_path / "run"
    assert {path.name for path in folder.iterdir()} == {
        "config.json",
        "metrics.jsonl",
        "predictions.csv",
        "prompts.safetensors",
        "result.json",
        "skipped.csv",
        "split.csv",
        "versions.json",
    }
    identity = json.loads((folder / "config.json").read_text())
    assert RunConfig.from_json(identity["config"]).to_json() == identity["config"]
    assert len(identity["draw"]) == result.train_images == 10
    assert result.scores["low"]["test"].n == 10
    high, low = (result.scores[m]["test"].accuracy for m in ("high", "low"))
    assert result.harmonic.accuracy == pytest.approx(2 * high * low / (high + low))
    assert result.augmented is True
    rows = (folder / "split.csv").read_text().splitlines()
    assert rows[0] == "path,label,modality,split,patient"
    assert sum(",high,train," in row for row in rows) == 10
    assert not any(",low,train," in row for row in rows)
    assert json.loads((folder / "versions.json").read_text()).keys() >= {"python", "torch", "open_clip_torch"}


def test_fewer_images_than_shots_are_all_taken_and_said(tiny, tiny_dir, shapes, shapes_config, cache, tmp_path, capsys):
    config = RunConfig(
        method=CoOpConfig(), data=shapes_config, backbone=f"local-dir:{tiny_dir}", schedule=Schedule(epochs=1)
    )
    result = train(config, tmp_path / "run", task=shapes, backbone=tiny, cache=cache)
    assert result.train_images == 12
    assert "class 'round_bright' has 6 readable training images, fewer than 16" in capsys.readouterr().err


def test_absent_low_end_is_handled(tiny, tiny_dir, shapes, shapes_config, cache, tmp_path):
    high_only = replace(shapes, records=tuple(r for r in shapes.records if r.modality == "high"))
    config = RunConfig(
        method=CoOpConfig(), data=shapes_config, backbone=f"local-dir:{tiny_dir}", schedule=Schedule(epochs=1)
    )
    result = train(config, tmp_path / "run", task=high_only, backbone=tiny, cache=cache)
    assert result.scores["low"] == {"test": None}
    assert result.harmonic is None


@pytest.mark.parametrize(("field", "value"), [("epochs", 0), ("batch_size", 0)])
def test_impossible_settings_are_refused(field, value):
    with pytest.raises(UserError, match="expected at least 1"):
        Schedule(**{field: value})
