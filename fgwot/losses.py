r"""Ground losses L(a, b) that compare an entry of C1 with an entry of C2.

A loss *factors* when L(a, b) = f1(a) + f2(b) - h1(a) h2(b); the quartic contraction then costs
O(n^2 m + n m^2) instead of O(n^2 m^2) (Peyré, Cuturi and Solomon 2016, proposition 1).
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from fgwot.constants import SHIFT

Elementwise = Callable[[Tensor], Tensor]
Pairwise = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Factors:
    """The four functions of L(a, b) = f1(a) + f2(b) - h1(a) h2(b), and their derivatives."""

    f1: Elementwise
    f2: Elementwise
    h1: Elementwise
    h2: Elementwise
    df1: Elementwise
    df2: Elementwise
    dh1: Elementwise
    dh2: Elementwise


@dataclass(frozen=True)
class GroundLoss:
    """A ground loss with its partial derivatives.

    Parameters
    ----------
    name : str
        Shown in error messages.
    value, da, db : callable
        L(a, b), dL/da and dL/db; elementwise, broadcasting, for tensors of any shape.
    factors : Factors, optional
        Given when the loss factors. Without it the contraction sums over all (i, j, k, l).
    non_negative : bool
        True if the loss is only defined for entries a, b >= 0.
    kernel : tuple of str and float, optional
        Name and parameter under which the compiled operators know this loss, which must be symmetric in a and b. Not
        for losses of your own.

    Examples
    --------
    >>> import torch
    >>> quartic = GroundLoss(
    ...     name="quartic",
    ...     value=lambda a, b: (a - b) ** 4,
    ...     da=lambda a, b: 4 * (a - b) ** 3,
    ...     db=lambda a, b: -4 * (a - b) ** 3,
    ... )
    >>> quartic.value(torch.tensor(2.0), torch.tensor(1.0)).item()
    1.0
    """

    name: str
    value: Pairwise
    da: Pairwise
    db: Pairwise
    factors: Factors | None = None
    non_negative: bool = False
    kernel: tuple[str, float] | None = None


square = GroundLoss(
    name="square",
    value=lambda a, b: (a - b).square(),
    da=lambda a, b: 2 * (a - b),
    db=lambda a, b: 2 * (b - a),
    factors=Factors(
        f1=torch.square,
        f2=torch.square,
        h1=lambda a: a,
        h2=lambda b: 2 * b,
        df1=lambda a: 2 * a,
        df2=lambda b: 2 * b,
        dh1=torch.ones_like,
        dh2=lambda b: torch.full_like(b, 2.0),
    ),
)

# Distance matrices have zeros on the diagonal, where log b diverges: logarithms are of x + 1e-15, as in POT 0.9.3.
# POT 0.9.7 has x + 1e-18, which gives its kl other values where a structure has zeros (docs/correctness.md).
kl = GroundLoss(
    name="kl",
    value=lambda a, b: a * ((a + SHIFT).log() - (b + SHIFT).log()) - a + b,
    da=lambda a, b: (a + SHIFT).log() - (b + SHIFT).log() + a / (a + SHIFT) - 1,
    db=lambda a, b: 1 - a / (b + SHIFT),
    factors=Factors(
        f1=lambda a: a * (a + SHIFT).log() - a,
        f2=lambda b: b,
        h1=lambda a: a,
        h2=lambda b: (b + SHIFT).log(),
        df1=lambda a: (a + SHIFT).log() + a / (a + SHIFT) - 1,
        df2=torch.ones_like,
        dh1=torch.ones_like,
        dh2=lambda b: 1 / (b + SHIFT),
    ),
    non_negative=True,
)

# `abs` would shadow the builtin inside this module.
absolute = GroundLoss(
    name="abs",
    value=lambda a, b: (a - b).abs(),
    da=lambda a, b: (a - b).sign(),
    db=lambda a, b: (b - a).sign(),
    kernel=("abs", 0.0),
)


def huber(delta: float = 1.0) -> GroundLoss:
    """Huber loss: ``d^2 / 2`` where ``|d| <= delta``, and ``delta (|d| - delta / 2)`` beyond, with d = a - b.

    Examples
    --------
    >>> import torch
    >>> huber(0.5).value(torch.tensor([1.0, 0.25]), torch.tensor(0.0)).tolist()
    [0.375, 0.03125]
    """
    if not delta > 0:
        raise ValueError(f"huber needs delta > 0, got {delta}")

    def value(a: Tensor, b: Tensor) -> Tensor:
        # With c = clip(d): c (d - c/2) is d^2/2 inside and delta (|d| - delta/2) outside.
        d = a - b
        clipped = d.clamp(-delta, delta)
        return clipped * (d - clipped / 2)

    return GroundLoss(
        name=f"huber({delta:g})",
        value=value,
        da=lambda a, b: (a - b).clamp(-delta, delta),
        db=lambda a, b: (b - a).clamp(-delta, delta),
        kernel=("huber", float(delta)),
    )


BY_NAME = {"square": square, "kl": kl, "abs": absolute, "huber": huber()}


def ground_loss(loss: str | GroundLoss) -> GroundLoss:
    """Return the ground loss called `loss`, or `loss` itself.

    Raises
    ------
    ValueError
        If no loss has that name.
    TypeError
        If `loss` is neither a name nor a GroundLoss.
    """
    if isinstance(loss, GroundLoss):
        return loss
    if not isinstance(loss, str):
        raise TypeError(f"loss must be a name or a fgwot.GroundLoss, got {type(loss).__name__}")
    if loss not in BY_NAME:
        raise ValueError(f"unknown loss {loss!r}; known: {', '.join(BY_NAME)}, or pass a fgwot.GroundLoss")
    return BY_NAME[loss]
