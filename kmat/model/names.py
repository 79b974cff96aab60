"""What ``--backbone`` may say."""

import os
from pathlib import Path

from kmat.embedded import EMBEDDED

BIOMEDCLIP = "hf-hub:microsoft/BiomedCLIP-PubMedBERT_256-vit_base_patch16_224"
PRESETS = {"biomedclip": BIOMEDCLIP}
SHIPPED = tuple(bench.prefix for bench in EMBEDDED.values())
"""What precedes the names of the tiny models that come with kmat."""


def at_home(name: str) -> str:
    """Name a backbone so that it can be loaded from any folder."""
    prefix, _, path = name.partition(":")
    return f"{prefix}:{folder(path)}" if prefix == "local-dir" else name


def folder(path: str) -> Path:
    """Return the folder that ``local-dir:PATH`` means."""
    return Path(os.path.realpath(os.path.expanduser(path)))  # noqa: PTH111 (unlike Path's, they raise nothing)
