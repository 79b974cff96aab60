"""What may be wrong with a task's images before anything is learned from them."""

import hashlib
import os
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from kmat.console import track
from kmat.modalities import HIGH, LOW, MODALITIES
from kmat.storage import atomic
from kmat.tasks.base import ImageSource, Record, Skipped, Task, UnreadableImageError
from kmat.tasks.splits import patients_in_several_splits

NEEDED = ((HIGH, "train"), (HIGH, "test"), (LOW, "test"))


class Finding(NamedTuple):
    """Something wrong with one file, or one patient."""

    kind: str
    ref: str
    detail: str = ""


@dataclass(frozen=True)
class Inspection:
    """What :func:`inspect` found.

    Attributes
    ----------
    task : Task
        With its readable images only.
    findings : tuple of Finding
    """

    task: Task
    findings: tuple[Finding, ...]

    def obstacles(self) -> Iterator[str]:
        """Why the task cannot be run: a class without images where they are needed."""
        for modality, split in NEEDED:
            counts = self.task.count(modality, split)
            if empty := [repr(self.task.labels[c]) for c in self.task.present(modality) if not counts[c]]:
                yield f"no readable {self.task.modality_names[modality]} {split} image of {', '.join(empty)}"

    def shortages(self, shots: int) -> Iterator[str]:
        """Classes with fewer training images than a run draws."""
        for label, count in zip(self.task.labels, self.task.count(HIGH, "train"), strict=True):
            if 0 < count < shots:
                yield f"class {label!r} has {count} training images, fewer than {shots}: every seed draws all of them"


def inspect(task: Task) -> Inspection:
    """Read every image: some may be unreadable, and some the same file, by SHA-256.

    A duplicate across splits leaks from training into testing, one across classes contradicts itself.
    """
    refs = list(dict.fromkeys(record.ref for record in task.records))
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # decoding and hashing let other threads run
        read = pool.map(lambda ref: _read(task.images, ref), refs)
        outcome = dict(zip(refs, track(read, "reading images", len(refs)), strict=True))
    hashes = {ref: found for ref, found in outcome.items() if isinstance(found, bytes)}
    unreadable = [Skipped(ref, str(found)) for ref, found in outcome.items() if ref not in hashes]
    readable = tuple(record for record in task.records if record.ref in hashes)
    same: dict[bytes, list[Record]] = defaultdict(list)
    for record in readable:
        same[hashes[record.ref]].append(record)
    findings = [_from_skipped(item) for item in (*task.skipped, *unreadable)]
    findings += [_duplicate(task, records) for records in same.values() if len(records) > 1]
    findings += [Finding("patient in several splits", patient) for patient in patients_in_several_splits(readable)]
    findings += _contradictions(task)
    return Inspection(replace(task, records=readable), tuple(findings))


def write_findings(path: Path, findings: Sequence[Finding]) -> None:
    """Write findings as CSV."""
    atomic.write_csv(path, Finding._fields, findings)


def _read(images: ImageSource, ref: str) -> bytes | UnreadableImageError:
    """Hash an image that can be decoded."""
    try:
        images.read(ref)
        return hashlib.sha256(images.content(ref)).digest()
    except UnreadableImageError as error:
        return error


def _from_skipped(item: Skipped) -> Finding:
    kind, _, detail = item.reason.partition(": ")
    return Finding(kind, item.ref, detail)


def _contradictions(task: Task) -> Iterator[Finding]:
    """DICOM files that call their modality by what most files of the other one call it, and few of their own."""
    tags = {modality: Counter(task.tags[r.ref] for r in _tagged(task, modality)) for modality in MODALITIES}
    usual = {modality: counts.most_common(1)[0][0] for modality, counts in tags.items() if counts}
    for modality, other in ((HIGH, LOW), (LOW, HIGH)):
        if len(set(usual.values())) == 2:
            for record in _tagged(task, modality):
                if task.tags[record.ref] == usual[other]:
                    names = task.modality_names
                    said = (
                        f"{usual[other]}, as most of {names[other]} are; {names[modality]} is mostly {usual[modality]}"
                    )
                    yield Finding("modality tag contradicts", record.ref, said)


def _tagged(task: Task, modality: str) -> list[Record]:
    return [record for record in task.records if record.modality == modality and record.ref in task.tags]


def _duplicate(task: Task, records: Sequence[Record]) -> Finding:
    traits = {"splits": "split", "classes": "label", "modalities": "modality"}
    across = [name for name, trait in traits.items() if len({getattr(record, trait) for record in records}) > 1]
    first, *others = (f"{r.ref} ({task.labels[r.label]}, {task.modality_names[r.modality]} {r.split})" for r in records)
    return Finding(
        "duplicate" + " across " * bool(across) + " and ".join(across), first, f"same as {', '.join(others)}"
    )
