"""Two pictures of one breast: a mammogram-like projection and an ultrasound-like slice."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from kmat.phantom.breast.anatomy import HALF_THICKNESS
from kmat.phantom.render import (
    SIZE,
    Scanner,
    add_parts,
    blur,
    display,
    expose,
    projected_attenuation,
    slice_attenuation,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from kmat.phantom.anatomy import Ellipsoids
    from kmat.phantom.breast.anatomy import Breast

    Array = NDArray[np.float32]

#: Ultrasound: ``noise`` is the share of speckle in the echo, 1 being fully developed.
PRETRAINING = {"high": Scanner(1.0, 0.008), "low": Scanner(1.0, 0.8)}

_STEP = np.float32(2 * HALF_THICKNESS * 1.1 / SIZE)  # of the ultrasound picture, which is square
_DEPTH = (np.arange(SIZE, dtype=np.float32) + np.float32(0.5)) * _STEP - np.float32(HALF_THICKNESS * 1.02)
_ACROSS = (np.arange(SIZE, dtype=np.float32) - np.float32(SIZE / 2 - 0.5)) * _STEP
_SKIN = 0.045
_MUSCLE = 0.40


def mammogram_attenuation(breast: Breast) -> Array:
    """Noise-free line integrals along the compression: (N, z, x)."""
    image = projected_attenuation(breast.body, 0)
    for parts in (breast.gland, breast.mass, breast.grains):
        add_parts(image, parts, lambda e, k, _: projected_attenuation(e, k))
    return image


def mammogram(breast: Breast, scanner: Scanner, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Return mammogram-like projections, chest wall on the left: (N, 64, 64) uint8."""
    exposed = expose(mammogram_attenuation(breast), 1.1, 0.08, scanner.noise, rng)
    return display(exposed, 0.62, 1.1, scanner.contrast)


def _section(e: Ellipsoids, breast: Breast) -> Array:
    """Sum of ``e`` in the plane z = focus, in the frame of the probe: (N, depth, across)."""
    x, z = breast.focus[:, :1] + _ACROSS, breast.focus[:, 2]
    image = np.zeros((len(x), SIZE, SIZE), np.float32)
    return add_parts(
        image, e, lambda part, k, rows: slice_attenuation(part, k, z[rows], x[rows], np.broadcast_to(_DEPTH, (1, SIZE)))
    )


def reflectivity(breast: Breast) -> tuple[Array, Array]:
    """Noise-free echo amplitude (N, depth, across) after the losses on the way, and the share of mass in each pixel.

    Sound that runs through the mass loses more, or less, than the time-gain compensation of the display expects:
    a shadow, or a bright band, behind it. The amplitude is the reflectivity times exp(-2 times the excess loss so far).
    """
    gland = np.minimum(_section(breast.gland, breast), np.float32(1))
    tissue = 0.34 + 0.62 * gland
    depth = _DEPTH + np.float32(HALF_THICKNESS * 1.02)
    tissue += (1.1 * (depth < _SKIN) + 0.35 * (depth > 2 * HALF_THICKNESS * 1.1 - 0.22)).astype(np.float32)[:, None]
    # The scale of mu belongs to X-rays; here only the outline counts.
    scale = np.maximum(breast.mass.mu.max(axis=1), np.float32(1e-6))[:, None, None]
    share = np.minimum(_section(breast.mass, breast) / scale * np.float32(1.3), np.float32(1))
    amplitude = tissue * (1 - share) + breast.echo[:, None, None] * share
    excess = (breast.loss[:, None, None] - np.float32(1)) * share * _STEP
    behind = np.cumsum(excess, axis=1) - excess
    return amplitude * np.exp(-2 * behind), share


def ultrasound(breast: Breast, scanner: Scanner, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Return ultrasound-like B-mode slices, skin at the top: (N, 64, 64) uint8.

    Scatterers are complex Gaussian; the point spread is wider across the beam than along it; the envelope is
    logarithmically compressed.
    """
    clean, _ = reflectivity(breast)
    scatter = rng.standard_normal((2, *clean.shape), dtype=np.float32)
    field = np.stack([spread(part) for part in scatter])
    speckle = np.sqrt((field**2).sum(axis=0))
    speckle /= speckle.mean(axis=(1, 2), keepdims=True)
    envelope = clean * (1 - scanner.noise + scanner.noise * speckle)
    decibel = 20 * np.log10(np.maximum(envelope, np.float32(1e-3)))
    return display(decibel, -9.0, 34.0, scanner.contrast)


def spread(image: Array) -> Array:
    """Point spread of the probe: [1 2 1]/4 twice across the beam, once along it."""
    return blur(_across(image))


def _across(image: Array) -> Array:
    padded = np.pad(image, ((0, 0), (0, 0), (1, 1)), mode="edge")
    return (padded[:, :, :-2] + 2 * padded[:, :, 1:-1] + padded[:, :, 2:]) / np.float32(4)


RENDER = {"high": mammogram, "low": ultrasound}
