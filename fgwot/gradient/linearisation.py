r"""The gradient of the energy, in the units of the solver: at plans of mass one, divided by epsilon.

A plan T of mass s stands for s T. As grad E is affine in the plan, s only multiplies the weight of its quadratic part:
problems that differ by their mass are one problem.

Large float64 problems spend their time in the products h1(C1) T h2(C2)'. Between two plans only the product of their
difference is needed, and the smaller the difference the less its rounding matters: increments are computed in float32,
at twice the speed, and the solver recomputes G in float64 before their accumulated rounding matters.
"""

from copy import copy
from dataclasses import dataclass

import torch
from torch import Tensor

from fgwot.batch import Batch, Selectable, inner, take
from fgwot.inner.plan import Marginals
from fgwot.problem import Problem
from fgwot.structure import LowRank
from fgwot.tensor_term import tensor_term

_LARGE = 200**2  # plan entries from which float32 increments pay
_SMALL_ALPHA = 0.05  # from which G says little about the quadratic term
# Error of an increment per |change|_1, alpha / epsilon and largest entries of h1 and h2; a test holds it to that.
_SINGLE_ROUNDING = 2e-9


class Linearisation(Selectable):
    """T -> grad E(mass T) / epsilon, without the part f1(C1) p (+) f2(C2) q that only shifts the potentials.

    Parameters
    ----------
    problem : Problem
    mass : Tensor (B,), optional
        What the plans are multiplied by; nothing by default.
    symmetric : bool, optional
        Whether the structures are symmetric, if that is known: it is looked at otherwise.
    """

    def __init__(self, problem: Problem, mass: Tensor | None = None, symmetric: bool | None = None) -> None:
        self._problem = problem
        self.epsilon = problem.epsilon
        self._quadratic = problem.alpha if mass is None else problem.alpha * mass
        n, m = problem.M.shape[1:]
        factors = problem.loss.factors
        # Only CPUs multiply float32 twice as fast: an H100 takes 43 us in float64 and 52 in float32 at n = 1000.
        large = problem.M.device.type == "cpu" and problem.M.dtype == torch.float64 and n * m >= _LARGE
        self.incremental = factors is not None and large
        self._kept: tuple[Tensor, Tensor] | None = None
        self.symmetric = is_symmetric(problem) if symmetric is None else symmetric
        if factors is not None:
            C1, C2 = problem.dense()
            h1, h2 = factors.h1(C1), factors.h2(C2)
            if self.symmetric:
                h1, h2 = _symmetrised(h1), _symmetrised(h2)
            if not self.incremental:
                self._kept = h1, h2
        # E is quadratic: both orders of its arguments contribute, in equal parts if the structures are symmetric.
        self._weight = ((2 if self.symmetric else 1) * self._quadratic / problem.epsilon)[:, None, None]
        self._share = _linear_share(problem)
        if self.incremental:
            spread = h1.abs().amax((-2, -1)) * h2.abs().amax((-2, -1))
            self.rounding = _SINGLE_ROUNDING * (self._quadratic / problem.epsilon) * spread
            self._single = h1.float(), h2.float()

    def _factors(self) -> tuple[Tensor, Tensor]:
        """h1(C1) and h2(C2), made symmetric where that changes nothing; large ones are not kept."""
        factors, (C1, C2) = self._problem.loss.factors, self._problem.dense()
        if self._kept is not None or factors is None:
            return self._kept or (C1, C2)
        h1, h2 = factors.h1(C1), factors.h2(C2)
        return (_symmetrised(h1), _symmetrised(h2)) if self.symmetric else (h1, h2)

    def select(self, index: Tensor) -> "Linearisation":
        """Return the linearisation of some problems of the batch."""
        chosen = copy(self)
        chosen._problem = self._problem.select(index)
        chosen._weight, chosen.epsilon = take(self._weight, index), take(self.epsilon, index)
        chosen._quadratic, chosen._share = take(self._quadratic, index), take(self._share, index)
        if self._kept is not None:
            chosen._kept = take(self._kept[0], index), take(self._kept[1], index)
        if self.incremental:
            chosen._single = take(self._single[0], index), take(self._single[1], index)
            chosen.rounding = take(self.rounding, index)
        return chosen

    @property
    def linear(self) -> Tensor:
        """(1 - alpha) M / epsilon; not kept, it would be one more array of the plan's size."""
        return self._problem.M * self._share

    def __call__(self, T: Tensor) -> Tensor:
        """Gradient at T (B, n, m), divided by epsilon."""
        T = self._weight * T
        if self._problem.loss.factors is None:
            return self.linear + self._direct(T)
        h1, h2 = self._factors()
        G = self.linear.baddbmm_(torch.bmm(h1, T), h2.mT, alpha=-1)
        return G if self.symmetric else G.baddbmm_(torch.bmm(h1.mT, T), h2, alpha=-1)

    def magnitude(self, G: Tensor, _T: Tensor) -> Tensor:
        """Size of the numbers that G = G(T) is a sum of, which its rounding is relative to."""
        return G.abs()

    def at_independent(self, marginals: Marginals) -> Tensor:
        """Gradient at the plan p q': products of vectors where the loss factors."""
        p, q = marginals.p[:, :, None], self._weight * marginals.q[:, :, None]
        if self._problem.loss.factors is None:
            return self.linear + self._direct(p @ q.mT)
        h1, h2 = self._factors()
        G = torch.baddbmm(self.linear, h1 @ p, (h2 @ q).mT, alpha=-1)
        return G if self.symmetric else G.baddbmm_(h1.mT @ p, (h2.mT @ q).mT, alpha=-1)

    def follow(
        self, G: Tensor, T: Tensor, delta: Tensor, change: Tensor, drift: Tensor, tol: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """G at T, how it has changed since T - delta, where change = |delta|_1, and the drift (B,) that it carries now.

        Drift bounds the effect on the plan of what float32 increments have added to the rounding of G. They are used
        while it is small against the change and the tolerance.
        """
        if self.incremental:
            drift = drift + self.rounding * change
            if bool((drift <= 0.1 * torch.maximum(change, tol)).all()):
                turn = self._increment(delta).to(G.dtype)
                return G + turn, turn, drift
            drift = torch.zeros_like(drift)
        new = self(T)
        return new, new - G, drift

    def _increment(self, delta: Tensor) -> Tensor:
        """G(T + delta) - G(T), in float32; its error is about `rounding` times |delta|_1."""
        (h1, h2), delta = self._single, delta.float().mul_(-self._weight.float())
        first = torch.bmm(torch.bmm(h1, delta), h2.mT)
        return first if self.symmetric else first.baddbmm_(torch.bmm(h1.mT, delta), h2)

    def _direct(self, T: Tensor) -> Tensor:
        (C1, C2), loss = self._problem.dense(), self._problem.loss
        first = tensor_term(C1, C2, T, loss)
        return first if self.symmetric else first + tensor_term(C1.mT, C2.mT, T, loss)

    def quadratic(self, G: Tensor, T: Tensor) -> Tensor | None:
        """<L (x) T, T> (B,), for plans of mass one, from G = G(T); None for small problems, which do not gain by it."""
        problem, factors = self._problem, self._problem.loss.factors
        if not self.incremental or factors is None or (problem.alpha < _SMALL_ALPHA).any():
            return None
        rows, columns = T.sum(-1)[:, :, None], T.sum(-2)[:, :, None]
        C1, C2 = problem.dense()
        squares = rows.mT @ (factors.f1(C1) @ rows) + columns.mT @ (factors.f2(C2) @ columns)
        crossed = inner(self.linear - G, T) * (problem.epsilon / self._quadratic)
        return squares[:, 0, 0] - crossed / 2

    def shift(self, marginals: Marginals) -> tuple[Tensor, Tensor]:
        """Row part (B, n) and column part (B, m) that were left out, not divided by epsilon."""
        problem, factors = self._problem, self._problem.loss.factors
        if factors is None:
            return torch.zeros_like(marginals.p), torch.zeros_like(marginals.q)
        sides = zip((factors.f1, factors.f2), problem.dense(), (marginals.p, marginals.q), strict=True)
        rows, columns = (_both_orders(f(C), x) for f, C, x in sides)
        return self._quadratic[:, None] * rows, self._quadratic[:, None] * columns


class LowRankLinearisation(Linearisation):
    """The same for the square loss between structures of low rank: O(n m r), and no n x n array."""

    def __init__(self, problem: Problem, C1: LowRank, C2: LowRank, mass: Tensor, symmetric: bool | None = None) -> None:
        self._problem = problem
        self.epsilon = problem.epsilon
        self._mass, self._quadratic = mass, problem.alpha * mass
        self.incremental = False
        self._C1, self._C2 = C1, C2
        self.symmetric = is_symmetric(problem) if symmetric is None else symmetric
        # h1(C1) T h2(C2)' = 2 C1 T C2', and as much again for the other order.
        self._weight = ((4 if self.symmetric else 2) * self._quadratic / problem.epsilon)[:, None, None]
        self._share = _linear_share(problem)

    def select(self, index: Tensor) -> "LowRankLinearisation":
        """Return the linearisation of some problems of the batch."""
        C1, C2 = (C.map(lambda t: take(t, index)) for C in (self._C1, self._C2))
        return LowRankLinearisation(self._problem.select(index), C1, C2, take(self._mass, index), self.symmetric)

    def __call__(self, T: Tensor) -> Tensor:
        """Gradient at T (B, n, m), divided by epsilon."""
        C1, C2 = self._C1, self._C2
        G = self.linear.baddbmm_(C1.A @ (self._weight * (C1.B.mT @ T @ C2.B)), C2.A.mT, alpha=-1)
        if self.symmetric:
            return G
        return G.baddbmm_(C1.B @ (self._weight * (C1.A.mT @ T @ C2.A)), C2.B.mT, alpha=-1)

    def at_independent(self, marginals: Marginals) -> Tensor:
        """Gradient at the plan p q'."""
        p, q = marginals.p[:, :, None], self._weight * marginals.q[:, :, None]
        G = torch.baddbmm(self.linear, self._C1 @ p, (self._C2 @ q).mT, alpha=-1)
        return G if self.symmetric else G.baddbmm_(self._C1.mT @ p, (self._C2.mT @ q).mT, alpha=-1)

    def quadratic(self, G: Tensor, T: Tensor) -> None:
        """Nothing is gained from G here."""

    def shift(self, marginals: Marginals) -> tuple[Tensor, Tensor]:
        """Row part (B, n) and column part (B, m) that were left out, not divided by epsilon."""
        return tuple(  # type: ignore[return-value]
            self._quadratic[:, None] * (C.squares(x[:, :, None]) + C.mT.squares(x[:, :, None]))[:, :, 0]
            for C, x in ((self._C1, marginals.p), (self._C2, marginals.q))
        )


@dataclass(frozen=True)
class Complete(Batch):
    """T -> grad E(T) / epsilon with nothing left out: what shifts the potentials counts where marginals move."""

    partial: Linearisation

    @property
    def epsilon(self) -> Tensor:
        """Weights of the entropy (B,)."""
        return self.partial.epsilon

    @property
    def linear(self) -> Tensor:
        """(1 - alpha) M / epsilon."""
        return self.partial.linear

    def __call__(self, T: Tensor) -> Tensor:
        """Gradient at T (B, n, m) of any mass, divided by epsilon."""
        rows, columns = self._shift(T)
        return self.partial(T) + rows[:, :, None] + columns[:, None, :]

    def _shift(self, T: Tensor) -> tuple[Tensor, Tensor]:
        rows, columns = self.partial.shift(Marginals(T.sum(-1), T.sum(-2)))
        return rows / self.epsilon[:, None], columns / self.epsilon[:, None]

    def magnitude(self, G: Tensor, T: Tensor) -> Tensor:
        """Size of what G = G(T) is a sum of: what shifts the potentials may cancel nearly all of the rest."""
        rows, columns = self._shift(T)
        return G.abs() + rows.abs()[:, :, None] + columns.abs()[:, None, :]

    def follow(
        self, G: Tensor, T: Tensor, _delta: Tensor, _change: Tensor, drift: Tensor, _tol: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Gradient at T, how it has changed, and the drift, which is none."""
        new = self(T)
        return new, new - G, drift

    def shift(self, marginals: Marginals) -> tuple[Tensor, Tensor]:
        """Nothing."""
        return torch.zeros_like(marginals.p), torch.zeros_like(marginals.q)


Gradient = Linearisation | Complete


def gradient(problem: Problem) -> Gradient:
    """Return the gradient that fits the problem, for plans of mass one, or of any mass where marginals move."""
    if not problem.moving:
        return linearisation(problem)
    return Complete(_of_structures(problem, torch.ones_like(problem.alpha), None))


def linearisation(problem: Problem, symmetric: bool | None = None) -> Linearisation:
    """Return the linearisation that fits the structures, for plans of mass one; with their symmetry, if it is known."""
    return _of_structures(problem, problem.p.sum(-1), symmetric)


def _of_structures(problem: Problem, mass: Tensor, symmetric: bool | None) -> Linearisation:
    C1, C2 = problem.C1, problem.C2
    if isinstance(C1, LowRank) and isinstance(C2, LowRank):
        return LowRankLinearisation(problem, C1, C2, mass, symmetric)
    return Linearisation(problem, mass, symmetric)


def is_symmetric(problem: Problem) -> bool:
    """Whether one order of the arguments of E is enough for all problems.

    With S and A the symmetric and skew parts of h1 and h2, h1 T h2' + h1' T h2 = 2 S1 T S2 - 2 A1 T A2: distances that
    are symmetric up to 1e-8, as rounding leaves them, are symmetric for our purpose.
    """
    C1, C2, factors = problem.C1, problem.C2, problem.loss.factors
    if isinstance(C1, LowRank) and isinstance(C2, LowRank):
        return C1.symmetric and C2.symmetric
    C1, C2 = problem.dense()
    if factors is None:
        return torch.equal(C1, C1.mT) and torch.equal(C2, C2.mT)
    h1, h2 = factors.h1(C1), factors.h2(C2)
    return bool((_skewness(h1) * _skewness(h2) <= 4 * torch.finfo(h1.dtype).eps).all())


def _linear_share(problem: Problem) -> Tensor:
    """What M is multiplied by (B, 1, 1)."""
    return ((1 - problem.alpha) / problem.epsilon)[:, None, None]


def _both_orders(C: Tensor, x: Tensor) -> Tensor:
    """(C + C') x, without the sum."""
    return (C @ x[:, :, None] + C.mT @ x[:, :, None])[:, :, 0]


def _skewness(C: Tensor) -> Tensor:
    """Largest entry of the skew part over the largest entry (B,); zero of a zero matrix."""
    if torch.equal(C, C.mT):
        return C.new_zeros(len(C))
    return (C - C.mT).abs().amax((-2, -1)) / (2 * C.abs().amax((-2, -1)))


def _symmetrised(C: Tensor) -> Tensor:
    """Symmetric part; on the CPU without a copy of what is symmetric: elsewhere a look costs more than the copy."""
    if C.device.type == "cpu" and torch.equal(C, C.mT):
        return C
    return (C + C.mT) / 2
