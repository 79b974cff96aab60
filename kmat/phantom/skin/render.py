"""Two pictures of one spot: through a dermatoscope, and in a photo from further away."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from kmat.phantom.render import SIZE, Scanner, blur, display
from kmat.phantom.skin.anatomy import HARMONICS, N_CURVES, N_DOTS

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from kmat.phantom.skin.anatomy import Lesion

    Array = NDArray[np.float32]

PRETRAINING = {"high": Scanner(1.0, 0.03), "low": Scanner(1.0, 0.03)}

_GRID = ((np.arange(SIZE, dtype=np.float32) + np.float32(0.5)) / SIZE * 2 - 1).astype(np.float32)
_FIELD = {"high": np.float32(1.25), "low": np.float32(1.9)}  # half the picture's width
_MESHES = np.float32(12.0)  # of the network: half a wave to each
_LIGHT = np.array([0.6, 0.8], np.float32)


@dataclass(frozen=True)
class Place:
    """Where the pixels (N, y, x) lie on the skin, and in the spot.

    Attributes
    ----------
    x, y : (N, SIZE, SIZE) float32
        From the spot's centre.
    u, v : (N, SIZE, SIZE) float32
        Along and across the spot, in its radii.
    angle, rho : (N, SIZE, SIZE) float32
        The angle, and the distance from the centre as a share of the outline's there.
    share : (N, SIZE, SIZE) float32
        How much of the pixel is the spot's, 0 to 1.
    """

    x: Array
    y: Array
    u: Array
    v: Array
    angle: Array
    rho: Array
    share: Array


def locate(lesion: Lesion, field: np.float32, shift: Array) -> Place:
    """Put the spot into a picture, ``shift`` (N, 2) off its centre."""
    full = (len(lesion.radius), SIZE, SIZE)
    x = np.broadcast_to(_GRID[None, None, :] * field - _image(shift[:, 0]), full)
    y = np.broadcast_to(_GRID[None, :, None] * field - _image(shift[:, 1]), full)
    cos, sin = _image(np.cos(lesion.turn)), _image(np.sin(lesion.turn))
    root: Array = np.sqrt(_image(lesion.long))
    u: Array = (cos * x + sin * y) / _image(lesion.radius) / root
    v: Array = (cos * y - sin * x) / _image(lesion.radius) * root
    angle: Array = np.arctan2(v, u)
    outline: Array = np.ones(full, np.float32)
    for k, harmonic in enumerate(HARMONICS):
        outline += _image(lesion.waves[:, k, 0]) * np.cos(harmonic * angle + _image(lesion.waves[:, k, 1]))
    rho: Array = np.sqrt(u * u + v * v)
    rho /= outline
    share: Array = np.clip((1 - rho) / _image(lesion.fade) + np.float32(0.5), 0, 1)
    return Place(x, y, u, v, angle, rho, share)


def pigment(lesion: Lesion, at: Place) -> Array:
    """Absorption of the spot without any structure in it."""
    uneven = np.ones_like(at.u)
    for k in range(lesion.blobs.shape[1]):
        uneven += _image(lesion.blobs[:, k, 2]) * _bump(at, lesion.blobs[:, k, :2], 0.30)
    return _image(lesion.absorption) * at.share * np.maximum(uneven, np.float32(0.15))


def structures(lesion: Lesion, at: Place) -> Array:
    """Absorption, or less of it, of what only a dermatoscope resolves: pattern, vessels, cysts."""
    net = sum(np.exp(-((np.sin(_MESHES * along) / np.float32(0.6)) ** 2)) for along in (at.x, at.y))
    rim = np.exp(-(((at.rho - np.float32(1.0)) / np.float32(0.22)) ** 2))
    streaks = rim * np.maximum(np.cos(14 * at.angle), 0)
    image: Array = np.float32(0.55) * _image(lesion.net) * net * at.share
    image += np.float32(1.2) * _image(lesion.streaks) * streaks
    for k in range(N_DOTS):
        weight = np.float32(1.3) * lesion.globules * (k < 12) + np.float32(1.0) * lesion.dotted * (k % 2 == 0)
        # Both kinds are dots: globules are large and many, vessels seen end on are small.
        width = np.where(lesion.globules > 0, 0.10, 0.055)
        image += _image(weight) * _bump(at, lesion.dots[:, k], width)
        image -= _image(np.float32(0.8) * lesion.cysts * (k % 2 == 1)) * _bump(at, lesion.dots[:, k], 0.085)
    for k in range(N_CURVES):
        offset, height, phase = (_image(lesion.lines[:, k, j]) for j in range(3))
        curve = offset + height * np.sin(4 * at.u + phase)
        thin = np.exp(-(((at.v - curve) / np.float32(0.045)) ** 2))
        image += _image(lesion.branched) * np.float32(0.8) * thin * at.share
    return image


def surface(lesion: Lesion, at: Place) -> tuple[Array, Array]:
    """White scales, and the absorption of furrows."""
    wave = np.zeros_like(at.x)
    for k in range(lesion.ripples.shape[1]):
        a, b, phase = (_image(lesion.ripples[:, k, j]) for j in range(3))
        wave += np.cos(a * at.x + b * at.y + phase)
    scales = np.clip(wave - np.float32(0.9), 0, 1) * at.share * _image(lesion.scaly)
    furrows = np.exp(-((wave / np.float32(0.55)) ** 2)) * at.share * _image(lesion.warty)
    return scales, furrows


def dermoscopy(lesion: Lesion, scanner: Scanner, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Return dermoscopy-like pictures, the spot in the middle of a round field: (N, 64, 64) uint8."""
    n = len(lesion.radius)
    at = locate(lesion, _FIELD["high"], rng.normal(0, 0.06, (n, 2)).astype(np.float32))
    scales, furrows = surface(lesion, at)
    absorbed = np.maximum(pigment(lesion, at) + structures(lesion, at), -np.float32(0.3)) + np.float32(0.6) * furrows
    light = _image(lesion.skin) * np.exp(-absorbed) + np.float32(0.30) * scales
    edge = np.sqrt(_GRID[None, :, None] ** 2 + _GRID[None, None, :] ** 2)
    light = light * np.clip((np.float32(1.25) - edge) / np.float32(0.2), 0, 1)
    return display(blur(light) + _noise(light, scanner, rng), 0.5, 0.95, scanner.contrast)


def photo(lesion: Lesion, scanner: Scanner, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Return photo-like pictures: smaller, out of the centre, in uneven light that shows height: (N, 64, 64) uint8."""
    n = len(lesion.radius)
    at = locate(lesion, _FIELD["low"], rng.normal(0, 0.22, (n, 2)).astype(np.float32))
    scales, furrows = surface(lesion, at)
    absorbed = pigment(lesion, at) + np.float32(0.5) * furrows
    light = _image(lesion.skin) * np.exp(-absorbed) + np.float32(0.34) * scales
    fall = rng.normal(0, 0.10, (n, 2)).astype(np.float32)
    lit = 1 + _image(fall[:, 0]) * _GRID[None, None, :] + _image(fall[:, 1]) * _GRID[None, :, None]
    light = light * lit * (1 + _relief(lesion, at)) + _gloss(lesion, at)
    texture = blur(rng.standard_normal(light.shape, dtype=np.float32)) * np.float32(0.05)
    return display(blur(blur(light)) + texture + _noise(light, scanner, rng), 0.5, 0.95, scanner.contrast)


def _relief(lesion: Lesion, at: Place) -> Array:
    """Slope of a dome towards the light: one side of what is raised is bright, the other dark."""
    dome = np.clip(1 - at.rho * at.rho, 0, 1)
    slope = -(np.gradient(dome, axis=2) * _LIGHT[0] + np.gradient(dome, axis=1) * _LIGHT[1])
    relief: Array = np.float32(4.0) * _image(lesion.raised) * slope.astype(np.float32)
    return relief


def _gloss(lesion: Lesion, at: Place) -> Array:
    """Highlight of a shiny spot, on the side of the light."""
    x, y = at.x + np.float32(0.25) * _image(lesion.radius), at.y + np.float32(0.33) * _image(lesion.radius)
    width = np.float32(0.22) * _image(lesion.radius)
    gloss: Array = np.float32(0.55) * _image(lesion.shiny) * np.exp(-(x * x + y * y) / (width * width))
    return gloss


def _bump(at: Place, centre: Array, width: Array | NDArray[np.float64] | float) -> Array:
    """Gaussian bump at ``centre`` (N, 2), in radii; it is the spot's only."""
    spread = _image(np.broadcast_to(np.asarray(width, np.float32), len(centre)))
    u, v = at.u - _image(centre[:, 0]), at.v - _image(centre[:, 1])
    bump: Array = np.exp(-(u * u + v * v) / (spread * spread)) * at.share
    return bump


def _noise(light: Array, scanner: Scanner, rng: np.random.Generator) -> Array:
    noise: Array = np.float32(scanner.noise) * rng.standard_normal(light.shape, dtype=np.float32)
    return noise


def _image(values: Array) -> Array:
    """One number per patient, to be broadcast over its picture."""
    return np.asarray(values, np.float32)[:, None, None]


RENDER = {"high": dermoscopy, "low": photo}
