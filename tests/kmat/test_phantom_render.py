"""The pictures are what their physics says."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from kmat.phantom import CLASSES, anatomy, factors, generate, render
from kmat.phantom.recipe import RECIPES


def ellipsoids(soft, n=4, k=3, seed=0):
    rng = np.random.default_rng(seed)
    return anatomy.ellipsoids(
        rng.uniform(-0.3, 0.3, (n, k, 3)),
        rng.uniform(0.2, 0.6, (n, k, 3)),
        rng.uniform(0.2, 1.0, (n, k)),
        soft,
        anatomy.rotations((n, k), rng),
    )


def profile(e, n, k, points):
    """Attenuation at points (..., 3), straight from the definition in `Ellipsoids`."""
    d = points - e.center[n, k]
    q = 1 - np.einsum("...i,ij,...j->...", d, e.shape[n, k].astype(float), d)
    return e.mu[n, k] * np.where(q > 0, 1 - e.soft[n, k] + e.soft[n, k] * q**2, 0)


@pytest.mark.parametrize("soft", [0.0, 0.5, 1.0])
def test_projection_is_the_line_integral(soft):
    e = ellipsoids(soft)
    y = np.linspace(-1.5, 1.5, 3001)
    for k in range(3):
        image = render.projected_attenuation(e, k)
        for n, row, col in [(0, 30, 30), (1, 20, 40), (2, 33, 28), (3, 40, 31)]:
            x, z = render._GRID[col], render._GRID[::-1][row]
            ray = np.stack([np.full_like(y, x), y, np.full_like(y, z)], axis=-1)
            assert image[n, row, col] == pytest.approx(profile(e, n, k, ray).sum() * (y[1] - y[0]), abs=2e-3)


@pytest.mark.parametrize("soft", [0.0, 1.0])
def test_slice_is_the_profile_in_the_plane(soft):
    e = ellipsoids(soft, seed=1)
    level = np.array([0.0, 0.1, -0.2, 0.3], np.float32)
    x, y = np.meshgrid(render._GRID, render._GRID)
    for n in range(4):
        points = np.stack([x, y, np.full_like(x, level[n])], axis=-1)
        difference = np.abs(render.slice_attenuation(e, 0, level)[n] - profile(e, n, 0, points))
        # A pixel on a sharp edge may fall on either side of it in single precision.
        assert np.mean(difference > 1e-4) < 2e-3


def chests(n=6, seed=3, **fixed):
    drawn = factors.draw(factors.pretraining_table(), n, np.random.default_rng(seed))
    drawn |= {name: np.full(n, factors.VALUES[name].index(value)) for name, value in fixed.items()}
    return anatomy.build(drawn, np.random.default_rng(seed))


ATTENUATION = {"high": render.ct_attenuation, "low": render.xray_attenuation}


@pytest.mark.parametrize("modality", ["high", "low"])
def test_an_opacity_only_adds_attenuation(modality):
    clear, sick = chests(count="none"), chests(count="many")
    difference = ATTENUATION[modality](sick) - ATTENUATION[modality](clear)
    assert difference.min() > -1e-5
    assert (difference.max(axis=(1, 2)) > 0.05).all()


@pytest.mark.parametrize("modality", ["high", "low"])
def test_fluid_only_takes_air_away(modality):
    dry, wet = chests(fluid="none"), chests(fluid="left")
    difference = ATTENUATION[modality](wet) - ATTENUATION[modality](dry)
    assert difference.min() > -1e-5
    half = render.SIZE // 2
    # Left lung is on the right of the picture; fluid lies at the back (CT) or at the base (X-ray): below the middle.
    assert difference[:, half:, half:].sum() > 0.99 * difference.sum() > 0


@pytest.mark.parametrize("modality", ["high", "low"])
def test_images_are_deterministic_bytes(modality):
    first, second = (
        render.RENDER[modality](chests(), render.PRETRAINING[modality], np.random.default_rng(0)) for _ in range(2)
    )
    assert first.dtype == np.uint8
    assert first.shape == (6, 64, 64)
    assert np.array_equal(first, second)
    other = render.RENDER[modality](chests(), render.PRETRAINING[modality], np.random.default_rng(1))
    assert not np.array_equal(first, other)


def test_both_modalities_show_one_anatomy():
    """The air column of the lungs in the slice is the chord that the projection integrates at that height."""
    chest = chests(count="none", fluid="none", heart="normal")
    air = {m: -ATTENUATION[m](chest) for m in ATTENUATION}
    pixel = render._GRID[1] - render._GRID[0]
    for n, level in enumerate(chest.level):
        row = np.abs(render._GRID[::-1] - level).argmin()
        column = air["high"][n].sum(axis=0) * pixel
        lung = np.abs(np.abs(render._GRID) - 0.45) < 0.2
        assert np.corrcoef(column[lung], air["low"][n, row, lung])[0, 1] > 0.9


@pytest.mark.parametrize("modality", ["high", "low"])
def test_true_factors_separate_the_classes(modality):
    """An ideal reader of the factors is right nine times of ten: what an image model could reach at best."""
    rng = np.random.default_rng(0)
    x = np.concatenate([factors.one_hot(factors.draw(t, 1500, rng), modality) for t in factors.CLASS_TABLE])
    y = np.repeat(range(len(CLASSES)), 1500)
    even = np.arange(len(y)) % 2 == 0
    assert 0.85 < LogisticRegression(max_iter=1000).fit(x[even], y[even]).score(x[~even], y[~even]) < 0.98


def test_factor_tables_are_distributions():
    for table in (*factors.CLASS_TABLE, factors.pretraining_table()):
        assert set(table) == set(factors.VALUES)
        for name, p in table.items():
            assert len(p) == len(factors.VALUES[name])
            assert sum(p) == pytest.approx(1)


def test_benchmark_is_deterministic_in_its_seed(monkeypatch):
    monkeypatch.setattr(
        generate, "SPLITS", {split: (4, modalities) for split, (_, modalities) in generate.SPLITS.items()}
    )
    one, again, other = (generate.benchmark(RECIPES["chest"], seed) for seed in (1, 1, 2))
    assert all(np.array_equal(one[name], again[name]) for name in one)
    assert not np.array_equal(one["images"], other["images"])
