"""The factors that describe a breast, and the classes as overlapping distributions over them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    Factors = dict[str, NDArray[np.int64]]

VALUES: dict[str, tuple[str, ...]] = {
    "mass": ("none", "present"),
    "shape": ("oval", "round", "lobed"),
    "margin": ("sharp", "blurred", "spiculated"),
    "size": ("small", "medium", "large"),
    "density": ("low", "equal", "high"),
    "calcification": ("none", "coarse", "fine"),
    "place": ("outer", "inner"),
    "echo": ("dark", "grey"),
    "posterior": ("plain", "bright", "shadow"),
    "orientation": ("wide", "tall"),
    "tissue": ("fatty", "mixed", "dense"),
}

#: Factors that one modality cannot show: compression hides what lies along the beam, sound does not measure density.
HIDDEN: dict[str, frozenset[str]] = {
    "high": frozenset({"echo", "posterior", "orientation"}),
    "low": frozenset({"density", "calcification", "place"}),
}

#: Factors that only a mass has.
OF_MASS = frozenset({"shape", "margin", "size", "density", "place", "echo", "posterior", "orientation"})

#: Probability of each value, in the order of ``VALUES``, for each of ``kmat.phantom.breast.CLASSES``.
CLASS_TABLE: tuple[dict[str, tuple[float, ...]], ...] = (
    {
        "mass": (0.02, 0.98),
        "shape": (0.58, 0.32, 0.10),
        "margin": (0.80, 0.15, 0.05),
        "size": (0.12, 0.44, 0.44),
        "density": (0.12, 0.58, 0.30),
        "calcification": (0.56, 0.38, 0.06),
        "place": (0.55, 0.45),
        "echo": (0.50, 0.50),
        "posterior": (0.48, 0.36, 0.16),
        "orientation": (0.72, 0.28),
        "tissue": (0.36, 0.40, 0.24),
    },
    {
        "mass": (0.02, 0.98),
        "shape": (0.10, 0.18, 0.72),
        "margin": (0.06, 0.24, 0.70),
        "size": (0.14, 0.42, 0.44),
        "density": (0.03, 0.22, 0.75),
        "calcification": (0.34, 0.06, 0.60),
        "place": (0.62, 0.38),
        "echo": (0.60, 0.40),
        "posterior": (0.42, 0.14, 0.44),
        "orientation": (0.48, 0.52),
        "tissue": (0.34, 0.40, 0.26),
    },
    {
        "mass": (0.90, 0.10),
        "shape": (0.50, 0.40, 0.10),
        "margin": (0.55, 0.40, 0.05),
        "size": (0.85, 0.13, 0.02),
        "density": (0.50, 0.40, 0.10),
        "calcification": (0.86, 0.11, 0.03),
        "place": (0.50, 0.50),
        "echo": (0.30, 0.70),
        "posterior": (0.70, 0.20, 0.10),
        "orientation": (0.80, 0.20),
        "tissue": (0.40, 0.40, 0.20),
    },
)

_P_CLEAR_PRETRAINING = 0.2


def pretraining_table() -> dict[str, tuple[float, ...]]:
    """Return the factor distribution of the pretraining patients: independent and flat, so no class exists in it."""
    table = {name: (1 / len(values),) * len(values) for name, values in VALUES.items()}
    table["mass"] = (_P_CLEAR_PRETRAINING, 1 - _P_CLEAR_PRETRAINING)
    table["calcification"] = (0.5, 0.25, 0.25)
    return table


def draw(table: Mapping[str, tuple[float, ...]], n: int, rng: np.random.Generator) -> Factors:
    """Draw ``n`` patients: for every factor, (n,) int64 indices into ``VALUES[name]``."""
    return {name: rng.choice(len(values), size=n, p=table[name]) for name, values in VALUES.items()}


def one_hot(factors: Factors, modality: str) -> NDArray[np.float64]:
    """Return what an ideal reader of one modality sees: (n, d) indicators of every factor that is not hidden."""
    seen = [name for name in VALUES if name not in HIDDEN[modality]]
    absent = factors["mass"] == 0
    groups = []
    for name in seen:
        indicators = np.eye(len(VALUES[name]))[factors[name]]
        if name in OF_MASS:
            indicators[absent] = 0.0
        groups.append(indicators)
    return np.concatenate(groups, axis=1)
