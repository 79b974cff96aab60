"""Sentences that describe each class as it looks in each modality, read from JSON."""

import json
from collections.abc import Sequence
from pathlib import Path

from kmat.errors import UserError
from kmat.prompts import MODALITIES
from kmat.tasks.base import Descriptions


def load_descriptions(path: Path, labels: Sequence[str]) -> Descriptions:
    """Read ``{"descriptions": {CLASS: {"high": [...], "low": [...]}}}``, keyed by the data's class names.

    Raises
    ------
    UserError
        If the file cannot be read, or a class or modality has no sentences.
    """
    try:
        table = json.loads(path.read_text(encoding="utf-8"))["descriptions"]
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise UserError(f"cannot read descriptions {path}: {error}") from error
    except (KeyError, TypeError) as error:
        raise UserError(f'{path}: expected {{"descriptions": {{CLASS: {{"high": [...], "low": [...]}}}}}}') from error

    def sentences(label: str, modality: str) -> tuple[str, ...]:
        found = table.get(label, {}).get(modality) if isinstance(table, dict) else None
        if not (isinstance(found, list) and found and all(isinstance(text, str) and text.strip() for text in found)):
            raise UserError(f"{path}: no sentences for class {label!r}, modality {modality!r}")
        return tuple(found)

    return {modality: tuple(sentences(label, modality) for label in labels) for modality in MODALITIES}
