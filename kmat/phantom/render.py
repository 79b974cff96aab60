"""Two pictures of one chest: an axial CT-like slice and a frontal X-ray-like projection."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from kmat.phantom.anatomy import Chest, Ellipsoids

    Array = NDArray[np.float32]

SIZE = 64
_GRID = ((np.arange(SIZE) + 0.5) / SIZE * 2 - 1).astype(np.float32) * np.float32(1.04)
_MENISCUS = 0.35


@dataclass(frozen=True)
class Scanner:
    """How an image is acquired and displayed.

    Attributes
    ----------
    contrast : float
        Slope of the display window around its centre.
    noise : float
        CT: standard deviation of the noise, in soft-tissue units. X-ray: 1 / sqrt(photons per open pixel).
    """

    contrast: float = 1.0
    noise: float = 0.035


PRETRAINING = {"high": Scanner(1.0, 0.04), "low": Scanner(1.0, 0.006)}


def slice_attenuation(e: Ellipsoids, k: int, z: Array, x: Array = _GRID, y: Array = _GRID) -> Array:
    """Attenuation of ellipsoid ``k`` in the axial plane at height ``z`` (N,), at ``x`` and ``y``: (N, y, x)."""
    q = _slice_q(e, k, z, x, y)
    soft = e.soft[:, k, None, None]
    return e.mu[:, k, None, None] * ((1 - soft) * (q > 0) + soft * q * q)


def projected_attenuation(e: Ellipsoids, k: int) -> Array:
    """Line integral of ellipsoid ``k`` along y, in closed form: (N, z downwards, x).

    With q the largest value along the ray and a the yy entry of ``shape``, the profile along the ray is
    q - a t^2; its indicator integrates to 2 sqrt(q/a), its square to 16/15 q^2 sqrt(q/a).
    """
    q, half, _ = _ray(e, k)
    soft = e.soft[:, k, None, None]
    return e.mu[:, k, None, None] * half * ((1 - soft) * 2 + soft * np.float32(16 / 15) * q * q)


def _slice_q(e: Ellipsoids, k: int, z: Array, x: Array = _GRID, y: Array = _GRID) -> Array:
    c, s = e.center[:, k], e.shape[:, k]
    dx, dy = x - c[:, :1], y - c[:, 1:2]
    dz = (z - c[:, 2])[:, None]
    row = s[:, :1, 0] * dx * dx + 2 * s[:, :1, 2] * dx * dz
    col = s[:, 1:2, 1] * dy * dy + 2 * s[:, 1:2, 2] * dy * dz + s[:, 2:, 2] * dz * dz
    q = 1 - row[:, None, :] - col[:, :, None] - (2 * s[:, 0, 1])[:, None, None] * dy[:, :, None] * dx[:, None, :]
    clipped: Array = np.maximum(q, np.float32(0))
    return clipped


def _ray(e: Ellipsoids, k: int) -> tuple[Array, Array, Array]:
    """For every ray along y: largest q (N, z, x), half chord length, and y of the chord's middle."""
    c, s = e.center[:, k], e.shape[:, k]
    a, b = s[:, 1, 1], np.stack([s[:, 0, 1], s[:, 2, 1]], axis=1)
    # Schur complement: what is left of the quadratic form after minimising over y.
    xx = s[:, 0, 0] - b[:, 0] ** 2 / a
    xz = s[:, 0, 2] - b[:, 0] * b[:, 1] / a
    zz = s[:, 2, 2] - b[:, 1] ** 2 / a
    dx, dz = (_GRID - c[:, :1])[:, None, :], (_GRID[::-1] - c[:, 2:])[:, :, None]
    xx, xz, zz, b0, b1 = (w[:, None, None] for w in (xx, xz, zz, b[:, 0] / a, b[:, 1] / a))
    q = np.maximum(1 - xx * dx * dx - zz * dz * dz - 2 * xz * dx * dz, np.float32(0))
    return q, np.sqrt(q / a[:, None, None]), c[:, 1, None, None] - b0 * dx - b1 * dz


def add_parts(image: Array, e: Ellipsoids, one: Callable[[Ellipsoids, int, NDArray[np.int64]], Array]) -> Array:
    """Add every used ellipsoid, slot by slot, to the patients (rows) that have it; in place."""
    for k in range(e.mu.shape[1]):
        (rows,) = np.nonzero(e.mu[:, k])
        if len(rows):
            image[rows] += one(_rows(e, rows), k, rows)
    return image


def ct_attenuation(chest: Chest) -> Array:
    """Noise-free attenuation in the slice at ``chest.level``, patient lying: (N, y, x), soft tissue is 1."""
    z = chest.level
    image = slice_attenuation(chest.body, 0, z)
    heart = _slice_q(chest.heart, 0, z) > 0
    for k in range(2):
        back = chest.lungs.center[:, k, 1] + chest.lungs.shape[:, k, 1, 1] ** -0.5 * (1 - 2 * chest.fluid[:, k])
        dry = (back[:, None] > _GRID)[:, :, None]
        image += slice_attenuation(chest.lungs, k, z) * (dry & ~heart)
    return add_parts(image, chest.parts, lambda e, k, rows: slice_attenuation(e, k, z[rows]))


def xray_attenuation(chest: Chest) -> Array:
    """Noise-free line integrals along y, patient standing: (N, z downwards, x), soft tissue times length."""
    image = projected_attenuation(chest.body, 0)
    _, heart_half, heart_mid = _ray(chest.heart, 0)
    for k in range(2):
        _, half, mid = _ray(chest.lungs, k)
        overlap = np.minimum(mid + half, heart_mid + heart_half) - np.maximum(mid - half, heart_mid - heart_half)
        air = 2 * half - np.clip(overlap, 0, None)
        centre, height = chest.lungs.center[:, k], chest.lungs.shape[:, k, 2, 2] ** -0.5
        # Fluid climbs the outer wall: the level is higher away from the mediastinum.
        away = (_GRID - centre[:, :1]) * (1.0 if k else -1.0)
        surface = (centre[:, 2] - height * (1 - 2 * chest.fluid[:, k]))[:, None] + _MENISCUS * away * (
            chest.fluid[:, k, None] > 0
        )
        dry = _GRID[::-1][None, :, None] > surface[:, None, :]
        image += chest.lungs.mu[:, k, None, None] * air * dry
    return add_parts(image, chest.parts, lambda e, k, _: projected_attenuation(e, k))


def _rows(e: Ellipsoids, rows: NDArray[np.int64]) -> Ellipsoids:
    return type(e)(e.center[rows], e.shape[rows], e.mu[rows], e.soft[rows])


def blur(image: Array) -> Array:
    """Point spread of the detector: [1 2 1]/4 along both axes."""
    p = np.pad(image, ((0, 0), (1, 1), (1, 1)), mode="edge")
    p = p[:, :-2] + 2 * p[:, 1:-1] + p[:, 2:]
    p = p[:, :, :-2] + 2 * p[:, :, 1:-1] + p[:, :, 2:]
    return p / np.float32(16)


def display(image: Array, centre: float, width: float, contrast: float) -> NDArray[np.uint8]:
    """Map the window of ``width`` around ``centre`` to grey levels."""
    grey = 0.5 + (image - centre) / width * contrast
    pixels: NDArray[np.uint8] = np.rint(np.clip(grey, 0, 1) * 255).astype(np.uint8)
    return pixels


def ct(chest: Chest, scanner: Scanner, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Return CT-like slices, lung window: (N, 64, 64) uint8, front of the patient at the top."""
    clean = ct_attenuation(chest)
    noise = scanner.noise * rng.standard_normal(clean.shape, dtype=np.float32)
    return display(blur(clean) + blur(noise), 0.60, 1.0, scanner.contrast)


def expose(attenuation: Array, mu: float, scatter: float, noise: float, rng: np.random.Generator) -> Array:
    """Negative logarithm of the light that a film gets: Beer-Lambert, a veil of scatter, counting noise."""
    primary = np.exp(-np.float32(mu) * attenuation)
    light = blur(primary) + np.float32(scatter) * primary.mean(axis=(1, 2), keepdims=True)
    counted = light + noise * np.sqrt(light) * rng.standard_normal(light.shape, dtype=np.float32)
    exposed: Array = -np.log(np.maximum(counted, np.float32(1e-3)))
    return exposed


def xray(chest: Chest, scanner: Scanner, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Return X-ray-like projections: Beer-Lambert, scatter, counting noise, logarithm: (N, 64, 64) uint8."""
    exposed = expose(xray_attenuation(chest), 1.9, 0.25, scanner.noise, rng)
    return display(exposed, 1.6, 1.8, scanner.contrast)


RENDER = {"high": ct, "low": xray}
