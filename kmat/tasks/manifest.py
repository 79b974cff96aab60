"""A user's own images: a CSV file, or folders ``ROOT/MODALITY/CLASS/``.

Nothing wrong with a single file or row is fatal and nothing is silent: what cannot be used is in ``Task.skipped``.
"""

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from kmat.console import is_text, note
from kmat.errors import UserError
from kmat.modalities import HIGH, LOW
from kmat.storage import atomic
from kmat.tasks.base import SPLITS, Record, Skipped, Task, UnreadableImageError, absent_classes
from kmat.tasks.descriptions import load_descriptions
from kmat.tasks.dicom import Header
from kmat.tasks.files import NOT_AN_IMAGE, images_in, kind, split_ref
from kmat.tasks.images import FolderImages
from kmat.tasks.listing import COLUMNS, Row, csv_rows, folder_rows
from kmat.tasks.splits import assign_splits, patients_in_several_splits
from kmat.tasks.tree import trouble
from kmat.tasks.window import Window


class _Image(NamedTuple):
    """A row that can be used: one of the images in its file, and the file's header if it is DICOM."""

    ref: str
    row: Row
    header: Header | None


def load_manifest(
    source: Path,
    *,
    root: Path | None = None,
    high: str = HIGH,
    low: str = LOW,
    descriptions: Path | None = None,
    patient_pattern: str | None = None,
    follow_links: bool = False,
    windows: Mapping[str, Window] | None = None,
    seed: int = 0,
) -> Task:
    """Read a task from a CSV file or a tree of class folders.

    Parameters
    ----------
    source : Path
        A CSV file with columns path, label, modality and optionally split and patient; or a folder with one folder
        per modality, holding one folder per class.
    root : Path, optional
        Folder that the CSV's paths are relative to; the CSV's own folder by default.
    high, low : str
        What the two modalities are called in the CSV or the folder names.
    descriptions : Path, optional
        JSON of :func:`kmat.tasks.descriptions.load_descriptions`.
    patient_pattern : str, optional
        Regular expression searched in the path; its first group is the patient, where no column says so. Without one,
        the patient is the one that a DICOM file names, by a salted hash, and each other file its own.
    follow_links : bool
        Whether links may lead out of the root.
    windows : mapping, optional
        Level and width through which grey values are shown, by modality (``high``, ``low``).
    seed : int
        Of the split, where none is given.

    Raises
    ------
    UserError
        If no row is usable, of all or of a modality that was named, or the CSV or the descriptions cannot be read.
    """
    if high == low:
        raise UserError(f"--high and --low are both {high!r}; the two modalities need different names")
    pattern = _compile(patient_pattern)
    root = root or (source if source.is_dir() else source.parent)
    if not root.is_dir():
        raise UserError(f"image folder {root} does not exist")
    rows = list(folder_rows(source, high, low, follow=follow_links) if source.is_dir() else csv_rows(source))
    names = {HIGH: HIGH, LOW: LOW} | {high: HIGH, low: LOW}  # a written split says high and low
    usable: list[_Image] = []
    skipped: list[Skipped] = []
    windows = windows or {}
    shown: dict[str, Window | None] = {}
    for item in _images(rows, root, names, follow_links):
        if isinstance(item, Skipped):
            skipped.append(item)
            continue
        window = windows.get(names[item.row.modality])
        if shown.setdefault(item.ref, window) != window:
            skipped.append(Skipped(item.ref, "shown through another window in the other modality"))
        else:
            usable.append(item)

    labels = tuple(sorted({image.row.label for image in usable}))
    pseudonyms = _pseudonyms(usable)
    records = assign_splits(
        [
            Record(
                ref,
                labels.index(row.label),
                names[row.modality],
                row.split,
                _patient(row, pattern) or (pseudonyms[header.patient] if header else "") or split_ref(ref)[0],
            )
            for ref, row, header in usable
        ],
        seed,
    )
    if torn := patients_in_several_splits(records):
        note(f"{len(torn)} patients have images in more than one split, the first is {torn[0]!r}: results will leak")
    first = f"; the first of {len(skipped)} skipped: {skipped[0].ref}, {skipped[0].reason}" if skipped else ""
    if not records:
        raise UserError(f"{source} lists no usable image{first}")
    for modality, name in ((HIGH, high), (LOW, low)):
        if name != modality and not any(record.modality == modality for record in records):
            there = sorted({repr(row.modality) for row in rows if isinstance(row, Row)})
            raise UserError(
                f"--{modality} {name!r}: no usable image of {source}, whose modalities are {', '.join(there)}{first}"
            )
    numbers = {label: number for number, label in enumerate(labels)}
    # As listed: a class whose images are all unusable is not absent, but an obstacle.
    listed = [row for row in rows if isinstance(row, Row) and row.label in numbers and row.modality in names]
    absent = absent_classes(((names[row.modality], numbers[row.label]) for row in listed), len(labels))
    return Task(
        name=source.stem,
        labels=labels,
        classes=tuple(label.replace("_", " ") for label in labels),
        modality_names={HIGH: high, LOW: low},
        records=records,
        images=FolderImages(root, follow=follow_links, windows=shown),
        descriptions=load_descriptions(descriptions, labels, absent) if descriptions else None,
        skipped=tuple(skipped),
        windows=windows,
        tags={image.ref: image.header.modality for image in usable if image.header and image.header.modality},
        absent=absent,
    )


def write_manifest(path: Path, task: Task, records: tuple[Record, ...]) -> None:
    """Write records as a manifest that :func:`load_manifest` reads back, so that a split can be reused."""
    rows = ([r.ref, task.labels[r.label], r.modality, r.split, r.patient] for r in records)
    atomic.write_csv(path, COLUMNS, rows)


def _images(
    rows: Iterable[Row | Skipped], root: Path, modalities: Mapping[str, str], follow: bool
) -> Iterator[_Image | Skipped]:
    """Go through the images of all rows, each once per modality."""
    seen: set[tuple[str, str]] = set()
    for row in rows:
        if isinstance(row, Skipped):
            yield row
            continue
        if (row.path, row.modality) in seen:
            yield Skipped(row.path, "listed twice")
            continue
        seen.add((row.path, row.modality))
        file = split_ref(row.path)[0]
        if reason := trouble(root, file, follow=follow) or _refusal(row, root / file, modalities):
            yield Skipped(row.path, reason)
            continue
        try:
            found = images_in(root / file, row.path)
        except UnreadableImageError as error:
            yield Skipped(row.path, str(error))
            continue
        for ref in found.refs:
            if ref != row.path and (ref, row.modality) in seen:
                yield Skipped(ref, "listed twice")
            else:
                yield _Image(ref, row, found.header)
            seen.add((ref, row.modality))


def _refusal(row: Row, path: Path, modalities: Mapping[str, str]) -> str | None:
    """Say why a row whose file is there cannot be used; ``None`` if it can."""
    if not kind(path):
        return NOT_AN_IMAGE
    if not row.label:
        return "no label"
    if not is_text(row.label):
        return f"label is not UTF-8: {row.label!r}"
    if row.modality not in modalities:
        return f"unknown modality {row.modality!r}"
    if row.split and row.split not in SPLITS:
        return f"unknown split {row.split!r}"
    return None


def _compile(pattern: str | None) -> re.Pattern[str] | None:
    if pattern is None:
        return None
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise UserError(f"--patient-pattern {pattern!r}: {error}") from error
    if compiled.groups < 1:
        raise UserError(f"--patient-pattern {pattern!r} has no group; put the patient in brackets, as in '(p[0-9]+)_'")
    return compiled


def _patient(row: Row, pattern: re.Pattern[str] | None) -> str:
    match = pattern.search(row.path) if pattern else None
    return row.patient or (match.group(1) if match else "") or ""


def _pseudonyms(images: Sequence[_Image]) -> dict[str, str]:
    """Name the patients of DICOM files by hashes of their identifiers, salted with the images' own.

    So a list of hashes, as in a run's ``split.csv``, can be tried against possible identifiers only by those who have
    the files; and it is the same on every machine that has them.
    """
    headers = [image.header for image in images if image.header]
    salt = hashlib.sha256("\n".join(sorted({header.uid for header in headers})).encode()).digest()
    patients = {header.patient for header in headers} - {""}
    if len(patients) == 1 and len(headers) > 1:
        note("all DICOM files name the same patient: if they are of several, say so by a column or --patient-pattern")
    hashed = {name: hashlib.blake2b(name.encode(), key=salt, digest_size=8).hexdigest() for name in patients}
    return {"": "", **{name: f"patient-{digest}" for name, digest in hashed.items()}}
