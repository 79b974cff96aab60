"""The second phantom: breasts in two modalities, mammogram-like and ultrasound-like, drawn from one anatomy."""

from pathlib import Path

from kmat.phantom import BANNER
from kmat.tinyclip.frozen import Embedded, Frozen, LabelledImages

#: Class strings, in the order of the labels: words that the backbones know.
CLASSES: tuple[str, ...] = ("smooth mass", "irregular mass", "no mass")

#: What each class mimics; these words occur nowhere in captions, descriptions or vocabulary.
CLINICAL_NAMES: tuple[str, ...] = ("benign", "malignant", "normal")

FROZEN = Frozen(Path(__file__).parent / "data", ("seed0", "seed1", "seed2"), fresh=("seed3",))
BREAST_FILE = "breast.npz"


def load_breast() -> LabelledImages:
    """Load the frozen images: high is mammogram-like, low ultrasound-like.

    Raises
    ------
    ValueError
        If the file is not the frozen one.
    """
    return FROZEN.load(BREAST_FILE)


BREAST = Embedded(
    "breast-phantom",
    "breast-phantom",
    CLASSES,
    {"high": "mammogram", "low": "ultrasound"},
    BANNER,
    FROZEN,
    load_breast,
)
