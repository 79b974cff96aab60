"""`kmat check-data` on the paper's tasks and on a user's own: findings, counts, exit code."""

import csv
import hashlib
import shutil
from collections import defaultdict

import downloads
import pytest

from kmat.cli import main
from kmat.tasks import TaskConfig
from kmat.tasks.check import inspect
from kmat.tasks.paper import PAPER_TASKS


@pytest.fixture
def root(everything, tmp_path):
    return shutil.copytree(everything, tmp_path / "root")


@pytest.fixture
def check(tmp_path, monkeypatch, capsys):
    """Exit code, standard output, standard error, and the findings by kind."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")

    def run(task, root, *arguments):
        findings = tmp_path / "findings.csv"
        findings.unlink(missing_ok=True)
        code = main(["check-data", str(task), "--root", str(root), "--findings", str(findings), *map(str, arguments)])
        by_kind = defaultdict(list)
        if findings.exists():
            with findings.open(newline="", encoding="utf-8") as file:
                for row in csv.DictReader(file):
                    by_kind[row["kind"]].append((row["ref"], row["detail"]))
        captured = capsys.readouterr()
        return code, captured.out, captured.err, by_kind

    return run


@pytest.mark.parametrize("task", PAPER_TASKS)
def test_all_downloads_below_one_root(check, everything, task):
    code, out, err, _ = check(task, everything)
    assert code == 0, err
    loaded = TaskConfig(task=task, root=everything).load()
    for index, label in enumerate(loaded.labels):
        counts = [loaded.count(m, s)[index] for m in ("high", "low") for s in ("train", "val", "test")]
        row = next(line for line in out.splitlines() if line.startswith(f"{label} "))
        assert row.removeprefix(label).split() == [str(count) for count in counts]
    assert "Table 1" in out
    assert "fewer than 16: every seed draws all of them" in err


def test_table_1_stands_below_the_counts(check, everything):
    _, out, *_ = check("breast", everything)
    rows = [line.split() for line in out.splitlines()]
    assert ["Table", "1", "356", "76", "78", "389", "155", "236"] in rows
    assert ["all", "17", "3", "4", "15", "6", "9"] in rows


def test_unreadable_and_duplicate_files(check, root):
    xrays = root / "chest-xray-covid19-pneumonia" / "Data"
    task = TaskConfig(task="chest", root=root).load()
    train, test = (next(r for r in task.select("low", split) if r.label == 0) for split in ("train", "test"))
    other = next(r for r in task.select("low", "train") if r.label == 1)
    twin = [r for r in task.select("low", "train") if r.label == 2][:2]
    for target in (test, other):
        shutil.copy(root / train.ref, root / target.ref)
    shutil.copy(root / twin[0].ref, root / twin[1].ref)
    slices = [r for r in task.select("high", "train") if r.label == 0]
    (root / slices[0].ref).write_bytes((root / slices[0].ref).read_bytes()[:60])
    (root / slices[1].ref).write_bytes(b"")
    (xrays / "train" / "NORMAL" / "Thumbs.db").write_bytes(b"")
    code, out, err, findings = check("chest", root)
    assert code == 0, err
    assert {ref for ref, _ in findings["unreadable"]} == {slices[0].ref, slices[1].ref}
    (leak,) = findings["duplicate across splits and classes"]
    named = " ".join(leak)
    assert all(record.ref in named for record in (train, test, other))
    assert f"{test.ref} (COVID-19, chest X-ray test)" in named
    (harmless,) = findings["duplicate"]
    assert {twin[0].ref, twin[1].ref} == {ref for ref in (r.ref for r in twin) if ref in " ".join(harmless)}
    assert findings["not an image file"] == [("chest-xray-covid19-pneumonia/Data/train/NORMAL/Thumbs.db", "")]
    assert "unreadable: 2" in out


def test_duplicates_are_those_with_equal_bytes(everything):
    task = TaskConfig(task="skin2", root=everything).load()
    found = [finding for finding in inspect(task).findings if finding.kind.startswith("duplicate")]
    digests = defaultdict(set)
    for record in task.records:
        digests[hashlib.sha256((everything / record.ref).read_bytes()).digest()].add((record.ref, record.modality))
    assert len(found) == sum(len(group) > 1 for group in digests.values()) == 1
    assert found[0].kind == "duplicate across modalities", "the clinical image is the dermoscopic one"


def test_a_class_without_images_cannot_be_run(check, root):
    shutil.rmtree(root / "cc-ccii" / "CP")
    code, _, err, _ = check("chest", root)
    assert code == 1
    assert "error: chest cannot be run: no readable CT train image of 'pneumonia'; no readable CT test image" in err
    for path in (root / "Dataset_BUSI_with_GT" / "normal").glob("*.png"):
        path.write_bytes(b"damaged")
    code, _, err, findings = check("breast", root)
    assert code == 1
    assert "error: breast cannot be run: no readable ultrasound test image of 'normal'" in err
    assert len(findings["unreadable"]) == 10


def test_a_download_that_is_not_there_is_one_line(check, tmp_path):
    code, out, err, _ = check("breast", tmp_path)
    assert (code, out) == (1, "")
    assert err.startswith("error: --root ")
    assert len(err.splitlines()) == 1


def test_ten_of_a_kind_are_printed_and_all_are_written(check, root):
    for path in (root / "Dataset_BUSI_with_GT").glob("*/*).png"):
        if "normal" not in path.name and "(1)" not in path.name:
            path.write_bytes(b"damaged")
    _, out, _, findings = check("breast", root)
    assert len(findings["unreadable"]) == 18
    assert "unreadable: 18, the first ten:" in out
    assert out.count("not an image") == 10


def test_the_written_manifest_is_the_task_again(check, everything, tmp_path):
    code, _, err, _ = check("chest", everything, "--write", "chest.csv", "--slices", 2, "--split-seed", 3)
    assert code == 0, err
    task = TaskConfig(task="chest", root=everything, slices=2, split_seed=3).load()
    again = TaskConfig(task=str(tmp_path / "chest.csv"), root=everything).load()
    assert [(r.ref, again.labels[r.label], r.split, r.patient) for r in again.records] == [
        (r.ref, task.labels[r.label], r.split, r.patient) for r in task.records
    ]
    code, _, err, findings = check("chest.csv", everything)
    assert (code, findings) == (0, {}), err


def test_files_that_cannot_be_written_are_one_line(check, everything, tmp_path):
    code, _, err, _ = check("breast", everything, "--write", tmp_path / "none" / "x.csv")
    assert code == 1
    assert "error: cannot write" in err


def test_a_patient_in_two_splits_is_a_finding(check, tmp_path):
    rows = [["path", "label", "modality", "split", "patient"]]
    for label in "xy":
        for modality, split in (("high", "train"), ("high", "test"), ("low", "test")):
            name = f"{label}-{modality}-{split}.png"
            downloads.picture(tmp_path / name)
            rows.append([name, label, modality, split, f"{label}{modality}"])
    code, _, err, findings = check(downloads.sheet(tmp_path / "m.csv", rows), tmp_path)
    assert code == 0, err
    assert [patient for patient, _ in findings["patient in several splits"]] == ["xhigh", "yhigh"]
