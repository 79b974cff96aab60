"""Inner problems from any start: at scales of their costs that grow to one."""

from collections.abc import Callable
from typing import Protocol, TypeVar

import torch
from torch import Tensor

from fgwot.constants import COOLING, HOTTEST, ROUGH


class _Dual(Protocol):
    g: Tensor


_D = TypeVar("_D", bound=_Dual)


def annealed(X: Tensor, g: Tensor, tol: Tensor, solve: Callable[[Tensor, Tensor, Tensor], _D]) -> _D:
    """Solve at scales s X with s growing to 1, each from the last: the hotter problem is the smoother one.

    `solve` takes costs, a guess of g, in proportion to them, and a tolerance (B,).
    """
    spread = X.amax((-2, -1)) - X.amin((-2, -1))
    scale = (HOTTEST / spread).nan_to_num(1.0).clamp(max=1)
    while True:
        last = scale == 1
        dual = solve(scale[:, None, None] * X, g, torch.where(last, tol, tol.clamp_min(ROUGH)))
        if bool(last.all()):
            return dual
        cooler = (scale * COOLING).clamp(max=1)
        g, scale = dual.g * (cooler / scale)[:, None], cooler
