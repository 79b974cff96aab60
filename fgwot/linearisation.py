r"""The gradient of the energy, in the units of the solver."""

from copy import copy

import torch
from torch import Tensor

from fgwot.problem import Problem, take
from fgwot.sinkhorn import Marginals
from fgwot.tensor_term import tensor_term


class Linearisation:
    """T -> grad E(T) / epsilon, without the part f1(C1) p (+) f2(C2) q that only shifts the potentials."""

    def __init__(self, problem: Problem) -> None:
        self._problem = problem
        self.linear = problem.M * ((1 - problem.alpha) / problem.epsilon)[:, None, None]
        self._weight = (problem.alpha / problem.epsilon)[:, None, None]
        if problem.loss.factors is not None:
            self._h1, self._h2 = problem.loss.factors.h1(problem.C1), problem.loss.factors.h2(problem.C2)
        self._symmetric = _is_symmetric(problem.C1) and _is_symmetric(problem.C2)

    def select(self, index: Tensor) -> "Linearisation":
        """Return the linearisation of some problems of the batch."""
        chosen = copy(self)
        chosen._problem = self._problem.select(index)
        chosen.linear, chosen._weight = self.linear[index], self._weight[index]
        if self._problem.loss.factors is not None:
            chosen._h1, chosen._h2 = take(self._h1, index), take(self._h2, index)
        return chosen

    def __call__(self, T: Tensor) -> Tensor:
        """Gradient at T (B, n, m), divided by epsilon."""
        T = self._weight * T
        if self._problem.loss.factors is None:
            return self.linear + self._direct(T)
        if self._symmetric:
            return torch.baddbmm(self.linear, self._h1 @ T, self._h2.mT, alpha=-2)
        G = torch.baddbmm(self.linear, self._h1 @ T, self._h2.mT, alpha=-1)
        return torch.baddbmm(G, self._h1.mT @ T, self._h2, alpha=-1)

    def _direct(self, T: Tensor) -> Tensor:
        C1, C2, loss = self._problem.C1, self._problem.C2, self._problem.loss
        if self._symmetric:
            return 2 * tensor_term(C1, C2, T, loss)
        return tensor_term(C1, C2, T, loss) + tensor_term(C1.mT, C2.mT, T, loss)

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
    scale = C.abs().amax((-2, -1), keepdim=True)
    return bool(((C - C.mT).abs() <= 4 * torch.finfo(C.dtype).eps * scale).all())
