"""Images of the clinic, from a folder to predictions: DICOM, NIfTI, deep images, transparency, and what is ignored."""

import csv
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from clinic import NAME, dicom, nifti
from conftest import LABELS, one_line, shape, write_rows
from PIL import Image

from kmat import fit, load_run, load_task
from kmat.errors import UserError
from kmat.model.features import FeatureCache
from kmat.tasks import TaskConfig
from kmat.tasks.images import LooseImages, decode
from kmat.tasks.manifest import load_manifest

HIDDEN = ("MRN-4711", NAME.split("^")[0], NAME.split("^")[1])


def hounsfield(label, rng):
    return np.asarray(shape(label, rng)).astype(np.int16) * 4 - 500


@pytest.fixture
def hospital(tmp_path):
    """CT in two frames per file and X-rays in one; ten patients per class, of whom each has two files."""
    rng = np.random.default_rng(0)
    root = tmp_path / "hospital"
    for label, name in enumerate(LABELS):
        for index in range(20):
            patient = f"{HIDDEN[0]}-{label}-{index // 2}"
            frames = np.stack([hounsfield(label, rng) for _ in range(2)])
            tags = {"WindowCenter": 0, "WindowWidth": 1000, "NumberOfFrames": 2}
            dicom(root / "ct" / name / f"{index}.dcm", frames, patient=patient, **tags)
        for index in range(6):
            ray = np.asarray(shape(label, rng)).astype(np.uint16) * 16
            odd = {"PhotometricInterpretation": "MONOCHROME1"} if index % 2 else {}
            dicom(root / "xray" / name / f"IM{index}", ray, patient=f"x{label}{index}", modality="DX", bits=12, **odd)
    return root


@pytest.fixture
def arguments(tiny_dir):
    return ("--high", "ct", "--low", "xray"), ("--backbone", f"local-dir:{tiny_dir}", "--shots", 4, "--epochs", 1)


def everything_below(folder):
    return b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())


def test_a_folder_of_dicom_from_check_to_predict(kmat, hospital, arguments, tmp_path):
    names, learning = arguments
    dicom(hospital / "xray" / LABELS[0] / "stray.dcm", hounsfield(0, np.random.default_rng(1)), patient="stray")
    (hospital / "ct" / LABELS[0] / "damaged.dcm").write_bytes(b"\0" * 128 + b"DICM" + b"\x02\0")
    code, out, err = kmat("check-data", hospital, *names, "--shots", 4, "--findings", "f.csv", "--write", "split.csv")
    assert code == 0, err
    said = [out, err]
    rows = csv.DictReader(Path("f.csv").read_text().splitlines())
    found = {row["ref"]: (row["kind"], row["detail"]) for row in rows}
    assert found == {
        f"xray/{LABELS[0]}/stray.dcm": (
            "modality tag contradicts",
            "CT, as most of ct are; xray is mostly DX",
        ),
        f"ct/{LABELS[0]}/damaged.dcm": ("unreadable", "DICOM without an image"),
    }
    code, out, err = kmat("train", "coop", "--task", hospital, *names, *learning, "--out", "run")
    assert code == 0, err
    said += [out, err]
    code, out, err = kmat("predict", "run", hospital / "ct", "--modality", "high")
    assert code == 0, err
    rows = list(csv.DictReader(out.splitlines()))
    assert len(rows) == 80
    assert rows[1]["path"] == str(hospital / "ct" / LABELS[0] / "0.dcm#2")
    said += [out, err]
    one = hospital / "xray" / LABELS[1] / "IM3"
    code, out, err = kmat("predict", "run", one, f"{hospital}/ct/{LABELS[0]}/0.dcm#2")
    assert code == 0, err
    assert [row["path"] for row in csv.DictReader(out.splitlines())] == [
        str(one),
        f"{hospital}/ct/{LABELS[0]}/0.dcm#2",
    ]
    said += [out, err]
    assert not any(word in text for word in HIDDEN for text in said)
    written = everything_below(tmp_path / "run") + Path("split.csv").read_bytes() + Path("f.csv").read_bytes()
    assert not any(word.encode() in written for word in HIDDEN)


def test_patients_are_the_dicom_files_by_a_salted_hash(hospital):
    task = load_manifest(hospital, high="ct", low="xray")
    splits = {}
    for record in task.records:
        assert splits.setdefault(record.patient, record.split) == record.split
    assert len(splits) == 2 * 10 + 2 * 6, "two files of two frames are one patient"
    assert all(patient.startswith("patient-") and len(patient) == 24 for patient in splits)
    assert load_manifest(hospital, high="ct", low="xray", seed=5).labels == task.labels
    assert {r.patient for r in load_manifest(hospital, high="ct", low="xray", seed=5).records} == set(splits)
    by_file = load_manifest(hospital, high="ct", low="xray", patient_pattern=r"(.*)#|(?:.*)()")
    assert "patient" in by_file.records[-1].patient, "a group without text says nothing"
    next((hospital / "ct" / LABELS[0]).iterdir()).unlink()
    assert not {r.patient for r in load_manifest(hospital, high="ct", low="xray").records} & set(splits), "another salt"


def test_one_patient_for_all_is_said(tmp_path, capsys):
    for label, name in enumerate(LABELS):
        for index in range(4):
            values = hounsfield(label, np.random.default_rng(index))
            dicom(tmp_path / "high" / name / f"{index}.dcm", values, patient="ANONYMOUS")
    load_manifest(tmp_path)
    assert "all DICOM files name the same patient" in capsys.readouterr().err
    for path in tmp_path.rglob("*.dcm"):
        dicom(path, np.zeros((4, 4), np.uint8), patient="")
    task = load_manifest(tmp_path)
    assert {record.patient for record in task.records} == {record.ref for record in task.records}
    assert capsys.readouterr().err == ""


def test_a_csv_names_files_or_slices(tmp_path):
    values = np.random.default_rng(0).integers(0, 1000, (6, 5, 4)).astype(np.int16)
    nifti(tmp_path / "a.nii.gz", values)
    nifti(tmp_path / "b.nii", values)
    dicom(tmp_path / "c.dcm", np.zeros((3, 4, 4), np.uint16), NumberOfFrames=3, patient="c")
    rows = [("a.nii.gz", "x", "high"), ("b.nii#2", "y", "high"), ("b.nii#9", "y", "low"), ("c.dcm", "y", "low")]
    rows += [("a.nii.gz#3", "x", "high"), ("c.dcm", "y", "low"), ("d.nii#1", "y", "low")]
    (tmp_path / "e.nii").write_bytes(b"nothing")
    rows += [("e.nii", "x", "high")]
    task = load_manifest(write_rows(tmp_path / "m.csv", rows, ("path", "label", "modality")))
    refs = [*(f"a.nii.gz#{k}" for k in range(1, 5)), "b.nii#2", "b.nii#9", *(f"c.dcm#{k}" for k in range(1, 4))]
    assert [record.ref for record in task.records] == refs
    assert [record.patient for record in task.records[:6]] == ["a.nii.gz"] * 4 + ["b.nii"] * 2
    assert [(item.ref, item.reason) for item in task.skipped] == [
        ("a.nii.gz#3", "listed twice"),
        ("c.dcm", "listed twice"),
        ("d.nii#1", "no such file"),
        ("e.nii", "unreadable: damaged NIfTI (ImageFileError)"),
    ]


def test_volumes_go_from_check_to_predict(kmat, arguments, tmp_path):
    names, learning = arguments
    rng = np.random.default_rng(0)
    root = tmp_path / "volumes"
    for label, name in enumerate(LABELS):
        for index in range(6):
            nifti(root / "ct" / name / f"{index}.nii.gz", np.stack([hounsfield(label, rng) for _ in range(3)], axis=2))
            shape(label, rng).save(tmp_path / "x.png")
            (root / "xray" / name).mkdir(parents=True, exist_ok=True)
            (tmp_path / "x.png").rename(root / "xray" / name / f"{index}.png")
    code, _, err = kmat("check-data", root, *names, "--shots", 4, "--high-window", 0, 1000)
    assert code == 0, err
    code, _, err = kmat("train", "coop", "--task", root, *names, *learning, "--high-window", 0, 1000, "--out", "run")
    assert code == 0, err
    volume = root / "ct" / LABELS[0] / "0.nii.gz"
    own = kmat("predict", "run", volume, "--modality", "high")
    assert own[0] == 0, own[2]
    assert [row["path"] for row in csv.DictReader(own[1].splitlines())] == [f"{volume}#{k}" for k in (1, 2, 3)]
    assert kmat("predict", "run", volume, "--modality", "high", "--window", 0, 1000)[1] == own[1]
    assert kmat("predict", "run", volume, "--modality", "high", "--window", 200, 90)[1] != own[1]
    assert kmat("predict", "run", volume, "--modality", "low")[1] != own[1], "the low end has no window"


def test_evaluation_shows_images_as_training_did(kmat, hospital, arguments):
    names, learning = arguments
    window = ("--high-window", 0, 600, "--low-window", 2000, 3000)
    code, out, err = kmat("train", "coop", "--task", hospital, *names, *learning, *window, "--out", "run")
    assert code == 0, err
    table = out[: out.index("run written")]
    assert kmat("evaluate", "run")[1].startswith(table)
    assert kmat("evaluate", "run", "--task", hospital, *names)[1].startswith(table)
    settings = json.loads(Path("run/config.json").read_text())["config"]["data"]
    assert (settings["high_window"], settings["low_window"]) == ([0, 600], [2000, 3000])
    other = ("--high-window", 0, 500, *window[3:])
    code, _, err = kmat("train", "coop", "--task", hospital, *names, *learning, *other, "--out", "run", "--resume")
    assert code == 1
    assert "config.data.high_window" in one_line(err)
    assert ", task differ" in one_line(err)


def test_python_shows_images_as_the_commands_do(kmat, hospital, arguments, tiny, tmp_path):
    names, learning = arguments
    window = ("--high-window", 0, 600)
    assert kmat("train", "coop", "--task", hospital, *names, *learning, *window, "--out", "run")[0] == 0
    task = load_task(hospital, high="ct", low="xray", high_window=(0, 600))
    own = fit(task, "coop", backbone=tiny, shots=4, epochs=1, cache=tmp_path / "cache" / "kmat")
    file = f"{hospital}/ct/{LABELS[0]}/3.dcm#2"
    rows = list(csv.DictReader(kmat("predict", "run", file, "--modality", "high")[1].splitlines()))
    expected = [float(rows[0][label]) for label in LABELS]
    for run in (own, load_run("run", cache=tmp_path / "cache" / "kmat")):
        np.testing.assert_allclose(run.predict([file], "high")[0], expected, atol=1e-5)
    Image.fromarray(np.full((32, 32), 3000, np.uint16)).save("a.png")
    with Image.open("a.png") as image:
        np.testing.assert_array_equal(own.predict([image], "high"), own.predict(["a.png"], "high"))
    ghost = np.zeros((32, 32, 4), np.uint8)
    Image.fromarray(ghost).save("b.png")
    np.testing.assert_array_equal(own.predict([ghost]), own.predict(["b.png"]))


@pytest.mark.parametrize(
    ("window", "message"),
    [((0, 0), "expected"), ((0, -3), "expected"), (("nan", 1), "expected"), ((0, "inf"), "expected")],
)
def test_windows_that_are_none(kmat, hospital, trained, window, message):
    for command in (("tasks", "--task", hospital, "--high-window"), ("predict", trained, hospital, "--window")):
        code, _, err = kmat(*command, *window)
        assert code == 1
        assert f"window {float(window[0] if window[0] == 'nan' else window[1])}: {message}" in one_line(err)


def test_built_in_tasks_have_no_windows():
    with pytest.raises(UserError, match="--high-window means nothing to --task chest-phantom"):
        TaskConfig(high_window=(0, 1)).load()


def test_windows_are_in_fingerprints_and_keys(tiny, cache, tmp_path):
    for index in range(3):
        Image.fromarray(np.random.default_rng(index).integers(0, 4096, (16, 16)).astype(np.uint16)).save(
            tmp_path / f"{index}.png"
        )
    rows = [(f"{index}.png", f"class {index % 2}", "high" if index < 2 else "low") for index in range(3)]
    rows += [("0.png", "class 0", "low")]
    manifest = write_rows(tmp_path / "m.csv", rows, ("path", "label", "modality"))
    windows = (None, {"high": (1000.0, 50.0)}, {"high": (1000.0, 51.0)}, {"low": (1000.0, 50.0)})
    tasks = [load_manifest(manifest, windows=window) for window in windows]
    assert len({task.fingerprint for task in tasks}) == 4
    assert [len(task.skipped) for task in tasks] == [0, 1, 1, 1], "one file cannot be shown in two ways"
    features = [cache.images(tiny, task.images, ["1.png"]).features for task in tasks]
    assert not features[0].equal(features[1])
    assert not features[1].equal(features[2])
    assert features[0].equal(features[3])
    assert len(list(cache.folder.iterdir())) == 3
    assert (
        FeatureCache(cache.folder)
        .images(tiny, LooseImages((1000.0, 50.0)), [str(tmp_path / "1.png")])
        .features.equal(features[1])
    )


@pytest.mark.parametrize(
    ("suffix", "kind"), [("png", np.uint16), ("tif", np.uint16), ("tif", np.float32), ("tif", np.int32)]
)
def test_a_metal_artefact_dims_nothing(tmp_path, suffix, kind):
    values = np.random.default_rng(0).integers(1000, 1100, (64, 64)).astype(kind)
    values[0, :3] = 60000
    Image.fromarray(values).save(tmp_path / f"a.{suffix}")
    content = (tmp_path / f"a.{suffix}").read_bytes()
    assert np.asarray(decode(content)).std() > 60
    exact = np.asarray(decode(content, (1050, 200)))[..., 0]
    np.testing.assert_array_equal(exact, np.rint(np.clip((values.astype(float) - 950) / 200, 0, 1) * 255))


def test_a_small_thing_on_nothing_is_there(tmp_path):
    values = np.zeros((64, 64), np.uint16)
    values[5, 5] = 9
    Image.fromarray(values).save(tmp_path / "a.png")
    assert np.asarray(decode((tmp_path / "a.png").read_bytes()))[5, 5, 0] == 255


def test_tiff_whose_white_is_zero(tmp_path):
    values = np.arange(64, dtype=np.uint16).reshape(8, 8)
    Image.fromarray(values).save(tmp_path / "a.tif")
    Image.fromarray(values).save(tmp_path / "b.tif", tiffinfo={262: 0})
    plain, turned = (np.asarray(decode((tmp_path / f"{name}.tif").read_bytes())).astype(int) for name in "ab")
    np.testing.assert_array_equal(turned, 255 - plain)


DISC = np.asarray(shape(0, np.random.default_rng(0)))


@pytest.mark.parametrize(("ink", "paper"), [(0, 255), (30, 255), (200, 0), (255, 0)])
@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "tRNS"])
def test_a_shape_that_only_transparency_draws_is_there(tmp_path, mode, ink, paper):
    alpha = np.where(DISC == 250, 255, 0).astype(np.uint8)
    solid = np.full_like(alpha, ink)
    if mode == "RGBA":
        Image.fromarray(np.dstack([solid] * 3 + [alpha])).save(tmp_path / "a.png")
    elif mode == "LA":
        Image.fromarray(np.dstack([solid, alpha])).save(tmp_path / "a.png")
    elif mode == "P":
        image = Image.fromarray((alpha == 0).astype(np.uint8))
        image.putpalette([ink] * 6)
        image.save(tmp_path / "a.png", transparency=1)
    else:
        Image.fromarray(np.where(alpha, ink, 77).astype(np.uint8)).save(tmp_path / "a.png", transparency=77)
    seen = np.asarray(decode((tmp_path / "a.png").read_bytes()))[..., 0]
    np.testing.assert_array_equal(seen, np.where(alpha, ink, paper))


def test_half_transparent_and_opaque(tmp_path):
    Image.new("RGBA", (4, 4), (200, 100, 50, 255)).save(tmp_path / "a.png")
    assert np.asarray(decode((tmp_path / "a.png").read_bytes())).tolist() == [[[200, 100, 50]] * 4] * 4
    Image.new("RGBA", (4, 4), (200, 200, 200, 128)).save(tmp_path / "b.png")
    np.testing.assert_allclose(np.asarray(decode((tmp_path / "b.png").read_bytes())), 100, atol=1)
    Image.new("RGBA", (4, 4), (9, 9, 9, 0)).save(tmp_path / "c.png")
    assert np.asarray(decode((tmp_path / "c.png").read_bytes())).max() == 0


# Row 30: files of other kinds


def test_ignored_files_are_counted_by_suffix(kmat, arguments, trained, tmp_path):
    root = tmp_path / "mixed"
    for modality in ("ct", "xray"):
        for label, name in enumerate(LABELS):
            for index in range(8):
                (root / modality / name).mkdir(parents=True, exist_ok=True)
                shape(label, np.random.default_rng(index)).save(root / modality / name / f"{index}.png")
    for index in range(3):
        (root / "ct" / LABELS[0] / f"{index}.jp2").write_bytes(b"jp2")
    (root / "xray" / LABELS[1] / "a.MHA").write_bytes(b"mha")
    (root / "xray" / LABELS[1] / "README").write_bytes(b"text")
    names, learning = arguments
    line = (
        "5 files ignored: .jp2 (3), .mha (1), no suffix (1); kmat reads none of these: convert what are images to PNG"
    )
    commands = (
        ("check-data", root, *names, "--shots", 4),
        ("tasks", "--task", root, *names),
        ("train", "coop", "--task", root, *names, *learning),
        ("predict", trained, root),
    )
    for command in commands:
        code, _, err = kmat(*command)
        assert code == 0, err
        assert line in err, command
    code, _, err = kmat("predict", trained, root / "ct" / LABELS[0] / "0.jp2")
    assert code == 1
    assert "none of the 1 images can be read" in one_line(err)


@pytest.mark.parametrize(("package", "extra"), [("pydicom", "dicom"), ("nibabel", "nifti")])
def test_a_missing_package_is_one_line(kmat, trained, hospital, monkeypatch, tmp_path, package, extra):
    root = hospital
    if package == "nibabel":
        root = tmp_path / "volumes"
        for modality in ("ct", "xray"):
            nifti(root / modality / "x" / "a.nii", np.zeros((4, 4, 4), np.int16))
    monkeypatch.setitem(sys.modules, package, None)
    for command in (("check-data", root, "--high", "ct", "--low", "xray"), ("predict", trained, root)):
        code, _, err = kmat(*command)
        assert code == 1
        assert f"unreadable: needs {package}: pip install 'fgwot[{extra}]'" in one_line(err)
