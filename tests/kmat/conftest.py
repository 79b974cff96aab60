"""A tiny random-weight backbone in BiomedCLIP's layout, and small tasks made of shapes."""

import csv
import json
import string

import downloads
import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from kmat.cli import main
from kmat.model.backbone import Backbone, load_backbone
from kmat.model.features import FeatureCache
from kmat.tasks import TaskConfig

WORDS = [
    *("a", "photo", "of", "the", "an", "with", "round", "square", "dark", "bright", "shape", "edge", ".", ","),
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"),
]


def write_backbone(folder, seed=0, hub_name="nowhere/at-all", dropout=0.1):
    """Write a CustomTextCLIP with a timm image tower and a BERT text tower, as BiomedCLIP's snapshot is laid out."""
    from transformers import BertConfig

    folder.mkdir(parents=True, exist_ok=True)
    pieces = list(string.ascii_lowercase + string.digits)
    vocab = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *pieces, *(f"##{p}" for p in pieces), *WORDS]
    vocab = list(dict.fromkeys(vocab))
    (folder / "vocab.txt").write_text("\n".join(vocab), encoding="utf-8")
    tokenizer = {"tokenizer_class": "BertTokenizer", "do_lower_case": True}
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer), encoding="utf-8")
    BertConfig(
        vocab_size=len(vocab),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=64,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
    ).save_pretrained(folder)
    text_cfg = {
        "hf_model_name": hub_name,
        "hf_tokenizer_name": hub_name,
        "hf_proj_type": "mlp",
        "hf_pooler_type": "cls_last_hidden_state_pooler",
        "context_length": 48,
    }
    vision_cfg = {
        "timm_model_name": "test_byobnet",
        "timm_model_pretrained": False,
        "timm_pool": "avg",
        "timm_proj": "linear",
        "image_size": 32,
    }
    config = {
        "model_cfg": {"embed_dim": 16, "vision_cfg": vision_cfg, "text_cfg": text_cfg},
        "preprocess_cfg": {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]},
    }
    (folder / "open_clip_config.json").write_text(json.dumps(config), encoding="utf-8")
    torch.manual_seed(seed)
    model = open_clip.create_model(
        f"local-dir:{folder}",
        load_weights=False,
        pretrained_text=False,
        text_cfg={**text_cfg, "hf_model_name": str(folder), "hf_model_pretrained": False},
    )
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    return folder


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tiny_dir(tmp_path_factory):
    return write_backbone(tmp_path_factory.mktemp("backbone") / "tiny")


@pytest.fixture(scope="session")
def tiny(tiny_dir) -> Backbone:
    return load_backbone(f"local-dir:{tiny_dir}")


@pytest.fixture
def cache(tmp_path) -> FeatureCache:
    return FeatureCache(tmp_path / "cache")


def shape(label, rng):
    """A bright disc (0) or a dark square (1) on noise, 32 x 32."""
    image = rng.integers(90, 160, (32, 32)).astype(np.uint8)
    y, x = np.mgrid[:32, :32] - 16
    if label == 0:
        image[x**2 + y**2 < 80] = 250
    else:
        image[np.maximum(abs(x), abs(y)) < 9] = 5
    return Image.fromarray(image)


LABELS = ("round_bright", "square_dark")


def write_shapes(root, counts=(("train", 6), ("val", 3), ("test", 5)), modalities=("high", "low")):
    """PNG files and their manifest; returns the manifest."""
    rng = np.random.default_rng(0)
    rows = []
    for modality in modalities:
        for split, count in counts:
            for label, name in enumerate(LABELS):
                for index in range(count):
                    path = root / modality / f"{name}-{split}-{index}.png"
                    path.parent.mkdir(parents=True, exist_ok=True)
                    shape(label, rng).save(path)
                    rows.append((path.relative_to(root).as_posix(), name, modality, split, f"{name}{split}{index}"))
    return write_rows(root / "manifest.csv", rows)


def write_rows(path, rows, header=("path", "label", "modality", "split", "patient")):
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(rows)
    return path


def write_descriptions(path, labels=LABELS):
    sentences = {
        label: {
            modality: [f"a {label.replace('_', ' ')} shape {word} edge." for word in ("with an", "of the", "with the")]
            for modality in ("high", "low")
        }
        for label in labels
    }
    path.write_text(json.dumps({"task": "shapes", "descriptions": sentences}), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def shapes_dir(tmp_path_factory):
    root = tmp_path_factory.mktemp("shapes")
    write_shapes(root)
    write_descriptions(root / "descriptions.json")
    return root


@pytest.fixture(scope="session")
def shapes_config(shapes_dir) -> TaskConfig:
    return TaskConfig(task=str(shapes_dir / "manifest.csv"), descriptions=shapes_dir / "descriptions.json")


@pytest.fixture(scope="session")
def shapes(shapes_config):
    return shapes_config.load()


@pytest.fixture(scope="session")
def everything(tmp_path_factory):
    """A folder with all six of the paper's datasets, as fixtures."""
    return downloads.everything(tmp_path_factory.mktemp("downloads"))


@pytest.fixture
def kmat(tmp_path, monkeypatch, capsys):
    """Run a command in an empty folder: (exit code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "200")

    def run(*arguments):
        try:
            code = main([str(argument) for argument in arguments])
        except SystemExit as stop:  # usage errors and --help
            code = stop.code or 0
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


@pytest.fixture
def options(shapes_dir, tiny_dir):
    manifest, descriptions = shapes_dir / "manifest.csv", shapes_dir / "descriptions.json"
    return (
        *("--task", manifest, "--descriptions", descriptions, "--backbone", f"local-dir:{tiny_dir}"),
        *("--shots", 4, "--epochs", 2),
    )


@pytest.fixture(scope="session")
def trained(tmp_path_factory, shapes_dir, tiny_dir):
    folder = tmp_path_factory.mktemp("trained")
    arguments = ["train", "--task", shapes_dir / "manifest.csv", "--descriptions", shapes_dir / "descriptions.json"]
    arguments += ["--backbone", f"local-dir:{tiny_dir}", "--shots", 4, "--epochs", 2]
    arguments += ["--out", folder / "run", "--cache", folder / "cache"]
    assert main([str(argument) for argument in arguments]) == 0
    return folder / "run"


def one_line(err):
    lines = [line for line in err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, err
    assert "Traceback" not in err
    return lines[0]
