"""Where an iteration starts, and what it found."""

from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from fgwot.batch import Batch, inner
from fgwot.constants import LARGEST_TOLERANCE, ROUNDINGS
from fgwot.gradient.linearisation import Gradient
from fgwot.inner.plan import Marginals
from fgwot.problem import Problem
from fgwot.solution import Status


@dataclass(frozen=True)
class Start:
    """First plan T = exp(f (+) g - X), given by X and a guess of g.

    `warm` is a guess of g for the plan after it. `change` is a guess of how far that plan will be: the accuracy of the
    first inner solve follows it. `independent` says that the first plan is p q'.
    """

    X: Tensor
    g: Tensor
    warm: Tensor
    change: float
    independent: bool = False

    @staticmethod
    def at(T: Tensor, g: Tensor) -> "Start":
        """Start at a plan whose following plan has about the potential g.

        X is such that g is the plan's own potential too: the guard's objective multiplies it with marginal errors.
        """
        X = g[:, None, :] - T.clamp_min(torch.finfo(T.dtype).tiny).log()
        return Start(X, g, g, change=0.0)


@dataclass
class Result(Batch):
    """What the iteration found for a flat batch of problems of mass one, or of any mass once it is `scaled`.

    T (B, n, m); f, g (B, n), (B, m) potentials of J, not divided by epsilon; status, n_iter (B,) int64;
    residual, marginal_error (B,) relative to the mass; value_quad (B,), <L (x) T, T>, if it is a by-product.
    """

    T: Tensor
    f: Tensor
    g: Tensor
    status: Tensor
    residual: Tensor
    marginal_error: Tensor
    n_iter: Tensor
    value_quad: Tensor | None = None

    @staticmethod
    def empty(marginals: Marginals) -> "Result":
        """Return a result to be filled."""
        p, q = marginals.p, marginals.q
        count, number = torch.zeros(len(p), dtype=torch.int64, device=p.device), torch.zeros_like(p[:, 0])
        T = p.new_zeros(len(p), p.shape[1], q.shape[1])
        return Result(T, torch.zeros_like(p), torch.zeros_like(q), count, number, number.clone(), count.clone())

    @staticmethod
    def of(
        linearise: Gradient,
        marginals: Marginals,
        T: Tensor,
        following: tuple[Tensor, Tensor],
        *,
        status: Tensor,
        residual: Tensor,
        error: Tensor,
        n_iter: int,
        value_quad: Tensor | None = None,
    ) -> "Result":
        """Describe plans T, whose following plans have the potentials `following` / epsilon."""
        rows, columns = linearise.shift(marginals)
        f, g = following
        epsilon = linearise.epsilon[:, None]
        return Result(
            T=T,
            f=torch.where(marginals.p > 0, epsilon * f + rows, 0),
            g=torch.where(marginals.q > 0, epsilon * g + columns, 0),
            status=status,
            residual=residual,
            marginal_error=error,
            n_iter=torch.full_like(status, n_iter),
            value_quad=value_quad,
        )

    def scaled(self, problem: Problem) -> "Result":
        """Return the same for plans of the problem's mass: log T grows by its logarithm, and with it f / epsilon."""
        mass = problem.p.sum(-1)
        f = torch.where(problem.p > 0, self.f + (problem.epsilon * mass.log())[:, None], 0)
        quad = None if self.value_quad is None else self.value_quad * mass**2
        return replace(self, T=self.T * mass[:, None, None], f=f, value_quad=quad)

    def fill(self, index: Tensor, other: "Result") -> None:
        """Write the results of some problems of the batch."""
        for field in fields(self):
            if (own := getattr(self, field.name)) is not None:
                own.index_copy_(0, index, getattr(other, field.name))


def default_tolerance(dtype: torch.dtype) -> float:
    """Residual + marginal error, relative to the mass, to which ``tol=None`` goes where rounding allows it."""
    return 1e-7 if dtype == torch.float64 else 1e-5


@dataclass(frozen=True)
class Tolerance(Batch):
    """Rounding of a plan in L1, allowed residual + marginal error, and whether rounding hides too much; all (B,)."""

    noise: Tensor
    allowed: Tensor
    blurred: Tensor

    @staticmethod
    def at(G: Tensor, T: Tensor, tol: float | None, potentials: float | Tensor = 0.0) -> "Tolerance":
        """Tolerance near a plan T, where G is the size of what the linearisation is computed from.

        log T is a difference of numbers as large as G, and as `potentials` (B,) if those are larger: so much of it is
        rounding. That counts where T has mass; costs that forbid a pair do no harm. ``tol=None`` leaves room for it.
        """
        noise = torch.finfo(G.dtype).eps * (1 + inner(T, G) + potentials)
        attainable = default_tolerance(G.dtype) + ROUNDINGS * noise
        allowed = attainable if tol is None else torch.full_like(noise, tol)
        return Tolerance(noise, allowed, attainable > max(LARGEST_TOLERANCE, tol or 0))

    @property
    def status(self) -> Tensor:
        """Status (B,) of plans that meet what is allowed."""
        return torch.where(self.blurred, Status.STALLED, Status.CONVERGED)
