r"""What the marginals of a plan cost.

A side with the marginal p and the price r adds r KL(T 1 | p) to what is minimised, in units of epsilon: it is exact for
an infinite price and free for none. With costs of which x is the part that depends on the side alone, and with
tau = r / (1 + r), its potential is

    f = tau (log p - logsumexp_j(g - X)),    a = f - x = s - tau logsumexp_j(b - U V),    s = tau log p + (tau - 1) x.

`fgwot.inner.relaxed` has the same for batches.
"""

from dataclasses import dataclass
from math import inf, log, sqrt
from sys import float_info

import torch
from torch import Tensor

from fgwot.streamed.sides import Sides, Two, positive

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

    def part(self, potential: Tensor, sums: Tensor) -> Tensor:
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

    def terms(self, potential: Tensor) -> Tensor:
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


@dataclass(frozen=True)
class Priced(Sides):
    """Marginals (n,) and (m,) that are met, or have a price."""

    first: Side
    second: Side

    @property
    def p(self) -> Tensor:
        return self.first.marginal

    @property
    def q(self) -> Tensor:
        return self.second.marginal

    @property
    def moving(self) -> tuple[bool, bool]:
        return not self.first.exact, not self.second.exact

    @property
    def binding(self) -> bool:
        return self.second.exact

    @property
    def free(self) -> bool:
        return not self.second.price

    @property
    def mass(self) -> float:
        """That of an exact side, or the geometric mean of both."""
        masses = float(self.p.sum()), float(self.q.sum())
        return masses[0] if self.first.exact else masses[1] if self.second.exact else sqrt(masses[0] * masses[1])

    @property
    def numbers(self) -> list[float]:
        # Of tau and 1 - tau the small one tells prices apart.
        return [x for side in (self.first, self.second) for x in (side.tau, 1 - side.tau)]

    def rows(self, part: Tensor) -> tuple[Tensor, float, Tensor]:
        tau, price = self.first.tau, self.first.price
        return (tau - 1) * part + (tau * self.p.log() if price else 0), tau, torch.full_like(part, inf)

    def restored(self, sums: Tensor) -> Tensor:
        return self.p if self.first.exact else sums

    def parts(self, potentials: Two, sums: Two) -> Two:
        return self.first.part(potentials[0], sums[0]), self.second.part(potentials[1], sums[1])

    def shift(self, potentials: Two, sums: Two) -> float:
        """What makes both sides stand for one mass. Updates alone are slow at that when prices are large."""
        slope = 1 - self.first.tau + (0 if self.second.exact else 1 / self.second.price if self.second.price else inf)
        if not slope:
            return 0.0
        mass = min(max(float(sums[0].sum()), float_info.min), float_info.max)
        return (float(self.second.log_meant(potentials[1]).logsumexp(0)) - log(mass)) / slope

    def update(self, potentials: Two, sums: Two) -> Tensor:
        along = self.shift(potentials, sums)
        # All entries are multiplied by one number there, and no pass is needed to know the sums.
        log_sums = positive(sums[1]).log() + (1 - self.first.tau) * along
        return along + self.second.tau * (self.second.log_meant(potentials[1] + along) - log_sums)

    def ascent(self, potentials: Two, sums: Two) -> Tensor:
        return torch.zeros_like(self.q) if self.free else self.second.meant(potentials[1]) - sums[1]

    def violated(self, sums: Two) -> Tensor:
        return torch.linalg.vector_norm(self.q - sums[1], 1) if self.second.exact else sums[1].new_zeros(())

    def curvature(self, potentials: Two, sums: Two) -> tuple[Tensor, Tensor | float]:
        c = positive(sums[1])
        return (c if self.second.exact else c + self.second.meant(potentials[1]) / self.second.price), self.first.tau

    def flat(self, potentials: Two) -> bool:
        return not any(self.moving)

    def held(self, g: Tensor) -> Tensor:
        return self.second.meant(g)

    def terms(self, potentials: Two) -> Tensor:
        return torch.cat([self.first.terms(potentials[0]), self.second.terms(potentials[1])])

    def divergence(self, one: Two, other: Two, sums: Two) -> float:
        # Sums that potentials stand for, not those of inexact plans: as in a Lagrangian, errors are second order.
        return self.first.divergence(one[0], other[0]) + self.second.divergence(one[1], other[1])
