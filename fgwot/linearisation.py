r"""The gradient of the energy, in the units of the solver.

Large float64 problems spend their time in the products h1(C1) T h2(C2)'. Between two plans only the product of their
difference is needed, and the smaller the difference the less its rounding matters: increments are computed in float32,
at twice the speed, and the solver recomputes G in float64 before their accumulated rounding matters.
"""

from copy import copy

import torch
from torch import Tensor

from fgwot.problem import Problem, take
from fgwot.sinkhorn import Marginals
from fgwot.tensor_term import tensor_term

_LARGE = 200**2  # plan entries from which float32 increments pay
# Error of an increment per |change|_1, alpha / epsilon and largest entries of h1 and h2; a test holds it to that.
_SINGLE_ROUNDING = 2e-9


class Linearisation:
    """T -> grad E(T) / epsilon, without the part f1(C1) p (+) f2(C2) q that only shifts the potentials."""

    def __init__(self, problem: Problem) -> None:
        self._problem = problem
        self.linear = problem.M * ((1 - problem.alpha) / problem.epsilon)[:, None, None]
        self.epsilon = problem.epsilon
        self._symmetric = _is_symmetric(problem.C1) and _is_symmetric(problem.C2)
        # E is quadratic: both orders of its arguments contribute, in equal parts if the structures are symmetric.
        self._weight = ((2 if self._symmetric else 1) * problem.alpha / problem.epsilon)[:, None, None]
        if problem.loss.factors is not None:
            self._h1, self._h2 = problem.loss.factors.h1(problem.C1), problem.loss.factors.h2(problem.C2)
        n, m = problem.M.shape[1:]
        self.incremental = problem.loss.factors is not None and problem.M.dtype == torch.float64 and n * m >= _LARGE
        if self.incremental:
            self._single = self._h1.float(), self._h2.float()
            spread = self._h1.abs().amax((-2, -1)) * self._h2.abs().amax((-2, -1))
            self.rounding = _SINGLE_ROUNDING * (problem.alpha / problem.epsilon) * spread

    def select(self, index: Tensor) -> "Linearisation":
        """Return the linearisation of some problems of the batch."""
        chosen = copy(self)
        chosen._problem = self._problem.select(index)
        chosen.linear, chosen._weight = take(self.linear, index), take(self._weight, index)
        chosen.epsilon = take(self.epsilon, index)
        if self._problem.loss.factors is not None:
            chosen._h1, chosen._h2 = take(self._h1, index), take(self._h2, index)
        if self.incremental:
            chosen._single = take(self._single[0], index), take(self._single[1], index)
            chosen.rounding = take(self.rounding, index)
        return chosen

    def __call__(self, T: Tensor) -> Tensor:
        """Gradient at T (B, n, m), divided by epsilon."""
        T = self._weight * T
        if self._problem.loss.factors is None:
            return self.linear + self._direct(T)
        G = torch.baddbmm(self.linear, torch.bmm(self._h1, T), self._h2.mT, alpha=-1)
        return G if self._symmetric else torch.baddbmm(G, torch.bmm(self._h1.mT, T), self._h2, alpha=-1)

    def product(self, marginals: Marginals) -> Tensor:
        """Gradient at the plan p q' / mass: products of vectors where the loss factors."""
        p, q = marginals.p[:, :, None], self._weight * (marginals.q / marginals.mass[:, None])[:, :, None]
        if self._problem.loss.factors is None:
            return self.linear + self._direct(p @ q.mT)
        G = torch.baddbmm(self.linear, self._h1 @ p, (self._h2 @ q).mT, alpha=-1)
        return G if self._symmetric else torch.baddbmm(G, self._h1.mT @ p, (self._h2.mT @ q).mT, alpha=-1)

    def follow(
        self, G: Tensor, T: Tensor, delta: Tensor, change: Tensor, drift: Tensor, tol: Tensor
    ) -> tuple[Tensor, Tensor]:
        """G at T from G at T - delta, where change = |delta|_1, and the drift (B,) that it carries.

        Drift bounds the effect on the plan of what float32 increments have added to the rounding of G. They are used
        while it is small against the change and the tolerance.
        """
        if self.incremental:
            drift = drift + self.rounding * change
            if bool((drift <= 0.1 * torch.maximum(change, tol)).all()):
                return G - self._decrement(delta), drift
        return self(T), torch.zeros_like(change)

    def _decrement(self, delta: Tensor) -> Tensor:
        """G(T) - G(T + delta), in float32; its error is about `rounding` times |delta|_1."""
        (h1, h2), delta = self._single, (self._weight * delta).float()
        first = torch.bmm(torch.bmm(h1, delta), h2.mT)
        return first if self._symmetric else torch.baddbmm(first, torch.bmm(h1.mT, delta), h2)

    def _direct(self, T: Tensor) -> Tensor:
        C1, C2, loss = self._problem.C1, self._problem.C2, self._problem.loss
        first = tensor_term(C1, C2, T, loss)
        return first if self._symmetric else first + tensor_term(C1.mT, C2.mT, T, loss)

    def shift(self, marginals: Marginals) -> tuple[Tensor, Tensor]:
        """Row part (B, n) and column part (B, m) that were left out, not divided by epsilon."""
        problem, factors = self._problem, self._problem.loss.factors
        if factors is None:
            return torch.zeros_like(marginals.p), torch.zeros_like(marginals.q)
        rows, columns = factors.f1(problem.C1), factors.f2(problem.C2)
        alpha = problem.alpha[:, None, None]
        return (
            (alpha * ((rows + rows.mT) @ marginals.p[:, :, None]))[:, :, 0],
            (alpha * ((columns + columns.mT) @ marginals.q[:, :, None]))[:, :, 0],
        )


def _is_symmetric(C: Tensor) -> bool:
    """Symmetric up to rounding of the entries."""
    if torch.equal(C, C.mT):
        return True
    scale = C.abs().amax((-2, -1), keepdim=True)
    return bool(((C - C.mT).abs() <= 4 * torch.finfo(C.dtype).eps * scale).all())
