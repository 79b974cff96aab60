"""``ot.solve_gromov``: POT's arguments, conventions and result."""

from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from fgwot.adjoint import Adjoint
from fgwot.arrays import any_array
from fgwot.call import Call
from fgwot.functional import fused_gromov_wasserstein
from fgwot.gradient.linearisation import Complete, Linearisation
from fgwot.problem import computed_in
from fgwot.solution import Solution, Status
from fgwot.solvers import MirrorDescent, ProximalPoint, Solver

_LOSSES = {"l2": "square", "kl": "kl"}
_METHODS: dict[str, Solver] = {"pgd": MirrorDescent(), "ppa": ProximalPoint()}
_GRADIENTS = {"envelope": "envelope", "detach": "envelope", "autodiff": "implicit"}
_RELAXATIONS = {name: name for name in ("kl", "semirelaxed", "partial")}
_STEP = 0.3  # of an unregularised problem, as a share of the range of its first linear cost


@dataclass(frozen=True)
class GromovResult:
    """What `solve_gromov` returns, with the names and conventions of POT's OTResult.

    Attributes
    ----------
    plan : Tensor (n, m)
        The coupling.
    value : Tensor ()
        The minimised objective, ``value_linear + value_quad + reg * sum(T log T)`` as in POT; with prices for the
        marginals their cost is in it, and the entropy is ``sum(T (log T - 1))``, as the mass is not fixed.
    value_linear, value_quad : Tensor ()
        (1 - alpha) <M, T> and alpha <L (x) T, T>: weighted, as POT's, unlike those of `fgwot.Solution`.
    solution : Solution
        All that fgwot knows: residual, marginal error, status by problem, number of iterations.
    """

    plan: Tensor
    value: Tensor
    value_linear: Tensor
    value_quad: Tensor
    solution: Solution

    @property
    def potentials(self) -> tuple[Tensor, Tensor]:
        """Multipliers (f, g) of both marginals, determined up to one constant."""
        return self.solution.potentials

    @property
    def potential_a(self) -> Tensor:
        """The first of them."""
        return self.potentials[0]

    @property
    def potential_b(self) -> Tensor:
        """The second of them."""
        return self.potentials[1]

    @property
    def marginal_a(self) -> Tensor:
        """Sums of the plan's rows."""
        return self.plan.sum(-1)

    @property
    def marginal_b(self) -> Tensor:
        """Sums of the plan's columns."""
        return self.plan.sum(-2)

    @property
    def marginals(self) -> tuple[Tensor, Tensor]:
        """Both."""
        return self.marginal_a, self.marginal_b

    @property
    def status(self) -> str:
        """How the iteration ended; of a batch, how its worst problem did."""
        return Status(int(self.solution.status.max())).sentence

    @property
    def log(self) -> dict[str, Any]:
        """Residual, marginal error and number of iterations."""
        return {name: getattr(self.solution, name) for name in ("residual", "marginal_error", "n_iter")}


@any_array
def solve_gromov(
    Ca: Tensor,
    Cb: Tensor,
    M: Tensor | None = None,
    a: Tensor | None = None,
    b: Tensor | None = None,
    loss: str = "L2",
    symmetric: bool | None = None,  # noqa: ARG001 - found out, and asymmetric structure is always right
    alpha: float | Tensor | None = 0.5,
    reg: float | Tensor | None = None,
    reg_type: str = "entropy",
    unbalanced: float | Tensor | None = None,
    unbalanced_type: str = "KL",
    n_threads: int = 1,  # noqa: ARG001 - torch.set_num_threads
    method: str | None = None,
    max_iter: int | None = None,
    plan_init: Tensor | None = None,
    potentials_init: tuple[Tensor, Tensor] | None = None,
    tol: float | None = None,
    verbose: bool = False,
    grad: Literal["envelope", "autodiff", "detach"] = "envelope",
) -> GromovResult:
    r"""(Fused) Gromov-Wasserstein with the arguments, conventions and result of POT's ``ot.solve_gromov``.

    Minimise, over the plans T that the marginals allow,

    .. math:: (1-\alpha) \langle M, T \rangle + \alpha \sum_{ijkl} L(Ca_{ik}, Cb_{jl}) T_{ij} T_{kl}
              + \mathrm{reg} \sum_{ij} T_{ij} \log T_{ij}

    Where POT and this differ: `reg` counts with `M` too (POT's solvers then use 0.1 whatever it is); a result is
    certified or its `status` says why not; asymmetric structure is always right; semi-relaxed problems with `reg`
    contain the entropy, of which POT's iteration makes a step; the divergence of KL-unbalanced problems is the one of
    the marginals, as in the formula of POT's documentation, where POT's code prices product measures.

    Parameters
    ----------
    Ca, Cb : Tensor (n, n), (m, m)
        Structures. Like all arrays: tensors, or arrays of NumPy, CuPy or JAX; batch dimensions are allowed.
    M : Tensor (n, m), optional
        Linear cost.
    a, b : Tensor (n,), (m,), optional
        Marginals; uniform by default.
    loss : {"L2", "KL"}
        Ground loss.
    alpha : float
        Weight of the quadratic term. Has no meaning without M.
    reg : float, optional
        Weight of the entropy. None or 0 is the unregularised problem, solved by proximal steps instead of POT's
        conditional gradient: both find one of its stationary points, not always the same.
    reg_type : {"entropy"}
    unbalanced : float, optional
        Price of both marginals, or the mass of a partial plan.
    unbalanced_type : {"KL", "semirelaxed", "partial"}
        "semirelaxed" keeps the marginal `a` and leaves the other free.
    method : {"PGD", "PPA"}, optional
        With `reg`: `fgwot.MirrorDescent`, the default, or `fgwot.ProximalPoint`, of which `reg` is the step.
    max_iter, tol : optional
        As in `fgwot.fused_gromov_wasserstein`, by default too: `tol` bounds the residual, not the last change.
    plan_init : Tensor (n, m), optional
        First plan.
    verbose : bool
        Print how it ended.
    grad : {"envelope", "autodiff", "detach"}
        For tensors: the exact gradient of `value`; of the plan too, by implicit differentiation; or none.
    symmetric, n_threads
        Accepted, without effect: symmetry is found out, and torch's number of threads is used.
    potentials_init
        Refused.

    Returns
    -------
    GromovResult

    Raises
    ------
    NotImplementedError
        For what POT has and this has not; the message says what to use.
    TypeError, ValueError
        On bad input.

    Examples
    --------
    >>> import torch
    >>> x = torch.tensor([[0.0], [1.0], [3.0]], dtype=torch.float64)
    >>> res = solve_gromov(torch.cdist(x, x), torch.cdist(x, x), reg=0.02)
    >>> res.plan.argmax(1).tolist(), res.status
    ([0, 1, 2], 'converged to the tolerance')
    """
    ground_loss = _chosen("loss", loss, _LOSSES, "fgwot.fused_gromov_wasserstein knows 'abs', 'huber' and your own")
    adjoint = _chosen("grad", grad, _GRADIENTS, "use 'envelope' or 'autodiff'")
    kind = _chosen("unbalanced_type", unbalanced_type, _RELAXATIONS, "use 'KL', 'semirelaxed' or 'partial'")
    _chosen("reg_type", reg_type, {"entropy": None}, "use 'entropy'")
    if potentials_init is not None:
        raise NotImplementedError(
            "potentials_init is not known: use fgwot.fused_gromov_wasserstein(..., init=solution), which starts from "
            "the plan and the potentials of a solution"
        )
    regularised = isinstance(reg, Tensor) or bool(reg)
    weight = alpha if M is not None and alpha is not None else (1.0 if M is None else 0.5)
    problem = Given(M, Ca, Cb, a, b, weight, reg if regularised else None, ground_loss, plan_init, max_iter, tol)
    relaxed = kind == "semirelaxed" or unbalanced is not None
    if relaxed and grad == "autodiff":
        raise NotImplementedError("grad='autodiff' is for balanced problems: use 'envelope', the gradient of value")
    if method is not None and not regularised:
        raise NotImplementedError(f"method={method!r} needs reg; without it proximal steps are used")
    solver = ProximalPoint() if not regularised else chosen_method(method or "PGD")
    rho = (float("inf"), 0.0) if kind == "semirelaxed" else unbalanced if kind == "kl" else None
    found = problem.solved(solver, adjoint, rho, unbalanced if kind == "partial" else None)
    result = problem.result(found, of_fixed_mass=solver.entropic and not (kind == "kl" and relaxed))
    if verbose:
        print(f"{result.status}: {result.log}")
    return _detached(result) if grad == "detach" else result


def chosen_method(name: str) -> Solver:
    """Return the solver that POT calls so."""
    found: Solver = _chosen(
        "method", name, _METHODS, "use 'PGD' or 'PPA'; fgwot damps both where they would not descend"
    )
    return found


def _chosen(option: str, given: Any, known: dict[str, Any], instead: str) -> Any:
    if not isinstance(given, str) or given.lower() not in known:
        raise NotImplementedError(f"{option}={given!r} is not known: {instead}")
    return known[given.lower()]


class Given(NamedTuple):
    """One problem of POT's, without `reg` where there is no entropy."""

    M: Tensor | None
    C1: Tensor
    C2: Tensor
    p: Tensor | None
    q: Tensor | None
    alpha: float | Tensor
    reg: float | Tensor | None
    loss: str
    init: Tensor | None
    max_iter: int | None
    tol: float | None

    @property
    def _entropy(self) -> float | Tensor:
        return 0.0 if self.reg is None else self.reg

    @property
    def _limits(self) -> dict[str, Any]:
        return {"tol": self.tol} | ({} if self.max_iter is None else {"max_iter": self.max_iter})

    def solved(self, solver: Solver, adjoint: str | Adjoint, rho: Any = None, mass: Any = None) -> Solution:
        """Solve with exact marginals, prices for them, or a mass of the plan."""
        epsilon = self._step() if self.reg is None else self.reg
        return fused_gromov_wasserstein(
            *self[:5],
            alpha=self.alpha,
            epsilon=epsilon,
            rho=rho,
            mass=mass,
            loss=self.loss,
            solver=solver,
            adjoint=adjoint,
            init=self.init,
            **self._limits,
        )

    @torch.no_grad()
    def _step(self) -> Tensor:
        """A proximal step (...) in proportion to the costs: to the range of the first gradient of E, at p q^T."""
        problem = Call.of(*self[:6], epsilon=1.0, loss=self.loss).problem()
        T = problem.p[:, :, None] * problem.q[:, None, :]
        T = T / T.sum((-2, -1), keepdim=True)
        G = Complete(Linearisation(problem))(T).flatten(1)
        step = _STEP * (G.amax(1) - G.amin(1))
        return problem.restore(torch.where(step > 0, step, 1)).to(computed_in(self.C1.dtype))

    def result(self, solution: Solution, of_fixed_mass: bool) -> GromovResult:
        """Translate what was found: POT weighs both values, and its entropy is T log T where that is the same."""
        value = solution.value + self._entropy * solution.plan.sum((-2, -1)) if of_fixed_mass else solution.value
        linear, quad = (1 - self.alpha) * solution.value_linear, self.alpha * solution.value_quad
        return GromovResult(solution.plan, value, linear, quad, solution)


def _detached(result: GromovResult) -> GromovResult:
    values = {name: getattr(result, name).detach() for name in ("plan", "value", "value_linear", "value_quad")}
    return replace(result, **values, solution=result.solution.detach())
