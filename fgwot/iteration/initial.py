"""Where the iteration starts."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fgwot.gradient.linearisation import linearisation
from fgwot.inner.plan import Marginals
from fgwot.iteration.result import Start
from fgwot.problem import Problem
from fgwot.solution import WarmStart


@dataclass(frozen=True)
class MultiInit:
    """Start from p q^T and from k - 1 random couplings; keep the plan with the smallest objective.

    FGW is not convex, and p q^T is itself stationary for symmetric inputs: a single start can stay uniform.

    Parameters
    ----------
    k : int
        Number of starts.
    seed : int
        Seed of the random couplings.
    """

    k: int = 8
    seed: int = 0

    def __post_init__(self) -> None:
        if self.k < 1:
            raise ValueError(f"MultiInit needs k >= 1, got {self.k}")

    def noise(self, n: int, m: int) -> Tensor:
        """Negative logarithms (k, n, m), in float64, of what the plans to start from are multiplied by."""
        noise = torch.randn(self.k, n, m, generator=torch.Generator().manual_seed(self.seed), dtype=torch.float64)
        noise[0] = 0
        return noise


Init = Tensor | WarmStart | MultiInit | None


def tensors_of(init: Init, problem: Problem) -> tuple[Tensor, ...]:
    """Return what `start_from` needs of `init`: nothing, a plan (B, n, m), or one and a potential (B, m).

    Raises
    ------
    TypeError, ValueError
        If `init` is of another type, shape, dtype or device.
    """
    if init is None or isinstance(init, MultiInit):
        return ()
    plan = init.plan if isinstance(init, WarmStart) else init
    if not isinstance(plan, Tensor):
        raise TypeError(f"init must be None, a plan, a Solution or a MultiInit, got {type(init).__name__}")
    T = shaped_plan(plan, problem)
    if not isinstance(init, WarmStart):
        return (T,)
    g = init.potentials[1].detach().to(T.dtype).expand(*problem.batch_shape, problem.q.shape[-1])
    return T, g.reshape(problem.q.shape)


def start_from(problem: Problem, T: Tensor | None = None, g: Tensor | None = None) -> Start:
    """Start at p q^T, at a plan, or at a plan and its potential; plans whose marginals move start without one.

    Raises
    ------
    ValueError
        If the plan is not finite and non-negative.
    """
    log_q = torch.where(problem.q > 0, problem.q, 1).log()
    if problem.moving:
        return _relative(_independent(problem)) if T is None else replace(_relative(_checked(T)), change=0.0)
    if T is None:
        return Start(problem.M.new_zeros(()).expand_as(problem.M), log_q, log_q, change=1.0, independent=True)
    _checked(T)
    if g is None:
        return Start.at(T, log_q)
    _, columns = linearisation(problem).shift(Marginals.of(problem.p, problem.q))
    return Start.at(T, (g - columns) / problem.epsilon[:, None])


def random_starts(init: MultiInit, problem: Problem) -> Start:
    """Starts for a batch in which every problem is repeated `init.k` times in a row; the first is p q^T."""
    noise = init.noise(*problem.M.shape[1:]).to(problem.M)
    X = noise.repeat(len(problem.M) // init.k, 1, 1)
    if problem.moving:
        start = _relative(_independent(problem))
        return replace(start, X=start.X + X)
    log_q = torch.where(problem.q > 0, problem.q, 1).log()
    return Start(X, log_q, log_q, change=1.0)


def shaped_plan(plan: Tensor, problem: Problem) -> Tensor:
    """Return a user's plan as (B, n, m), or say what is wrong with its type and shape."""
    n, m = problem.M.shape[1:]
    if tuple(plan.shape[-2:]) != (n, m):
        raise ValueError(f"init must be a plan of shape (..., {n}, {m}), got {tuple(plan.shape)}")
    if plan.dtype not in (problem.dtype, problem.M.dtype) or plan.device != problem.M.device:
        raise ValueError(
            f"init must have dtype {problem.dtype} on {problem.M.device}, got {plan.dtype} on {plan.device}"
        )
    T = plan.detach().to(problem.M.dtype)
    try:
        return T.expand(*problem.batch_shape, n, m).reshape(problem.M.shape)
    except RuntimeError:
        raise ValueError(
            f"init of shape {tuple(plan.shape)} does not broadcast to batch shape {tuple(problem.batch_shape)}"
        ) from None


def _checked(T: Tensor) -> Tensor:
    """Return T, or say what is wrong with the values of a user's plan."""
    if not bool((T.isfinite() & (T >= 0)).all()):
        raise ValueError("init must be a plan with finite, non-negative entries")
    return T


def _independent(problem: Problem) -> Tensor:
    """Return p q' of the mass of the plan, or of the geometric mean of both masses."""
    p, q = problem.p, problem.q
    masses = p.sum(-1) * q.sum(-1)
    scale = masses.rsqrt() if problem.mass is None else problem.mass / masses
    return scale[:, None, None] * p[:, :, None] * q[:, None, :]


def _relative(T: Tensor) -> Start:
    """Start at a plan, from which steps are relative."""
    return replace(Start.at(T, torch.zeros_like(T[:, 0])), change=1.0)
