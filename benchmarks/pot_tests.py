"""POT's own tests of its entropic solvers, with fgwot in place of POT's torch branch.

``python -m benchmarks.pot_tests PATH ...`` runs the tests in files of POT's; docs/correctness.md says where these are
found and what came out. Each test solves a problem twice, with NumPy arrays and with a backend's, and compares. Here
NumPy arrays still go to POT, and torch tensors to fgwot: every test becomes POT against fgwot.
"""

import inspect
import sys
from collections.abc import Callable, Collection, Generator, Iterable, Mapping
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import ot
import pytest
import torch

import fgwot

_LOSSES = {"square_loss": "square", "kl_loss": "kl"}
_SOLVERS = {"PGD": fgwot.MirrorDescent(), "PPA": fgwot.ProximalPoint()}
_SINKHORNS = ("sinkhorn", "sinkhorn_stabilized", "sinkhorn_reg_scaling", "sinkhorn_translation_invariant")
# POT stops after so few outer iterations that it is not converged; fgwot has only converged plans to offer.
_MAX_ITER = 10_000
Given = Mapping[str, Any]  # arguments by POT's names
Options = dict[str, Any]


class Answer(NamedTuple):
    """What POT's function of a name returns, what its twin with a 2 at the end does, and their log."""

    found: tuple[Any, ...]
    value: torch.Tensor
    log: dict[str, Any]


def _known(name: str, known: Collection[str]) -> str:
    """Return a name that POT knows; another is a ValueError, as it is there."""
    if name not in known:
        raise ValueError(f"unknown {name!r}")
    return name


def _weights(given: Any, like: torch.Tensor, n: int) -> torch.Tensor:
    """Uniform where POT gets None or nothing."""
    if given is None or len(given) == 0:
        return like.new_full((n,), 1 / n)
    return torch.as_tensor(given, dtype=like.dtype)


def _mass(given: Given, p: torch.Tensor, q: torch.Tensor) -> Options:
    return {"mass": min(p.sum(), q.sum()) if given["m"] is None else given["m"]}


def _gromov(distance: str, options: Callable[[Given, torch.Tensor, torch.Tensor], Options], given: Given) -> Answer:
    C1, C2 = given["C1"], given["C2"]
    p, q = _weights(given["p"], C1, len(C1)), _weights(given.get("q"), C2, len(C2))
    solution = fgwot.fused_gromov_wasserstein(
        given.get("M"),
        C1,
        C2,
        p,
        q,
        alpha=given.get("alpha"),
        epsilon=given["epsilon"] if "epsilon" in given else given["reg"],
        loss=_LOSSES[_known(given["loss_fun"], _LOSSES)],
        init=given["G0"],
        max_iter=_MAX_ITER,
        **options(given, p, q),
    )
    return Answer((solution.plan,), solution.cost, {"T": solution.plan, distance: solution.cost})


def _linear(cost: torch.Tensor, p: torch.Tensor, q: torch.Tensor, reg: float, **options: Any) -> fgwot.Solution:
    C1, C2 = (cost.new_zeros(n, n) for n in cost.shape)
    return fgwot.fused_gromov_wasserstein(cost, C1, C2, p, q, alpha=0.0, epsilon=reg, **options)


def _partial(given: Given) -> Answer:
    M = given["M"]
    p, q = (_weights(given[name], M, n) for name, n in zip("ab", M.shape, strict=True))
    solution = _linear(M, p, q, given["reg"], **_mass(given, p, q))
    return Answer((solution.plan,), solution.cost, {"T": solution.plan, "partial_w_dist": solution.cost})


def _unbalanced(given: Given) -> Answer:
    """With several columns in b, a batch: POT then takes the entropy whatever is asked for, and returns costs."""
    _known(given["method"], _SINKHORNS)
    _known(given.get("returnCost", "linear"), ("linear",))
    kl, M, reg = _known(given["reg_type"], ("kl", "entropy")) == "kl", given["M"], given["reg"]
    a, b = (_weights(given[name], M, n) for name, n in zip("ab", M.shape, strict=True))
    cost, several = M, b.ndim > 1
    if kl and not several:  # KL(T | c) is the entropy and -<log c, T>
        cost = M - reg * (a[:, None] * b if given["c"] is None else given["c"]).log()
    prices = tuple(float(price) for price in ot.utils.get_parameter_pair(given["reg_m"]))
    solution = _linear(cost, a, b.mT if several else b, reg, rho=prices)
    costs = (solution.plan * M).sum((-2, -1))
    logu, logv = (f.mT / reg if several else f / reg for f in solution.potentials)
    return Answer((costs if several else solution.plan,), costs, {"logu": logu, "logv": logv, "cost": costs})


def _barycenter(given: Given) -> Answer:
    """From where POT starts."""
    n, like, features = given["N"], given["Cs"][0], given.get("Ys")
    fixed = [part for part in ("structure", "features") if given.get(f"fixed_{part}")]
    C, X = given["init_C"], given.get("init_Y")
    if ("structure" in fixed and C is None) or ("features" in fixed and X is None):
        raise ot.utils.UndefinedParameter
    if C is None:
        distances = ot.dist(ot.utils.check_random_state(given["random_state"]).randn(n, 2))
        C = torch.as_tensor(distances if features else distances / distances.max(), dtype=like.dtype)
    if features and X is None:
        X = like.new_zeros(n, features[0].shape[1])
    found = fgwot.barycenter(
        given["Cs"],
        features,
        given["ps"],
        n=n,
        p=given["p"],
        coefficients=given["lambdas"],
        init_structure=C,
        init_features=X,
        fixed=fixed[0] if fixed else None,  # type: ignore[arg-type]
        alpha=given.get("alpha"),
        epsilon=given["epsilon"],
        loss=_LOSSES[_known(given["loss_fun"], _LOSSES)],
    )
    log = {name: [found.residual] for name in ("err", "err_structure", "err_feature")}
    both = (found.features, found.structure) if features else (found.structure,)
    return Answer(both, found.value, log | {"T": found.plans, "p": found.weights})


def _balanced(given: Given, _p: torch.Tensor, _q: torch.Tensor) -> Options:
    return {"solver": _SOLVERS[_known(given["solver"], _SOLVERS)]}


def _semirelaxed(_given: Given, _p: torch.Tensor, _q: torch.Tensor) -> Options:
    """POT takes the entropy as a step, and its limit has none."""
    return {"solver": fgwot.ProximalPoint(), "rho": (float("inf"), 0.0)}


# What is replaced, with the twin that has a 2 at its end where POT has one.
_REPLACED: dict[tuple[Any, str], Callable[[Given], Answer]] = {
    (ot.gromov, "entropic_gromov_wasserstein"): partial(_gromov, "gw_dist", _balanced),
    (ot.gromov, "entropic_fused_gromov_wasserstein"): partial(_gromov, "fgw_dist", _balanced),
    (ot.gromov, "entropic_semirelaxed_gromov_wasserstein"): partial(_gromov, "srgw_dist", _semirelaxed),
    (ot.gromov, "entropic_semirelaxed_fused_gromov_wasserstein"): partial(_gromov, "srfgw_dist", _semirelaxed),
    (ot.gromov, "entropic_partial_gromov_wasserstein"): partial(_gromov, "partial_gw_dist", _mass),
    (ot.gromov, "entropic_partial_fused_gromov_wasserstein"): partial(_gromov, "partial_fgw_dist", _mass),
    (ot.partial, "entropic_partial_wasserstein"): _partial,
    (ot.unbalanced, "sinkhorn_unbalanced"): _unbalanced,
    (ot.gromov, "entropic_gromov_barycenters"): _barycenter,
    (ot.gromov, "entropic_fused_gromov_barycenters"): _barycenter,
}


def _has_tensors(values: Iterable[Any]) -> bool:
    return any(isinstance(v, torch.Tensor) or (isinstance(v, list | tuple) and _has_tensors(v)) for v in values)


class Plugin:
    """What POT's conftest.py, which its source distributions lack, gives to the tests; and the replaced solvers."""

    def __init__(self) -> None:
        self._reached = False

    @pytest.fixture(params=[ot.backend.TorchBackend()], ids=["torch"])
    def nx(self, request: pytest.FixtureRequest) -> Any:
        """POT's torch backend."""
        return request.param

    def pytest_configure(self) -> None:
        """Replace the solvers, and let the decorators of other backends through."""
        pytest.skip_backend = lambda *_, **__: lambda test: test  # type: ignore[attr-defined]
        pytest.skip_arg = pytest.skip_backend  # type: ignore[attr-defined]
        for (module, name), solve in _REPLACED.items():
            for twin in (name, name + "2"):
                if hasattr(module, twin):
                    setattr(module, twin, self._instead(getattr(module, twin), solve))

    def pytest_collection_modifyitems(self, items: list[pytest.Function]) -> None:
        """Leave out what calls none of them."""
        names = [name for _, name in _REPLACED]
        items[:] = [item for item in items if any(name in inspect.getsource(item.function) for name in names)]

    @pytest.hookimpl(wrapper=True)
    def pytest_pyfunc_call(self) -> Generator[None, Any, Any]:
        """Skip what passes without fgwot."""
        self._reached = False
        result = yield
        if not self._reached:
            pytest.skip("arrays only: POT against itself")
        return result

    def _instead(self, original: Callable[..., Any], solve: Callable[[Given], Answer]) -> Callable[..., Any]:
        """Return `original` for arrays, and fgwot in its signature for tensors."""
        signature, value = inspect.signature(original), original.__name__.endswith("2")

        def run(*arguments: Any, **options: Any) -> Any:
            bound = signature.bind(*arguments, **options)
            if not _has_tensors(bound.arguments.values()):
                return original(*arguments, **options)
            self._reached = True
            bound.apply_defaults()
            answer = solve(bound.arguments)
            found = (answer.value,) if value else answer.found
            returned = (*found, answer.log) if bound.arguments["log"] else found
            return returned if len(returned) > 1 else returned[0]

        return run


def main(paths: list[str]) -> int:
    """Run the tests of entropic solvers in files of POT's."""
    np.random.seed(0)  # noqa: NPY002 (POT's tests draw from the global generator)
    # POT has files of the same name in several folders, which the default import mode confuses.
    options = ["--import-mode=importlib", "-p", "no:cacheprovider", "-c", "/dev/null", "-rA", "-q", "--tb=line"]
    return int(pytest.main([*paths, *options], plugins=[Plugin()]))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
