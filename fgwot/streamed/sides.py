"""What a problem asks of the sums of a plan that is not stored: what inner problems and steps need to know of it.

`fgwot.streamed.prices` has marginals that are met or paid for, `fgwot.streamed.bounds` those that bound plans of a
given mass. Potentials are f (n,) and g (m,) of costs divided by epsilon, of which a plan is T = exp(f (+) g - X); sums
are T 1 (n,) and T' 1 (m,).
"""

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

import torch
from torch import Tensor

Two = tuple[Tensor, Tensor]  # of rows and of columns


class Sides(ABC):
    """Both sides of an inner problem, whose dual is maximised in g: rows follow, in the pass itself.

    Attributes
    ----------
    p, q : Tensor (n,), (m,)
        Marginals.
    mass : float
        Of the first plan.
    """

    if TYPE_CHECKING:  # fields of one subclass, properties of another

        @property
        def p(self) -> Tensor: ...  # noqa: D102
        @property
        def q(self) -> Tensor: ...  # noqa: D102
        @property
        def mass(self) -> float: ...  # noqa: D102

    @property
    @abstractmethod
    def moving(self) -> tuple[bool, bool]:
        """Whether the sums of rows and of columns may be others than the marginals."""

    @property
    @abstractmethod
    def binding(self) -> bool:
        """Whether there is something that columns have to meet: then errors of plans are errors of marginals."""

    @property
    def free(self) -> bool:
        """Whether columns cost nothing, so that g is zero."""
        return False

    @property
    def levels(self) -> bool:
        """Whether Newton's steps start where plans have their mass."""
        return False

    @property
    @abstractmethod
    def numbers(self) -> list[float]:
        """What tells a problem from others with the same marginals."""

    @abstractmethod
    def rows(self, part: Tensor) -> tuple[Tensor, float, Tensor]:
        """Return s, tau and the most of a `fgwot.streamed.passes.Kernel` for the row part x (n,) of the costs."""

    @abstractmethod
    def restored(self, sums: Tensor) -> Tensor:
        """Row sums (n,) of a plan to start with, which had these."""

    @abstractmethod
    def parts(self, potentials: Two, sums: Two) -> Two:
        """Parts of costs by which a plan with these sums has the potentials a and b; zero of an exact side."""

    def lowest(self, potentials: Two) -> Two:
        """Of potentials of the same plan those with the lowest g, where that means something."""
        return potentials

    @abstractmethod
    def shift(self, potentials: Two, sums: Two) -> float:
        """What to add to g, so that plans have their mass, once rows follow."""

    @abstractmethod
    def update(self, potentials: Two, sums: Two) -> Tensor:
        """Step of g (m,) that solves for the columns."""

    def largest(self, g: Tensor) -> Tensor:
        """Columns (m,) whose potentials are one after an update that led to g; none where that means nothing."""
        return torch.zeros_like(g, dtype=torch.bool)

    def one(self, potentials: Two, sums: Two) -> Tensor:
        """Columns (m,) whose potentials move as one from here."""
        del sums
        return self.largest(potentials[1])

    def within(self, g: Tensor, step: Tensor, one: Tensor) -> Tensor:
        """Return the step from g after which some potentials are one and none are larger."""
        del g, one
        return step

    @abstractmethod
    def ascent(self, potentials: Two, sums: Two) -> Tensor:
        """Gradient (m,) of the dual, in directions that it may be followed in; its L1 norm is the error of a plan."""

    @abstractmethod
    def violated(self, sums: Two) -> Tensor:
        """By how much sums, not potentials, miss what they must meet, in L1."""

    @abstractmethod
    def curvature(self, potentials: Two, sums: Two) -> tuple[Tensor, Tensor | float]:
        """Return d (m,) and t (n,) of minus the Hessian of the dual, diag(d) - T' diag(t / T 1) T."""

    def along(self, y: Tensor, root: Tensor, potentials: Two, sums: Two) -> Tensor:
        """Project sqrt(d) times a step of g, with root = sqrt(d), to where the dual may be followed."""
        del root, potentials, sums
        return y

    @abstractmethod
    def flat(self, potentials: Two) -> bool:
        """Whether g + t is the same plan."""

    def held(self, g: Tensor) -> Tensor:
        """Sums (m,) that weight steps of g in their extrapolation."""
        del g
        return self.q

    @abstractmethod
    def terms(self, potentials: Two) -> Tensor:
        """Terms of the dual, which is their sum less the mass of the plan."""

    @abstractmethod
    def divergence(self, one: Two, other: Two, sums: Two) -> float:
        """What KL(T || T+) lacks of the divergence that steps descend by, from potentials of both and sums of T."""


def positive(sums: Tensor) -> Tensor:
    """Sums that may be under a logarithm."""
    return sums.clamp_min(torch.finfo(sums.dtype).tiny)
