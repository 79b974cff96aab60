"""The factors that describe a spot, and the classes as overlapping distributions over them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    Factors = dict[str, NDArray[np.int64]]

VALUES: dict[str, tuple[str, ...]] = {
    "shape": ("round", "oval", "irregular"),
    "border": ("sharp", "blurred"),
    "tone": ("pale", "brown", "dark"),
    "colour": ("even", "mottled"),
    "size": ("small", "medium", "large"),
    "surface": ("smooth", "scaly", "warty"),
    "pattern": ("none", "net", "globules", "streaks"),
    "vessels": ("none", "branched", "dotted"),
    "cysts": ("none", "many"),
    "height": ("flat", "raised"),
    "shine": ("dull", "shiny"),
    "skin": ("light", "tanned"),
}

#: Factors that one modality cannot show: the dermatoscope is pressed on the skin, with a fluid that takes the shine;
#: a photo resolves no structure inside the spot.
HIDDEN: dict[str, frozenset[str]] = {
    "high": frozenset({"height", "shine"}),
    "low": frozenset({"pattern", "vessels", "cysts"}),
}

#: Probability of each value, in the order of ``VALUES``, for each of ``kmat.phantom.skin.CLASSES``.
CLASS_TABLE: tuple[dict[str, tuple[float, ...]], ...] = (
    {
        "shape": (0.55, 0.40, 0.05),
        "border": (0.60, 0.40),
        "tone": (0.05, 0.80, 0.15),
        "colour": (0.92, 0.08),
        "size": (0.60, 0.35, 0.05),
        "surface": (0.92, 0.04, 0.04),
        "pattern": (0.10, 0.68, 0.20, 0.02),
        "vessels": (0.94, 0.02, 0.04),
        "cysts": (0.95, 0.05),
        "height": (0.75, 0.25),
        "shine": (0.92, 0.08),
        "skin": (0.50, 0.50),
    },
    {
        "shape": (0.05, 0.10, 0.85),
        "border": (0.70, 0.30),
        "tone": (0.02, 0.18, 0.80),
        "colour": (0.12, 0.88),
        "size": (0.10, 0.35, 0.55),
        "surface": (0.88, 0.07, 0.05),
        "pattern": (0.12, 0.20, 0.20, 0.48),
        "vessels": (0.80, 0.08, 0.12),
        "cysts": (0.95, 0.05),
        "height": (0.60, 0.40),
        "shine": (0.85, 0.15),
        "skin": (0.60, 0.40),
    },
    {
        "shape": (0.60, 0.30, 0.10),
        "border": (0.75, 0.25),
        "tone": (0.72, 0.20, 0.08),
        "colour": (0.70, 0.30),
        "size": (0.40, 0.45, 0.15),
        "surface": (0.93, 0.05, 0.02),
        "pattern": (0.80, 0.02, 0.16, 0.02),
        "vessels": (0.10, 0.84, 0.06),
        "cysts": (0.95, 0.05),
        "height": (0.08, 0.92),
        "shine": (0.08, 0.92),
        "skin": (0.70, 0.30),
    },
    {
        "shape": (0.30, 0.30, 0.40),
        "border": (0.45, 0.55),
        "tone": (0.68, 0.27, 0.05),
        "colour": (0.55, 0.45),
        "size": (0.06, 0.34, 0.60),
        "surface": (0.08, 0.87, 0.05),
        "pattern": (0.93, 0.02, 0.03, 0.02),
        "vessels": (0.16, 0.14, 0.70),
        "cysts": (0.94, 0.06),
        "height": (0.08, 0.92),
        "shine": (0.90, 0.10),
        "skin": (0.65, 0.35),
    },
    {
        "shape": (0.25, 0.25, 0.50),
        "border": (0.05, 0.95),
        "tone": (0.85, 0.13, 0.02),
        "colour": (0.70, 0.30),
        "size": (0.62, 0.33, 0.05),
        "surface": (0.10, 0.88, 0.02),
        "pattern": (0.92, 0.04, 0.02, 0.02),
        "vessels": (0.78, 0.04, 0.18),
        "cysts": (0.95, 0.05),
        "height": (0.94, 0.06),
        "shine": (0.95, 0.05),
        "skin": (0.70, 0.30),
    },
    {
        "shape": (0.30, 0.60, 0.10),
        "border": (0.95, 0.05),
        "tone": (0.10, 0.50, 0.40),
        "colour": (0.60, 0.40),
        "size": (0.15, 0.45, 0.40),
        "surface": (0.06, 0.06, 0.88),
        "pattern": (0.80, 0.06, 0.12, 0.02),
        "vessels": (0.92, 0.02, 0.06),
        "cysts": (0.18, 0.82),
        "height": (0.12, 0.88),
        "shine": (0.92, 0.08),
        "skin": (0.50, 0.50),
    },
)


def pretraining_table() -> dict[str, tuple[float, ...]]:
    """Return the factor distribution of the pretraining patients: independent and flat, so no class exists in it."""
    table = {name: (1 / len(values),) * len(values) for name, values in VALUES.items()}
    table["pattern"] = (0.34, 0.22, 0.22, 0.22)
    return table


def draw(table: Mapping[str, tuple[float, ...]], n: int, rng: np.random.Generator) -> Factors:
    """Draw ``n`` patients: for every factor, (n,) int64 indices into ``VALUES[name]``."""
    return {name: rng.choice(len(values), size=n, p=table[name]) for name, values in VALUES.items()}


def one_hot(factors: Factors, modality: str) -> NDArray[np.float64]:
    """Return what an ideal reader of one modality sees: (n, d) indicators of every factor that is not hidden."""
    seen = [name for name in VALUES if name not in HIDDEN[modality]]
    return np.concatenate([np.eye(len(VALUES[name]))[factors[name]] for name in seen], axis=1)
