"""``ot.gromov``: POT's balanced solvers by their older names, each for a plan and, with a 2 at its end, for a value.

Their values leave the entropy out, as POT's do. With ``log=True`` a dictionary comes second: the plan "T", the value
"gw_dist" or "fgw_dist", the potentials "u" and "v", and the `fgwot.Solution` as "solution".
"""

import inspect
from collections.abc import Callable
from typing import Any

from torch import Tensor

from fgwot.arrays import any_array
from fgwot.pot.solve import Given, chosen_method
from fgwot.solvers import ProximalPoint

_LOSSES = {"square_loss": "square", "kl_loss": "kl"}
_REQUIRED = {"M", "C1", "C2"}
# In POT's order, as scripts pass them by position.
_ENTROPIC = ("epsilon", "symmetric", "alpha", "G0", "max_iter", "tol", "solver", "warmstart", "verbose", "log")
_EXACT = ("symmetric", "log", "armijo", "G0", "max_iter", "tol_rel", "tol_abs")
_EXACT_FUSED = ("symmetric", "alpha", "armijo", "G0", "log", "max_iter", "tol_rel", "tol_abs")
_DEFAULTS = {"loss_fun": "square_loss", "epsilon": 0.1, "alpha": 0.5, "solver": "PGD", "log": False}
_INNER = ("numItermax", "stopThr", "numItermaxEmd")


def _solver(name: str, what: str) -> Callable[..., Any]:
    fused, entropic, value = "fused" in name, "entropic" in name, name.endswith("2")
    options = _ENTROPIC if entropic else _EXACT_FUSED if fused else _EXACT
    names = [*(["M"] if fused else []), "C1", "C2", "p", "q", "loss_fun", *options, *_INNER]
    if not fused and entropic:
        names.remove("alpha")
    kind, empty = inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.empty
    signature = inspect.Signature(
        [inspect.Parameter(name, kind, default=empty if name in _REQUIRED else _DEFAULTS.get(name)) for name in names]
    )

    def solve(*arguments: Any, **named: Any) -> Any:
        bound = signature.bind(*arguments, **named)
        bound.apply_defaults()
        given: dict[str, Any] = bound.arguments
        if given["loss_fun"] not in _LOSSES:
            raise ValueError(f"loss_fun must be 'square_loss' or 'kl_loss', got {given['loss_fun']!r}")
        used: dict[str, Any] = {name: given.get(name) for name in _USED}
        return _solved(value=value, **used)

    solve.__name__ = solve.__qualname__ = name
    solve.__doc__ = f"{what}, in the signature of POT's ``ot.gromov.{name}``; see `fgwot.pot.gromov`."
    solve.__signature__ = signature  # type: ignore[attr-defined]
    return any_array(solve)


_USED = ("M", "C1", "C2", "p", "q", "loss_fun", "epsilon", "alpha", "G0", "max_iter", "tol", "solver", "log")


def _solved(
    M: Tensor | None,
    C1: Tensor,
    C2: Tensor,
    p: Tensor | None,
    q: Tensor | None,
    loss_fun: str,
    epsilon: float | Tensor | None,
    alpha: float | Tensor | None,
    G0: Tensor | None,
    max_iter: float | None,
    tol: float | None,
    solver: str,
    log: bool,
    value: bool,
) -> Any:
    weight = 1.0 if alpha is None else alpha
    limit = None if max_iter is None else int(max_iter)
    problem = Given(M, C1, C2, p, q, weight, epsilon, _LOSSES[loss_fun], G0, limit, tol)
    solution = problem.solved(ProximalPoint() if epsilon is None else chosen_method(solver), "envelope")
    found = solution.cost if value else solution.plan
    if not log:
        return found
    f, g = solution.potentials
    distance = "gw_dist" if M is None else "fgw_dist"
    return found, {"T": solution.plan, distance: solution.cost, "u": f, "v": g, "solution": solution}


gromov_wasserstein = _solver("gromov_wasserstein", "Plan of unregularised Gromov-Wasserstein")
gromov_wasserstein2 = _solver("gromov_wasserstein2", "Value of unregularised Gromov-Wasserstein")
fused_gromov_wasserstein = _solver("fused_gromov_wasserstein", "Plan of unregularised FGW")
fused_gromov_wasserstein2 = _solver("fused_gromov_wasserstein2", "Value of unregularised FGW")
entropic_gromov_wasserstein = _solver("entropic_gromov_wasserstein", "Plan of entropic Gromov-Wasserstein")
entropic_gromov_wasserstein2 = _solver("entropic_gromov_wasserstein2", "E of entropic Gromov-Wasserstein")
entropic_fused_gromov_wasserstein = _solver("entropic_fused_gromov_wasserstein", "Plan of entropic FGW")
entropic_fused_gromov_wasserstein2 = _solver("entropic_fused_gromov_wasserstein2", "E of entropic FGW")


def __getattr__(name: str) -> None:
    raise AttributeError(
        f"fgwot.pot.gromov has no {name!r}: relaxed and partial problems are in solve_gromov; take the rest from POT "
        "itself (import ot)"
    )
