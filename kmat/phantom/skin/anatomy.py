"""A spot on a plane of skin: an outline, pigment in it, what lies on it, and its height.

Coordinates are those of the skin, one unit is about 6 mm. Both pictures ask the same functions of (x, y).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from kmat.phantom.skin.factors import Factors

    Array = NDArray[np.float32]

N_BLOBS = 5
N_DOTS = 16
N_WAVES = 6
N_CURVES = 4
HARMONICS = (2, 3, 4, 5)
_RADIUS = (0.42, 0.60, 0.80)
_ABSORPTION = (0.28, 0.75, 1.35)
_LONG = (1.0, 1.3, 1.12)


@dataclass(frozen=True)
class Lesion:
    """A batch of ``N`` patients; what an absent structure would look like is drawn, too, and its weight is 0.

    Attributes
    ----------
    radius, long, turn, fade, absorption, skin : (N,) float32
        Of the outline its mean radius, elongation, angle and the width of its edge; pigment; reflectance of the skin.
    waves : (N, H, 2) float32
        Amplitude and phase of each of ``HARMONICS`` in the outline.
    blobs : (N, N_BLOBS, 3) float32
        Unevenness of the pigment: centre, in radii, and strength.
    dots, lines : (N, K, 2) and (N, N_CURVES, 3) float32
        Centres, in radii, of dots; offset, amplitude and phase of vessels.
    ripples : (N, N_WAVES, 3) float32
        Wave vectors and phases that scales and furrows are cut from.
    net, globules, streaks, branched, dotted, cysts, scaly, warty, raised, shiny : (N,) float32
        Weights, 0 or 1.
    """

    radius: Array
    long: Array
    turn: Array
    fade: Array
    absorption: Array
    skin: Array
    waves: Array
    blobs: Array
    dots: Array
    lines: Array
    ripples: Array
    net: Array
    globules: Array
    streaks: Array
    branched: Array
    dotted: Array
    cysts: Array
    scaly: Array
    warty: Array
    raised: Array
    shiny: Array


def _disc(n: int, k: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Uniform points in a disc of radius 0.85: (n, k, 2)."""
    radius, angle = 0.85 * np.sqrt(rng.random((n, k))), rng.uniform(0, 2 * np.pi, (n, k))
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=-1)


def build(factors: Factors, rng: np.random.Generator) -> Lesion:
    """Build one spot per patient.

    Parameters
    ----------
    factors : dict of (N,) int64 arrays
        From `kmat.phantom.skin.factors.draw`.
    rng : numpy.random.Generator
        Draws what the factors leave open.

    Examples
    --------
    >>> from kmat.phantom.skin.factors import draw, pretraining_table
    >>> rng = np.random.default_rng(0)
    >>> build(draw(pretraining_table(), 3, rng), rng).blobs.shape
    (3, 5, 3)
    """
    n = len(factors["shape"])
    shape, mottled = factors["shape"], factors["colour"] == 1
    irregular = np.where(shape == 2, 0.17, 0.02)[:, None]
    amplitude = irregular * rng.uniform(0.5, 1.0, (n, len(HARMONICS))) / np.sqrt(np.array(HARMONICS) - 1)
    strength = np.where(mottled, 0.75, 0.06)[:, None] * rng.choice([-1.0, 1.0], (n, N_BLOBS))
    angle, wave = rng.uniform(0, 2 * np.pi, (n, N_WAVES)), rng.uniform(7, 12, (n, N_WAVES))
    lines = [
        rng.uniform(-0.7, 0.7, (n, N_CURVES)),
        rng.uniform(0.1, 0.3, (n, N_CURVES)),
        rng.uniform(0, 6, (n, N_CURVES)),
    ]
    drawn = {
        "radius": np.array(_RADIUS)[factors["size"]] * rng.uniform(0.92, 1.08, n),
        "long": np.array(_LONG)[shape] * rng.uniform(0.97, 1.05, n),
        "turn": rng.uniform(0, np.pi, n),
        "fade": np.where(factors["border"] == 1, 0.55, 0.10),
        "absorption": np.array(_ABSORPTION)[factors["tone"]] * rng.uniform(0.88, 1.12, n),
        "skin": np.array([0.86, 0.66])[factors["skin"]] * rng.uniform(0.96, 1.04, n),
        "waves": np.stack([amplitude, rng.uniform(0, 2 * np.pi, amplitude.shape)], axis=-1),
        "blobs": np.concatenate([_disc(n, N_BLOBS, rng), strength[..., None]], axis=-1),
        "dots": _disc(n, N_DOTS, rng),
        "lines": np.stack(lines, axis=-1),
        "ripples": np.stack([wave * np.cos(angle), wave * np.sin(angle), rng.uniform(0, 6.3, (n, N_WAVES))], axis=-1),
        "net": factors["pattern"] == 1,
        "globules": factors["pattern"] == 2,
        "streaks": factors["pattern"] == 3,
        "branched": factors["vessels"] == 1,
        "dotted": factors["vessels"] == 2,
        "cysts": factors["cysts"],
        "scaly": factors["surface"] == 1,
        "warty": factors["surface"] == 2,
        "raised": factors["height"],
        "shiny": factors["shine"],
    }
    return Lesion(**{name: np.asarray(value).astype(np.float32) for name, value in drawn.items()})
