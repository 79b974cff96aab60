"""Whether two calls are of one problem, of which each process knows its own."""

import torch
from torch import Tensor

from fgwot.inner.plan import Marginals
from fgwot.streamed.reduced import ReducedLinearisation

_SAME = 1e-6  # relative difference of numbers of one problem, in float32 on two machines


def identity(linearise: ReducedLinearisation, marginals: Marginals, weights: Tensor) -> Tensor:
    """Numbers (2, k) that tell a problem from others: signed sums and sums of magnitudes of all that it is made of.

    `weights` are all others than costs and marginals.
    """
    signed, magnitudes = [weights], [weights.abs()]
    for factors, weight in zip(linearise.factors, (marginals.p, marginals.q), strict=True):
        t = torch.cat([factors, weight.T], 1)
        v = torch.arange(1, len(t) + 1, dtype=t.dtype, device=t.device).sin()  # tells orders apart
        signed.append(v @ t)
        magnitudes.append(v.abs() @ t.abs())
    return torch.stack([torch.cat(signed), torch.cat(magnitudes)])


def same(one: Tensor, other: Tensor) -> bool:
    """Whether two identities are of one problem."""
    return one.shape == other.shape and bool(((one - other).abs() <= _SAME * one[1]).all())
