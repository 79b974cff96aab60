"""Frozen open_clip models: image features, text features of strings, text features of context vectors."""

import json
import math
import tempfile
import warnings
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from kmat.embedded import EMBEDDED
from kmat.errors import UserError
from kmat.model import names
from kmat.model.names import PRESETS, SHIPPED
from kmat.model.text_towers import TextTower, text_tower
from kmat.storage.schema import read_json
from kmat.storage.tensors import content_digest

BIOMEDBERT = "microsoft/BiomedNLP-BiomedBERT-base-uncased-abstract"
BIOMEDCLIP_CONTEXT = 256  # tokens, as in the model's open_clip_config.json

# Any one-piece word will do: its embedding is replaced by the learned vectors before it is used.
PLACEHOLDER = "x"


@dataclass(frozen=True)
class PromptFrame:
    """The fixed part of one prompt per class: ``[CLS] | context slots | class text | [SEP] | padding``.

    Attributes
    ----------
    ids : Tensor, shape (C, T), int64
        Token ids; slots ``1..n_ctx`` hold a placeholder, so that attention masks and pooling positions are right.
        T is the longest prompt, not the tokenizer's context length: padding on the right changes nothing.
    embeddings : Tensor, shape (C, T, D)
        Word embeddings of ``ids``, before positions are added.
    n_ctx : int
        Number of context slots.
    """

    ids: Tensor
    embeddings: Tensor
    n_ctx: int


class Backbone:
    """A frozen vision-language model in evaluation mode.

    It is deliberately no ``nn.Module``: a method that holds one can be put in train mode, saved or optimised without
    waking the encoders' dropout or dragging their weights along.

    Parameters
    ----------
    name : str
        What the user called it; only shown.
    model : nn.Module
        An open_clip ``CLIP`` or ``CustomTextCLIP``.
    preprocess : callable
        open_clip's evaluation transform, PIL image to (3, H, W) tensor.
    tokenizer : callable
        open_clip's tokenizer, list of strings to (N, context_length) ids.
    device : str or torch.device
        Where the model runs.
    """

    def __init__(
        self,
        name: str,
        model: nn.Module,
        preprocess: Callable[[Image.Image], Tensor],
        tokenizer: Any,
        device: str | torch.device = "cpu",
    ) -> None:
        self.name = name
        self.model: Any = model.eval().requires_grad_(False).to(device)
        self.preprocess = preprocess
        self.device = torch.device(device)
        self._tokenizer = tokenizer
        self._text: TextTower = text_tower(self.model, tokenizer)

    @property
    def token_dim(self) -> int:
        """Width of a word embedding, hence of a context vector."""
        return self._text.width

    @property
    def logit_scale(self) -> float:
        """1/tau, the model's own frozen temperature."""
        return math.exp(float(self.model.logit_scale))

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width the image tower expects."""
        size = self.model.visual.image_size
        return (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))

    @property
    def preprocess_config(self) -> dict[str, Any]:
        """open_clip's description of the evaluation transform."""
        return dict(self.model.visual.preprocess_cfg)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of every weight, the preprocessing and the context length: what a cached feature depends on."""
        digest = content_digest(self.model.state_dict())
        settings = {**self.preprocess_config, "context_length": self._tokenizer.context_length}
        digest.update(json.dumps(settings, sort_keys=True, default=str).encode())
        return digest.hexdigest()

    @property
    def image_precision(self) -> str:
        """What the image tower computes in: on CUDA products in float16 where torch's autocast sees fit."""
        return "autocast" if self.device.type == "cuda" else "float32"

    @torch.no_grad()
    def encode_images(self, pixels: Tensor) -> Tensor:
        """Unit image features.

        Parameters
        ----------
        pixels : Tensor, shape (N, 3, H, W)
            Preprocessed images.

        Returns
        -------
        Tensor, shape (N, D), float32, on the CPU
        """
        if self.device.type == "cuda":
            pixels = pixels.pin_memory().to(self.device, non_blocking=True)
        with torch.autocast(self.device.type, torch.float16, enabled=self.image_precision == "autocast"):
            features: Tensor = self.model.encode_image(pixels, normalize=False)
        return F.normalize(features.float(), dim=-1).cpu()

    @torch.no_grad()
    def encode_texts(self, texts: Sequence[str], batch_size: int = 64) -> Tensor:
        """Raw (not normalised) text features of strings, equal to open_clip's ``encode_text``.

        Texts are sorted by length and each batch is padded to its own longest member only.

        Returns
        -------
        Tensor, shape (N, D), float32, on the device
        """
        ids = self._tokenize(texts)
        lengths = self._text.lengths(ids)
        features: list[Tensor] = []
        order = lengths.argsort(stable=True)
        for chunk in order.split(batch_size):
            batch = ids[chunk, : int(lengths[chunk].max())].to(self.device)
            features.append(self._text.encode(self._text.embed(batch), batch))
        return torch.cat(features)[order.argsort()].float()

    def frame(self, texts: Sequence[str], n_ctx: int) -> PromptFrame:
        """Prepare prompts of ``n_ctx`` free context vectors followed by ``texts``, one prompt per text.

        Raises
        ------
        UserError
            If a prompt does not fit into the tokenizer's context length.
        """
        ids = self._tokenize([" ".join([PLACEHOLDER] * n_ctx + [text]) for text in texts], truncate=False)
        slots = ids[:, 1 : 1 + n_ctx]
        if n_ctx and (slots != slots[0, 0]).any():
            raise UserError(f"the tokenizer of {self.name} splits the placeholder word {PLACEHOLDER!r} into pieces")
        ids = ids[:, : int(self._text.lengths(ids).max())].to(self.device)
        return PromptFrame(ids, self._text.embed(ids), n_ctx)

    def encode_context(self, context: Tensor, frame: PromptFrame) -> Tensor:
        """Raw text features of prompts whose context slots hold ``context``; differentiable in ``context``.

        Parameters
        ----------
        context : Tensor, shape (C, n_ctx, token_dim)
        frame : PromptFrame
            From :meth:`frame`.

        Returns
        -------
        Tensor, shape (C, D)
        """
        fixed = frame.embeddings
        embeddings = torch.cat([fixed[:, :1], context.to(fixed.dtype), fixed[:, 1 + frame.n_ctx :]], dim=1)
        return self._text.encode(embeddings, frame.ids)

    def word_vectors(self, text: str) -> Tensor:
        """Word embeddings of the pieces of ``text``, without special tokens: shape (pieces, token_dim)."""
        ids = self._tokenize([text], truncate=False)
        pieces = ids[:, 1 : int(self._text.lengths(ids)) - 1].to(self.device)
        return self._text.embed(pieces)[0]

    def _tokenize(self, texts: Sequence[str], truncate: bool = True) -> Tensor:
        ids: Tensor = self._tokenizer(list(texts))
        limit = self._tokenizer.context_length
        # One extra slot tells a text that just fits from one that the tokenizer cut.
        cut = self._text.lengths(self._tokenizer(list(texts), context_length=limit + 1)) > limit
        if cut.any():
            first = texts[int(cut.nonzero()[0])]
            message = f"{int(cut.sum())} of {len(texts)} texts are longer than {limit} tokens, the first: {first!r}"
            if not truncate:
                raise UserError(message)
            warnings.warn(f"{message}; they are cut", stacklevel=3)
        return ids


def find_device(name: str) -> torch.device:
    """Return the device of that name; ``auto`` is CUDA if there is any.

    Raises
    ------
    UserError
        If there is no such device.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.zeros(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"--device {name!r}: {str(error).splitlines()[0]}") from error


def load_backbone(name: str, device: str | torch.device = "cpu") -> Backbone:
    """Load a pretrained model by name.

    Parameters
    ----------
    name : str
        ``biomedclip``; ``phantom:NAME``, ``breast-phantom:NAME``, ``skin-phantom:NAME`` or ``digits:NAME`` for a tiny
        model shipped with kmat; ``local-dir:DIR`` for a folder in open_clip's layout; ``hf-hub:OWNER/REPO``; or
        ``ARCHITECTURE:TAG`` for any other open_clip model, TAG being a pretrained tag or a checkpoint file
        (``ViT-B-32:openai``).
    device : str or torch.device
        Where the model runs.

    Raises
    ------
    UserError
        If the model is unknown, incomplete or out of reach.
    """
    model_name, tag, overrides = PRESETS.get(name, name), None, {}
    with ExitStack() as stack:
        prefix, _, shipped = model_name.partition(":")
        if prefix in SHIPPED:
            model_name = f"local-dir:{_shipped_dir(prefix, shipped)}"
        if model_name.startswith("local-dir:"):
            folder = names.folder(model_name.removeprefix("local-dir:"))
            model_name = f"local-dir:{folder}"
            overrides = text_overrides(folder, stack)
        elif not model_name.startswith("hf-hub:"):
            model_name, _, tag = model_name.partition(":")
            if not tag:
                own = ", ".join(f"{prefix}:NAME" for prefix in SHIPPED)
                raise UserError(
                    f"backbone {name!r}: expected biomedclip, {own}, local-dir:DIR, hf-hub:OWNER/REPO "
                    "or ARCHITECTURE:TAG"
                )
        try:
            import open_clip  # here: it takes seconds, and not every command has a backbone

            model, preprocess = open_clip.create_model_from_pretrained(model_name, tag, **overrides)
            tokenizer = open_clip.get_tokenizer(model_name)
        except Exception as error:  # open_clip, transformers, safetensors and the hub each have their own
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            hint = ""
            if model_name.startswith("hf-hub:"):
                hint = (
                    f"; where there is no network, copy the folder that `kmat fetch {name} --out DIR` makes on a "
                    "machine that has it, and pass --backbone local-dir:DIR"
                )
            raise UserError(f"cannot load backbone {name!r}: {reason}{hint}") from error
    return Backbone(name, model, preprocess, tokenizer, device)


def offline_tokenizer(name: str) -> Any:
    """Return the tokenizer of a backbone, without its weights and without asking the network.

    Parameters
    ----------
    name : str
        ``biomedclip``, a tiny model shipped with kmat, or ``local-dir:DIR``.

    Returns
    -------
    open_clip.tokenizer.HFTokenizer or None
        None if BiomedCLIP's is not in the local cache.

    Raises
    ------
    UserError
        If the name is another one or its folder holds no tokenizer.
    """
    from open_clip.tokenizer import HFTokenizer

    if name == "biomedclip":
        try:
            return HFTokenizer(BIOMEDBERT, context_length=BIOMEDCLIP_CONTEXT, local_files_only=True)
        except OSError:
            return None
    prefix, _, rest = name.partition(":")
    if prefix not in (*SHIPPED, "local-dir"):
        own = ", ".join(f"{prefix}:NAME" for prefix in SHIPPED)
        raise UserError(f"tokenizer of {name!r}: expected biomedclip, {own} or local-dir:DIR")
    folder = _shipped_dir(prefix, rest) if prefix in SHIPPED else names.folder(rest)
    try:
        from open_clip import get_tokenizer

        return get_tokenizer(f"local-dir:{folder}")
    except Exception as error:  # open_clip and transformers each have their own
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(f"cannot load the tokenizer of {name!r}: {reason}") from error


def _shipped_dir(prefix: str, name: str) -> Path:
    """Return the checked folder of a tiny model that kmat brings along."""
    frozen = next(bench.frozen for bench in EMBEDDED.values() if bench.prefix == prefix)
    try:
        return frozen.backbone_dir(name)
    except (OSError, ValueError) as error:
        raise UserError(f"backbone '{prefix}:{name}': {error}") from error


def text_overrides(folder: Path, stack: ExitStack) -> dict[str, Any]:
    """Point a BERT text tower at its folder.

    open_clip's ``local-dir:`` reads weights and tokenizer from the folder but still asks for the BERT configuration
    under the name in ``hf_model_name``, which is a hub id in every published model. A BiomedCLIP snapshot has no BERT
    ``config.json`` at all; BiomedBERT's equals ``BertConfig()``, so it is written to a temporary folder.
    """
    config_file = folder / "open_clip_config.json"
    try:
        text_cfg = read_json(config_file)["model_cfg"]["text_cfg"]
    except (UserError, KeyError, TypeError) as error:
        raise UserError(f"{folder} is no open_clip model folder: cannot read {config_file.name} ({error})") from error
    if not isinstance(text_cfg, dict):
        raise UserError(f"{config_file}: expected an object under model_cfg, text_cfg")
    if "hf_model_name" not in text_cfg:
        return {}
    source = folder
    if not (folder / "config.json").is_file():
        if text_cfg["hf_model_name"] != BIOMEDBERT:
            raise UserError(f"{folder} lacks config.json, the configuration of {text_cfg['hf_model_name']}: add it")
        from transformers import BertConfig

        source = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        BertConfig().save_pretrained(source)
    return {"text_cfg": {**text_cfg, "hf_model_name": str(source), "hf_model_pretrained": False}}
