"""The paper's four tasks: a pair of downloaded datasets under the class list of a table in ``tables/``."""

import tomllib
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kmat.console import is_text
from kmat.errors import UserError
from kmat.modalities import MODALITIES
from kmat.storage.schema import read_json
from kmat.tasks.base import Descriptions, Record, Skipped, Task
from kmat.tasks.datasets import DATASETS
from kmat.tasks.datasets.base import Download, Row, upper_levels
from kmat.tasks.descriptions import load_descriptions
from kmat.tasks.images import FolderImages
from kmat.tasks.splits import assign_splits

PAPER_TASKS = ("skin1", "skin2", "chest", "breast")
SLICES = 4  # per CT scan: with some 3,900 scans, the size of Table 1's 15,886

_TABLES = Path(__file__).parent / "tables"
_DESCRIPTIONS = Path(__file__).parents[1] / "descriptions"


@dataclass(frozen=True)
class Part:
    """One modality of a task: its dataset, its name, the images per split of Table 1, and the part of the dataset."""

    dataset: str
    name: str
    table1: tuple[int, int, int]
    part: str = ""


@dataclass(frozen=True)
class PaperTask:
    """The table of a task.

    Attributes
    ----------
    classes : tuple of str
    labels : mapping
        A dataset's label, in lower case, to a class, or to "" for what is left out.
    prompts : mapping
        Classes that are written otherwise in a prompt.
    parts : mapping
        By modality.
    """

    classes: tuple[str, ...]
    labels: Mapping[str, str]
    prompts: Mapping[str, str]
    parts: Mapping[str, Part]


def read_table(name: str, labels: Path | None = None) -> PaperTask:
    """Read the table of a paper's task.

    Parameters
    ----------
    name : str
    labels : Path, optional
        TOML or JSON with any of ``classes``, ``labels`` and ``prompts``: a class list in place of the table's, and
        entries over the table's.

    Raises
    ------
    UserError
        If that file cannot be read or a label leads to no class.
    """
    table = tomllib.loads((_TABLES / f"{name}.toml").read_text(encoding="utf-8"))
    user = _read_labels(labels) if labels else {}
    classes = tuple(user.get("classes", table["classes"]))
    mapping = {_plain(key): value for source in (table, user) for key, value in source.get("labels", {}).items()}
    if lost := [key for key, value in mapping.items() if value and value not in classes]:
        raise UserError(f"{labels}: label {lost[0]!r} leads to {mapping[lost[0]]!r}, which is not among the classes")
    return PaperTask(
        classes=classes,
        labels=mapping,
        prompts=table.get("prompts", {}) | user.get("prompts", {}),
        parts={key: Part(**{**table[key], "table1": tuple(table[key]["table1"])}) for key in MODALITIES},
    )


def load_paper_task(
    name: str,
    root: Path | None,
    *,
    labels: Path | None = None,
    descriptions: Path | None = None,
    slices: int = SLICES,
    follow_links: bool = False,
    seed: int = 0,
) -> Task:
    """Read one of the paper's tasks from its two downloads.

    Where a dataset has no split, each class is divided by patients in the proportions of Table 1.

    Parameters
    ----------
    name : str
        One of :data:`PAPER_TASKS`.
    root : Path
        Folder that holds the downloads.
    labels : Path, optional
        See :func:`read_table`.
    descriptions : Path, optional
        Sentences in place of those shipped.
    slices : int
        CT slices per scan.
    follow_links : bool
        Whether links may lead out of the root.
    seed : int
        Of the split.

    Raises
    ------
    UserError
        If a dataset is not there, or there twice, or holds nothing of the task.
    """
    table = read_table(name, labels)
    datasets = dict.fromkeys(DATASETS[part.dataset] for part in table.parts.values())
    needed = "; ".join(f"{dataset.title} ({dataset.signature})" for dataset in datasets)
    if root is None:
        raise UserError(f"--task {name} needs --root DIR, a folder that holds {needed}")
    if not root.is_dir():
        raise UserError(f"--root {root} does not exist; it should hold {needed}")
    if slices < 1:
        raise UserError(f"--slices {slices}: expected at least 1")
    upper = upper_levels(root, follow=follow_links)
    records: list[Record] = []
    skipped: list[Skipped] = []
    for modality, part in table.parts.items():
        dataset = DATASETS[part.dataset]
        download = Download(root, dataset.find(root, upper), upper, part.part, slices, follow_links)
        kept, left_out = _label(table, modality, dataset.read(download))
        left_out += [Skipped(download.ref(path), reason) for path, reason in download.left_out.items()]
        if not kept:
            first = f"; the first of {len(left_out)}: {left_out[0].ref}, {left_out[0].reason}" if left_out else ""
            raise UserError(f"{dataset.title} in {download.folder} has no usable {part.name} image{first}")
        records += kept
        skipped += left_out
    shares = {key: _shares(part.table1) for key, part in table.parts.items()}
    return Task(
        name=name,
        labels=table.classes,
        classes=tuple(table.prompts.get(label, label) for label in table.classes),
        modality_names={modality: part.name for modality, part in table.parts.items()},
        records=assign_splits(records, seed, shares),
        images=FolderImages(root, follow=follow_links),
        descriptions=_descriptions(name, table, descriptions),
        skipped=tuple(skipped),
    )


def _label(table: PaperTask, modality: str, found: Iterator[Row | Skipped]) -> tuple[list[Record], list[Skipped]]:
    """Give rows their class; what has none, or two, is left out."""
    rows: dict[str, list[Row]] = defaultdict(list)
    skipped: list[Skipped] = []
    for item in found:
        if isinstance(item, Skipped):
            skipped.append(item)
        else:
            rows[item.ref].append(item)
    records: list[Record] = []
    for ref, (first, *others) in rows.items():
        label = table.labels.get(_plain(first.label))
        if any(table.labels.get(_plain(row.label)) != label for row in others):
            skipped.append(Skipped(ref, f"ambiguous: labelled {' and '.join(repr(r.label) for r in (first, *others))}"))
        elif label is None:
            skipped.append(Skipped(ref, f"unknown label: {first.label!r}"))
        elif not label:
            skipped.append(Skipped(ref, f"not a class of the task: {first.label!r}"))
        else:
            records.append(Record(ref, table.classes.index(label), modality, first.split, first.patient))
            skipped += [Skipped(ref, "listed twice") for _ in others]
    return records, skipped


def shipped_sentences(name: str) -> Path:
    """Where kmat's own descriptions of a paper's task lie; there need not be any."""
    return _DESCRIPTIONS / f"{name}.json"


def _shares(counts: tuple[int, ...]) -> tuple[float, float]:
    return counts[0] / sum(counts), counts[1] / sum(counts)


def _descriptions(name: str, table: PaperTask, path: Path | None) -> Descriptions | None:
    """Read the user's sentences, or those shipped if they know the classes, which --labels can change."""
    shipped = shipped_sentences(name)
    if path is not None:
        return load_descriptions(path, table.classes)
    if shipped.exists() and table.classes == read_table(name).classes:
        return load_descriptions(shipped, table.classes)
    return None


def _plain(label: str) -> str:
    return " ".join(label.lower().split())


def _read_labels(path: Path) -> dict[str, Any]:
    """Read and check a user's file."""
    try:
        table = read_json(path) if path.suffix.lower() == ".json" else tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"cannot read {path}: {error}") from error

    def words(value: Any) -> bool:
        return all(isinstance(word, str) and is_text(word) for word in value)

    fits = {
        "classes": lambda value: isinstance(value, list) and words(value) and len(set(value)) == len(value) >= 2,
        "labels": lambda value: isinstance(value, dict) and words(value.values()),
        "prompts": lambda value: isinstance(value, dict) and words(value.values()),
    }
    if not isinstance(table, dict) or not all(key in fits and fits[key](value) for key, value in table.items()):
        raise UserError(
            f"{path}: expected classes = [NAMES], [labels] with LABEL = CLASS, [prompts] with CLASS = WORDS"
        )
    return table
