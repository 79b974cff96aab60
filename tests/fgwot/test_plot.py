"""Pictures: what is drawn, not how it looks."""

import subprocess
import sys

import matplotlib as mpl
import numpy as np
import pytest
import torch

import fgwot

mpl.use("agg")
from matplotlib import pyplot

from fgwot import plot


@pytest.fixture
def ax():
    figure, ax = pyplot.subplots()
    yield ax
    pyplot.close(figure)


def line(n, seed=0):
    """Points along a line, in random order, and their distances."""
    x = torch.randperm(n, generator=torch.Generator().manual_seed(seed)).double()[:, None]
    return torch.cat([x, x.sin()], 1), torch.cdist(x, x)


@pytest.mark.parametrize("both", [False, True])
@pytest.mark.parametrize("kind", [lambda t: t, torch.Tensor.numpy], ids=["torch", "numpy"])
def test_a_plan_between_equal_lines_is_sorted_to_a_diagonal(ax, both, kind):
    (_, C1), (_, C2) = line(8), line(8, seed=1)
    solution = fgwot.fused_gromov_wasserstein(None, kind(C1), kind(C2), epsilon=0.05)
    plot.heat_map(solution, kind(C1), kind(C2) if both else None, ax=ax)
    shown = np.asarray(ax.images[0].get_array())
    found = shown.argmax(1)
    assert np.array_equal(found, np.arange(8)) or np.array_equal(found, np.arange(8)[::-1])


def test_a_plan_alone_is_drawn_as_it_is(ax):
    T = torch.rand(3, 4)
    plot.heat_map(T, ax=ax)
    np.testing.assert_allclose(ax.images[0].get_array(), T)


def test_lines_are_the_pairs_of_most_mass(ax):
    x, _ = line(5)
    T = torch.eye(5) + 1e-6
    edges = torch.ones(5, 5)
    plot.matching(T, x, x, edges1=edges, edges2=edges, ax=ax)
    matched, first, second = (c for c in ax.collections if hasattr(c, "get_segments"))
    segments = np.array(matched.get_segments())
    assert len(segments) == 5
    np.testing.assert_allclose(segments[:, 0, 1], segments[:, 1, 1])  # each point to itself, moved to the right
    assert len(first.get_segments()) == len(second.get_segments()) == 10


def test_lazy_plans_are_drawn(ax):
    x, _ = line(6)
    C = fgwot.LowRank.squared_distances(x)
    plot.matching(fgwot.gromov_wasserstein(C, C, epsilon=0.5, plan="lazy"), x, x, ax=ax)


def test_bad_input(ax):
    with pytest.raises(ValueError, match="one plan"):
        plot.heat_map(torch.rand(2, 3, 4), ax=ax)
    with pytest.raises(ValueError, match=r"needs x and y \(3, 2\) and \(4, 2\)"):
        plot.matching(torch.rand(3, 4), torch.rand(4, 2), torch.rand(4, 2), ax=ax)


def test_without_matplotlib():
    code = "import sys; sys.modules['matplotlib'] = None; import fgwot; import fgwot.plot"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "ImportError: fgwot.plot needs Matplotlib: pip install 'fgwot[plot]'" in run.stderr


def test_convergence_ends_with_the_first_solution_that_converges(ax):
    x, C = line(7)
    options = {"epsilon": 0.2, "alpha": 0.5}
    plot.convergence(torch.cdist(x, x), C, C / 2, ax=ax, **options)
    residual, excess = (drawn.get_ydata() for drawn in ax.lines)
    solution = fgwot.fused_gromov_wasserstein(torch.cdist(x, x), C, C / 2, **options)
    assert 2 < len(residual) <= solution.n_iter  # one that is stopped looks at its residual once more
    assert residual[-1] <= 1.1e-7
    assert residual[0] > 1e3 * residual[-1]
    assert np.nanargmax(excess) == 0  # the objective never rises
    ax.clear()
    plot.convergence(torch.cdist(x, x), C, C / 2, ax=ax, steps=3, **options)
    assert len(ax.lines[0].get_ydata()) == 3


def test_convergence_of_a_batch_is_refused():
    C = torch.rand(2, 4, 4)
    with pytest.raises(ValueError, match="one problem"):
        plot.convergence(None, C, C, epsilon=0.1)
