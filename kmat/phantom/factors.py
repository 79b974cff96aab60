"""The factors that describe a chest, and the classes as overlapping distributions over them.

A factor is a small set of values ("density" is faint, moderate or dense). The renderer, the captions and the
classes know a patient through factors only, so nothing but an overlap of these distributions defines a class.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    Factors = dict[str, NDArray[np.int64]]

VALUES: dict[str, tuple[str, ...]] = {
    "count": ("none", "single", "few", "many"),
    "density": ("faint", "moderate", "dense"),
    "side": ("left", "right", "both"),
    "position": ("peripheral", "central"),
    "zone": ("upper", "middle", "lower"),
    "depth": ("anterior", "posterior"),
    "size": ("small", "medium", "large"),
    "margin": ("sharp", "blurred"),
    "texture": ("uniform", "patchy", "reticular"),
    "fluid": ("none", "left", "right", "both"),
    "heart": ("normal", "enlarged"),
}

#: Factors that one modality cannot show: a slice at lesion level hides the zone, a frontal projection the depth.
HIDDEN = {"high": "zone", "low": "depth"}

#: Probability of each value, in the order of ``VALUES``; the classes are ``kmat.phantom.CLASSES``, in that order.
CLASS_TABLE: tuple[dict[str, tuple[float, ...]], ...] = (
    {
        "count": (0.72, 0.21, 0.05, 0.02),
        "density": (0.55, 0.30, 0.15),
        "side": (0.40, 0.40, 0.20),
        "position": (0.50, 0.50),
        "zone": (0.34, 0.33, 0.33),
        "depth": (0.50, 0.50),
        "size": (0.80, 0.17, 0.03),
        "margin": (0.60, 0.40),
        "texture": (0.70, 0.15, 0.15),
        "fluid": (0.94, 0.03, 0.03, 0.00),
        "heart": (0.85, 0.15),
    },
    {
        "count": (0.02, 0.68, 0.24, 0.06),
        "density": (0.05, 0.23, 0.72),
        "side": (0.42, 0.42, 0.16),
        "position": (0.35, 0.65),
        "zone": (0.15, 0.27, 0.58),
        "depth": (0.45, 0.55),
        "size": (0.10, 0.35, 0.55),
        "margin": (0.50, 0.50),
        "texture": (0.66, 0.22, 0.12),
        "fluid": (0.60, 0.17, 0.17, 0.06),
        "heart": (0.80, 0.20),
    },
    {
        "count": (0.02, 0.06, 0.32, 0.60),
        "density": (0.66, 0.27, 0.07),
        "side": (0.12, 0.12, 0.76),
        "position": (0.78, 0.22),
        "zone": (0.18, 0.34, 0.48),
        "depth": (0.28, 0.72),
        "size": (0.25, 0.50, 0.25),
        "margin": (0.25, 0.75),
        "texture": (0.30, 0.40, 0.30),
        "fluid": (0.92, 0.03, 0.03, 0.02),
        "heart": (0.85, 0.15),
    },
)

_P_CLEAR_PRETRAINING = 0.15


def pretraining_table() -> dict[str, tuple[float, ...]]:
    """Return the factor distribution of the pretraining patients: independent and flat, so no class exists in it."""
    table = {name: (1 / len(values),) * len(values) for name, values in VALUES.items()}
    table["count"] = (_P_CLEAR_PRETRAINING,) + ((1 - _P_CLEAR_PRETRAINING) / 3,) * 3
    table["fluid"] = (0.64, 0.12, 0.12, 0.12)
    table["heart"] = (0.70, 0.30)
    return table


def draw(table: Mapping[str, tuple[float, ...]], n: int, rng: np.random.Generator) -> Factors:
    """Draw ``n`` patients.

    Parameters
    ----------
    table : mapping of factor name to probabilities
        One entry per factor of ``VALUES``.
    n : int
        Number of patients.
    rng : numpy.random.Generator
        Source of randomness.

    Returns
    -------
    dict of str to (n,) int64 arrays
        Index into ``VALUES[name]`` for every factor. A single opacity is never on both sides.

    Examples
    --------
    >>> factors = draw(CLASS_TABLE[1], 4, np.random.default_rng(0))
    >>> sorted(factors) == sorted(VALUES), factors["side"].shape
    (True, (4,))
    """
    factors = {name: rng.choice(len(values), size=n, p=table[name]) for name, values in VALUES.items()}
    one_side = rng.integers(0, 2, n)
    both = VALUES["side"].index("both")
    contradictory = (factors["count"] == VALUES["count"].index("single")) & (factors["side"] == both)
    factors["side"] = np.where(contradictory, one_side, factors["side"])
    return factors


def one_hot(factors: Factors, modality: str) -> NDArray[np.float64]:
    """Return what an ideal reader of one modality sees: (n, d) indicators of every factor that is not hidden.

    Examples
    --------
    >>> one_hot(draw(CLASS_TABLE[0], 5, np.random.default_rng(0)), "high").shape
    (5, 28)
    """
    visible = [name for name in VALUES if name != HIDDEN[modality]]
    columns = np.concatenate([np.eye(len(VALUES[name]))[factors[name]] for name in visible], axis=1)
    # Without an opacity there is nothing whose side, size or texture could be seen.
    lesion = [name not in ("count", "fluid", "heart") for name in visible for _ in VALUES[name]]
    clear = factors["count"] == 0
    columns[np.ix_(clear, np.array(lesion))] = 0.0
    return columns
