"""Spaces between spaces."""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from fgwot.arrays import any_array
from fgwot.constants import SHIFT
from fgwot.functional import fused_gromov_wasserstein, warn
from fgwot.losses import GroundLoss, ground_loss
from fgwot.problem import Weight, allowed_imbalance
from fgwot.sets.spaces import Padded, Spaces, Tensors, squared_distances
from fgwot.solution import ConvergenceWarning, Solution, Status, WarmStart

_TOLERANCE = {torch.float64: 1e-5, torch.float32: 1e-4}
_OF_PLANS = 0.1  # tolerance of plans, in that of the barycenter
_DISTURBANCE = 0.01  # of the start: points that are equal there would stay equal

# C from f1'(C), for losses with h1(C) = C.
_INVERSE: dict[str, Callable[[Tensor], Tensor]] = {
    "square": lambda slope: slope / 2,
    "kl": lambda slope: (slope.exp() - SHIFT).clamp_min(0),
}
Fixed = Literal["structure", "features"]


@dataclass(frozen=True)
class Barycenter:
    r"""The stationary point that `barycenter` found.

    Attributes
    ----------
    structure : Tensor (n, n)
        C. Detached, as are features, plans, objectives and residual.
    features : Tensor (n, d) or None
        X; None where the inputs have none.
    weights : Tensor (n,)
        p.
    value : Tensor ()
        ``sum_s coefficients[s] J_s``, the minimised objective, with exact gradients in all that was given.
    plans : Tensor (S, n, m)
        Couplings of the barycenter with each input; m is the largest input's number of points, and columns beyond an
        input's own are zero.
    objectives : Tensor (steps,)
        The objective at the plans of each step. It never rises beyond rounding.
    status : Status
        CONVERGED if the residual is at most `tol` and all plans converged at this C and X.
    residual : Tensor ()
        Change that one more step would make: root mean square of that of C and of that of X, by the weights and each
        relative to the inputs' own; the larger of the two.
    n_iter : int
        Steps.
    """

    structure: Tensor
    features: Tensor | None
    weights: Tensor
    value: Tensor
    plans: Tensor
    objectives: Tensor
    status: Status
    residual: Tensor
    n_iter: int

    @property
    def converged(self) -> bool:
        """Whether the status is CONVERGED."""
        return self.status == Status.CONVERGED


@any_array
def barycenter(
    structures: Tensors,
    features: Tensors | None = None,
    weights: Tensors | None = None,
    *,
    n: int,
    p: Tensor | None = None,
    coefficients: Tensor | Sequence[float] | None = None,
    init_structure: Tensor | None = None,
    init_features: Tensor | None = None,
    fixed: Fixed | None = None,
    alpha: Weight | None = None,
    epsilon: Weight = 0.05,
    rho: Weight | tuple[Weight, Weight] | None = None,
    mass: Weight | None = None,
    loss: str | GroundLoss = "square",
    seed: int = 0,
    max_iter: int = 1000,
    tol: float | None = None,
) -> Barycenter:
    r"""Entropic Fused Gromov-Wasserstein barycenter on n points.

    Find a stationary point of

    .. math:: F(C, X) = \sum_s \lambda_s \min_{T_s} (1-\alpha) \sum_{ij} \lVert X_i - Y_{s,j} \rVert^2 T_{s,ij}
              + \alpha \sum_{ijkl} L(C_{ik}, C_{s,jl}) T_{s,ij} T_{s,kl} - \varepsilon H(T_s)

    over structures C and features X, for couplings T_s of p with the weights of input s. The plans of all inputs are
    one batch, solved for from those of the step before and from the usual start, the better counting for each input;
    then C and X minimise F at these plans in closed form:

    .. math:: X = \frac{\sum_s \lambda_s T_s Y_s}{\sum_s \lambda_s p}, \qquad
              f_1'(C) = \frac{\sum_s \lambda_s T_s h_2(C_s) T_s^\top}{\sum_s \lambda_s p p^\top},

    f1, h2 being those of `fgwot.Factors`: the weighted mean of C_s for the square loss, its geometric mean for kl. F
    never rises.

    With prices `rho` or a `mass` the plans are those that `fgwot.fused_gromov_wasserstein` has with them: inputs may
    differ in mass, outliers are left out, and the sums of the plans' rows take the place of p in these formulas. A
    point that no plan gives mass to stays where it is.

    Parameters
    ----------
    structures, features, weights
        The S inputs, as in `fgwot.pairwise`. Without features it is the Gromov-Wasserstein barycenter.
    n : int
        Points of the barycenter.
    p : Tensor (n,), optional
        Their weights, positive and of the inputs' mass; uniform by default. With `rho` or `mass` they may have any, by
        default the mean of the inputs'.
    coefficients : Tensor (S,) or sequence of float, optional
        lambda, non-negative; 1 / S by default.
    init_structure, init_features : Tensor (n, n), (n, d), optional
        First C and X. By default those of the input with the largest coefficient, at points far from each other, or
        repeated if it has fewer than n, and disturbed by 1 % so that equal points can part.
    fixed : {"structure", "features"}, optional
        What stays as it was given.
    alpha, epsilon : float or Tensor (), optional
        As in `fgwot.fused_gromov_wasserstein`.
    rho, mass : float, Tensor () or (S,), or a pair of them for rho, optional
        As there; the first price is that of p. Zero leaves the weights of points free, for each input by itself.
    loss : {"square", "kl"}
    seed : int
        Of the disturbance.
    max_iter : int
        Steps.
    tol : float, optional
        Bound on the residual of a converged barycenter; a tenth of it is that of its plans. By default 1e-5 in
        float64 and 1e-4 in float32, and the plans have the default of `fgwot.fused_gromov_wasserstein`.

    Returns
    -------
    Barycenter

    Raises
    ------
    TypeError, ValueError
        On bad input; the message says what arrived and what was expected.

    Warns
    -----
    ConvergenceWarning
        If it did not converge.

    References
    ----------
    Peyré, Cuturi and Solomon, "Gromov-Wasserstein averaging of kernel and distance matrices", ICML 2016, section 4.
    Vayer, Courty, Tavenard, Chapel and Flamary, "Optimal transport for structured data with application on graphs",
    ICML 2019, section 3.2.

    Examples
    --------
    >>> import torch
    >>> x = [torch.tensor(x, dtype=torch.float64)[:, None] for x in ([0.0, 1.0, 3.0], [5.0, 1.0, 0.0])]
    >>> found = barycenter([torch.cdist(x, x) for x in x], n=3, epsilon=0.02)
    >>> found.converged, found.structure.max().round().item()  # between 3 and 5
    (True, 4.0)
    """
    loss = ground_loss(loss)
    if loss.name not in _INVERSE:
        raise ValueError(f"barycenters are for the losses {' and '.join(_INVERSE)}, not for {loss.name}")
    if max_iter < 1 or (tol is not None and not tol > 0):
        raise ValueError(f"max_iter must be at least 1 and tol positive, got {max_iter} and {tol}")
    exact = rho is None and mass is None
    spaces = Spaces.of(structures, features, weights, non_negative=loss.non_negative, one_mass=exact)
    inputs, p, coefficients = spaces.padded(), _support(n, p, spaces, exact), _coefficients(coefficients, spaces)
    _check_fixed(fixed, init_structure, init_features)
    C, X = _first(spaces, int(coefficients.argmax()), n, init_structure, init_features, seed)

    def solve(C: Tensor, X: Tensor | None, init: WarmStart | None) -> Solution:
        return fused_gromov_wasserstein(
            None if X is None or inputs.features is None else squared_distances(X[None], inputs.features),
            C,
            inputs.structures,
            p,
            inputs.weights,
            alpha=alpha,
            epsilon=epsilon,
            rho=rho,
            mass=mass,
            loss=loss,
            init=init,
            tol=None if tol is None else _OF_PLANS * tol,
        )

    def step(C: Tensor, X: Tensor | None, before: WarmStart | None) -> tuple[WarmStart, Tensor]:
        """For each input the better plan of two, from the usual start and from the plan before, and its objective."""
        fresh = solve(C, X, None)
        if before is None:
            return fresh, fresh.value
        continued = solve(C, X, before)
        lower = fresh.value < continued.value
        plan = torch.where(lower[:, None, None], fresh.plan, continued.plan)
        f, g = (torch.where(lower[:, None], *both) for both in zip(fresh.potentials, continued.potentials, strict=True))
        return WarmStart(plan, (f, g)), torch.minimum(fresh.value, continued.value)

    bound = _TOLERANCE[p.dtype] if tol is None else tol
    plans, objectives = None, []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        with torch.no_grad():
            update = _Update(inputs, p, coefficients, loss, fixed)
            while True:
                plans, values = step(C, X, plans)
                objectives.append(coefficients @ values)
                following = update(plans.plan, C, X)
                residual = update.change((C, X), following)
                if not bool(residual > bound) or len(objectives) == max_iter:
                    break
                C, X = following
        solution = solve(C, X, plans)  # whose partial derivatives, at this C and X, are those of the minimum
    status = Status(int(solution.status.max())) if bool(residual <= bound) else Status.MAX_ITER
    status = status if bool(residual.isfinite()) else Status.NUMERICAL
    warn(torch.tensor([status]), residual[None])
    value = coefficients @ solution.value
    return Barycenter(
        C, X, p.detach(), value, solution.plan, torch.stack(objectives), status, residual, len(objectives)
    )


class _Update:
    """C and X that minimise the objective at given plans, and how far they are from others."""

    def __init__(self, inputs: Padded, p: Tensor, coefficients: Tensor, loss: GroundLoss, fixed: Fixed | None) -> None:
        factors = loss.factors
        assert factors is not None  # noqa: S101 - those in _INVERSE have them
        self._h2, self._invert = factors.h2(inputs.structures), _INVERSE[loss.name]
        self._features, self._fixed = inputs.features, fixed
        self._coefficients, self._p = coefficients / coefficients.sum(), p / p.sum()
        q = inputs.weights / p.sum()
        # Units in which changes are measured: root mean squares of the inputs.
        pairs = q[:, :, None] * q[:, None, :]
        self._structure_unit = self._mean(pairs * inputs.structures.square()).sum().sqrt()
        if inputs.features is not None:
            centred = inputs.features - self._mean(q[:, :, None] * inputs.features).sum(0)
            self._feature_unit = self._mean(q[:, :, None] * centred.square()).sum().sqrt()

    def _mean(self, of_inputs: Tensor) -> Tensor:
        """Mean over the inputs, with their coefficients."""
        mean: Tensor = torch.tensordot(self._coefficients, of_inputs, 1)
        return mean

    def __call__(self, T: Tensor, C: Tensor, X: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Closed forms at the plans T (S, n, m), with the actual sums of their rows."""
        rows, least = T.sum(2), torch.finfo(T.dtype).tiny ** 0.5
        if self._fixed != "structure":
            pairs = self._mean(rows[:, :, None] * rows[:, None, :])
            mean = self._invert(self._mean(T @ self._h2 @ T.mT) / pairs.clamp_min(least))
            C = torch.where(pairs > least, mean, C)
        if self._features is not None and X is not None and self._fixed != "features":
            sums = self._mean(rows)[:, None]
            X = torch.where(sums > least, self._mean(T @ self._features) / sums.clamp_min(least), X)
        return C, X

    def change(self, before: tuple[Tensor, Tensor | None], after: tuple[Tensor, Tensor | None]) -> Tensor:
        """Root mean square of the change by the weights p, relative to the inputs; the larger of C's and X's."""
        (C, X), (C_next, X_next) = before, after
        pairs = self._p[:, None] * self._p
        changes = [_relative((pairs * (C_next - C).square()).sum().sqrt(), self._structure_unit)]
        if X is not None and X_next is not None:
            changes.append(_relative((self._p[:, None] * (X_next - X).square()).sum().sqrt(), self._feature_unit))
        return torch.stack(changes).max()


def _relative(change: Tensor, unit: Tensor) -> Tensor:
    return change / unit.clamp_min(torch.finfo(unit.dtype).tiny)


def _support(n: int, p: Tensor | None, spaces: Spaces, exact: bool) -> Tensor:
    """Weights of the barycenter's points."""
    like = spaces.weights[0]
    if n < 1:
        raise ValueError(f"n must be at least 1, got {n}")
    if p is None:
        return like.new_full((n,), spaces.mass / n)
    if not isinstance(p, Tensor) or p.shape != (n,) or not p.is_floating_point():
        raise ValueError(f"p must be a floating point tensor of shape ({n},), got {_described(p)}")
    if not bool((p > 0).all()):
        raise ValueError(f"p must be positive, got {float(p.min()):g}: a point without mass has no structure")
    if exact and not abs(float(p.detach().sum()) - spaces.mass) <= allowed_imbalance(p.dtype) * spaces.mass:
        raise ValueError(f"p must have the mass of the inputs, {spaces.mass:g}; it sums to {float(p.detach().sum()):g}")
    return p.to(like)


def _coefficients(coefficients: Tensor | Sequence[float] | None, spaces: Spaces) -> Tensor:
    like, count = spaces.weights[0], len(spaces.weights)
    if coefficients is None:
        return like.new_full((count,), 1 / count)
    given = torch.as_tensor(coefficients, dtype=like.dtype, device=like.device)
    if given.shape != (count,):
        raise ValueError(f"coefficients must have shape ({count},), one for each input, got {tuple(given.shape)}")
    if not bool((given >= 0).all() & (given.sum() > 0) & given.isfinite().all()):
        raise ValueError(f"coefficients must be non-negative and finite, and not all zero, got {given.tolist()}")
    return given


def _check_fixed(fixed: str | None, init_structure: Tensor | None, init_features: Tensor | None) -> None:
    given = {"structure": init_structure, "features": init_features}
    if fixed is not None and fixed not in given:
        raise ValueError(f"fixed must be 'structure', 'features' or None, got {fixed!r}")
    if fixed is not None and given[fixed] is None:
        raise ValueError(f"fixed={fixed!r} needs init_{fixed}")


def _first(
    spaces: Spaces, s: int, n: int, init_structure: Tensor | None, init_features: Tensor | None, seed: int
) -> tuple[Tensor, Tensor | None]:
    """First C and X: those given, and otherwise those of input s at n points, disturbed."""
    C, Y = spaces.structures[s].detach(), None if spaces.features is None else spaces.features[s].detach()
    index = _distant(C, Y, spaces.weights[s].detach(), n)
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(n, n, generator=generator, dtype=torch.float64).to(C)
    C = C[index][:, index] * (1 + _DISTURBANCE * (noise + noise.T) / 2)
    if init_structure is not None:
        C = _given("init_structure", init_structure, (n, n), C)
    if Y is None and init_features is not None:
        raise ValueError("init_features came without features of the inputs")
    if Y is None:
        return C, None
    noise = torch.randn(n, Y.shape[1], generator=generator, dtype=torch.float64).to(C)
    X = Y[index] + _DISTURBANCE * (Y - Y.mean(0)).square().mean().sqrt() * noise
    return C, X if init_features is None else _given("init_features", init_features, (n, Y.shape[1]), X)


def _given(name: str, t: Tensor, shape: tuple[int, ...], like: Tensor) -> Tensor:
    if not isinstance(t, Tensor) or t.shape != shape or not t.is_floating_point():
        raise ValueError(f"{name} must be a floating point tensor of shape {shape}, got {_described(t)}")
    if not bool(t.isfinite().all()):
        raise ValueError(f"{name} has entries that are not finite")
    return t.detach().to(like)


def _described(t: object) -> str:
    return f"{tuple(t.shape)} of {t.dtype}" if isinstance(t, Tensor) else type(t).__name__


def _distant(C: Tensor, Y: Tensor | None, weights: Tensor, n: int) -> Tensor:
    """Places of n points of a space, each as far as can be from those before it; again in that order beyond its last.

    The distance of two points is that of their rows of C, and of their features.
    """
    candidates = weights.nonzero().flatten()
    parts = [C * weights.sqrt()] if Y is None else [C * weights.sqrt(), Y]
    profiles = torch.cat([(x - x.mean(0)) / x.std(correction=0).clamp_min(1e-30) / x.shape[1] ** 0.5 for x in parts], 1)
    distances = torch.cdist(profiles[candidates], profiles[candidates])
    chosen = [int(weights[candidates].argmax())]
    nearest = distances[chosen[0]].clone()
    for _ in range(min(n, len(candidates)) - 1):
        nearest[chosen] = -1
        chosen.append(int(nearest.argmax()))
        nearest = torch.minimum(nearest, distances[chosen[-1]])
    order = candidates[torch.tensor(chosen, device=C.device)]
    return order[torch.arange(n, device=C.device) % len(order)]
