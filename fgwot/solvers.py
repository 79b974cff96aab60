"""What is minimised, and by which steps."""

from dataclasses import dataclass
from math import inf


def _check_damping(damping: float | None) -> None:
    if damping is not None and not 0 <= damping < inf:
        raise ValueError(f"damping must be a finite number from 0 on, or None to adapt it; got {damping}")


@dataclass(frozen=True)
class MirrorDescent:
    r"""Minimise J(T) = E(T) - epsilon H(T) by mirror descent in the KL geometry.

    Parameters
    ----------
    damping : float, optional
        lambda in T+ = argmin <grad E(T_k), T> - epsilon H(T) + lambda KL(T || T_k). By default it adapts: zero
        while steps descend, raised where the curvature demands it, so that J never rises. A number fixes it;
        ``damping=0`` is the projected gradient method of Peyré, Cuturi and Solomon (2016), POT's "PGD".
    """

    damping: float | None = None
    entropic = True

    def __post_init__(self) -> None:
        _check_damping(self.damping)


@dataclass(frozen=True)
class ProximalPoint:
    r"""Minimise E(T), without entropy, by proximal steps of size epsilon: POT's "PPA".

    T+ = argmin <grad E(T_k), T> + (epsilon + lambda) KL(T || T_k); its limits are stationary points of
    unregularised FGW.

    Parameters
    ----------
    damping : float, optional
        lambda. By default it adapts: raised so that E never rises, and lowered, to steps up to 64 times as long, once
        they are short. A number fixes it.
    """

    damping: float | None = None
    entropic = False

    def __post_init__(self) -> None:
        _check_damping(self.damping)


Solver = MirrorDescent | ProximalPoint
