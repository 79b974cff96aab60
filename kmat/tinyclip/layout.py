"""A tiny CustomTextCLIP in BiomedCLIP's on-disk layout: timm image tower, BERT text tower."""

from __future__ import annotations

import json
import string
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save_file

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
WEIGHTS = "open_clip_model.safetensors"
_CONTEXT = 64
_MEAN, _STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
_TEXT = {
    "hf_model_name": "local",  # a placeholder: open_clip does not rewrite it, so loaders put the folder here
    "hf_tokenizer_name": "local",
    "hf_model_pretrained": False,
    "hf_proj_type": "mlp",
    "hf_pooler_type": "cls_last_hidden_state_pooler",
    "context_length": _CONTEXT,
}
_VISION = {
    "timm_model_name": "test_byobnet",
    "timm_model_pretrained": False,
    "timm_pool": "avg",
    "timm_proj": "linear",
}
_PREPROCESS = {"mean": _MEAN, "std": _STD}
_BERT = {
    "architectures": ["BertModel"],
    "model_type": "bert",
    "hidden_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 256,
    "max_position_embeddings": _CONTEXT,
    "type_vocab_size": 2,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.1,
    "attention_probs_dropout_prob": 0.1,
    "layer_norm_eps": 1e-12,
    "initializer_range": 0.02,
    "pad_token_id": 0,
}


def vocabulary(phrases: Iterable[str]) -> list[str]:
    """Return a WordPiece vocabulary: specials, characters (so no word is unknown), then every word of ``phrases``.

    Examples
    --------
    >>> vocabulary(["a round hole"])[:5], vocabulary(["a round hole"])[-2:]
    (['[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]'], ['hole', 'round'])
    """
    letters = string.ascii_lowercase + string.digits
    pieces = [*letters, *(f"##{c}" for c in letters), ".", ",", ":", "-"]
    words = {word for phrase in phrases for word in phrase.split()}
    return [*SPECIAL, *pieces, *sorted(words - set(pieces))]


def create(folder: Path, words: Sequence[str], image_size: int) -> None:
    """Write every file but the weights into ``folder``; ``words`` is the vocabulary."""
    folder.mkdir(parents=True, exist_ok=True)
    model = {"embed_dim": 128, "vision_cfg": {**_VISION, "image_size": image_size}, "text_cfg": _TEXT}
    files: dict[str, dict[str, Any]] = {
        "open_clip_config.json": {"model_cfg": model, "preprocess_cfg": _PREPROCESS},
        "config.json": {**_BERT, "vocab_size": len(words)},
        "tokenizer_config.json": {"tokenizer_class": "BertTokenizer", "do_lower_case": True},
    }
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    (folder / "vocab.txt").write_text("\n".join(words) + "\n", encoding="utf-8")


def save(model: torch.nn.Module, folder: Path) -> None:
    """Write the weights of ``model`` in half precision."""
    save_file(
        {name: w.half().contiguous() if w.is_floating_point() else w for name, w in model.state_dict().items()},
        folder / WEIGHTS,
    )


def load(folder: Path, *, weights: bool = True) -> tuple[Any, Any]:
    """Load a folder through open_clip's ``local-dir:``.

    Parameters
    ----------
    folder : Path
        Written by `create`, with weights by `save`.
    weights : bool
        False initialises at random, from torch's global generator.

    Returns
    -------
    model : open_clip.CustomTextCLIP
        On the CPU, float32, in eval mode.
    tokenizer : callable
        Strings to (n, 64) token ids.
    """
    import open_clip

    text = {**_TEXT, "hf_model_name": str(folder)}
    name = f"local-dir:{folder}"
    model = open_clip.create_model(name, load_weights=weights, pretrained_text=False, text_cfg=text)
    return model.eval(), open_clip.get_tokenizer(name)


def pixels(images: NDArray[np.uint8]) -> torch.Tensor:
    """Return (n, s, s) uint8 grey images as open_clip's preprocessing does: (n, 3, s, s) float32, normalised."""
    grey = torch.from_numpy(images).float().div_(255)[:, None]
    normalised = (grey - torch.tensor(_MEAN).view(1, 3, 1, 1)) / torch.tensor(_STD).view(1, 3, 1, 1)
    return normalised.contiguous(memory_format=torch.channels_last)
