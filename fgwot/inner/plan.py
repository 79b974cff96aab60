"""Marginals and plans of inner problems."""

from dataclasses import dataclass

import torch
from torch import Tensor

from fgwot.batch import Batch


@dataclass(frozen=True)
class Marginals(Batch):
    """Marginals p (B, n) and q (B, m) of mass one."""

    p: Tensor
    q: Tensor

    @staticmethod
    def of(p: Tensor, q: Tensor) -> "Marginals":
        """Scale marginals of any mass."""
        return Marginals(p / p.sum(-1, keepdim=True), q / q.sum(-1, keepdim=True))


@dataclass
class Plan(Batch):
    """A plan T = exp(f (+) g - X) whose first side is exact.

    Attributes
    ----------
    T : Tensor (B, n, m)
    g : Tensor (B, m)
        Potential of the columns divided by epsilon.
    error : Tensor (B,)
        L1 distance of the other side's sums from those that they should have.
    """

    T: Tensor
    g: Tensor
    error: Tensor


@dataclass
class FullPlan(Plan):
    """A plan with the potential f (B, n) of its rows, which is zero where there is no mass, as g is."""

    f: Tensor


def row_potential(X: Tensor, marginals: Marginals, g: Tensor) -> Tensor:
    """Potential f (B, n) that gives exp(f (+) g - X) the rows p; -inf where p is zero."""
    logits = (g[:, None, :] - X).masked_fill_((marginals.q == 0)[:, None, :], -torch.inf)
    return marginals.p.log() - torch.logsumexp(logits, -1)
