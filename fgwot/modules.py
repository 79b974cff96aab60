"""FGW as a loss in a training loop."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

from torch import Tensor, nn

from fgwot.arrays import any_array
from fgwot.batch import broadcast
from fgwot.functional import fused_gromov_wasserstein
from fgwot.losses import GroundLoss
from fgwot.problem import Weight, computed_in
from fgwot.solution import WarmStart
from fgwot.solvers import Solver
from fgwot.structure import Structure

if TYPE_CHECKING:
    from fgwot.solution import Solution


class FGWLoss(nn.Module):
    """Entropic FGW between the two sides of a batch, as a differentiable loss.

    Parameters
    ----------
    alpha, epsilon, loss, solver, rho, mass, max_iter, tol
        As in `fgwot.fused_gromov_wasserstein`.
    returns : {"value", "cost"}
        "value" is J, whose envelope gradient is exact. "cost" leaves the entropy out and has the gradient of E
        with the plan held fixed, which is what the K-MaT paper differentiates.
    warm_start : bool
        Start each call from the plan and potentials of the previous call when the shapes agree. Small changes
        between training steps then cost an iteration or two.

    Attributes
    ----------
    solution : Solution or None
        Result of the last call, detached.
    start : WarmStart or None
        What the next call starts from, if it fits: the last solution, or what :meth:`load_start` was given. It is no
        part of ``state_dict``, whose keys do not depend on the calls so far.

    Examples
    --------
    >>> import torch
    >>> x = torch.tensor([[0.0], [1.0], [3.0]], requires_grad=True)
    >>> y = torch.tensor([[0.5], [1.5], [3.5]])
    >>> criterion = FGWLoss(alpha=0.1, epsilon=0.1)
    >>> loss = criterion(torch.cdist(x, y).square(), torch.cdist(x, x), torch.cdist(y, y))
    >>> loss.backward()
    >>> x.grad.shape, criterion.plan.argmax(1).tolist()
    (torch.Size([3, 1]), [0, 1, 2])
    """

    def __init__(
        self,
        alpha: Weight | None = None,
        epsilon: Weight = 0.05,
        loss: str | GroundLoss = "square",
        solver: Solver | None = None,
        *,
        rho: Weight | tuple[Weight, Weight] | None = None,
        mass: Weight | None = None,
        returns: Literal["value", "cost"] = "value",
        warm_start: bool = True,
        max_iter: int = 1000,
        tol: float | None = None,
    ) -> None:
        super().__init__()
        if returns not in ("value", "cost"):
            raise ValueError(f"returns must be 'value' or 'cost', got {returns!r}")
        self.alpha, self.epsilon, self.loss, self.solver = alpha, epsilon, loss, solver
        self.rho, self.mass = rho, mass
        self.returns, self.warm_start, self.max_iter, self.tol = returns, warm_start, max_iter, tol
        self.solution: Solution | None = None
        self.start: WarmStart | None = None

    @property
    def plan(self) -> Tensor | None:
        """Plan of the last call, detached; None before the first."""
        return None if self.solution is None else self.solution.plan

    def start_dict(self) -> dict[str, Tensor]:
        """Return :attr:`start` as tensors for a checkpoint: ``plan`` (..., n, m), ``f`` (..., n), ``g`` (..., m).

        It is empty before the first call. A training that goes on from it takes the same steps as one that was never
        interrupted.

        Examples
        --------
        >>> import torch
        >>> M, C = torch.rand(3, 3), torch.rand(3, 3)
        >>> criterion = FGWLoss()
        >>> loss = criterion(M, C, C)
        >>> again = FGWLoss()
        >>> again.load_start(criterion.start_dict())
        >>> torch.equal(again(M, C, C), criterion(M, C, C))
        True
        """
        if self.start is None:
            return {}
        f, g = self.start.potentials
        return {"plan": self.start.plan, "f": f, "g": g}

    def load_start(self, state: Mapping[str, Tensor]) -> None:
        """Let the next call start from what :meth:`start_dict` gave, on the tensors' own device.

        Raises
        ------
        ValueError
            If the tensors are others, or do not fit together.
        """
        if not state:
            self.start = None
            return
        if set(state) != {"plan", "f", "g"}:
            raise ValueError(f"expected tensors plan, f and g, or none, got {', '.join(sorted(state))}")
        plan, f, g = state["plan"], state["f"], state["g"]
        if plan.ndim < 2 or f.shape != plan.shape[:-1] or g.shape != (*plan.shape[:-2], plan.shape[-1]):
            raise ValueError(
                f"expected plan (..., n, m), f (..., n) and g (..., m), got {tuple(plan.shape)}, {tuple(f.shape)} and "
                f"{tuple(g.shape)}"
            )
        self.start = WarmStart(plan, (f, g))

    @any_array
    def forward(
        self, M: Structure | None, C1: Structure, C2: Structure, p: Tensor | None = None, q: Tensor | None = None
    ) -> Tensor:
        """Return the loss, of the batch shape (a scalar for unbatched input)."""
        previous = self.start if self.warm_start else None
        fits = previous is not None and self._fits(previous.plan, M, C1, C2, p, q)
        solution = fused_gromov_wasserstein(
            M,
            C1,
            C2,
            p,
            q,
            alpha=self.alpha,
            epsilon=self.epsilon,
            rho=self.rho,
            mass=self.mass,
            loss=self.loss,
            solver=self.solver,
            init=previous if fits else None,
            max_iter=self.max_iter,
            tol=self.tol,
        )
        self.solution = self.start = solution.detach()
        return solution.value if self.returns == "value" else solution.cost

    def _fits(self, plan: Tensor, M: Structure | None, C1: Structure, C2: Structure, *marginals: Tensor | None) -> bool:
        """Whether an earlier plan has the batch shape, size, dtype and device that this call's will have."""
        leading = [t.shape[:-2] for t in (M, C1, C2) if t is not None]
        leading += [t.shape[:-1] for t in marginals if t is not None]
        rho = self.rho if isinstance(self.rho, tuple) else (self.rho,)
        leading += [w.shape for w in (self.alpha, self.epsilon, self.mass, *rho) if isinstance(w, Tensor)]
        try:
            batch = broadcast(leading)
        except RuntimeError:  # the call itself explains what does not fit together
            return False
        shape = (*batch, C1.shape[-1], C2.shape[-1])
        return plan.shape == shape and plan.dtype == computed_in(C1.dtype) and plan.device == C1.device
