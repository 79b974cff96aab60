"""Odd files and failing disks: each ends in one line that names the file, and never stops what else can be done."""

import csv
import json
import os
import resource
import shutil
import sys
from contextlib import contextmanager
from io import BytesIO, TextIOWrapper
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import LABELS, one_line, shape, write_rows
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file

from kmat.cli import main
from kmat.errors import UserError, WriteError
from kmat.model.features import FeatureCache
from kmat.storage import atomic
from kmat.storage.tensors import load_tensors, save_tensors
from kmat.tasks.images import FolderImages, decode
from kmat.tasks.manifest import load_manifest
from kmat.tasks.tree import LINKED_OUT

LATIN_1 = os.fsdecode(b"f\xfcnf.png")


@contextmanager
def full_disk(limit=0):
    """Let no file grow beyond ``limit`` bytes: a write fails in the middle, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def picture(path, label=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    shape(label, np.random.default_rng(label)).save(path)
    return path


@pytest.fixture
def data(shapes_dir, tmp_path):
    return shutil.copytree(shapes_dir, tmp_path / "data")


def add_rows(manifest, *paths):
    with manifest.open("a", encoding="utf-8", errors="surrogateescape") as file:
        for path in paths:
            file.write(f"{path},{LABELS[0]},low,test,p-{path[-20:]}\n")


# Row 15: one bad row or file


def test_odd_paths_are_skipped_rows(kmat, data):
    (data / "loop.png").symlink_to("loop.png")
    (data / "a.png").symlink_to("b.png")
    (data / "b.png").symlink_to("a.png")
    os.mkfifo(data / "pipe.png")
    (data / "folder.png").mkdir()
    odd = ["x" * 300 + ".png", "loop.png", "a.png", "a.png/b.png", "pipe.png", "folder.png", "y/" * 3000 + "z.png"]
    add_rows(data / "manifest.csv", *odd)
    code, out, err = kmat("check-data", data / "manifest.csv", "--shots", 4, "--findings", "f.csv")
    assert code == 0, err
    with Path("f.csv").open(newline="") as file:
        found = {row["ref"]: row["kind"] for row in csv.DictReader(file)}
    assert set(found) == set(odd)
    assert sorted(found.values()) == ["cannot be read"] * 5 + ["not a file"] * 2
    assert "File name too long" in out


def test_broken_rows_of_a_csv_leave_the_others(tmp_path):
    for name in ("a.png", "b.png", "c.png"):
        picture(tmp_path / name)
    rows = [
        b"path,label,modality,split",
        b"a.png,x,high,train",
        b"b.png," + b"y" * 200_000 + b",high,train",
        b"c.png,\xfcbel,high,train",
        b"b.png,y,high,train,,",
        b"a.png,with,a,comma,high,train",
        b",x,high,train",
        b"b.png",
    ]
    (tmp_path / "m.csv").write_bytes(b"\n".join(rows))
    task = load_manifest(tmp_path / "m.csv")
    assert [record.ref for record in task.records] == ["a.png", "b.png"]
    assert [(item.ref, item.reason.partition(":")[0]) for item in task.skipped] == [
        ("line 3", "unreadable"),
        ("c.png", "label is not UTF-8"),
        ("a.png", "more cells than columns"),
        ("line 7", "no path"),
        ("b.png", "no label"),
    ]
    (tmp_path / "m.csv").write_bytes(b"path,label,modality,\xfc\n")
    with pytest.raises(UserError, match="m.csv: not UTF-8"):
        load_manifest(tmp_path / "m.csv")


@pytest.mark.parametrize("label", ["[/b]", "[red]x", ":cat:", "$a_{$"])
def test_class_names_are_no_markup(kmat, tmp_path, tiny_dir, label):
    rows = []
    for modality, split in (("high", "train"), ("high", "val"), ("high", "test"), ("low", "test")):
        for index, name in enumerate((label, "other")):
            file = picture(tmp_path / "data" / f"{modality}{split}{index}.png", index)
            rows.append((file.name, name, modality, split))
    manifest = write_rows(tmp_path / "data" / "m.csv", rows, header=("path", "label", "modality", "split"))
    options = ("--task", manifest, "--backbone", f"local-dir:{tiny_dir}", "--epochs", 1)
    code, out, err = kmat("train", "kmat", "--lambda-anc", 0, *options, "--out", "runs/on")
    assert code == 0, err
    assert f"accuracy in {label!r}" in out
    code, out, err = kmat("tasks", "--task", manifest)
    assert code == 0, err
    assert label in out
    if label.startswith("$"):
        assert kmat("train", "kmat", "--lambda-anc", 0, "--lambda-fgw", 0, *options, "--out", "runs/off")[0] == 0
        code, out, err = kmat("report", "runs")
        assert code == 0, err


def test_a_backbone_named_like_markup_is_shown_as_it_is(kmat):
    code, _, err = kmat("train", "--backbone", "local-dir:[/b]")
    assert code == 1
    assert "[/b]" in one_line(err)


def test_names_that_are_not_utf_8_are_written_and_read_back(kmat, data):
    picture(data / "low" / LATIN_1)
    add_rows(data / "manifest.csv", f"low/{LATIN_1}")
    code, _, err = kmat("check-data", data / "manifest.csv", "--shots", 4, "--write", "split.csv")
    assert code == 0, err
    assert b"low/f\xfcnf.png" in Path("split.csv").read_bytes()
    records = load_manifest(Path("split.csv"), root=data).records
    assert f"low/{LATIN_1}" in [record.ref for record in records]


def test_findings_about_such_names_are_shown(kmat, data):
    (data / "low" / LATIN_1).write_bytes(b"broken")
    add_rows(data / "manifest.csv", f"low/{LATIN_1}")
    code, out, err = kmat("check-data", data / "manifest.csv", "--shots", 4)
    assert code == 0, err
    assert "low/f\\udcfcnf.png: not an image" in out


@pytest.mark.parametrize("where", ["whole", "sentences"])
def test_descriptions_nested_without_end(kmat, data, where):
    nest = "[" * 100_000 + "]" * 100_000
    text = nest if where == "whole" else f'{{"descriptions": {{"{LABELS[0]}": {{"high": {nest}}}}}}}'
    (data / "deep.json").write_text(text)
    for command in (
        ("train", "--task", data / "manifest.csv", "--descriptions", data / "deep.json"),
        ("descriptions", data / "deep.json"),
        ("tasks", "--task", "skin1", "--root", data, "--labels", data / "deep.json"),
    ):
        code, _, err = kmat(*command)
        assert code == 1
        assert "deep.json: nested too deeply" in one_line(err)


def test_sentences_that_no_tokenizer_takes(kmat, data):
    (data / "d.json").write_text('{"descriptions": {"a": {"high": ["\\ud800"], "low": ["x"]}}}')
    code, _, err = kmat("descriptions", data / "d.json")
    assert code == 1
    assert "no sentences for class 'a', modality 'high'" in one_line(err)


DAMAGE = [
    ("config.json", lambda _: []),
    ("config.json", lambda _: "text"),
    ("config.json", lambda table: {**table, "config": "text"}),
    ("config.json", lambda table: {**table, "config": {**table["config"], "backbone": 5}}),
    ("config.json", lambda table: {**table, "config": {**table["config"], "method": ["kmat"]}}),
    ("config.json", lambda table: {**table, "config": {**table["config"], "seed": "1"}}),
    ("config.json", lambda table: {**table, "backbone": None}),
    ("result.json", lambda _: []),
    ("result.json", lambda _: None),
    ("result.json", lambda table: {**table, "labels": 5}),
    ("result.json", lambda table: {**table, "labels": "ab"}),
    ("result.json", lambda table: {**table, "labels": table["labels"][:1]}),
    ("result.json", lambda table: {**table, "labels": ["a"], "classes": ["a"]}),
    ("result.json", lambda table: {**table, "banner": 5}),
    ("result.json", lambda table: {k: v for k, v in table.items() if k != "scores"}),
]


@pytest.mark.parametrize(("name", "damage"), DAMAGE)
def test_run_files_of_another_shape(kmat, trained, shapes_dir, tmp_path, name, damage):
    run = shutil.copytree(trained, tmp_path / "run")
    (run / name).write_text(json.dumps(damage(json.loads((run / name).read_text()))))
    before = (run / name).read_bytes()
    for command in (("evaluate", run), ("predict", run, shapes_dir / "low"), ("report", run)):
        code, _, err = kmat(*command)
        assert code == 1, command
        assert name in one_line(err) or "does not belong to" in err
    assert (run / name).read_bytes() == before


def test_a_damaged_run_does_not_stop_the_report_of_others(kmat, trained, tmp_path):
    for name in ("a", "b"):
        shutil.copytree(trained, tmp_path / "runs" / name)
    (tmp_path / "runs" / "a" / "result.json").write_text("{")
    code, _, err = kmat("report", "runs", "--out", "out")
    assert code == 0, err
    assert "runs/a is not a complete run" in err
    assert "1 runs read from runs" in Path("out/report.html").read_text()


# Row 16: the disk


@pytest.mark.parametrize("out", ["file", "file/x", "n" * 300])
def test_out_that_can_be_no_folder(kmat, options, trained, out):
    Path("file").write_text("mine")
    for command in (("train", "coop", *options, "--out", out), ("report", trained, "--out", out)):
        code, _, err = kmat(*command)
        assert code == 1, command
        assert out in one_line(err)
    code, _, err = kmat("bench", *options[:2], *options[4:6], "--methods", "zero-shot", "--out", out)
    assert code == 1
    assert out in one_line(err)
    assert Path("file").read_text() == "mine"


def test_a_cache_that_is_a_file(kmat, options, trained, shapes_dir):
    Path("file").write_text("mine")
    for command in (("train", "coop", *options), ("evaluate", trained), ("predict", trained, shapes_dir / "low")):
        code, _, err = kmat(*command, "--cache", "file")
        assert code == 1
        assert "file is a file; --cache names a folder" in one_line(err)
    assert Path("file").read_text() == "mine"


def test_a_cache_that_cannot_be_written_costs_time_only(kmat, trained, shapes_dir):
    Path("file").touch()
    plain = kmat("predict", trained, shapes_dir / "low")[1]
    code, out, err = kmat("predict", trained, shapes_dir / "low", "--cache", "file/cache")
    assert (code, out) == (0, plain)
    assert "cannot write file/cache" in err
    assert "--cache names another folder" in err
    with full_disk(1000):
        code, out, err = kmat("predict", trained, shapes_dir / "low", "--cache", "small")
    assert (code, out) == (0, plain)
    assert "free some space" in err
    assert not list(Path("small").iterdir())


def test_a_disk_that_fills_up_in_training_loses_nothing(kmat, options, monkeypatch):
    options = ("coop", "--csc", "--n-ctx", 16, *options)
    assert kmat("train", *options, "--out", "whole")[0] == 0
    with full_disk(6000):  # room for settings, not for a checkpoint
        code, _, err = kmat("train", *options, "--out", "run")
    assert code == 1
    assert "free some space" in one_line(err)
    assert "run/" in one_line(err)
    assert "--resume" not in err, "no epoch was finished"
    with monkeypatch.context() as patch:
        patch.setattr("kmat.runs.run.save_tensors", lambda *_: save_tensors(Path("/dev/full"), {}))
        code, _, err = kmat("train", *options, "--out", "run", "--resume")
    assert code == 1
    assert "No space left on device: free some space; what was learned is kept: go on with --resume" in one_line(err)
    code, _, err = kmat("train", *options, "--out", "run", "--resume")
    assert code == 0, err
    results = [json.loads(Path(name, "result.json").read_text()) for name in ("whole", "run")]
    assert results[0] == results[1]


def test_a_file_that_cannot_be_replaced_stays(kmat, trained, data):
    Path("p.csv").write_text("mine")
    Path("split.csv").write_text("mine")
    with full_disk(10):
        code, _, err = kmat("predict", trained, data / "low", "--out", "p.csv")
        assert code == 1
        assert "cannot write p.csv" in one_line(err)
        code, _, err = kmat("check-data", data / "manifest.csv", "--write", "split.csv")
        assert code == 1
        assert "cannot write split.csv" in one_line(err)
    assert Path("p.csv").read_text() == Path("split.csv").read_text() == "mine"
    assert not list(Path().glob(f"*{atomic.PARTIAL}"))
    code, _, err = kmat("predict", trained, data / "low", "--out", "/dev/full")
    assert code == 1
    assert "cannot write /dev/full: No space left on device" in one_line(err)


def test_writing_replaces_what_a_link_leads_to(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "a").write_text("old")
    (tmp_path / "link").symlink_to("real/a")
    atomic.write(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real" / "a").read_text() == "new"
    atomic.write(Path(os.devnull), "gone")
    assert not Path(os.devnull).is_file()
    (tmp_path / "circle").symlink_to("circle")
    atomic.write(tmp_path / "circle", "x")
    assert (tmp_path / "circle").read_text() == "x"
    with pytest.raises(WriteError, match="none/a: No such file or directory: its folder must exist"):
        atomic.write(tmp_path / "none" / "a", "x")


def test_standard_output_that_is_full(monkeypatch, capsys):
    with Path("/dev/full").open("w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        assert main(["descriptions", "digits"]) == 1
    message = "error: cannot write to standard output: No space left on device: free some space"
    assert capsys.readouterr().err == message + "\n"


def test_no_home(kmat, trained, shapes_dir, monkeypatch):
    def homeless():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", homeless)
    code, _, err = kmat("predict", trained, shapes_dir / "low")
    assert code == 1
    assert "choose a folder with --cache" in one_line(err)
    code, _, err = kmat("train", "--backbone", "local-dir:~nobody-at-all/x")
    assert code == 1
    assert "~nobody-at-all" in one_line(err)


# Row 18: caches, sizes, NaN


def test_a_damaged_cache_file_is_named_and_computed_anew(tiny, cache, data, capsys):
    refs = [f"low/{LABELS[0]}-test-{index}.png" for index in range(3)]
    first = cache.images(tiny, FolderImages(data), refs).features
    (file,) = cache.folder.iterdir()
    whole = file.read_bytes()
    with safe_open(file, framework="pt") as content:
        metadata, tensors = content.metadata(), {name: content.get_tensor(name) for name in content.keys()}  # noqa: SIM118
    damaged = [
        {**tensors, "features": tensors["features"] * torch.nan},
        {**tensors, "features": tensors["features"] * 2},
        {"features": tensors["features"]},
        {"kept": tensors["kept"]},
        {**tensors, "kept": tensors["kept"] + 1},
    ]
    for content in damaged:
        save_file(content, file, metadata=metadata)
        again = FeatureCache(cache.folder).images(tiny, FolderImages(data), refs)
        assert torch.equal(again.features, first)
        assert f"cannot read {file}: damaged" in capsys.readouterr().err
        assert file.read_bytes() == whole
    FeatureCache(cache.folder).images(tiny, FolderImages(data), refs)
    assert capsys.readouterr().err == ""


def test_features_that_are_not_finite_are_neither_used_nor_kept(tiny, cache, data, monkeypatch):
    monkeypatch.setattr(type(tiny), "encode_images", lambda _, pixels: torch.full((len(pixels), 4), torch.nan))
    with pytest.raises(UserError, match="gives features that are not finite"):
        cache.images(tiny, FolderImages(data), [f"low/{LABELS[0]}-test-0.png"])
    assert not cache.folder.exists()


def test_a_damaged_checkpoint_is_said(tmp_path):
    save_tensors(tmp_path / "a", {"x": torch.ones(3)}, {"epochs": "2"})
    tensors, metadata = load_tensors(tmp_path / "a")
    assert (tensors["x"].tolist(), metadata) == ([1, 1, 1], {"epochs": "2"})
    content = (tmp_path / "a").read_bytes()
    for damage in (content[:-1] + b"\x01", content[:40], b"", content.replace(b'\\"2\\"', b'\\"3\\"')):
        (tmp_path / "a").write_bytes(damage)
        with pytest.raises(UserError, match="a: damaged"):
            load_tensors(tmp_path / "a")


def test_huge_images_are_skipped_and_named(kmat, trained, tmp_path):
    images = tmp_path / "images"
    picture(images / "small.png")
    Image.new("1", (13_000, 13_000)).save(images / "huge.png")
    code, out, err = kmat("predict", trained, images)
    assert code == 0, err
    assert "huge.png: unreadable: more than 100 million pixels" in err
    assert [Path(row["path"]).name for row in csv.DictReader(out.splitlines())] == ["small.png"]
    assert "warning" not in err


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_pixels_that_are_no_numbers_are_unreadable(kmat, trained, tmp_path, value):
    values = np.ones((8, 8), np.float32)
    values[2, 3] = value
    (tmp_path / "images").mkdir()
    Image.fromarray(values).save(tmp_path / "images" / "odd.tif")
    picture(tmp_path / "images" / "plain.png")
    code, out, err = kmat("predict", trained, tmp_path / "images")
    assert code == 0, err
    assert len(out.splitlines()) == 2
    assert "odd.tif: unreadable: pixels that are NaN or infinite" in err
    assert "warning" not in err


# Row 19: orientation


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
def test_images_are_turned_upright(tmp_path, suffix):
    upright = Image.new("L", (40, 20), 20)
    upright.paste(220, (0, 0, 20, 10))
    turned = upright.transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 270 degrees
    turned.save(tmp_path / f"a.{suffix}", exif=exif)
    image = decode((tmp_path / f"a.{suffix}").read_bytes())
    assert image.size == (40, 20)
    grey = np.asarray(image.convert("L"), dtype=float)
    np.testing.assert_allclose(grey, np.asarray(upright, dtype=float), atol=60 if suffix in ("jpg", "webp") else 0)


def test_a_phone_photo_gets_the_prediction_of_the_upright_image(kmat, trained, tmp_path):
    upright = shape(0, np.random.default_rng(5))
    upright.paste(0, (0, 0, 32, 12))
    exif = Image.Exif()
    exif[0x0112] = 6
    (tmp_path / "images").mkdir()
    upright.save(tmp_path / "images" / "a.png")
    upright.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "images" / "b.png", exif=exif)
    rows = [line.split(",", 1)[1] for line in kmat("predict", trained, tmp_path / "images")[1].splitlines()]
    assert rows[1] == rows[2]


# Row 21: predict


def test_predict_names_files_as_they_are(kmat, trained, tmp_path, monkeypatch):
    picture(tmp_path / "images" / LATIN_1)
    picture(tmp_path / "images" / "ok.png")
    code, _, err = kmat("predict", trained, tmp_path / "images", "--out", "p.csv")
    assert code == 0, err
    written = Path("p.csv").read_bytes()
    assert b"images/f\xfcnf.png," in written
    assert len(written.splitlines()) == 3
    monkeypatch.setattr(sys, "stdout", TextIOWrapper(BytesIO(), encoding="utf-8", newline=""))
    assert main(["predict", str(trained), str(tmp_path / "images")]) == 0
    assert sys.stdout.buffer.getvalue() == written


# Row 22: links and absolute paths


def test_links_are_followed_inside_the_root_and_out_of_it_when_told(kmat, tmp_path):
    root, store = tmp_path / "root", tmp_path / "store"
    objects = root / ".git" / "annex" / "objects"
    for modality in ("high", "low"):
        for index, label in enumerate(LABELS):
            for number in range(8):
                target = objects / f"{modality}-{label}-{number}"
                target.parent.mkdir(parents=True, exist_ok=True)
                shape(index, np.random.default_rng(number)).save(target, format="PNG")
                link = root / modality / label / f"{number}.png"
                link.parent.mkdir(parents=True, exist_ok=True)
                link.symlink_to(target)
    task = load_manifest(root)
    assert (len(task.records), task.skipped) == (32, ())
    assert task.images.read(task.records[0].ref).size == (32, 32)

    shutil.copytree(root / "low" / LABELS[0], store / "linked")
    shutil.rmtree(root / "low" / LABELS[0])
    (root / "low" / LABELS[0]).symlink_to(store / "linked")
    (root / "low" / LABELS[1] / "round").symlink_to(root / "low")
    task = load_manifest(root)
    assert {(item.ref, item.reason) for item in task.skipped} == {
        (f"low/{LABELS[0]}", LINKED_OUT),
        (f"low/{LABELS[1]}/round", "a link to a folder that it lies in"),
    }
    task = load_manifest(root, follow_links=True)
    assert len(task.records) == 32
    assert task.images.read(f"low/{LABELS[0]}/0.png").size == (32, 32)
    code, out, err = kmat("check-data", root, "--follow-links", "--shots", 4)
    assert code == 0, err
    assert "a link to a folder that it lies in: 1" in out
    code, _, err = kmat("tasks", "--follow-links")
    assert "--follow-links means nothing to --task chest-phantom" in one_line(err)


def test_absolute_paths_are_accepted_below_the_root(kmat, shapes_dir, tmp_path):
    with (shapes_dir / "manifest.csv").open(newline="") as file:
        header, *rows = csv.reader(file)
    absolute = [(str(shapes_dir / path), *rest) for path, *rest in rows]
    manifest = write_rows(tmp_path / "m.csv", absolute, header=header)
    for root in ("/", shapes_dir, shapes_dir.parent):
        task = load_manifest(manifest, root=Path(root))
        assert (len(task.records), task.skipped) == (len(rows), ())
        task.images.read(task.records[0].ref)
    code, _, err = kmat("tasks", "--task", manifest)
    assert code == 1
    assert "path leads out of the image folder" in one_line(err)


def test_a_download_behind_a_link(everything, tmp_path):
    from kmat.tasks import TaskConfig

    root = tmp_path / "root"
    root.mkdir()
    for folder in everything.iterdir():
        (root / folder.name).symlink_to(folder)
    with pytest.raises(UserError, match="no MRA-MIDAS in it"):
        TaskConfig(task="skin1", root=root).load()
    plain = TaskConfig(task="skin1", root=everything).load()
    linked = TaskConfig(task="skin1", root=root, follow_links=True).load()
    assert linked.records == plain.records
    assert linked.images.read(linked.records[0].ref).size == plain.images.read(plain.records[0].ref).size
