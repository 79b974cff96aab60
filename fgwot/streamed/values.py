r"""Values at a plan that is not stored, and their envelope gradients, in O((n + m) r) memory.

All that the values need of the plan is the matrix Z1^T T Z2, with the factors of one side as Z1 and of the other as Z2;
its derivatives are T Z2 and T^T Z1, two passes. The rest is autograd's: with the plan held fixed,

    J = (1 - alpha) <M, T> + alpha <L (x) T, T> - epsilon H(T) + <f, p> + <g, q>,

of which the last two terms count for their derivatives only, as dJ/dp = f and dJ/dq = g. A side with a price rho has
rho KL(T 1 | p) in place of its term. Of a given mass the potential of the columns is g + h, where the largest g is zero
and h is the derivative in the mass.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fgwot.adjoint import ENVELOPE_ONCE, of_side
from fgwot.inner.partial import split
from fgwot.operations import once
from fgwot.problem import Problem
from fgwot.streamed.passes import Kernel, Pass, threads_for_loops
from fgwot.streamed.plan import LazyPlan
from fgwot.streamed.reduced import Bases
from fgwot.structure import LowRank


class Source(NamedTuple):
    """A plan, and who makes passes over it."""

    plan: LazyPlan
    one_pass: Callable[[Kernel, Tensor], Pass]


class _Moments(torch.autograd.Function):
    """Z1^T T Z2; T Z2 is computed only for a backward pass."""

    @staticmethod
    def forward(ctx: Any, lazy: Source, moments: Tensor, Z1: Tensor, Z2: Tensor) -> Tensor:
        ctx.lazy = lazy
        ctx.save_for_backward(Z1, Z2)
        return moments.clone()

    @staticmethod
    def backward(ctx: Any, d: Tensor) -> tuple[None, None, Tensor | None, Tensor | None]:
        Z1, Z2 = ctx.saved_tensors
        (plan, one_pass), (_, _, first, second) = ctx.lazy, ctx.needs_input_grad
        left = plan.product(Z2, one_pass) @ d.T if first else None
        right = plan.T.product(Z1, one_pass) @ d if second else None
        return None, None, left, right


class _Values(torch.autograd.Function):
    """The function below, whose gradients are not differentiated again."""

    @staticmethod
    def forward(ctx: Any, lazy: Source, *tensors: Tensor | None) -> tuple[Tensor, ...]:
        ctx.lazy = lazy
        ctx.save_for_backward(*tensors)
        return _values(lazy, tensors)

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor | None, ...]:
        constants, inputs = ctx.saved_tensors[:_CONSTANTS], ctx.saved_tensors[_CONSTANTS:]
        wanted = ctx.needs_input_grad[1 + _CONSTANTS :]
        with torch.enable_grad(), threads_for_loops(constants[0].device):
            leaves = [
                None if t is None else t.detach().requires_grad_(asked) for t, asked in zip(inputs, wanted, strict=True)
            ]
            values = _values(ctx.lazy, [*constants, *leaves])
            asked = [t for t in leaves if t is not None and t.requires_grad]
            live = [(v, c) for v, c in zip(values, cotangents, strict=True) if v.requires_grad]
            found = torch.autograd.grad([v for v, _ in live], asked, [c for _, c in live], allow_unused=True)
        rest = iter(found)
        grads = tuple(next(rest) if t is not None and t.requires_grad else None for t in leaves)
        return None, *(None,) * _CONSTANTS, *once(grads, ENVELOPE_ONCE, *cotangents, *inputs)


@dataclass(frozen=True)
class Constants:
    """What the values need of a plan: Z1^T T Z2, H(T), its sums T 1 (n,) and T^T 1 (m,), f (n,) and g (m,)."""

    moments: Tensor
    entropy: Tensor
    rows: Tensor
    columns: Tensor
    f: Tensor
    g: Tensor


_CONSTANTS = len(fields(Constants))


def values(lazy: Source, known: Constants, problem: Problem, M: LowRank | None) -> tuple[Tensor, ...]:
    """Value, cost, linear and quadratic part of one problem in float64; M is its linear cost."""
    factors = (None, None) if M is None else (M.A, M.B)
    constants = [getattr(known, field.name) for field in fields(Constants)]
    found: tuple[Tensor, ...] = _Values.apply(lazy, *constants, *factors, *(t[0] for t in problem.tensors[1:]))
    return found


def moments_of(K: Tensor, bases: Bases, problem: Problem, M: LowRank | None) -> Tensor:
    """Z1^T T Z2 from the core K of the plan."""
    factors = (None, None) if M is None else (M.A, M.B)
    Z1, Z2 = _sides(*factors, *(t[0] for C in problem.low_rank for t in (C.A, C.B)))
    return (Z1.T @ bases.P) @ K @ (bases.Q.T @ Z2)


def _sides(
    MA: Tensor | None, MB: Tensor | None, A1: Tensor, B1: Tensor, A2: Tensor, B2: Tensor
) -> tuple[Tensor, Tensor]:
    first, second = ([], []) if MA is None or MB is None else ([MA], [MB])
    return torch.cat([*first, A1, B1], 1), torch.cat([*second, A2, B2], 1)


def _values(lazy: Source, tensors: Sequence[Any]) -> tuple[Tensor, ...]:
    moments, entropy, rows, columns, f, g, MA, MB, A1, B1, A2, B2, p, q, alpha, epsilon, *more = tensors
    moments = _Moments.apply(lazy, moments, *_sides(MA, MB, A1, B1, A2, B2))
    r0, r1, r2 = 0 if MA is None else MA.shape[1], A1.shape[1], A2.shape[1]
    linear = moments[:r0, :r0].diagonal().sum()
    crossed = (moments[r0 : r0 + r1, r0 : r0 + r2] * moments[r0 + r1 :, r0 + r2 :]).sum()
    own = sum(
        (sums * C.squares(sums[:, None])[:, 0]).sum()
        for C, sums in ((LowRank(A1, B1), rows), (LowRank(A2, B2), columns))
    )
    quad = own - 2 * crossed
    cost = (1 - alpha) * linear + alpha * quad
    value = cost - epsilon * entropy
    if len(more) == 1:
        (mass,), ((g,), h) = more, split(g[None], q.detach()[None])
        value = value + h[0] * (mass - mass.detach())
    prices = more if len(more) == 2 else (None, None)
    sides = zip(prices, (p, q), (rows, columns), (f, g), strict=True)
    for price, marginal, sums, potential in sides:
        by_marginal = potential
        if price is not None:
            (by_marginal,), (paid,) = of_side(price[None], marginal.detach()[None], sums[None], potential[None])
            value = value + paid
        value = value + by_marginal @ (marginal - marginal.detach())
    return value, cost, linear, quad
