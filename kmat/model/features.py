"""Features of frozen encoders, computed once and kept on disk.

Prompts do not change image features, so even randomly cropped training images can be encoded ahead: all views of all
epochs, drawn from a generator keyed by (seed, epoch, image). Every method and every lambda with that seed shares them.

Images are encoded, and kept, in chunks that their contents decide: whoever stops loses one chunk, and one image more
changes one chunk. Each epoch of crops is a chunk of its own.
"""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import PIL
import torch
from torch import Tensor

from kmat.console import counted, note
from kmat.errors import UserError, WriteError
from kmat.model.backbone import Backbone
from kmat.model.crop import Crop
from kmat.model.encoding import Chunk, encode, parts
from kmat.storage.atomic import make_folder
from kmat.storage.tensors import load_tensors, save_tensors
from kmat.tasks.base import ImageSource, Skipped, UnreadableImageError

# Whatever may change the numbers without changing a setting.
_VERSIONS = {"kmat": 4, "torch": torch.__version__, "pillow": PIL.__version__}


class Views(NamedTuple):
    """Image features of a list of images.

    Attributes
    ----------
    features : Tensor, shape (E, N, D), float32
        Unit features, one view of each image per epoch; E = 1 without augmentation.
    kept : tuple of int
        Which of the images asked for the N are.
    skipped : tuple of Skipped
        The others, unreadable.
    """

    features: Tensor
    kept: tuple[int, ...]
    skipped: tuple[Skipped, ...]


class FeatureCache:
    """Features by content: the key covers all they depend on, so a stale one can never be used.

    Parameters
    ----------
    folder : Path, optional
        Where files go; ``$XDG_CACHE_HOME/kmat`` or ``~/.cache/kmat`` by default.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder or Path(os.environ.get("XDG_CACHE_HOME") or _home() / ".cache") / "kmat"
        if self.folder.exists() and not self.folder.is_dir():
            raise UserError(f"{self.folder} is a file; --cache names a folder")
        self._told = False  # that it cannot be written to

    def images(
        self,
        backbone: Backbone,
        source: ImageSource,
        refs: Sequence[str],
        crop: Crop | None = None,
        seed: int = 0,
        epochs: int = 1,
    ) -> Views:
        """Unit features of images: as they are, or ``epochs`` random crops of each.

        Without ``crop`` there is one view and neither ``seed`` nor ``epochs`` matters.
        """
        if crop is None:
            seed, epochs = 0, 1
        contents = [_content_hash(source, ref) for ref in refs]
        chunks = [Chunk(part, seed, epoch) for part in parts(contents) for epoch in range(epochs)]
        keys = {chunk: chunk.key(backbone, contents, crop) for chunk in chunks}
        found = {chunk: each for chunk, key in keys.items() if (each := self._load(key)) is not None}
        if missing := [chunk for chunk in keys if chunk not in found]:
            with counted(f"encoding images, {backbone.name}", sum(len(chunk.images) for chunk in missing)) as advance:
                for chunk, encoded in encode(backbone, source, refs, missing, crop, advance):
                    found[chunk] = encoded
                    self._save(keys[chunk], encoded)
        return _assembled(refs, source, found, epochs)

    def texts(self, backbone: Backbone, texts: Sequence[str]) -> Tensor:
        """Raw text features, shape (N, D), as :meth:`Backbone.encode_texts` gives them."""
        key = {"what": "texts", "backbone": backbone.fingerprint, "texts": list(texts)}
        found = self._load(key)
        if found is None:
            found = {"features": backbone.encode_texts(texts).cpu()}
            self._save(key, found)
        return found["features"].to(backbone.device)

    def _path(self, key: dict[str, Any]) -> tuple[Path, str]:
        text = json.dumps({**key, **_VERSIONS}, sort_keys=True)
        return self.folder / f"{hashlib.sha256(text.encode()).hexdigest()}.safetensors", text

    def _load(self, key: dict[str, Any]) -> dict[str, Tensor] | None:
        path, text = self._path(key)
        if not path.exists():
            return None
        try:
            tensors, metadata = load_tensors(path)
            if metadata.get("key") != text:
                raise UserError(f"{path} holds other features than its name says")
        except UserError as error:
            note(f"{error}: computed anew")
            return None
        return tensors

    def _save(self, key: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        path, text = self._path(key)
        # Without a lock: processes that want the same features at once each compute them, to the same end.
        try:
            make_folder(self.folder)
            save_tensors(path, tensors, {"key": text})
        except WriteError as error:  # no reason to stop: what was computed is used
            if not self._told:
                note(f"{error}; features are not kept, --cache names another folder")
            self._told = True


def _home() -> Path:
    try:
        return Path.home()
    except RuntimeError as error:
        raise UserError("there is no home folder to keep features in; choose a folder with --cache") from error


def _content_hash(source: ImageSource, ref: str) -> str:
    try:
        return hashlib.sha256(source.content(ref)).hexdigest()
    except UnreadableImageError:
        return "unreadable"


def _why_unreadable(source: ImageSource, ref: str) -> str:
    try:
        source.read(ref)
    except UnreadableImageError as error:
        return str(error)
    return "unreadable"


def _assembled(
    refs: Sequence[str], source: ImageSource, found: Mapping[Chunk, dict[str, Tensor]], epochs: int
) -> Views:
    """Put the features of all chunks where their images are in the list."""
    readable = {chunk: [chunk.images[position] for position in each["kept"].tolist()] for chunk, each in found.items()}
    kept = sorted({index for part in readable.values() for index in part})
    place = {index: position for position, index in enumerate(kept)}
    width = max((each["features"].shape[1] for each in found.values()), default=0)
    features = torch.zeros(epochs, len(kept), width)
    for chunk, each in found.items():
        if readable[chunk]:
            features[chunk.epoch, [place[index] for index in readable[chunk]]] = each["features"]
    lost = sorted(set(range(len(refs))) - set(kept))
    skipped = (Skipped(refs[index], _why_unreadable(source, refs[index])) for index in lost)
    return Views(features, tuple(kept), tuple(skipped))
