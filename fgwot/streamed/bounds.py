r"""Plans of a given mass s that exceed no marginal, T 1 <= p and T' 1 <= q: partial transport.

As `fgwot.inner.partial` has it for batches, T = exp(f (+) y - X) with y = g + h, multipliers f <= 0 and g <= 0 of the
bounds, zero where they do not bind, and h of the mass. There rows are scaled to the mass before they are cut off at
their bounds, which takes all row sums before the first column sum: two passes. Here h = max y goes with the columns,

    max_y  <f, p> + <y, q> - (|q| - s) max y - |T|,    f = min(0, log p - logsumexp_j(y - X)),

and one pass has all: without its part x of the costs a row's potential is a = min(log p - l, -x). The other half of a
sweep is y = min(log q - log k, h) with the column sums k of exp(f - X) and h such that the sums are s. Both are exact
in their variables, so the dual rises. Columns at h, whose bound does not bind, move as one:

    d/dy_j = q_j - c_j  below h,      d/dh = s - sum of c at h - sum of q below.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from fgwot.inner.partial import cut_off
from fgwot.streamed.sides import Sides, Two, positive

_EQUAL = 1e-11  # potentials that differ by less are one, but for rounding


@dataclass(frozen=True)
class Bounded(Sides):
    """Largest marginals p (n,) and q (m,), and the mass of plans. The potential of the columns is y."""

    p: Tensor
    q: Tensor
    mass: float

    @property
    def moving(self) -> tuple[bool, bool]:
        return True, True

    @property
    def binding(self) -> bool:
        return True

    @property
    def levels(self) -> bool:
        return True

    @property
    def numbers(self) -> list[float]:
        return [self.mass]

    def rows(self, part: Tensor) -> tuple[Tensor, float, Tensor]:
        return self.p.log(), 1.0, -part

    def restored(self, sums: Tensor) -> Tensor:
        f, h = _cut_off(self.p, positive(sums).log(), self.mass)
        return sums * (f + h).exp()

    def parts(self, potentials: Two, sums: Two) -> Two:
        return -potentials[0], -potentials[1]  # within their bounds, of which none binds

    def lowest(self, potentials: Two) -> Two:
        """Where all rows are at their bounds, the largest f is zero: h is the derivative in the mass from below."""
        f, y = potentials
        return f - f.max(), y + f.max()

    def shift(self, potentials: Two, sums: Two) -> float:
        return float(_cut_off(self.p, positive(sums[0]).log() - potentials[0], self.mass)[1])

    def update(self, potentials: Two, sums: Two) -> Tensor:
        y = potentials[1]
        g, h = _cut_off(self.q, positive(sums[1]).log() - y, self.mass)
        return g + h - y

    def largest(self, g: Tensor) -> Tensor:
        h = g.max()
        return g >= h - _EQUAL * (1 + h.abs())

    def one(self, potentials: Two, sums: Two) -> Tensor:
        """Those at h, but columns that exceed their bounds only if there are no others."""
        largest = self.largest(potentials[1])
        under = largest & (sums[1] <= self.q)
        return under if bool(under.any()) else largest

    def within(self, g: Tensor, step: Tensor, one: Tensor) -> Tensor:
        new = g + step
        h = new[one].mean()
        return torch.where(one, h, new.clamp(max=h)) - g

    def ascent(self, potentials: Two, sums: Two) -> Tensor:
        one, c = self.one(potentials, sums), positive(sums[1])
        mass = c[one].sum()
        by_h = self.mass - mass - self.q[~one].sum()
        return torch.where(one, c * (by_h / mass), self.q - c)

    def violated(self, sums: Two) -> Tensor:
        rows, columns = sums
        return (
            (rows - self.p).clamp(min=0).sum() + (columns - self.q).clamp(min=0).sum() + (rows.sum() - self.mass).abs()
        )

    def curvature(self, potentials: Two, sums: Two) -> tuple[Tensor, Tensor | float]:
        return positive(sums[1]), (potentials[0] < 0).to(self.p.dtype)

    def along(self, y: Tensor, root: Tensor, potentials: Two, sums: Two) -> Tensor:
        one = self.one(potentials, sums)
        h = root[one]
        return y.index_put((one,), h * ((h @ y[one]) / (h @ h)))

    def flat(self, potentials: Two) -> bool:
        return bool((potentials[0] < 0).all())

    def terms(self, potentials: Two) -> Tensor:
        f, y = potentials
        h = y.max()
        return torch.cat([f * self.p, (y - h) * self.q, (h * self.mass)[None]])

    def divergence(self, one: Two, other: Two, sums: Two) -> float:
        """Return -<f+, p - T 1> - <g+, q - T' 1>, whose first plan leaves room where its multipliers are zero."""
        f, g = other[0], other[1] - other[1].max()
        rows = torch.where(one[0] < 0, 0, (self.p - sums[0]).clamp(min=0))
        columns = torch.where(self.largest(one[1]), (self.q - sums[1]).clamp(min=0), 0)
        return -float(f @ rows + g @ columns)


def _cut_off(bounds: Tensor, log_sums: Tensor, mass: float) -> Two:
    """Multipliers (k,) and scale h of one problem, see `fgwot.inner.partial.cut_off`."""
    f, h = cut_off(bounds.log()[None], log_sums[None], bounds.new_tensor([mass]))
    return f[0], h[0]
