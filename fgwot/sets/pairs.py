"""All pairs of a set of spaces, or between two sets."""

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from fgwot.arrays import any_array
from fgwot.functional import fused_gromov_wasserstein, warn
from fgwot.iteration.initial import MultiInit
from fgwot.losses import GroundLoss, ground_loss
from fgwot.problem import allowed_imbalance
from fgwot.sets.spaces import Padded, Spaces, Tensors, squared_distances
from fgwot.solution import ConvergenceWarning, Solution, Status
from fgwot.solvers import Solver

_ARRAYS = 9  # n x m arrays of a solve: seven, plan and linear cost


@dataclass(frozen=True)
class Pairwise:
    """What `pairwise` finds, with one row for each space and one column for each of the others.

    Attributes
    ----------
    value, cost : Tensor (N, K)
        J, the minimised objective, and E, the transport cost without entropy, as in `fgwot.Solution`.
    status : Tensor (N, K), int64
        A `fgwot.Status` for each pair.
    residual, marginal_error : Tensor (N, K)
        As in `fgwot.Solution`.
    """

    value: Tensor
    cost: Tensor
    status: Tensor
    residual: Tensor
    marginal_error: Tensor

    @property
    def converged(self) -> Tensor:
        """Bool tensor (N, K): which pairs converged."""
        return self.status == Status.CONVERGED


@any_array
def pairwise(
    structures: Tensors,
    features: Tensors | None = None,
    weights: Tensors | None = None,
    others: tuple[Tensors, Tensors | None, Tensors | None] | None = None,
    *,
    alpha: float | None = None,
    epsilon: float = 0.05,
    rho: float | tuple[float, float] | None = None,
    mass: float | None = None,
    loss: str | GroundLoss = "square",
    solver: Solver | None = None,
    init: MultiInit | None = None,
    max_iter: int = 1000,
    tol: float | None = None,
    memory: int = 2**28,
    progress: Callable[[int, int], None] | None = None,
) -> Pairwise:
    r"""Entropic Fused Gromov-Wasserstein between all pairs of a set of spaces, or from one set to another.

    The linear cost of a pair is M_ij = ``|x_i - y_j|^2`` of its features. Spaces of about one size are solved in one
    batch, padded by points of zero mass. Within one set a loss that is symmetric in its arguments (square, abs, huber)
    is computed for each pair once, the larger space first, and for each space with itself.

    Parameters
    ----------
    structures : sequence of N tensors (n_i, n_i), or Tensor (N, n, n)
    features : sequence of N tensors (n_i, d), or Tensor (N, n, d), optional
        Without them the problems are Gromov-Wasserstein.
    weights : sequence of N tensors (n_i,), or Tensor (N, n), optional
        Of one mass, where neither `rho` nor `mass` is given; uniform by default.
    others : tuple, optional
        Structures, features and weights of a second set, with None for what is left out.
    alpha, epsilon, rho, mass, loss, solver, max_iter, tol
        As in `fgwot.fused_gromov_wasserstein`, with numbers for alpha, epsilon, rho and mass.
    init : MultiInit, optional
        p q^T by default. That may be a poor start for a space and itself.
    memory : int
        Bytes that the solve of a batch may take, roughly; at least one problem is solved at a time.
    progress : callable, optional
        Called after each batch with the number of problems solved and the number of all.

    Returns
    -------
    Pairwise
        Without gradients: a batch of `fgwot.fused_gromov_wasserstein`, or `fgwot.nn.TemplateLayer`, has them.

    Raises
    ------
    TypeError, ValueError
        On bad input; the message says what arrived and what was expected.

    Warns
    -----
    ConvergenceWarning
        Once per call if a problem did not converge.

    Examples
    --------
    >>> import torch
    >>> points = [torch.tensor(x)[:, None] for x in ([0.0, 1.0, 3.0], [0.0, 1.0, 3.0, 4.0], [3.0, 1.0, 0.0])]
    >>> found = pairwise([torch.cdist(x, x) for x in points], points, epsilon=0.02)
    >>> found.cost.shape, found.cost.argsort(1)[0].tolist()  # the first equals the third
    (torch.Size([3, 3]), [0, 2, 1])
    """
    if isinstance(others, tuple) and len(others) != 3:
        raise ValueError(f"others must be structures, features and weights of a second set, got {len(others)} values")
    if others is not None and not isinstance(others, tuple):
        raise TypeError(f"others must be a tuple of structures, features and weights, got {type(others).__name__}")
    if not (init is None or isinstance(init, MultiInit)):
        raise TypeError(f"init must be None or a fgwot.MultiInit, got {type(init).__name__}")
    loss = ground_loss(loss)
    one_mass = rho is None and mass is None
    checked = partial(Spaces.of, non_negative=loss.non_negative, one_mass=one_mass)
    rows = checked(structures, features, weights)
    columns = rows if others is None else checked(*others)
    _check_fit(rows, columns, one_mass)
    even = not isinstance(rho, tuple) or rho[0] == rho[-1]
    half = others is None and even and (loss.name == "square" or loss.kernel is not None)
    sizes = len(rows.weights), len(columns.weights)
    total = sizes[0] * (sizes[0] + 1) // 2 if half else sizes[0] * sizes[1]

    like = rows.weights[0]
    numbers = {name: like.new_empty(sizes) for name in ("value", "cost", "residual", "marginal_error")}
    found = Pairwise(status=torch.empty(sizes, dtype=torch.int64, device=like.device), **numbers)
    solved = 0
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        for first, second, pairs in _batches(rows, columns, half, memory):
            solution = fused_gromov_wasserstein(
                *_costs(first, second, *pairs),
                alpha=alpha,
                epsilon=epsilon,
                rho=rho,
                mass=mass,
                loss=loss,
                solver=solver,
                init=init,
                max_iter=max_iter,
                tol=tol,
            )
            i, j = first.index[pairs[0]], second.index[pairs[1]]
            _write(found, i, j, solution)
            if half:
                _write(found, j, i, solution)
            solved += len(i)
            if progress is not None:
                progress(solved, total)
    each = torch.ones(sizes, dtype=torch.bool, device=like.device)
    counted = each.triu() if half else each
    warn(found.status[counted], found.residual[counted])
    return found


def _check_fit(rows: Spaces, columns: Spaces, one_mass: bool) -> None:
    a, b = rows.structures[0], columns.structures[0]
    if a.dtype != b.dtype or a.device != b.device:
        raise TypeError(
            f"both sets must have one dtype and device, got {a.dtype} on {a.device} and {b.dtype} on {b.device}"
        )
    dimensions = [None if s.features is None else s.features[0].shape[1] for s in (rows, columns)]
    if dimensions[0] != dimensions[1]:
        raise ValueError(f"both sets need features of one dimension or none, got {dimensions[0]} and {dimensions[1]}")
    if one_mass and abs(rows.mass - columns.mass) > allowed_imbalance(a.dtype) * rows.mass:
        raise ValueError(f"both sets must have equal mass, got {rows.mass:g} and {columns.mass:g}")


def _batches(
    rows: Spaces, columns: Spaces, half: bool, memory: int
) -> Iterator[tuple[Padded, Padded, tuple[Tensor, Tensor]]]:
    """Two buckets, and places in them of pairs to be solved together."""
    of_rows = rows.buckets()
    of_columns = of_rows if half else columns.buckets()
    for a, first in enumerate(of_rows):
        for second in of_columns[a if half else 0 :]:
            each = torch.ones(len(first.index), len(second.index), dtype=torch.bool, device=first.index.device)
            i, j = (each.triu() if half and first is second else each).nonzero(as_tuple=True)
            n, m = first.weights.shape[1], second.weights.shape[1]
            bytes_each = (n * n + m * m + _ARRAYS * n * m) * first.weights.element_size()
            count = max(1, memory // bytes_each)
            for start in range(0, len(i), count):
                yield first, second, (i[start : start + count], j[start : start + count])


def _costs(first: Padded, second: Padded, i: Tensor, j: Tensor) -> tuple[Tensor | None, Tensor, Tensor, Tensor, Tensor]:
    """M, C1, C2, p and q of some pairs."""
    M = None
    if first.features is not None and second.features is not None:
        M = squared_distances(first.features[i], second.features[j])
    return M, first.structures[i], second.structures[j], first.weights[i], second.weights[j]


def _write(found: Pairwise, i: Tensor, j: Tensor, solution: Solution) -> None:
    for name in ("value", "cost", "status", "residual", "marginal_error"):
        getattr(found, name)[i, j] = getattr(solution, name)
