"""Classes that only one end has: in manifests, methods, scores, predictions and reports."""

import csv
import dataclasses
import io
import json

import numpy as np
import pytest
import torch
from conftest import one_line, shape, write_rows
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch.nn import functional as F  # noqa: N812

from kmat import api
from kmat.errors import UserError
from kmat.methods import BiomedCoOpConfig, CoCoOpConfig, CoOpConfig, KgCoOpConfig, KMaTConfig, ResidualConfig
from kmat.methods import ZeroShotConfig as ZeroShot
from kmat.methods.base import Batch, Setting
from kmat.methods.residual import couple, transport
from kmat.runs.run import evaluate, load_run, spread
from kmat.tasks import TaskConfig
from kmat.tasks.base import absent_classes, present

HIGH_ONLY, LOW_ONLY, BOTH = ("bright", "dark"), "shape", "round"
LABELS = ("bright", "dark", "round", "shape")  # as a manifest sorts them
RESIDUAL = ("residual", "--shots", 3, "--epochs", 2)


def picture(label, rng):
    """Round ones are discs, dark ones squares, bright ones plain; the low end merges the last two."""
    if label == "bright" or (label == LOW_ONLY and rng.random() < 0.5):
        return Image.fromarray(rng.integers(180, 255, (32, 32)).astype(np.uint8))
    return shape(0 if label == BOTH else 1, rng)


def write_merged(root, high=(*HIGH_ONLY, BOTH), low=(BOTH, LOW_ONLY)):
    rng, rows = np.random.default_rng(0), []
    for modality, labels in (("high", high), ("low", low)):
        for split, count in (("train", 4), ("val", 2), ("test", 4)):
            for label in labels:
                for index in range(count):
                    path = root / modality / f"{label}-{split}-{index}.png"
                    path.parent.mkdir(parents=True, exist_ok=True)
                    picture(label, rng).save(path)
                    rows.append((path.relative_to(root).as_posix(), label, modality, split, f"{label}{split}{index}"))
    sentences = {
        label: {m: [f"a {label} {word} edge." for word in ("with an", "of the")] for m in modalities}
        for label, modalities in {
            label: [m for m, some in (("high", high), ("low", low)) if label in some] for label in {*high, *low}
        }.items()
    }
    (root / "words.json").write_text(json.dumps({"descriptions": sentences}), encoding="utf-8")
    return write_rows(root / "merged.csv", rows)


@pytest.fixture(scope="module")
def merged(tmp_path_factory):
    root = tmp_path_factory.mktemp("merged")
    return TaskConfig(task=str(write_merged(root)), descriptions=root / "words.json")


@pytest.fixture(scope="module")
def fewer(tmp_path_factory):
    """The low end has some of the high end's classes, and none of its own."""
    root = tmp_path_factory.mktemp("fewer")
    return TaskConfig(task=str(write_merged(root, low=("dark", BOTH))), descriptions=root / "words.json")


@pytest.fixture
def setting(tiny, merged, cache):
    return Setting(tiny, merged.load(), cache, seed=1)


def arguments(config, tiny_dir):
    return "--task", config.task, "--descriptions", config.descriptions, "--backbone", f"local-dir:{tiny_dir}"


occurring = st.lists(st.tuples(st.sampled_from(("high", "low")), st.integers(0, 4)), max_size=12)


@given(occurring, st.permutations(range(5)))
def test_absent_classes_are_those_without_an_image_and_follow_a_renumbering(images, order):
    absent = absent_classes(images, 5)
    for modality in ("high", "low"):
        there = {label for m, label in images if m == modality}
        assert present(5, absent, modality) == (tuple(sorted(there)) or tuple(range(5)))
    renumbered = absent_classes([(modality, order[label]) for modality, label in images], 5)
    assert renumbered == {m: frozenset(order[label] for label in some) for m, some in absent.items()}


@settings(max_examples=25, deadline=None)
@given(st.integers(2, 6), st.integers(1, 6), st.randoms(use_true_random=False))
def test_transport_does_not_care_how_classes_are_numbered(n, m, random):
    generator = torch.Generator().manual_seed(random.randrange(1000))
    high, low = (F.normalize(torch.randn(k, 8, generator=generator, dtype=torch.float64), dim=-1) for k in (n, m))
    residuals = 0.5 * torch.randn(n, 8, generator=generator, dtype=torch.float64)
    rows, columns = random.sample(range(n), n), random.sample(range(m), m)
    expected = transport(residuals, low, couple(high, low, 0.1, 0.1), 1.0)
    renumbered = transport(residuals[rows], low[columns], couple(high[rows], low[columns], 0.1, 0.1), 1.0)
    torch.testing.assert_close(renumbered, expected[columns], atol=1e-5, rtol=0)


@given(st.integers(1, 6), st.sets(st.integers(0, 5), min_size=1))
def test_spread_probabilities_keep_their_sum_and_their_order(n, own):
    own, probabilities = sorted(own), torch.rand(n, len(own)).softmax(dim=1)
    whole = spread(probabilities, own, 6)
    assert torch.equal(whole[:, own], probabilities)
    assert not whole[:, [label for label in range(6) if label not in own]].any()


def test_a_manifest_knows_which_end_lacks_which_class(merged, kmat):
    task = merged.load()
    assert task.labels == LABELS
    assert task.absent == {"high": {3}, "low": {0, 1}}
    assert task.one_sided() == "only in high: bright, dark; only in low: shape"
    assert [len(task.descriptions[m]) for m in ("high", "low")] == [3, 2]
    code, out, err = kmat("check-data", merged.task)
    assert code == 0, err
    assert "classes only in high: bright, dark; only in low: shape" in err
    rows = {line.split()[0]: line.split()[1:] for line in out.splitlines() if line.strip().startswith(LABELS)}
    assert rows == {
        "bright": ["4", "2", "4", "-", "-", "-"],
        "dark": ["4", "2", "4", "-", "-", "-"],
        "round": ["4", "2", "4"] * 2,
        "shape": ["-", "-", "-", "4", "2", "4"],
    }


def test_a_class_whose_images_cannot_be_used_is_an_obstacle_and_not_absent(tmp_path, kmat):
    manifest = write_merged(tmp_path, low=HIGH_ONLY)
    for path in (tmp_path / "low").glob("dark-*"):
        path.unlink()
    code, _, err = kmat("check-data", manifest)
    assert code == 1
    assert "no readable low test image of 'dark'" in one_line(err)


def test_an_end_without_any_image_lacks_nothing(tmp_path):
    assert TaskConfig(task=str(write_merged(tmp_path, low=()))).load().absent == {}


def test_from_manifest_to_report(merged, tiny_dir, kmat, tmp_path):
    """check-data is above; here train, evaluate, predict and report."""
    code, out, err = kmat("train", *RESIDUAL, *arguments(merged, tiny_dir), "--out", "runs/one")
    assert code == 0, err
    assert "classes only in high: bright, dark; only in low: shape" in out
    result = json.loads((tmp_path / "runs/one/result.json").read_text())
    assert result["absent"] == {"high": ["shape"], "low": ["bright", "dark"]}
    assert result["train_images"] == 9
    assert result["floors"]["high"]["chance"]["accuracy"] == pytest.approx(1 / 3)
    assert result["floors"]["low"]["chance"]["accuracy"] == 1 / 2
    low = result["scores"]["low"]["test"]
    for measure in ("per_class", "specificity", "auc"):
        assert [value is None for value in low[measure]] == [True, True, False, False], measure
    assert np.array(low["confusion"])[:, :2].sum() == 0, "no image is taken for a class that its modality lacks"

    code, again, err = kmat("evaluate", "runs/one", "--out", "again.csv")
    assert code == 0, err
    assert f"{100 * low['accuracy']:.1f}" in again
    rows = list(csv.DictReader(io.StringIO((tmp_path / "again.csv").read_text(encoding="utf-8"))))
    assert {row["predicted"] for row in rows if row["modality"] == "low"} <= {"round", "shape"}
    assert all(float(row["bright"]) == 0 for row in rows if row["modality"] == "low")
    assert all(float(row["shape"]) == 0 for row in rows if row["modality"] == "high")

    folder = (tmp_path / merged.task).parent
    for modality, columns in (("low", ["round", "shape"]), ("high", ["bright", "dark", "round"])):
        code, table, err = kmat("predict", "runs/one", folder / modality, "--modality", modality)
        assert code == 0, err
        rows = list(csv.DictReader(io.StringIO(table)))
        assert list(rows[0]) == ["path", "predicted", *columns]
        assert all(sum(float(row[c]) for c in columns) == pytest.approx(1, abs=1e-5) for row in rows)

    assert kmat("report", "runs/one")[0] == 0
    page = (tmp_path / "runs/report/report.html").read_text(encoding="utf-8")
    assert "high end 4 bright, 4 dark, 4 round; low end 4 round, 4 shape" in page
    assert "Text embeddings: Residual transport" in page
    from_python = api.load_run(tmp_path / "runs/one")
    assert from_python.predict(sorted((folder / "low").glob("*-test-*")), "low")[:, :2].abs().max() == 0
    assert [len(from_python.text_features(m)) for m in ("high", "low")] == [3, 2]


def test_other_images_may_lack_classes_but_not_have_strange_ones(merged, tiny_dir, kmat, tmp_path):
    assert kmat("train", *RESIDUAL, *arguments(merged, tiny_dir), "--out", "run")[0] == 0
    code, _, err = kmat("evaluate", "run", "--task", write_merged(tmp_path / "few", low=(BOTH,)))
    assert code == 0, err
    code, _, err = kmat("evaluate", "run", "--task", write_merged(tmp_path / "strange", low=(BOTH, "dark")))
    assert code == 1
    assert "low-end images of classes that the run does not know there: dark" in one_line(err)


def test_what_needs_the_same_classes_says_so(merged, tiny_dir, kmat):
    code, _, err = kmat("train", "kmat", *arguments(merged, tiny_dir))
    assert code == 1
    assert "K-MaT needs the same classes at both ends, and merged has some only in high: bright, dark" in one_line(err)
    code, _, err = kmat("train", "coop", "--csc", *arguments(merged, tiny_dir))
    assert code == 1
    assert "merged has none of shape" in one_line(err)


SHARED = [ZeroShot(), ZeroShot("descriptions"), CoOpConfig(), KgCoOpConfig(), BiomedCoOpConfig(), CoCoOpConfig()]


@pytest.mark.parametrize("config", SHARED, ids=lambda config: type(config).__name__)
def test_methods_with_shared_contexts_take_each_end_by_its_own_classes(setting, config):
    if hasattr(config, "init_words") and config.init_words:
        config = dataclasses.replace(config, init_words="a photo of a")
    method, images = config.build(setting), F.normalize(torch.randn(5, 16), dim=-1)
    assert method.logits(images, "high").shape == (5, 3)
    assert method.logits(images, "low").shape == (5, 2)
    if losses := method.loss(Batch(images, torch.tensor([0, 1, 2, 0, 1]))):
        sum(losses.values()).backward()


def test_zero_shot_uses_each_end_s_own_sentences(setting):
    method = ZeroShot("descriptions").build(setting)
    for modality in ("high", "low"):
        texts = setting.task.descriptions[modality]
        means = [F.normalize(setting.backbone.encode_texts(t), dim=-1).mean(0) for t in texts]
        torch.testing.assert_close(method.text_features(modality), F.normalize(torch.stack(means), dim=-1))


def test_class_specific_contexts_serve_a_low_end_with_fewer_classes(tiny, fewer, cache):
    task = fewer.load()
    assert task.absent == {"low": {0}}
    method = CoOpConfig(csc=True).build(Setting(tiny, task, cache, seed=1))
    torch.testing.assert_close(method.text_features("low"), method.text_features("high")[1:])


def test_residuals_go_through_a_rectangular_coupling(setting):
    method = ResidualConfig().build(setting)
    assert method.coupling.shape == (3, 2)
    high = F.normalize(method.described_high, dim=-1)
    low = F.normalize(method.described_low, dim=-1)
    expected = transport(method.text_features("high") - high, low, couple(high, low, 0.1, 0.1), 1.0)
    torch.testing.assert_close(method.text_features("low"), expected)


@pytest.mark.parametrize(
    "config", [ZeroShot(), CoOpConfig(csc=True), ResidualConfig(), KMaTConfig()], ids=lambda c: type(c).__name__
)
def test_a_mask_that_hides_nothing_changes_no_bit(tiny, shapes, cache, config):
    masked = dataclasses.replace(shapes, absent=dict.fromkeys(("high", "low"), frozenset()))
    if isinstance(config, KMaTConfig):
        masked = shapes
    found = []
    for task in (shapes, masked):
        method = config.build(Setting(tiny, task, cache, seed=1))
        with torch.no_grad():
            found.append(evaluate(method.logits, task, tiny, cache))
    assert found[0].scores == found[1].scores
    for a, b in zip(found[0].predictions, found[1].predictions, strict=True):
        assert torch.equal(a.probabilities, b.probabilities)


def test_a_bench_chooses_the_anchor_s_weight_without_k_mat(fewer, tiny_dir, kmat, tmp_path):
    options = "--methods", "zero-shot", "residual", "--seeds", 1, "--epochs", 1, "--shots", 2, "--workers", 1
    code, out, err = kmat("bench", *arguments(fewer, tiny_dir), *options, "--out", "bench")
    assert code == 0, err
    assert "lambda_anc" in out
    assert (tmp_path / "bench" / "results.json").exists()


def test_arrays():
    pictures = np.random.default_rng(0).integers(0, 255, (4, 32, 32), dtype=np.uint8)
    parts = {("high", "train"): (pictures, [0, 1, 0, 1]), ("low", "test"): (pictures[:2], [2, 0])}
    task = api.task_from_arrays("mine", ["dark", "bright", "round"], parts)
    assert task.absent == {"high": {2}, "low": {1}}


def test_a_result_that_names_a_strange_absent_class_is_refused(merged, tiny_dir, kmat, tmp_path):
    assert kmat("train", *RESIDUAL, *arguments(merged, tiny_dir), "--out", "run")[0] == 0
    file = tmp_path / "run" / "result.json"
    result = json.loads(file.read_text())
    result["absent"]["low"] = ["green"]
    file.write_text(json.dumps(result))
    with pytest.raises(UserError, match="no class 'green'"):
        load_run(tmp_path / "run")
