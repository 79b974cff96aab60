"""A chest in three dimensions: ellipsoids placed from factors.

Axes: x runs from the patient's right to left (image left to right, as radiologists view it), y from front to back,
z from feet to head. One unit is about 17 cm, half the width of the trunk.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from kmat.phantom.factors import VALUES

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from kmat.phantom.factors import Factors

    Array = NDArray[np.float32]

N_RIBS = 7
N_VESSELS = 7
MAX_LESIONS = 7
N_PARTS = 6
_LESION_RADIUS = (0.12, 0.18, 0.26)
_LESION_DENSITY = (0.38, 0.62, 0.98)
_LUNG_AIR = 0.78


@dataclass(frozen=True)
class Ellipsoids:
    """``K`` soft ellipsoids for each of ``N`` patients.

    With q = 1 - (r - center)' shape (r - center), the attenuation added at r is ``mu * ((1 - soft) + soft * q^2)``
    where q > 0, and zero elsewhere.

    Attributes
    ----------
    center : (N, K, 3) float32
    shape : (N, K, 3, 3) float32
        Symmetric; positive definite, or semi-definite with a positive yy entry (a cylinder along z).
    mu : (N, K) float32
        Attenuation relative to soft tissue; 0 marks an unused slot.
    soft : (N, K) float32
        0 is a sharp edge, 1 fades out smoothly.
    """

    center: Array
    shape: Array
    mu: Array
    soft: Array


@dataclass(frozen=True)
class Chest:
    """A batch of ``N`` patients.

    Attributes
    ----------
    body, heart : Ellipsoids
        One each, uniform. The heart displaces lung.
    lungs : Ellipsoids
        Two, right then left; ``mu`` is the attenuation that air takes away.
    parts : Ellipsoids
        Everything that adds to them: spine, ribs, vessels and opacities.
    fluid : (N, 2) float32
        Pleural fluid as a fraction of the lung's extent, right then left. It settles by gravity: at the back in the
        lying (CT) and at the base in the standing (X-ray) patient.
    level : (N,) float32
        z of the axial slice, through the opacities where there are any.
    """

    body: Ellipsoids
    heart: Ellipsoids
    lungs: Ellipsoids
    parts: Ellipsoids
    fluid: Array
    level: Array


def ellipsoids(
    center: NDArray[np.float64],
    axes: NDArray[np.float64],
    mu: NDArray[np.float64] | float,
    soft: NDArray[np.float64] | float = 0.0,
    rotation: NDArray[np.float64] | None = None,
) -> Ellipsoids:
    """Build ellipsoids from semi-axes (N, K, 3) (inf makes a cylinder) and rotations (N, K, 3, 3)."""
    inverse = 1.0 / axes**2
    if rotation is None:
        shape = inverse[..., None] * np.eye(3)
    else:
        shape = np.einsum("nkia,nka,nkja->nkij", rotation, inverse, rotation)
    full = np.broadcast_to
    return Ellipsoids(
        center.astype(np.float32),
        shape.astype(np.float32),
        full(mu, center.shape[:2]).astype(np.float32),
        full(soft, center.shape[:2]).astype(np.float32),
    )


def join(*groups: Ellipsoids) -> Ellipsoids:
    """Collect groups of ellipsoids of the same patients."""
    fields = ("center", "shape", "mu", "soft")
    return Ellipsoids(*(np.concatenate([getattr(g, name) for g in groups], axis=1) for name in fields))


def rotations(shape: tuple[int, ...], rng: np.random.Generator) -> NDArray[np.float64]:
    """Uniform random rotations, ``shape + (3, 3)``, from unit quaternions."""
    q = rng.standard_normal((*shape, 4))
    w, x, y, z = np.moveaxis(q / np.linalg.norm(q, axis=-1, keepdims=True), -1, 0)
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
        [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
        [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
    ]
    return np.stack([np.stack(row, axis=-1) for row in rows], axis=-2)


def _bones(n: int, rng: np.random.Generator) -> Ellipsoids:
    """Spine (a cylinder at the back) and posterior ribs (rods sloping down and outwards)."""
    spine = ellipsoids(
        np.stack([rng.normal(0, 0.02, (n, 1)), np.full((n, 1), 0.62), np.zeros((n, 1))], axis=-1),
        np.broadcast_to([0.11, 0.14, np.inf], (n, 1, 3)),
        0.55,
    )
    slope = rng.normal(0.38, 0.05, (n, 1))
    heights = np.linspace(-0.75, 0.85, N_RIBS) + rng.normal(0, 0.03, (n, 1))
    groups = [spine]
    for sign in (-1.0, 1.0):
        center = np.stack([np.full((n, N_RIBS), sign * 0.45), np.full((n, N_RIBS), 0.60), heights], axis=-1)
        cos, sin = np.cos(slope), -sign * np.sin(slope)
        zero, one = np.zeros_like(cos), np.ones_like(cos)
        turn = np.stack(
            [np.stack(r, axis=-1) for r in ([cos, zero, -sin], [zero, one, zero], [sin, zero, cos])], axis=-2
        )
        rotation = np.broadcast_to(turn, (n, N_RIBS, 3, 3))
        groups.append(ellipsoids(center, np.broadcast_to([0.38, 0.05, 0.035], (n, N_RIBS, 3)), 0.5, 0.0, rotation))
    return join(*groups)


def _vessels(lungs: Ellipsoids, lung_axes: NDArray[np.float64], rng: np.random.Generator) -> Ellipsoids:
    """Thin rods in random directions, denser and thicker near the hilum."""
    n = len(lungs.mu)
    groups = []
    for k, sign in enumerate((-1.0, 1.0)):
        offset = rng.normal(0, 0.32, (n, N_VESSELS, 3)) - np.array([sign * 0.35, 0, 0])
        center = lungs.center[:, k, None] + offset * lung_axes[:, k, None]
        axes = np.stack(
            [rng.uniform(0.10, 0.22, (n, N_VESSELS)), *rng.uniform(0.018, 0.035, (2, n, N_VESSELS))], axis=-1
        )
        groups.append(
            ellipsoids(center, axes, rng.uniform(0.12, 0.3, (n, N_VESSELS)), 0.5, rotations((n, N_VESSELS), rng))
        )
    return join(*groups)


def _lesions(
    factors: Factors,
    lungs: Ellipsoids,
    lung_axes: NDArray[np.float64],
    level: NDArray[np.float64],
    rng: np.random.Generator,
) -> Ellipsoids:
    """Opacities, each made of ``N_PARTS`` ellipsoids: one whole, clumps (patchy) or sheets (reticular)."""
    n, m = len(level), MAX_LESIONS
    value = {name: factors[name][:, None] for name in VALUES}
    count = np.where(factors["count"] == 2, rng.integers(2, 4, n), rng.integers(4, m + 1, n))
    count = np.where(factors["count"] < 2, factors["count"], count)
    used = np.arange(m) < count[:, None]

    alternate = (np.arange(m) + rng.integers(0, 2, (n, 1))) % 2
    lung = np.where(value["side"] == 2, alternate, np.where(value["side"] == 0, 1, 0))
    outwards = np.where(lung == 1, 1.0, -1.0)
    # Place in the unit ball of the lung, on the chosen side of its middle, then keep inside.
    u = outwards * np.where(value["position"] == 0, rng.uniform(0.45, 0.80, (n, m)), rng.uniform(-0.55, 0.0, (n, m)))
    v = np.where(value["depth"] == 0, -1.0, 1.0) * rng.uniform(0.15, 0.65, (n, m))
    norm = np.hypot(u, v)
    u, v = (w * np.minimum(1.0, 0.78 / norm) for w in (u, v))
    rows = np.arange(n)[:, None]
    centre, axes = lungs.center[rows, lung], lung_axes[rows, lung]
    height = level[:, None] + rng.normal(0, 0.05, (n, m))
    shrink = np.sqrt(np.maximum(0.2, 1 - ((height - centre[..., 2]) / axes[..., 2]) ** 2))
    center = np.stack(
        [centre[..., 0] + u * axes[..., 0] * shrink, centre[..., 1] + v * axes[..., 1] * shrink, height], axis=-1
    )

    radius = np.array(_LESION_RADIUS)[value["size"]] * rng.uniform(0.85, 1.15, (n, m))
    mu = np.array(_LESION_DENSITY)[value["density"]] * rng.uniform(0.85, 1.15, (n, m)) * used
    soft = np.where(value["margin"] == 0, 0.0, 1.0)
    radius = radius * (1 + 0.3 * soft)  # a fading edge looks smaller than it is

    whole = np.arange(N_PARTS) == 0
    texture = np.broadcast_to(value["texture"], (n, m))[..., None]
    spread = np.where(texture == 0, 0.0, np.where(texture == 1, 0.62, 0.45))
    scatter = rng.normal(0, 1, (n, m, N_PARTS, 3))
    scatter *= rng.uniform(0.5, 1.0, (n, m, N_PARTS, 1)) / np.linalg.norm(scatter, axis=-1, keepdims=True)
    part_center = center[:, :, None] + scatter * (spread * radius[..., None])[..., None]
    r = radius[..., None]
    stretch = rng.uniform(0.8, 1.25, (n, m, N_PARTS, 3))
    # Clumps are balls; strands are thin sheets, which a slice cuts into lines.
    wide = np.where(texture == 1, 0.5 * r, r)
    thin = np.where(texture == 2, np.maximum(0.16 * r, 0.03), wide)
    part_axes = np.stack([wide, wide, thin], axis=-1) * stretch
    part_mu = mu[..., None] * np.where(texture == 0, whole, 1.0)
    flat = (n, m * N_PARTS)
    return ellipsoids(
        part_center.reshape(*flat, 3),
        part_axes.reshape(*flat, 3),
        part_mu.reshape(flat),
        np.broadcast_to(soft[..., None], (n, m, N_PARTS)).reshape(flat),
        rotations(flat, rng),
    )


def build(factors: Factors, rng: np.random.Generator) -> Chest:
    """Build one chest per patient.

    Parameters
    ----------
    factors : dict of (N,) int64 arrays
        From `kmat.phantom.factors.draw`.
    rng : numpy.random.Generator
        Draws what the factors leave open: size, position and shape of every organ and opacity.

    Returns
    -------
    Chest

    Examples
    --------
    >>> from kmat.phantom.factors import draw, pretraining_table
    >>> rng = np.random.default_rng(0)
    >>> build(draw(pretraining_table(), 3, rng), rng).lungs.center.shape
    (3, 2, 3)
    """
    n = len(factors["count"])

    def jitter(axes: list[float], relative: float, k: int = 1) -> NDArray[np.float64]:
        return np.array(axes) * rng.normal(1, relative, (n, k, 3))

    body = ellipsoids(np.zeros((n, 1, 3)), jitter([0.98, 0.84, np.inf], 0.03), 1.0)
    lung_axes = jitter([0.37, 0.60, 0.80], 0.05, 2)
    centre = np.array([[-0.45, 0.0, 0.02], [0.45, 0.0, 0.0]]) + rng.normal(0, 0.02, (n, 2, 3))
    lungs = ellipsoids(centre, lung_axes, -_LUNG_AIR * rng.uniform(0.94, 1.06, (n, 1)))
    grown = np.where(factors["heart"] == 1, 1.38, 1.0)[:, None, None]
    heart = ellipsoids(
        np.array([0.12, -0.26, -0.32]) + rng.normal(0, 0.025, (n, 1, 3)), jitter([0.27, 0.24, 0.27], 0.05) * grown, 0.0
    )
    zone = np.array([0.40, 0.03, -0.34])[factors["zone"]]
    level = zone + rng.normal(0, 0.07, n)
    has_fluid = np.stack([np.isin(factors["fluid"], (2, 3)), np.isin(factors["fluid"], (1, 3))], axis=1)
    fluid = has_fluid * rng.uniform(0.14, 0.32, (n, 2))
    parts = join(_bones(n, rng), _vessels(lungs, lung_axes, rng), _lesions(factors, lungs, lung_axes, level, rng))
    return Chest(body, heart, lungs, parts, fluid.astype(np.float32), level.astype(np.float32))
