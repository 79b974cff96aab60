"""The paper's datasets as they are downloaded, defects included."""

import json
import shutil
from collections import Counter
from pathlib import Path

import downloads
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kmat.errors import UserError
from kmat.runs.config import RunConfig
from kmat.tasks import TaskConfig, paper
from kmat.tasks.base import SPLITS, Record
from kmat.tasks.datasets.cc_ccii import evenly
from kmat.tasks.manifest import load_manifest, write_manifest
from kmat.tasks.paper import PAPER_TASKS, read_table
from kmat.tasks.splits import assign_splits


def load(task, root, **options):
    return TaskConfig(task=task, root=root, **options).load()


def labels(task, modality="high"):
    """Class by file name."""
    return {Path(r.ref).name: task.labels[r.label] for r in task.records if r.modality == modality}


def reasons(task):
    return {Path(item.ref).name: item.reason for item in task.skipped}


def assert_no_patient_straddles(task):
    splits = {}
    for record in task.records:
        assert splits.setdefault(record.patient, record.split) == record.split, record
    assert set(splits.values()) <= set(SPLITS)


def totals(task, modality):
    """Images by class, over all splits."""
    return [sum(counts) for counts in zip(*(task.count(modality, split) for split in SPLITS), strict=True)]


@pytest.mark.parametrize(
    ("table", "images"),
    [("release_midas.xlsx", ""), ("release_midas.xlsx", "images"), ("release_midas.csv", "images/a")],
)
def test_midas(tmp_path, table, images):
    downloads.midas(tmp_path / "midasmultimodal", table, images)
    task = load("skin1", tmp_path)
    assert task.modality_names == {"high": "dermoscopy", "low": "clinical photo"}
    assert totals(task, "high") == [6, 9, 7, 6, 6, 6]
    assert totals(task, "low") == [6, 6, 7, 7, 6, 6]
    named = labels(task)
    assert {named[name] for name in ("s-prd-1.jpg", "s-prd-2_cropped.jpg", "S-PRD-3.JPG")} == {"basal cell carcinoma"}
    assert Counter(reason.split(":")[0] for reason in reasons(task).values()) == {
        "control site": 1,
        "no pathology": 1,
        "not a class of the task": 1,
        "unknown label": 1,
        "no such file": 1,
        "ambiguous": 2,
    }
    assert reasons(task)["s-prd-502892079.jpg"] == "no such file"
    assert reasons(task)["s-prd-5.jpg"] == "ambiguous: labelled 'malignant-scc' and 'malignant-ak'"
    assert_no_patient_straddles(task)
    both = {r.patient for r in task.records if r.modality == "high"} & {
        r.patient for r in task.records if r.modality == "low"
    }
    assert len(both) == 36, "one split for both modalities: patients of high-end training are no low-end test patients"


def test_midas_file_name_that_two_files_have(tmp_path):
    root = downloads.midas(tmp_path, images="a")
    downloads.picture(root / "b" / "s-prd-1.jpg")
    assert reasons(load("skin1", root))["s-prd-1.jpeg"] == "ambiguous: 2 files have that name"


def test_derm7pt_official_split(tmp_path):
    downloads.derm7pt(tmp_path / "release_v0" / "release_v0")
    task = load("skin2", tmp_path)
    assert task.labels == ("basal cell carcinoma", "nevus", "melanoma", "miscellaneous", "seborrheic keratosis")
    assert [task.count("high", split) for split in SPLITS] == [(2,) * 5] * 3
    assert task.count("low", "train") == (2, 2, 1, 2, 2)
    assert [item.reason for item in task.skipped] == ["no such file"]
    first, second = task.select("high", "train")[:2]
    assert (first.label, second.label) == (0, 1)
    assert second.patient == "case 2", "indexes count from zero, cases from one"
    assert first.ref in {r.ref for r in task.select("low", "train")}, "clinic == derm"
    assert task.classes[3] == "miscellaneous skin lesion"
    assert load("skin2", tmp_path, split_seed=5).records == task.records


def test_derm7pt_rows_outside_the_split_files(tmp_path):
    root = downloads.derm7pt(tmp_path)
    downloads.sheet(root / "meta" / "test_indexes.csv", [["indexes"], [10]])
    assert Counter(item.reason for item in load("skin2", root).skipped)["in no split file"] == 18
    downloads.sheet(root / "meta" / "test_indexes.csv", [["indexes"], [0]])
    with pytest.raises(UserError, match="row 0 is in both train and test"):
        load("skin2", root)


@pytest.fixture
def chest(tmp_path):
    downloads.cc_ccii(tmp_path / "ct")
    downloads.chest_xray(tmp_path / "kaggle" / "Data")
    return tmp_path


def test_chest(chest):
    task = load("chest", chest)
    assert task.labels == ("COVID-19", "pneumonia", "normal")
    assert task.classes == ("COVID-19", "pneumonia", "normal chest")
    assert totals(task, "high") == [21, 21, 21], "seven scans of each class, the middle three of nine slices"
    assert totals(task, "low") == [7, 16, 11], "both shipped parts pooled"
    assert {int(Path(r.ref).stem) for r in task.select("high", "train")} == {21, 28, 35}, "sorted by number"
    assert task.skipped == ()
    assert_no_patient_straddles(task)
    assert totals(load("chest", chest, slices=2), "high") == [14, 14, 14]
    assert load("chest", chest).records == task.records
    assert load("chest", chest, split_seed=1).records != task.records


def test_ct_slices_with_lesions_are_preferred(chest):
    rows = [["imgpath"], *([f"NCP/1/10/{7 * number}.jpg"] for number in (0, 1, 8)), ["CP/9/9/1.png"]]
    downloads.sheet(chest / "lesions_slices.csv", rows)
    task = load("chest", chest)
    assert sorted(int(Path(r.ref).stem) for r in task.records if "NCP/1/10/" in r.ref) == [0, 7, 56]
    assert sorted(int(Path(r.ref).stem) for r in task.records if "NCP/2/20/" in r.ref) == [21, 28, 35]
    downloads.sheet(chest / "ct" / "lesion_slices.csv", rows)
    with pytest.raises(UserError, match=r"lesion_slices\.csv and .*lesions_slices\.csv|keep the one to be used"):
        load("chest", chest)


def test_ct_scans_that_the_archives_list_say_what_is_missing(chest):
    rows = [["zip_file", "label", "patient_id", "scan_id", "n_slice"], ["NCP-1.zip", "NCP", 1, 10, 9]]
    downloads.sheet(chest / "unzip_filenames.csv", [*rows, ["CP-7.zip", "CP", 5, 55, 120]])
    assert [(i.ref, i.reason) for i in load("chest", chest).skipped] == [("CP/5/55", "no such scan: CP-7.zip")]


@pytest.mark.parametrize(
    "folders",
    [
        ("COVID19-1", "CP-1", "Normal-1"),
        ("NCP/COVID19-2", "CP/CP-2", "Normal/Normal-2"),
        ("COVID19-3/NCP", "CP-3/CP", "Normal-3/Normal"),
    ],
)
def test_ct_folder_names(tmp_path, folders):
    downloads.cc_ccii(tmp_path / "cc_ccii", folders=folders)
    downloads.chest_xray(tmp_path)  # without Data/
    downloads.picture(tmp_path / "cc_ccii" / folders[0] / "cover.png")
    task = load("chest", tmp_path)
    assert totals(task, "high") == [21, 21, 21]
    assert [item.reason for item in task.skipped] == ["not in PATIENT/SCAN/"]


def test_ct_patient_number_in_two_classes_is_one_patient(chest):
    for number in range(3):
        downloads.picture(chest / "ct" / "CP" / "1" / "999" / f"{number}.png", "L")
    task = load("chest", chest)
    assert {task.labels[r.label] for r in task.records if r.patient == "1"} == {"COVID-19", "pneumonia"}
    assert_no_patient_straddles(task)


def test_breast(tmp_path):
    downloads.dmid(tmp_path / "DMID")
    downloads.busi(tmp_path / "Dataset_BUSI_with_GT")
    task = load("breast", tmp_path)
    assert task.classes == ("benign tumor", "malignant tumor", "normal scan")
    assert totals(task, "high") == [7, 9, 8], "IMG001 has a malignant row too; a blank class beside NORM is normal"
    assert totals(task, "low") == [10, 10, 10], "no masks"
    assert {item.ref.upper().split("/")[-1]: item.reason for item in task.skipped} == {
        "IMG777": "no such file",
        "IMG888.TIF": "ambiguous: class ''",
        "IMG999": "not in Metadata.xlsx",
    }
    named = labels(task)
    assert (named["IMG001.tif"], named["IMG023.tif"], named["IMG024.tif"]) == ("malignant", "normal", "normal")
    for record in task.records:
        assert task.images.read(record.ref).mode == "RGB"


@pytest.mark.parametrize("table", ["Metadata.xlsx", "Metadata.csv"])
def test_dmid_with_a_header_in_place_of_the_legend(tmp_path, table):
    header = ("Image_Reference", "Mammogram_View", "Background_Tissue", "Abnormality_Type", "Class_Abnormality")
    downloads.dmid(tmp_path / "DMID", header=header, table=table, images="TIFF Images")
    downloads.busi(tmp_path)
    assert totals(load("breast", tmp_path), "high") == [7, 9, 8]


def test_dmid_as_dicom_only(tmp_path):
    root = downloads.dmid(tmp_path / "DMID")
    for path in root.rglob("IMG*.tif"):
        path.rename(path.with_suffix(".dcm"))
    downloads.busi(tmp_path)
    with pytest.raises(UserError, match="the DICOM files are not read"):
        load("breast", tmp_path)


@pytest.mark.parametrize(
    "folders", [("benign", "malignant", "normal"), ("benign_tumor", "malignant_tumor", "normal_scan")]
)
def test_busi_in_biomedcoops_split(tmp_path, folders):
    downloads.dmid(tmp_path / "DMID")
    downloads.busi(tmp_path / "BUSI" / "BUSI", folders=folders, masks=folders[0] == "benign")
    split = downloads.busi_split(tmp_path / "split_BUSI.json")
    task = load("breast", tmp_path)
    assert [task.count("low", split) for split in SPLITS] == [(5, 5, 5), (2, 2, 2), (2, 2, 2)]
    assert reasons(task)["malignant (10).png"] == "not in split_BUSI.json"
    (tmp_path / "BUSI" / "BUSI" / folders[2] / "normal (1).png").unlink()
    assert reasons(load("breast", tmp_path))["normal (1).png"] == "no such file"
    table = json.loads(split.read_text())
    table["val"].append(table["train"][0])
    for content, message in ((json.dumps(table), "lists a file twice"), ("[]", "is not a split file of BiomedCoOp")):
        split.write_text(content)
        with pytest.raises(UserError, match=message):
            load("breast", tmp_path)


def fractions(task, modality):
    counts = read_table(task).parts[modality].table1
    return counts[0] / sum(counts), counts[1] / sum(counts)


def test_pooled_chest_x_rays_are_split_as_table_1_counts():
    sizes = {"COVID19": 576, "NORMAL": 1583, "PNEUMONIA": 4273}
    counts = split_counts("chest", sizes.values())
    assert [sum(by_class) for by_class in counts] == [4595, 923, 914]


def test_busi_without_the_split_file_has_its_sizes():
    assert split_counts("breast", (437, 210, 133)) == [[218, 105, 66], [87, 42, 26], [132, 63, 41]]


def split_counts(task, sizes):
    records = [Record(f"{k}/{i}", k, "low", "", f"{k}/{i}") for k, size in enumerate(sizes) for i in range(size)]
    done = assign_splits(records, 0, {"low": fractions(task, "low")})
    counts = Counter((r.split, r.label) for r in done)
    return [[counts[split, label] for label in range(3)] for split in SPLITS]


@given(
    images=st.lists(st.tuples(st.integers(0, 9), st.integers(0, 2), st.sampled_from(["high", "low"])), max_size=60),
    seed=st.integers(0, 3),
)
def test_splits_keep_every_image_and_no_patient_straddles(images, seed):
    records = [Record(str(i), label, modality, "", f"p{who}") for i, (who, label, modality) in enumerate(images)]
    shares = {"high": (0.7, 0.1), "low": (0.5, 0.2)}
    done = assign_splits(records, seed, shares)
    assert done == assign_splits(records, seed, shares)
    assert [(r.ref, r.label, r.modality, r.patient) for r in done] == [
        (r.ref, r.label, r.modality, r.patient) for r in records
    ]
    assert all(r.split in SPLITS for r in done)
    assert len({(r.patient, r.split) for r in done}) == len({r.patient for r in done})


@given(st.integers(0, 300), st.integers(1, 20))
def test_slices_are_distinct_ordered_and_as_many_as_asked_for(length, count):
    chosen = evenly(range(length), count)
    assert chosen == sorted(set(chosen))
    assert len(chosen) == min(length, count)
    gaps = np.diff(chosen)
    assert not len(gaps) or gaps.max() - gaps.min() <= 1


def test_a_written_split_is_reused_as_a_manifest(tmp_path):
    root = downloads.derm7pt(tmp_path / "release_v0")
    task = load("skin2", root)
    write_manifest(tmp_path / "split.csv", task, task.records)
    again = load_manifest(tmp_path / "split.csv", root=root)
    assert [(r.ref, r.modality, r.split, r.patient) for r in again.records] == [
        (r.ref, r.modality, r.split, r.patient) for r in task.records
    ]
    assert again.skipped == (), "the same file in both modalities is no repetition"


@pytest.mark.parametrize("task", PAPER_TASKS)
def test_what_macos_adds_to_archives_is_passed_over(everything, tmp_path, task):
    root = shutil.copytree(everything, tmp_path / "root")
    shutil.copytree(everything, root / "__MACOSX")
    for folder in [path for path in root.rglob("*") if path.is_dir()]:
        for path in [path for path in folder.iterdir() if path.is_file()]:
            (folder / f"._{path.name}").write_bytes(b"")
    ours, theirs = load(task, root), load(task, everything)
    assert (ours.records, ours.skipped) == (theirs.records, theirs.skipped)


def test_shipped_descriptions_are_used_if_they_know_the_classes(chest, tmp_path, monkeypatch):
    def write(path, classes):
        sentences = {modality: [f"{path.stem} {modality}"] for modality in ("high", "low")}
        path.write_text(json.dumps({"descriptions": dict.fromkeys(classes, sentences)}), encoding="utf-8")

    monkeypatch.setattr(paper, "_DESCRIPTIONS", tmp_path)
    assert load("chest", chest).descriptions is None
    write(tmp_path / "chest.json", ("COVID-19", "pneumonia", "normal"))
    assert load("chest", chest).descriptions["low"] == (("chest low",),) * 3
    write(tmp_path / "mine.json", ("COVID-19", "pneumonia", "normal"))
    assert load("chest", chest, descriptions=tmp_path / "mine.json").descriptions["high"][0] == ("mine high",)
    (tmp_path / "two.toml").write_text('classes = ["COVID-19", "normal"]\n[labels]\nCP = ""\nPNEUMONIA = ""')
    assert load("chest", chest, labels=tmp_path / "two.toml").descriptions is None


def test_configuration_survives_json(tmp_path):
    config = RunConfig(data=TaskConfig(task="chest", root=tmp_path, labels=tmp_path / "mine.toml", slices=2))
    assert RunConfig.from_json(json.loads(json.dumps(config.to_json()))) == config


@pytest.mark.parametrize("task", PAPER_TASKS)
def test_tables_are_complete(task):
    table = read_table(task)
    assert set(table.labels.values()) - {""} == set(table.classes)
    assert set(table.prompts) <= set(table.classes)
    expected = {"skin1": (739, 722), "skin2": (1011, 1011), "chest": (15886, 6432), "breast": (510, 780)}
    assert tuple(sum(part.table1) for part in table.parts.values()) == expected[task]


@pytest.mark.parametrize("ending", ["toml", "json"])
def test_labels_of_the_user(tmp_path, ending):
    root = downloads.midas(tmp_path / "midas")
    classes = ["melanoma", "keratosis", "other"]
    mapping = dict.fromkeys(("benign-melanocytic nevus", "malignant-bcc", "malignant-scc", "malignant-sccis"), "other")
    mapping |= {"malignant-ak": "keratosis", "Benign-Seborrheic  Keratosis": "keratosis", "benign-other": "other"}
    file = tmp_path / f"mine.{ending}"
    if ending == "json":
        file.write_text(json.dumps({"classes": classes, "labels": mapping, "prompts": {"other": "other lesion"}}))
    else:
        lines = [f"classes = {classes}", "[labels]", *(f'"{key}" = "{value}"' for key, value in mapping.items())]
        file.write_text("\n".join([*lines, "[prompts]", 'other = "other lesion"']))
    task = load("skin1", root, labels=file)
    assert task.labels == ("melanoma", "keratosis", "other")
    assert task.classes == ("melanoma", "keratosis", "other lesion")
    assert totals(task, "high") == [7, 12, 22]
    assert task.descriptions is None, "those shipped are of other classes"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("classes = [", "cannot read"),
        ('klasses = ["a"]', "expected classes"),
        ('classes = ["a"]', "expected classes"),
        ("[labels]\nncp = 3", "expected classes"),
        ('[labels]\nncp = "flu"', "leads to 'flu', which is not among the classes"),
        ('classes = ["COVID-19", "normal"]', "label 'cp' leads to 'pneumonia'"),
    ],
)
def test_bad_labels_are_user_errors(chest, content, message):
    (chest / "mine.toml").write_text(content)
    with pytest.raises(UserError, match=message):
        load("chest", chest, labels=chest / "mine.toml")


def test_what_is_missing_or_there_twice_is_said(chest, tmp_path):
    with pytest.raises(
        UserError, match=r"--task chest needs --root DIR, .* CC-CCII \(.*\); the Kaggle chest X-rays \("
    ):
        load("chest", None)
    with pytest.raises(UserError, match="does not exist; it should hold CC-CCII"):
        load("chest", tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"no Derm7pt in it or up to 3 folders down: a folder with meta/meta\.csv"):
        load("skin2", chest)
    downloads.cc_ccii(chest / "clean" / "dataset_cleaned", patients=1, slices=1)
    with pytest.raises(UserError, match="CC-CCII is in both .*dataset_cleaned and .*ct"):
        load("chest", chest)
    for option in ({"high": "ct"}, {"patient_pattern": "(x)"}):
        with pytest.raises(UserError, match="means nothing to --task chest"):
            load("chest", chest, **option)
    with pytest.raises(UserError, match="--slices means nothing to --task skin1"):
        load("skin1", chest, slices=2)
    with pytest.raises(UserError, match="--slices 0"):
        load("chest", chest, slices=0)


def test_unusable_tables_are_user_errors(tmp_path):
    root = downloads.midas(tmp_path)
    table = root / "release_midas.xlsx"
    table.write_bytes(b"not a spreadsheet")
    with pytest.raises(UserError, match="cannot read .*release_midas"):
        load("skin1", root)
    downloads.sheet(table, [["midas_record_id", "midas_path"]])
    with pytest.raises(UserError, match="lacks the columns midas_file_name, midas_distance, midas_iscontrol"):
        load("skin1", root)
    columns = ["midas_record_id", "midas_file_name", "midas_distance", "midas_iscontrol", "midas_path"]
    downloads.sheet(table, [columns, [1, "absent.jpg", "dscope", "no", "malignant- bcc"]])
    with pytest.raises(UserError, match=r"no usable dermoscopy image; the first of 1: absent\.jpg, no such file"):
        load("skin1", root)
    downloads.sheet(table, [columns])
    with pytest.raises(UserError, match="no usable dermoscopy image$"):
        load("skin1", root)
