"""Plans as heat maps, matched clouds or graphs, and convergence. Needs Matplotlib, the extra ``plot``.

Colours read on light and on dark backgrounds; all else follows Matplotlib's style.
"""

import warnings
from typing import Any

import torch
from torch import Tensor

from fgwot.arrays import any_array
from fgwot.functional import fused_gromov_wasserstein
from fgwot.solution import ConvergenceWarning, Solution
from fgwot.streamed.plan import stored

try:
    from matplotlib import pyplot
    from matplotlib.axes import Axes
    from matplotlib.collections import LineCollection
    from matplotlib.colors import LinearSegmentedColormap
except ImportError as error:
    raise ImportError("fgwot.plot needs Matplotlib: pip install 'fgwot[plot]'") from error

FIRST, SECOND, LINES = "#2f7fc1", "#e07a2f", "#8a929c"
_MASS = LinearSegmentedColormap.from_list(
    "mass", [(0.18, 0.5, 0.76, 0.0), (0.42, 0.36, 0.76, 0.85), (0.91, 0.35, 0.25, 1.0)]
)


@any_array
def heat_map(
    plan: Solution | Tensor, C1: Tensor | None = None, C2: Tensor | None = None, *, ax: Axes | None = None
) -> Axes:
    """Draw a plan (n, m) as a heat map, sorted by structure.

    Points of the first side are sorted by the first principal coordinate of C1, those of the second by that of C2 or,
    without it, by where the plan takes them. Without any structure nothing is sorted.

    Parameters
    ----------
    plan : Solution or Tensor (n, m)
        Built if it is lazy.
    C1, C2 : Tensor (n, n), (m, m), optional
        Structures to sort by.
    ax : matplotlib.axes.Axes, optional
        Where to draw; the present axes by default.

    Examples
    --------
    >>> import fgwot, torch
    >>> x = torch.randn(9, 2)
    >>> C = torch.cdist(x, x)
    >>> ax = heat_map(fgwot.gromov_wasserstein(C, C, epsilon=0.1), C)
    >>> ax.get_ylabel()
    'first side'
    """
    ax = pyplot.gca() if ax is None else ax
    T = _plan(plan)
    if C1 is not None:
        rows = _principal_coordinate(C1).argsort()
        T = T[rows]
        T = T[:, (_positions(T) if C2 is None else _principal_coordinate(C2)).argsort()]
    image = ax.imshow(T.numpy(), cmap=_MASS, aspect="auto", interpolation="nearest", vmin=0)
    ax.figure.colorbar(image, ax=ax, label="mass", fraction=0.046, pad=0.03)
    ax.set(xlabel="second side", ylabel="first side")
    return ax


@any_array
def matching(
    plan: Solution | Tensor,
    x: Tensor,
    y: Tensor,
    *,
    edges1: Tensor | None = None,
    edges2: Tensor | None = None,
    shift: tuple[float, float] | None = None,
    lines: int = 300,
    ax: Axes | None = None,
) -> Axes:
    """Draw two clouds, or graphs, in the plane and the pairs of points between which mass goes.

    Parameters
    ----------
    plan : Solution or Tensor (n, m)
    x, y : Tensor (n, 2), (m, 2)
        Where the points are drawn. Sizes of points are their masses.
    edges1, edges2 : Tensor (n, n), (m, m), optional
        Adjacency: an edge is drawn where it is positive.
    shift : pair of float, optional
        By what y is moved, to stand beside x; by default to the right of it.
    lines : int
        At most so many pairs, those of the largest mass; the more mass, the less transparent.
    ax : matplotlib.axes.Axes, optional
        Where to draw; the present axes by default.

    Examples
    --------
    >>> import fgwot, torch
    >>> x = torch.randn(9, 2)
    >>> C = torch.cdist(x, x)
    >>> ax = matching(fgwot.gromov_wasserstein(C, C, epsilon=0.1), x, x)
    """
    ax = pyplot.gca() if ax is None else ax
    T = _plan(plan)
    x, y = x.detach().cpu().double(), y.detach().cpu().double()
    if x.shape != (T.shape[0], 2) or y.shape != (T.shape[1], 2):
        raise ValueError(f"a plan {tuple(T.shape)} needs x and y {(len(T), 2)} and {(T.shape[1], 2)}")
    if shift is None:
        width = x[:, 0].max() - x[:, 0].min() + y[:, 0].max() - y[:, 0].min()
        shift = (float(x[:, 0].max() - y[:, 0].min() + 0.15 * width), 0.0)
    y = y + y.new_tensor(shift)
    kept = min(lines, T.numel())
    mass, at = T.flatten().topk(kept)
    i, j = at // T.shape[1], at % T.shape[1]
    strength = (mass / mass.max().clamp_min(torch.finfo(mass.dtype).tiny)).clamp(0, 1)
    shown = strength > 0.02
    ends = torch.stack([x[i], y[j]], 1)[shown]
    ax.add_collection(
        LineCollection(
            list(ends.numpy()), colors=LINES, alpha=(0.75 * strength[shown]).numpy(), linewidths=0.9, zorder=1
        )
    )
    for points, edges, colour, weight in ((x, edges1, FIRST, T.sum(1)), (y, edges2, SECOND, T.sum(0))):
        if edges is not None:
            pairs = edges.detach().cpu().triu(1).nonzero()
            ax.add_collection(
                LineCollection(list(points[pairs].numpy()), colors=colour, alpha=0.55, linewidths=1.2, zorder=2)
            )
        size = 30 * (weight / weight.mean()).clamp(0.05, 4)
        horizontal, vertical = points.T.numpy()
        ax.scatter(horizontal, vertical, s=size.numpy(), color=colour, edgecolors="white", linewidths=0.5, zorder=3)
    ax.autoscale()
    ax.set_aspect("equal")
    ax.set_axis_off()
    return ax


def convergence(
    M: Any, C1: Any, C2: Any, p: Any = None, q: Any = None, *, steps: int = 50, ax: Axes | None = None, **options: Any
) -> Axes:
    """Draw how far from an answer a solve is after each of its steps.

    The residual and what the value is above the last one, on a logarithmic scale, of the solutions with ``max_iter`` 1,
    2, ..., up to the first that converges. Each starts anew, which small problems can bear.

    Parameters
    ----------
    M, C1, C2, p, q, **options
        Those of `fgwot.fused_gromov_wasserstein`, of one problem.
    steps : int
        At most so many.
    ax : matplotlib.axes.Axes, optional
        Where to draw; the present axes by default.

    Examples
    --------
    >>> import torch
    >>> x = torch.randn(9, 2)
    >>> C = torch.cdist(x, x)
    >>> figure, ax = pyplot.subplots()
    >>> convergence(None, C, C, epsilon=0.1, ax=ax).get_xlabel()
    'step'
    >>> pyplot.close(figure)
    """
    ax = pyplot.gca() if ax is None else ax
    residuals, values = [], []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        for step in range(1, steps + 1):
            solution = fused_gromov_wasserstein(M, C1, C2, p, q, **options, max_iter=step)
            if solution.value.ndim:
                raise ValueError(f"one problem is drawn at a time, got a batch {tuple(solution.value.shape)}")
            residuals.append(float(solution.residual))
            values.append(float(solution.value))
            if bool(solution.converged):
                break
    count = range(1, len(values) + 1)
    ax.semilogy(count, residuals, "o-", color=FIRST, markersize=3, label="residual")
    excess = [value - values[-1] for value in values]
    ax.semilogy(count, [x if x > 0 else float("nan") for x in excess], "s-", color=SECOND, markersize=3, label="excess")
    ax.set(xlabel="step", ylabel="residual, and value above the last")
    ax.legend()
    return ax


def _plan(plan: Solution | Tensor) -> Tensor:
    T: Any = stored(plan.plan if isinstance(plan, Solution) else plan)
    if not isinstance(T, Tensor) or T.ndim != 2:
        got = tuple(T.shape) if isinstance(T, Tensor) else type(T).__name__
        raise ValueError(f"one plan (n, m) is drawn at a time, got {got}")
    return T.detach().cpu().double()


def _principal_coordinate(C: Tensor) -> Tensor:
    """The first coordinate (n,) of classical scaling of the symmetric part of C, taken as distances."""
    D = C.detach().cpu().double()
    squares = ((D + D.mT) / 2).square()
    centred = squares - squares.mean(0) - squares.mean(1, keepdim=True) + squares.mean()
    vectors: Tensor = torch.linalg.eigh(-centred).eigenvectors
    return vectors[:, -1]


def _positions(T: Tensor) -> Tensor:
    """Mean row (m,) that each column's mass comes from."""
    rows = torch.arange(len(T), dtype=T.dtype)
    return (rows @ T) / T.sum(0).clamp_min(torch.finfo(T.dtype).tiny)
