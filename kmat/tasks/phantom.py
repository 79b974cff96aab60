"""The embedded benchmark as a task."""

from pathlib import Path

from kmat import phantom
from kmat.errors import UserError
from kmat.prompts import HIGH, LOW
from kmat.tasks.base import SPLITS, Record, Task
from kmat.tasks.descriptions import load_descriptions
from kmat.tasks.images import ArrayImages

DESCRIPTIONS = Path(__file__).parents[1] / "descriptions" / "chest_phantom.json"


def chest_phantom(descriptions: Path | None = None) -> Task:
    """Synthetic chests, CT-like to X-ray-like.

    The "probe" images, labelled low-end ones for linear probes, are left out: no method may see them. Images are not
    cropped by default: the tiny backbones saw whole chests only.
    """
    try:
        chest = phantom.load_chest()
    except (OSError, ValueError) as error:
        raise UserError(f"cannot load the embedded benchmark: {error}") from error
    columns = zip(chest.label, chest.modality, chest.split, chest.patient, strict=True)
    records = tuple(
        Record(str(index), int(label), str(modality), str(split), str(patient))
        for index, (label, modality, split, patient) in enumerate(columns)
        if split in SPLITS
    )
    return Task(
        name="chest-phantom",
        labels=phantom.CLASSES,
        classes=phantom.CLASSES,
        modality_names={HIGH: "CT", LOW: "X-ray"},
        records=records,
        images=ArrayImages(chest.images),
        descriptions=load_descriptions(descriptions or DESCRIPTIONS, phantom.CLASSES),
        banner=phantom.BANNER,
        augment=False,
    )
