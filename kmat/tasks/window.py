"""From measured values to 256 greys."""

import math
import sys
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kmat.options import check
from kmat.tasks.base import UnreadableImageError

Values = NDArray[Any]
Window = tuple[float, float]
"""Level and width: what is shown, from level - width / 2 in black to level + width / 2 in white."""

PERCENTILES = (0.5, 99.5)
"""What is shown where nobody says: a clip of metal or a dead pixel, fewer than these, does not dim all else."""


def check_window(option: str, window: Window) -> None:
    """Refuse a window whose level or width is no number, or that is not wide.

    Raises
    ------
    UserError
        That names the option.
    """
    check(-sys.float_info.max, sys.float_info.max, **{option: window[0]})
    check(sys.float_info.min, sys.float_info.max, **{option: window[1]})


def ends(window: Window) -> tuple[float, float]:
    """Return the values that a window shows in black and in white."""
    level, width = window
    return level - width / 2, level + width / 2


def extremes(values: Values) -> tuple[float, float]:
    """Return the lowest and the highest value.

    Raises
    ------
    UnreadableImageError
        If there are values that are no numbers.
    """
    lowest, highest = float(values.min()), float(values.max())
    if not math.isfinite(highest - lowest):
        raise UnreadableImageError("unreadable: pixels that are NaN or infinite")
    return lowest, highest


def usual_ends(values: Values) -> tuple[float, float]:
    """Return the values at :data:`PERCENTILES`; at the very ends where these are one, as of a small thing on nothing.

    Raises
    ------
    UnreadableImageError
        As :func:`extremes`.
    """
    whole = extremes(values)
    low, high = map(float, np.percentile(values, PERCENTILES))
    return (low, high) if low < high else whole


def grey(values: Values, low: float, high: float) -> NDArray[np.uint8]:
    """Show ``low`` in black, ``high`` in white and what lies beyond like these.

    Where both are one, what exceeds them is white.

    Raises
    ------
    UnreadableImageError
        As :func:`extremes`.
    """
    extremes(values)
    span = high - low or np.finfo(np.float32).tiny
    return np.rint(255 * np.clip((values.astype(np.float64) - low) / span, 0, 1)).astype(np.uint8)
