r"""What the marginals of a plan cost.

A side with the marginal p and the price r adds r KL(T 1 | p) to what is minimised, in units of epsilon: it is exact for
an infinite price and free for none. With costs of which x is the part that depends on the side alone, and with
tau = r / (1 + r), its potential is

    f = tau (log p - logsumexp_j(g - X)),    a = f - x = s - tau logsumexp_j(b - U V),    s = tau log p + (tau - 1) x.

`fgwot.inner.relaxed` has the same for batches.
"""

from dataclasses import dataclass
from math import inf, log
from sys import float_info

import torch
from torch import Tensor

_LARGEST = 300.0  # logarithm of sums


@dataclass(frozen=True)
class Side:
    """A marginal (k,), and the price of missing it divided by epsilon."""

    marginal: Tensor
    price: float

    @property
    def exact(self) -> bool:
        """Whether the marginal is met."""
        return self.price == inf

    @property
    def tau(self) -> float:
        """By how much the potential of an exact side is shortened."""
        return 1.0 if self.exact else self.price / (1 + self.price)

    def constants(self, part: Tensor) -> Tensor:
        """Return s for the costs' part x."""
        return (self.tau - 1) * part + (self.tau * self.marginal.log() if self.price else 0)

    def part_of(self, potential: Tensor, sums: Tensor) -> Tensor:
        """Return x of costs by which a plan with these sums has the potential a; zero of an exact side."""
        if self.exact:
            return torch.zeros_like(sums)
        return -potential - (self.price * (sums / self.marginal).log() if self.price else 0)

    def log_meant(self, potential: Tensor) -> Tensor:
        """Logarithm of the sums p exp(-f / r) that a potential stands for; of a free side its marginal."""
        paid = not self.exact and self.price > 0
        return self.marginal.log() - (potential / self.price if paid else 0)

    def meant(self, potential: Tensor) -> Tensor:
        """Those sums; of a potential far off they are finite."""
        return self.log_meant(potential).clamp(max=_LARGEST).exp()

    def sweep(self, potential: Tensor, log_sums: Tensor) -> Tensor:
        """Step of the potential that solves for this side, from the logarithms of its present sums."""
        return self.tau * (self.log_meant(potential) - log_sums)

    def missed(self, potential: Tensor, sums: Tensor) -> Tensor:
        """By how much the sums miss those that the potential stands for."""
        return self.meant(potential) - sums if self.price else torch.zeros_like(sums)

    def paid(self, potential: Tensor) -> Tensor:
        """Terms of the dual: -r p (exp(-f / r) - 1), f p of an exact side, and none of a free one."""
        if self.exact:
            return potential * self.marginal
        return -self.price * self.marginal * (-potential / self.price).expm1() if self.price else 0 * potential

    def divergence(self, potential: Tensor, other: Tensor) -> float:
        """Return r KL(s | s') of the sums that two potentials stand for."""
        if self.exact or not self.price:
            return 0.0
        sums, ratio = self.meant(potential), (potential - other) / self.price
        # log(s / s') is minus this ratio, and s' - s is s (exp(ratio) - 1): nearly equal potentials lose nothing.
        return self.price * float((sums * (ratio.expm1() - ratio)).sum())


def shift(rows: Side, columns: Side, g: Tensor, mass: float) -> float:
    """What to add to g, so that both sides stand for one mass, once rows follow; `mass` is what theirs is now.

    Sweeps alone are slow at that when prices are large.
    """
    slope = 1 - rows.tau + (0 if columns.exact else 1 / columns.price if columns.price else inf)
    if not slope:
        return 0.0
    return (float(columns.log_meant(g).logsumexp(0)) - log(min(max(mass, float_info.min), float_info.max))) / slope
