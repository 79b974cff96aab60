"""The command that downloads."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from tyro.conf import Positional

from kmat.commands.base import Command
from kmat.console import out
from kmat.errors import UserError
from kmat.model.fetch import fetch
from kmat.model.names import PRESETS


@dataclass(frozen=True)
class Fetch(Command):
    """Download a backbone into a folder, for machines with and without network; BiomedCLIP has about 800 MB.

    A download that was cut off goes on with the same command. Every file is checked by the digest that the hub tells.
    """

    example: ClassVar[str] = "kmat fetch biomedclip --out models/biomedclip"

    model: Positional[str] = "biomedclip"
    """biomedclip, or hf-hub:OWNER/REPO."""
    out: Path | None = None
    """Folder; models/NAME by default."""
    revision: str = "main"
    """Branch, tag or commit."""
    endpoint: str = os.environ.get("HF_ENDPOINT") or "https://huggingface.co"
    """The hub, or a mirror that speaks its protocol; $HF_ENDPOINT if it is set."""

    def __call__(self) -> None:
        """Run it."""
        prefix, _, repo = PRESETS.get(self.model, self.model).partition(":")
        if prefix != "hf-hub" or repo.count("/") != 1:
            raise UserError(f"{self.model!r}: expected biomedclip or hf-hub:OWNER/REPO")
        folder = self.out or Path("models", self.model if self.model in PRESETS else repo.rpartition("/")[2])
        files = fetch(repo, folder, endpoint=self.endpoint, revision=self.revision)
        size = sum(file.size for file in files) / 1e6
        out.print(f"{repo}, commit {files[0].commit or 'unknown'}: {len(files)} files, {size:.1f} MB, all checked")
        out.print(f"--backbone local-dir:{folder}", highlight=False)
