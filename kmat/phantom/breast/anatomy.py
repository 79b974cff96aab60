"""A compressed breast in three dimensions: ellipsoids placed from factors.

Axes: x runs from the chest wall to the nipple, y along the compression (from the skin under the probe inwards), z from
the outer to the inner side. One unit is about 6 cm.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from kmat.phantom.anatomy import Ellipsoids, ellipsoids, join, rotations

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from kmat.phantom.breast.factors import Factors

    Array = NDArray[np.float32]

N_GLAND = 12
N_LUMPS = 6
N_SPICULES = 12
N_GRAINS = 9
HALF_THICKNESS = 0.5
_RADIUS = (0.16, 0.23, 0.30)
_MASS_MU = (0.9, 1.5, 2.2)
_GLAND_MU = (0.22, 0.42, 0.65)
_AXES = np.array([[1.45, 0.75, 1.0], [1.0, 1.0, 1.0], [1.15, 0.9, 1.0]])  # by shape, of the whole mass


@dataclass(frozen=True)
class Breast:
    """A batch of ``N`` patients.

    Attributes
    ----------
    body : Ellipsoids
        One each: the outline; fat fills it.
    gland, mass, grains : Ellipsoids
        What adds to it: glandular tissue, the mass with its spicules, calcifications. An absent one has ``mu`` 0.
    focus : (N, 3) float32
        Centre of the mass, or where the probe is put if there is none.
    echo : (N,) float32
        Reflectivity of the mass relative to fat.
    loss : (N,) float32
        Attenuation of sound in the mass, relative to other tissue.
    """

    body: Ellipsoids
    gland: Ellipsoids
    mass: Ellipsoids
    grains: Ellipsoids
    focus: Array
    echo: Array
    loss: Array


def _gland(factors: Factors, rng: np.random.Generator) -> Ellipsoids:
    """Soft lobes, strung from the chest wall towards the nipple."""
    n = len(factors["tissue"])
    center = np.stack(
        [
            rng.uniform(-0.75, 0.25, (n, N_GLAND)),
            rng.normal(0.02, 0.16, (n, N_GLAND)),
            rng.normal(0, 0.28, (n, N_GLAND)),
        ],
        axis=-1,
    )
    axes = np.stack([rng.uniform(0.2, 0.5, (n, N_GLAND)), *rng.uniform(0.07, 0.2, (2, n, N_GLAND))], axis=-1)
    mu = np.array(_GLAND_MU)[factors["tissue"]][:, None] * rng.uniform(0.5, 1.4, (n, N_GLAND))
    return ellipsoids(center, axes, mu, 0.8)


def _mass(factors: Factors, focus: NDArray[np.float64], rng: np.random.Generator) -> tuple[Ellipsoids, Array]:
    """Lumps that overlap into one mass, and spicules that radiate from it; with its radius."""
    n = len(focus)
    shape, margin = factors["shape"], factors["margin"]
    radius = np.array(_RADIUS)[factors["size"]] * rng.uniform(0.9, 1.1, n)
    axes = _AXES[shape] * radius[:, None]
    tall = factors["orientation"] == 1
    axes = np.where(tall[:, None], axes[:, [1, 0, 2]] * [0.9, 1.15, 1.0], axes * [1.1, 0.85, 1.0])
    lobed = (shape == 2)[:, None]

    way = rng.standard_normal((n, N_LUMPS, 3))
    way /= np.linalg.norm(way, axis=-1, keepdims=True)
    off = np.where(lobed, np.where(np.arange(N_LUMPS) == 0, 0.0, rng.uniform(0.65, 0.95, (n, N_LUMPS))), 0.0)
    lump = np.where(lobed, np.where(np.arange(N_LUMPS) == 0, 0.7, rng.uniform(0.35, 0.55, (n, N_LUMPS))), 1.0)
    first = np.arange(N_LUMPS) == 0
    soft = np.where(margin == 1, 1.0, 0.15)[:, None]
    grow = np.where(margin == 1, 1.35, 1.0)[:, None]  # a fading edge looks smaller than it is
    mu = np.array(_MASS_MU)[factors["density"]] * (factors["mass"] == 1)
    lump_mu = mu[:, None] * np.where(lobed, np.where(first, 1.0, 0.6), first)
    lumps = ellipsoids(
        focus[:, None] + way * off[..., None] * axes[:, None],
        axes[:, None] * (lump * grow)[..., None],
        lump_mu,
        np.broadcast_to(soft, (n, N_LUMPS)),
    )

    turn = rotations((n, N_SPICULES), rng)  # its first column is the direction of the rod
    length = radius[:, None] * rng.uniform(0.7, 1.1, (n, N_SPICULES))
    reach = (radius[:, None] * 0.8 + length * 0.7)[..., None] * turn[..., :, 0]
    thin = np.full((n, N_SPICULES), 0.035)
    spicule_mu = mu[:, None] * (margin == 2)[:, None] * np.full((n, N_SPICULES), 1.2)
    spicules = ellipsoids(focus[:, None] + reach, np.stack([length, thin, thin], axis=-1), spicule_mu, 0.4, turn)
    return join(lumps, spicules), radius.astype(np.float32)


def _grains(factors: Factors, focus: NDArray[np.float64], radius: Array, rng: np.random.Generator) -> Ellipsoids:
    """Calcifications in and around the focus: a few coarse ones, or many fine ones."""
    n = len(focus)
    kind = factors["calcification"][:, None]
    used = np.where(kind == 1, np.arange(N_GRAINS) < 3, kind == 2)
    center = focus[:, None] + rng.normal(0, 0.55, (n, N_GRAINS, 3)) * radius[:, None, None]
    size = np.where(kind == 1, 0.055, 0.026) * rng.uniform(0.85, 1.15, (n, N_GRAINS))
    mu = np.where(kind == 1, 9.0, 16.0) * used
    return ellipsoids(center, np.repeat(size[..., None], 3, axis=-1), mu)


def build(factors: Factors, rng: np.random.Generator) -> Breast:
    """Build one breast per patient.

    Parameters
    ----------
    factors : dict of (N,) int64 arrays
        From `kmat.phantom.breast.factors.draw`.
    rng : numpy.random.Generator
        Draws what the factors leave open.

    Examples
    --------
    >>> from kmat.phantom.breast.factors import draw, pretraining_table
    >>> rng = np.random.default_rng(0)
    >>> build(draw(pretraining_table(), 3, rng), rng).mass.center.shape
    (3, 18, 3)
    """
    n = len(factors["mass"])
    body = ellipsoids(
        np.array([-1.1, 0.0, 0.0]) + rng.normal(0, 0.02, (n, 1, 3)),
        np.array([1.75, HALF_THICKNESS * 1.15, 0.92]) * rng.normal(1, 0.04, (n, 1, 3)),
        0.5,
    )
    side = np.where(factors["place"] == 0, -1.0, 1.0)
    focus = np.stack(
        [rng.uniform(-0.65, 0.05, n), rng.uniform(-0.14, 0.08, n), side * rng.uniform(0.14, 0.42, n)], axis=-1
    )
    gland = _gland(factors, rng)
    mass, radius = _mass(factors, focus, rng)
    echo = np.where(factors["echo"] == 0, 0.10, 0.28) * rng.uniform(0.85, 1.15, n)
    loss = np.array([1.0, -0.3, 2.8])[factors["posterior"]]
    f32 = np.float32
    return Breast(
        body, gland, mass, _grains(factors, focus, radius, rng), focus.astype(f32), echo.astype(f32), loss.astype(f32)
    )
