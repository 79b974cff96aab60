"""Manifests, folders, splits and draws: whatever is wrong with a file is reported and nothing is dropped silently."""

import json
from collections import Counter

import numpy as np
import pytest
from conftest import LABELS, shape, write_rows, write_shapes
from PIL import Image

from kmat import phantom
from kmat.embedded import EMBEDDED
from kmat.errors import UserError
from kmat.tasks import TaskConfig
from kmat.tasks.base import Record, Task, UnreadableImageError
from kmat.tasks.images import ArrayImages, FolderImages, decode
from kmat.tasks.manifest import load_manifest, write_manifest
from kmat.tasks.splits import assign_splits, draw_few_shot
from kmat.tasks.tree import LEADS_OUT, LINKED_OUT, trouble


def png(path, label=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    shape(label, np.random.default_rng(label)).save(path)


@pytest.fixture
def folders(tmp_path):
    root = tmp_path / "folders"
    for modality, per_class in (("ct", 10), ("xray", 4)):
        for label, name in enumerate(LABELS):
            for index in range(per_class):
                png(root / modality / name / f"p{index // 2}_{index}.png", label)
    return root


def test_manifest_is_read_as_written(shapes):
    assert shapes.labels == LABELS
    assert shapes.classes == ("round bright", "square dark")
    assert shapes.count("high", "train") == (6, 6)
    assert shapes.count("low", "test") == (5, 5)
    assert shapes.skipped == ()
    assert shapes.images.read(shapes.records[0].ref).size == (32, 32)
    assert shapes.banner == ""
    assert len(shapes.descriptions["low"][1]) == 3


def test_every_defect_is_reported_and_none_is_fatal(tmp_path):
    root = tmp_path / "root"
    png(tmp_path / "outside.png")
    png(root / "a.png")
    png(root / "b.png", 1)
    png(root / "c.png", 1)
    (root / "notes.txt").write_text("not an image")
    (root / "link.png").symlink_to(tmp_path / "outside.png")
    rows = [
        ("a.png", "x", "high", "train"),
        ("b.png", "y", "high", "train"),
        ("a.png", "x", "high", "train"),
        ("absent.png", "x", "high", "train"),
        ("c.png", "", "high", "train"),
        ("../outside.png", "x", "high", "train"),
        (str(tmp_path / "outside.png"), "x", "high", "train"),
        ("link.png", "x", "high", "train"),
        ("..\\outside.png", "x", "high", "train"),
        ("notes.txt", "x", "high", "train"),
        ("", "x", "high", "train"),
    ]
    manifest = write_rows(tmp_path / "m.csv", rows, header=("path", "label", "modality", "split"))
    task = load_manifest(manifest, root=root)
    assert [record.ref for record in task.records] == ["a.png", "b.png"]
    assert [(item.ref, item.reason) for item in task.skipped] == [
        ("a.png", "listed twice"),
        ("absent.png", "no such file"),
        ("c.png", "no label"),
        ("../outside.png", "path leads out of the image folder"),
        (str(tmp_path / "outside.png"), "path leads out of the image folder"),
        ("link.png", LINKED_OUT),
        ("..\\outside.png", "path leads out of the image folder"),
        ("notes.txt", "not an image file"),
        ("line 12", "no path"),
    ]


@pytest.mark.parametrize(
    ("column", "value", "reason"), [(2, "mri", "unknown modality 'mri'"), (3, "Holdout", "unknown split 'holdout'")]
)
def test_unknown_words_are_reported(tmp_path, column, value, reason):
    png(tmp_path / "a.png")
    png(tmp_path / "b.png")
    bad = ["b.png", "x", "high", "train"]
    bad[column] = value
    rows = [("a.png", "x", "high", "train"), bad]
    task = load_manifest(write_rows(tmp_path / "m.csv", rows, header=("path", "label", "modality", "split")))
    assert [item.reason for item in task.skipped] == [reason]


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize(
    "header",
    ["path,label,modality,split,patient", "Path,LABEL, Modality ,Split,Patient", "Image,Class,Modality,Set,Patient_ID"],
)
def test_a_csv_of_another_program(tmp_path, delimiter, header):
    rows = [header, "a.png,x,high,Training,p1", "b.png,y,high,VALIDATION,p2", '"c.png",x,low,Test,p3']
    for name in "abc":
        png(tmp_path / f"{name}.png")
    (tmp_path / "m.csv").write_text("\n".join(rows).replace(",", delimiter), encoding="utf-8-sig")
    task = load_manifest(tmp_path / "m.csv")
    assert task.skipped == ()
    assert [(r.ref, r.label, r.modality, r.split, r.patient) for r in task.records] == [
        ("a.png", 0, "high", "train", "p1"),
        ("b.png", 1, "high", "val", "p2"),
        ("c.png", 0, "low", "test", "p3"),
    ]


def test_a_columns_own_name_goes_before_others(tmp_path):
    png(tmp_path / "a.png")
    rows = [("absent.png", "y", "high", "a.png", "x")]
    task = load_manifest(write_rows(tmp_path / "m.csv", rows, ("image", "class", "modality", "path", "label")))
    assert (task.records[0].ref, task.labels) == ("a.png", ("x",))
    (tmp_path / "m.csv").write_text("Path;Label\na.png;x\n")
    with pytest.raises(UserError, match="lacks the columns modality; expected path, label, .* found 'Path', 'Label'"):
        load_manifest(tmp_path / "m.csv")


def test_a_modality_that_is_not_there_is_an_error_that_names_those_that_are(folders, capsys):
    with pytest.raises(UserError, match=r"no folder 'x-ray' for --low; expected MODALITY/CLASS/, found 'ct', 'xray'"):
        load_manifest(folders, high="ct", low="x-ray")
    assert len(load_manifest(folders, high="ct").records) == 20
    assert "no folder 'low' for --low; expected MODALITY/CLASS/, found 'ct', 'xray'" in capsys.readouterr().err
    rows = [(f"ct/{name}/p0_0.png", name, "CT", "train", "") for name in LABELS]
    manifest = write_rows(folders / "m.csv", rows)
    for names in ({"high": "CT", "low": "xray"}, {"high": "MR", "low": "CT"}):
        with pytest.raises(UserError, match=r"no usable image of .*m\.csv, whose modalities are 'CT'"):
            load_manifest(manifest, **names)
    for path in (folders / "xray").rglob("*.png"):
        path.rename(folders / "xray" / f"{path.parent.name}-{path.name}")
    with pytest.raises(UserError, match=r"--low 'xray': no usable image .*; the first of 8 skipped: .*png, no label"):
        load_manifest(folders, high="ct", low="xray")


def test_unusable_manifests_are_user_errors(tmp_path):
    empty = write_rows(tmp_path / "empty.csv", [])
    with pytest.raises(UserError, match="lists no usable image"):
        load_manifest(empty)
    with pytest.raises(UserError, match=r"no usable image; the first of 1 skipped: a\.png, no such file"):
        load_manifest(write_rows(tmp_path / "gone.csv", [("a.png", "x", "high", "train", "")]))
    with pytest.raises(UserError, match="lacks the columns label, modality"):
        load_manifest(write_rows(tmp_path / "short.csv", [("a.png",)], header=("path",)))
    (tmp_path / "binary.csv").write_bytes(b"\xff\xfe\x00\x81")
    with pytest.raises(UserError, match="cannot read"):
        load_manifest(tmp_path / "binary.csv")
    with pytest.raises(UserError, match="does not exist"):
        load_manifest(empty, root=tmp_path / "nowhere")
    with pytest.raises(UserError, match="has no folder 'ct'"):
        load_manifest(tmp_path, high="ct")
    with pytest.raises(UserError, match="both 'ct'"):
        load_manifest(empty, high="ct", low="ct")
    with pytest.raises(UserError, match="neither a file or folder nor a built-in task"):
        TaskConfig(task="no-such-task").load()
    for pattern, message in (("(", "patient-pattern"), ("p[0-9]", "has no group")):
        with pytest.raises(UserError, match=message):
            load_manifest(empty, patient_pattern=pattern)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("not json", "cannot read descriptions"),
        ("[]", "expected"),
        (
            '{"descriptions": {"round_bright": {"high": ["a"]}}}',
            "no sentences for class 'square_dark', modality 'high'",
        ),
        ('{"descriptions": {"round_bright": {"high": []}}}', "no sentences for class 'round_bright'"),
    ],
)
def test_bad_descriptions_are_user_errors(tmp_path, shapes_dir, content, message):
    file = tmp_path / "d.json"
    file.write_text(content)
    with pytest.raises(UserError, match=message):
        load_manifest(shapes_dir / "manifest.csv", descriptions=file)


def test_folders_are_split_by_patient_and_reproducibly(folders):
    def load(seed):
        return load_manifest(folders, high="ct", low="xray", patient_pattern=r"(p[0-9]+)_", seed=seed)

    task = load(0)
    assert task.labels == LABELS
    assert task.modality_names == {"high": "ct", "low": "xray"}
    splits = {}
    for record in task.records:
        assert splits.setdefault(record.patient, record.split) == record.split
    assert Counter(splits.values()) == {"train": 2, "val": 1, "test": 2}
    assert load(0).records == task.records
    assert any(load(seed).records != task.records for seed in range(1, 5))


def test_stray_files_in_folders_are_reported(folders):
    png(folders / "ct" / "stray.png")
    (folders / "ct" / LABELS[0] / ".DS_Store").write_text("")
    (folders / "ct" / LABELS[0] / "broken").symlink_to(folders / "nowhere")
    task = load_manifest(folders, high="ct", low="xray")
    reasons = {item.ref: item.reason for item in task.skipped}
    assert reasons == {
        "ct/stray.png": "no label",
        f"ct/{LABELS[0]}/.DS_Store": "not an image file",
        f"ct/{LABELS[0]}/broken": "no such file",
    }


def test_a_written_split_is_read_back(folders, tmp_path):
    task = load_manifest(folders, high="ct", low="xray", seed=3)
    write_manifest(tmp_path / "split.csv", task, task.records)
    assert load_manifest(tmp_path / "split.csv", root=folders, seed=9).records == task.records


def record(patient, label=0, modality="high", split=""):
    return Record(f"{patient}-{label}-{modality}", label, modality, split, patient)


def test_missing_splits_are_half_train_a_fifth_val_and_follow_the_patient():
    records = [record(f"p{index}", label) for label in range(2) for index in range(20 * label, 20 * label + 20)]
    records += [record("p0", modality="low"), record("p1", split="test"), record("p1", modality="low")]
    done = assign_splits(records, seed=0)
    for label in range(2):
        counts = Counter(r.split for r in done[:40] if r.label == label and r.patient != "p1")
        assert counts["train"] in (9, 10)
        assert counts["val"] == 4
    by_patient = {}
    for r in done:
        by_patient.setdefault(r.patient, set()).add(r.split)
    assert all(len(splits) == 1 for splits in by_patient.values())
    assert by_patient["p1"] == {"test"}


def test_a_patient_in_two_given_splits_is_said(tmp_path, capsys):
    rows = [("a.png", "x", "high", "train", "p7"), ("b.png", "y", "high", "test", "p7")]
    for name, *_ in rows:
        png(tmp_path / name)
    load_manifest(write_rows(tmp_path / "m.csv", rows))
    assert "1 patients have images in more than one split, the first is 'p7'" in capsys.readouterr().err


def test_draw_is_seeded_balanced_and_from_high_end_training_images(shapes):
    draw = draw_few_shot(shapes, shots=4, seed=1)
    assert [r.label for r in draw.records] == [0] * 4 + [1] * 4
    assert {(r.modality, r.split) for r in draw.records} == {("high", "train")}
    assert draw == draw_few_shot(shapes, shots=4, seed=1)
    assert draw.records != draw_few_shot(shapes, shots=4, seed=2).records
    assert set(draw.records) < set(draw_few_shot(shapes, shots=5, seed=1).records), "more shots keep the fewer"


def test_draw_replaces_unreadable_images_and_says_what_is_short(tmp_path):
    manifest = write_shapes(tmp_path)
    damaged = tmp_path / "high" / f"{LABELS[0]}-train-2.png"
    damaged.write_bytes(damaged.read_bytes()[:60])
    task = load_manifest(manifest)
    draw = draw_few_shot(task, shots=6, seed=1)
    assert draw.short == ((0, 5),)
    assert [item.ref for item in draw.skipped] == [f"high/{damaged.name}"]
    assert len(draw.records) == 11


def test_paths_stay_inside(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "up").symlink_to(tmp_path)
    root = tmp_path / "in"
    png(root / "a" / "b.png")
    for ref in ("a/b.png", str(root / "a" / "b.png"), "up/in/a/b.png"):
        assert trouble(root, ref) is None, ref
    for ref in ("..", "a/../../b.png", "/etc/passwd", "a\\..\\b.png", "a\0.png"):
        assert trouble(root, ref) == trouble(root, ref, follow=True) == LEADS_OUT, ref
    assert trouble(root, "up/x.png") == LINKED_OUT
    assert trouble(root, "") == "no path"
    with pytest.raises(UnreadableImageError, match="leads out"):
        FolderImages(root).read("../x.png")


def test_images_of_more_than_eight_bits_are_stretched_not_clipped(tmp_path):
    values = np.linspace(1000, 30000, 64).reshape(8, 8).astype(np.uint16)
    Image.fromarray(values).save(tmp_path / "deep.png")
    image = FolderImages(tmp_path).read("deep.png")
    assert image.mode == "RGB"
    grey = np.asarray(image)[..., 0]
    assert grey.min() == 0
    assert grey.max() == 255
    assert len(np.unique(grey)) == 64
    Image.fromarray(np.full((4, 4), 7, np.uint16)).save(tmp_path / "flat.png")
    assert np.asarray(FolderImages(tmp_path).read("flat.png")).max() == 0


def test_undecodable_bytes_are_one_line():
    for content in (b"", b"no image", b"\x89PNG\r\n\x1a\n" + b"x" * 40):
        with pytest.raises(UnreadableImageError, match=r"^unreadable: .+$"):
            decode(content)


def test_array_images():
    images = np.arange(2 * 4 * 4, dtype=np.uint8).reshape(2, 4, 4)
    source = ArrayImages(images)
    assert source.read("1").mode == "RGB"
    np.testing.assert_array_equal(np.asarray(source.read("1"))[..., 2], images[1])
    assert source.content("0") != source.content("1")


def test_chest_phantom_hides_its_probe_images():
    task = TaskConfig().load()
    assert task.banner == phantom.BANNER
    assert task.labels == phantom.CLASSES
    assert {r.split for r in task.records} == {"train", "val", "test"}
    assert {r.modality for r in task.records if r.split != "test"} == {"high"}
    chest = phantom.load_chest()
    assert len(task.records) == int((chest.split != "probe").sum())
    assert all(len(sentences) == 50 for by_class in task.descriptions.values() for sentences in by_class)
    assert not task.augment


def test_fingerprint_follows_records_and_descriptions(shapes, shapes_dir):
    again = load_manifest(shapes_dir / "manifest.csv", descriptions=shapes_dir / "descriptions.json")
    bare = load_manifest(shapes_dir / "manifest.csv")
    assert again.fingerprint == shapes.fingerprint != bare.fingerprint
    fewer = Task(**{**vars(shapes), "records": shapes.records[1:]})
    assert fewer.fingerprint != shapes.fingerprint


def test_shipped_descriptions_have_provenance():
    for bench in EMBEDDED.values():
        table = json.loads(bench.descriptions.read_text(encoding="utf-8"))
        assert table["task"] == bench.task
        assert table["provenance"]
