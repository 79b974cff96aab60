"""POT's own tests of its entropic solvers, with fgwot in place of POT's torch branch.

``python -m benchmarks.pot_tests PATH/test_gromov.py`` runs them; docs/correctness.md says where the file is found and
what came out. Each test solves a problem twice, with NumPy arrays and with a backend's, and compares. Here NumPy
arrays still go to POT, and torch tensors to fgwot: every test becomes POT against fgwot.
"""

import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import ot
import pytest
import torch

import fgwot

_LOSSES = {"square_loss": "square", "kl_loss": "kl"}
_SOLVERS = {"PGD": fgwot.MirrorDescent(), "PPA": fgwot.ProximalPoint()}
# POT stops after so few outer iterations that it is not converged; fgwot has only converged plans to offer.
_MAX_ITER = 10_000


def _plan(
    M: Any,
    C1: torch.Tensor,
    C2: torch.Tensor,
    p: Any,
    q: Any,
    loss_fun: str,
    epsilon: float,
    alpha: float,
    G0: Any,
    solver: str,
) -> fgwot.Solution:
    if loss_fun not in _LOSSES:
        raise ValueError(f"unknown loss {loss_fun!r}")
    if solver not in _SOLVERS:
        raise ValueError(f"unknown solver {solver!r}")
    p, q = (None if m is None else torch.as_tensor(m, dtype=C1.dtype) for m in (p, q))
    return fgwot.fused_gromov_wasserstein(
        M,
        C1,
        C2,
        p,
        q,
        alpha=alpha,
        epsilon=epsilon,
        loss=_LOSSES[loss_fun],
        solver=_SOLVERS[solver],
        init=G0,
        max_iter=_MAX_ITER,
    )


def _instead(original: Callable[..., Any], fused: bool, value: bool) -> Callable[..., Any]:
    """Return `original` for arrays, and fgwot in its signature for tensors."""

    def run(*arguments: Any, **options: Any) -> Any:
        structures = arguments[1:3] if fused else arguments[:2]
        if not all(isinstance(C, torch.Tensor) for C in structures):
            return original(*arguments, **options)
        M, arguments = (arguments[0], arguments[1:]) if fused else (None, arguments)
        names = ("C1", "C2", "p", "q", "loss_fun", "epsilon", "symmetric")
        given = dict(zip(names, arguments, strict=False)) | options
        solution = _plan(
            M,
            given["C1"],
            given["C2"],
            given.get("p"),
            given.get("q"),
            given.get("loss_fun", "square_loss"),
            given.get("epsilon", 0.1),
            given.get("alpha", 0.5) if fused else 1.0,
            given.get("G0"),
            given.get("solver", "PGD"),
        )
        log = {"T": solution.plan, "fgw_dist" if fused else "gw_dist": solution.cost}
        found = solution.cost if value else solution.plan
        return (found, log) if given.get("log") else found

    return run


class Plugin:
    """What POT's conftest.py, which its source distributions lack, gives to the tests."""

    @pytest.fixture(params=[ot.backend.TorchBackend()], ids=["torch"])
    def nx(self, request: pytest.FixtureRequest) -> Any:
        """POT's torch backend."""
        return request.param

    def pytest_configure(self) -> None:
        """Replace the solvers, and let the decorators of other backends through."""
        pytest.skip_backend = lambda *_, **__: lambda test: test  # type: ignore[attr-defined]
        pytest.skip_arg = pytest.skip_backend  # type: ignore[attr-defined]
        for fused, name in ((False, "entropic_gromov_wasserstein"), (True, "entropic_fused_gromov_wasserstein")):
            for value, suffix in ((False, ""), (True, "2")):
                original = getattr(ot.gromov, name + suffix)
                setattr(ot.gromov, name + suffix, _instead(original, fused, value))


def main(path: str) -> int:
    """Run the tests of entropic solvers in a file of POT's."""
    np.random.seed(0)  # noqa: NPY002 (POT's tests draw from the global generator)
    chosen = "entropic_gromov or entropic_proximal or entropic_fgw or asymmetric_entropic"
    options = ["-p", "no:cacheprovider", "-c", "/dev/null", "-rA", "-q", "--tb=line"]
    return int(pytest.main([path, *options, "-k", f"({chosen}) and not barycenter"], plugins=[Plugin()]))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
