"""The benchmarks that kmat brings along, as tasks."""

from pathlib import Path

from kmat.errors import UserError
from kmat.tasks.base import SPLITS, Record, Task
from kmat.tasks.descriptions import load_descriptions
from kmat.tasks.images import ArrayImages
from kmat.tinyclip.frozen import Embedded


def load_embedded(bench: Embedded, descriptions: Path | None = None) -> Task:
    """Load an embedded benchmark.

    The "probe" images, labelled low-end ones for linear probes, are left out: no method may see them. Images are not
    cropped by default: the tiny backbones saw whole images only.

    Raises
    ------
    UserError
        If its files are damaged, a package that it needs is missing, or the descriptions cannot be read.
    """
    try:
        data = bench.load()
    except (ImportError, OSError, ValueError) as error:
        raise UserError(f"cannot load the embedded benchmark {bench.task}: {error}") from error
    columns = zip(data.label, data.modality, data.split, data.patient, strict=True)
    records = tuple(
        Record(str(index), int(label), str(modality), str(split), str(patient))
        for index, (label, modality, split, patient) in enumerate(columns)
        if split in SPLITS
    )
    return Task(
        name=bench.task,
        labels=bench.classes,
        classes=bench.classes,
        modality_names=bench.modality_names,
        records=records,
        images=ArrayImages(data.images),
        descriptions=load_descriptions(descriptions or bench.descriptions, bench.classes),
        banner=bench.banner,
        augment=False,
    )
