"""Random damage to whatever the commands read: each ends well or in one line, and leaves what it was given as it was.

A case is its seed: ``damage_something`` and the choice of the command depend on nothing else.
"""

import json
import os
import random
import shutil
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import LABELS, write_descriptions, write_shapes
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file

from kmat.cli import main
from kmat.model.backbone import load_backbone
from kmat.runs import run as runs

CASES, PARTS = 100, 8
EVIL = [
    "[/b]",
    "",
    " ",
    "$a$b_{$",
    os.fsdecode(b"\xfc\xff"),
    "x" * 300,
    "../x",
    "/etc/passwd",
    "a\nb",
    "a,b",
    '"',
    "-1",
]
CHUNKS = [
    b"\xff",
    b"\x00",
    b'"',
    b"\n",
    b"[" * 5000,
    b"[/b]",
    b"x" * 140_000,
    b"NaN",
    b",,,,,,,,",
    b"\xef\xbb\xbf",
    b"1e999",
]
VALUES = [None, True, -1, 0, 1e308, float("nan"), 10**400, "", "x", "[/b]", "\ud800", "x" * 300, [], {}, [[]], {"a": 1}]


@pytest.fixture(scope="module")
def world(tmp_path_factory, tiny_dir):
    """A task as CSV and as folders, descriptions, runs finished and not, a grid, and the cache of all of them."""
    world = tmp_path_factory.mktemp("world")
    write_shapes(world / "data", (("train", 2), ("val", 1), ("test", 1)))
    for modality in ("high", "low"):
        for label in LABELS:
            (world / "tree" / modality / label).mkdir(parents=True)
            for file in (world / "data" / modality).glob(f"{label}*"):
                shutil.copy(file, world / "tree" / modality / label)
    write_descriptions(world / "descriptions.json")
    before = Path.cwd()
    os.chdir(world)
    try:
        assert call("train", "kmat", *options(tiny_dir), "--out", "run") == 0
        assert call("train", "cocoop", *options(tiny_dir), "--init-words", "a photo of the", "--out", "cocoop") == 0
        assert call("bench", *options(tiny_dir), "--methods", "zero-shot", "coop", *GRID, "--out", "grid") == 0
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(runs, "evaluate", interrupt)
            assert call("train", "coop", *options(tiny_dir), "--out", "cut") == 130
    finally:
        os.chdir(before)
    return world


def interrupt(*_):
    raise KeyboardInterrupt


def call(*arguments):
    return main([str(argument) for argument in arguments])


def options(tiny_dir, task="data/manifest.csv"):
    backbone = ("--backbone", f"local-dir:{tiny_dir}", "--cache", "cache", "--epochs", 1)
    return ("--task", task, "--descriptions", "descriptions.json", *backbone)


GRID = ("--seeds", 1, "--workers", 1)


def commands(tiny_dir):
    """What reads each kind of input."""
    ours, tree = options(tiny_dir), options(tiny_dir, "tree")
    check = ("check-data", "data/manifest.csv", "--write", "out/split.csv", "--findings", "out/findings.csv")
    report = ("report", "run", "grid", "cocoop", "--out", "out/report")
    evaluate = ("evaluate", "run", "--cache", "cache")
    train = ("train", "coop", *ours, "--out", "out/run")
    predict = ("predict", "run", "data/low", "--out", "out/p.csv", "--cache", "cache")
    return {
        "data/manifest.csv": (check, train, ("tasks", *ours[:4]), evaluate),
        "data/*/*.png": (check, train, predict),
        "tree/*/*/*": (("check-data", "tree", "--write", "out/split.csv"), ("train", "zero-shot", *tree)),
        "descriptions.json": (
            ("descriptions", "descriptions.json"),
            ("descriptions", "descriptions.json", "--check", "--tokenizer", f"local-dir:{tiny_dir}"),
            ("train", "kmat", *ours, "--out", "out/run"),
        ),
        "cache/*": (train, evaluate, predict),
        "run/*": (evaluate, predict, report, ("train", "kmat", *ours, "--out", "run", "--resume")),
        "cocoop/*": (("predict", "cocoop", "data/low", "--cache", "cache"), report),
        "cut/*": (("train", "coop", *ours, "--out", "cut", "--resume"), ("evaluate", "cut")),
        "grid/results.json": (report,),
        "grid/runs/*/*/*/*": (report, ("bench", *ours, "--methods", "zero-shot", "coop", *GRID, "--out", "grid")),
    }


def damage_something(rng, pattern):
    """Damage one or two of the files that match."""
    files = sorted(Path().glob(pattern))
    special = {".json": mutate_json, ".safetensors": mutate_tensors, ".csv": add_rows, ".png": odd_image}
    for file in rng.sample(files, k=min(len(files), rng.choice((1, 1, 2)))):
        if file.suffix in special and rng.random() < 0.6:
            special[file.suffix](rng, file)
        else:
            rng.choice((flip, cut, insert, noise, vanish, replace, rename, rename))(rng, file)


def flip(rng, file):
    content = bytearray(file.read_bytes())
    for _ in range(rng.randint(1, 4)):
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    file.write_bytes(content)


def cut(rng, file):
    content = file.read_bytes()
    file.write_bytes(content[: rng.randrange(len(content))])


def insert(rng, file):
    content, place = file.read_bytes(), rng.randrange(file.stat().st_size)
    file.write_bytes(content[:place] + rng.choice(CHUNKS) + content[place:])


def noise(rng, file):
    file.write_bytes(rng.choice((b"", rng.randbytes(300), b"[" * 100_000, b"{}", b"[]", b"null", b"5", b'"x"')))


def vanish(_, file):
    file.unlink()


def replace(rng, file):
    file.unlink()
    rng.choice(
        (file.mkdir, lambda: file.symlink_to(file.name), lambda: file.symlink_to("/nowhere"), lambda: os.mkfifo(file))
    )()
    if file.is_fifo() and file.suffix != ".png":  # reading it would wait for a writer, as it should
        file.unlink()


def rename(rng, file):
    name = rng.choice(EVIL).replace("/", "").strip("\n")[:200] or "x"
    file.rename(file.with_name(name + file.suffix))


def mutate_json(rng, file):
    """Change or drop a value somewhere in it."""
    whole = parent = json.loads(file.read_text())
    while True:
        key = rng.choice(list(parent) if isinstance(parent, dict) else range(len(parent)))
        if not (isinstance(parent[key], dict | list) and parent[key] and rng.random() < 0.6):
            break
        parent = parent[key]
    if rng.random() < 0.3:
        del parent[key]
    else:
        parent[key] = rng.choice(VALUES)
    file.write_text(json.dumps(whole))


def mutate_tensors(rng, file):
    """Change a tensor, or the metadata, of a file that is otherwise sound."""
    with safe_open(file, framework="pt") as content:
        metadata, tensors = content.metadata(), {name: content.get_tensor(name) for name in content.keys()}  # noqa: SIM118
    name = rng.choice(sorted(tensors))
    change = rng.choice(("drop", "nan", "shape", "type", "metadata"))
    if change == "metadata":
        metadata = {}
    elif change == "drop":
        del tensors[name]
    elif change == "nan":
        tensors[name] = torch.full(tensors[name].shape, torch.nan)
    elif change == "shape":
        tensors[name] = tensors[name].flatten()[:1]
    else:
        tensors[name] = tensors[name].to(torch.int32)
    save_file(tensors, file, metadata=metadata)


def add_rows(rng, file):
    """Rows with something odd in each cell in turn."""
    with file.open("a", encoding="utf-8", errors="surrogateescape") as rows:
        for odd in rng.sample(EVIL, k=3):
            for place in range(5):
                cells = [f"high/{LABELS[0]}-train-0.png", LABELS[0], "high", "train", "p"]
                cells[place] = odd
                rows.write(",".join(cells) + "\n")


def odd_image(rng, file):
    """An image of another kind under the same name."""
    values = np.full((8, 8), rng.choice((np.nan, np.inf, 1.0)), np.float32)
    values[0, 0] = 0
    modes = (("P", (1, 1)), ("1", (20_000, 9_000)), ("RGBA", (900, 1)))
    odd = rng.choice((Image.fromarray(values), *(Image.new(*mode) for mode in modes)))
    if odd.mode == "F":
        odd.save(file, format="TIFF")
    else:
        odd.save(file, exif=rng.choice((b"", b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03", b"x")))


def snapshot(folder):
    """All below a folder, with its content."""
    return {
        str(file): file.readlink() if file.is_symlink() else file.read_bytes() if file.is_file() else None
        for file in sorted(folder.rglob("*"))
    }


@pytest.mark.parametrize("part", [0, 1, *(pytest.param(k, marks=pytest.mark.exhaustive) for k in range(2, PARTS))])
def test_damaged_input_is_an_answer_or_one_line(world, tiny_dir, tmp_path, monkeypatch, capsys, part):
    monkeypatch.setenv("COLUMNS", "200")
    cached = lru_cache(load_backbone)
    for module in ("model.backbone", "runs.run", "grids.pool"):
        monkeypatch.setattr(f"kmat.{module}.load_backbone", cached)
    for seed in range(part, CASES, PARTS):
        rng = random.Random(seed)  # noqa: S311
        case = shutil.copytree(world, tmp_path / f"case{seed}")
        (case / "out").mkdir()
        monkeypatch.chdir(case)
        pattern, reading = rng.choice(sorted(commands(tiny_dir).items()))
        damage_something(rng, pattern)
        command = [str(argument) for argument in rng.choice(reading)]
        given = snapshot(Path("data")) | snapshot(Path("tree")) | snapshot(Path("cocoop"))
        text = Path("descriptions.json").is_file() and Path("descriptions.json").read_bytes()
        ours = {} if "--resume" in command else snapshot(Path("run")) | snapshot(Path("cut"))
        told = f"seed {seed}: {pattern} damaged, then kmat {' '.join(command)}"
        try:
            code = main(command)
        except (Exception, SystemExit) as error:
            raise AssertionError(told) from error
        err = capsys.readouterr().err
        last = err.splitlines()[-1:]
        assert code in (0, 1), told
        assert [line.startswith("error: ") for line in err.splitlines()].count(True) == code, f"{told}\n{err}"
        assert code == 0 or last[0].startswith("error: "), f"{told}\n{err}"
        assert "Traceback" not in err, told
        assert snapshot(Path("data")) | snapshot(Path("tree")) | snapshot(Path("cocoop")) == given, told
        assert text is False or Path("descriptions.json").read_bytes() == text, told
        assert not ours or snapshot(Path("run")) | snapshot(Path("cut")) == ours, told
        assert not list(Path().rglob("*.partial")), told
        shutil.rmtree(case)
