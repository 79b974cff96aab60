"""The third phantom: spots on skin in two modalities, dermoscopy-like and clinical-photo-like, from one lesion."""

from pathlib import Path

from kmat.phantom import BANNER
from kmat.tinyclip.frozen import Embedded, Frozen, LabelledImages

#: Class strings, in the order of the labels: words of captions of both modalities. A word of one only names that one.
CLASSES: tuple[str, ...] = (
    "brown spot",
    "uneven spot",
    "pale bump",
    "scaly bump",
    "scaly spot",
    "warty plaque",
)

#: What each class mimics; these words occur nowhere in captions, descriptions or vocabulary.
CLINICAL_NAMES: tuple[str, ...] = (
    "nevus",
    "melanoma",
    "basal cell carcinoma",
    "squamous cell carcinoma",
    "actinic keratosis",
    "seborrheic keratosis",
)

FROZEN = Frozen(Path(__file__).parent / "data", ("seed0",))
SKIN_FILE = "skin.npz"


def load_skin() -> LabelledImages:
    """Load the frozen images: high is dermoscopy-like, low like a clinical photo.

    Raises
    ------
    ValueError
        If the file is not the frozen one.
    """
    return FROZEN.load(SKIN_FILE)


SKIN = Embedded(
    "skin-phantom",
    "skin-phantom",
    CLASSES,
    {"high": "dermoscopy", "low": "clinical photo"},
    BANNER,
    FROZEN,
    load_skin,
)
