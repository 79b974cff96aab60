"""Tensors in files that carry a digest of their content, so that a damaged file is never used."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TypedDict

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from kmat.errors import UserError
from kmat.storage import atomic
from kmat.storage.schema import misfit

_ENTRY = "kmat"  # one, as the order of several would differ from file to file


class _Entry(TypedDict):
    metadata: dict[str, str]
    sha256: str


def content_digest(tensors: Mapping[str, Tensor]) -> "hashlib._Hash":
    """SHA-256 over names, shapes, types and values; more can be added to it."""
    digest = hashlib.sha256()
    for key, value in sorted(tensors.items()):
        digest.update(f"{key} {tuple(value.shape)} {value.dtype}".encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest


def save_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write tensors, and strings that belong to them, as safetensors.

    Raises
    ------
    WriteError
        As :func:`kmat.storage.atomic.write`.
    """
    whole = {name: value.contiguous() for name, value in tensors.items()}
    known = dict(metadata or {})
    entry = json.dumps({"metadata": known, "sha256": _sign(whole, known)}, sort_keys=True)
    atomic.write(path, save(whole, metadata={_ENTRY: entry}))


def load_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read what :func:`save_tensors` wrote.

    Raises
    ------
    UserError
        If the file cannot be read, or is not as it was written.
    """
    try:
        with safe_open(path, framework="pt") as file:
            entry = json.loads((file.metadata() or {})[_ENTRY])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error
    except KeyError as error:
        raise UserError(f"cannot read {path}: damaged, or of another version of kmat (it has no digest)") from error
    except (SafetensorError, RuntimeError, ValueError) as error:
        raise UserError(f"cannot read {path}: damaged ({error})") from error
    if misfit(entry, _Entry) or entry["sha256"] != _sign(tensors, entry["metadata"]):
        raise UserError(f"cannot read {path}: damaged (its content does not fit its digest)")
    return tensors, entry["metadata"]


def _sign(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    digest = content_digest(tensors)
    digest.update(json.dumps(dict(metadata), sort_keys=True).encode())
    return digest.hexdigest()
