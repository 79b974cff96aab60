"""What plans that are never stored are tested by, whatever is asked of their marginals."""

import pytest
import torch
from test_long_solves import by_passes
from test_streamed import clouds, problem

import fgwot
from fgwot import Lazy, LowRank, Status

fgw = fgwot.fused_gromov_wasserstein
OPTIONS = {"alpha": 0.4, "epsilon": 0.05, "tol": 1e-9}


def check_against_dense(lazy, dense, p):
    """Plans, what is read of them, and values."""
    T = lazy.plan.to_dense()
    torch.testing.assert_close(T, dense.plan, rtol=0, atol=1e-6)
    torch.testing.assert_close(lazy.plan.rows(slice(1, 2)), T[1:2])
    torch.testing.assert_close(lazy.plan.sum(1), T.sum(1), rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(lazy.plan.T @ p, T.T @ p, rtol=1e-9, atol=1e-12)
    for name in ("value", "cost", "value_linear", "value_quad"):
        torch.testing.assert_close(getattr(lazy, name), getattr(dense, name), rtol=1e-6, atol=1e-8)


def check_gradients(numbers, asked, weights):
    """Those of a sum of values are the dense plan's; `asked` makes options of the numbers after alpha and epsilon."""
    M, C1, C2, p, q = problem(6, "asymmetric", (5, 9))
    numbers = [torch.tensor(x, dtype=torch.float64) for x in numbers]
    leaves = [t.clone().requires_grad_() for t in (M.A, M.B, C1.A, C1.B, C2.A, C2.B, 0.9 * p, 1.3 * q, *numbers)]
    ma, mb, a1, b1, a2, b2, r, c, alpha, epsilon, *rest = leaves
    costs, options = (LowRank(ma, mb), LowRank(a1, b1), LowRank(a2, b2)), {"alpha": alpha, "epsilon": epsilon}
    found = []
    for plan in ("lazy", "dense"):
        s = fgw(*costs, r, c, **options, **asked(*rest), tol=1e-11, max_iter=5000, plan=plan)
        values = (s.value, s.cost, s.value_linear, s.value_quad)
        total = sum(w * v for w, v in zip(weights, values, strict=True))
        found.append(torch.autograd.grad(total, leaves, allow_unused=True, materialize_grads=True))
    for lazy, dense in zip(*found, strict=True):
        torch.testing.assert_close(lazy, dense, rtol=1e-6, atol=1e-8)


def check_drivers(asked):
    """Numba's loops and torch's blocks agree."""
    options = {"epsilon": 0.02, **asked, "plan": "lazy"}
    for dtype, atol in ((torch.float32, 1e-7), (torch.float64, 1e-10)):
        costs = clouds(300, 700, dtype)
        with fgwot.backend("numba"):
            ours = fgw(*costs, **options)
        with fgwot.backend("torch"):
            theirs = fgw(*costs, **options)
        torch.testing.assert_close(ours.plan.to_dense(), theirs.plan.to_dense(), rtol=0, atol=atol)
        torch.testing.assert_close(ours.value, theirs.value, rtol=10 * torch.finfo(dtype).eps, atol=0)


def check_interrupted(asked, others, path, monkeypatch, more, alter=None):
    """A solve goes on from its file, `alter`ed, with `more` passes at most; one that is asked for others refuses it."""
    monkeypatch.setattr("fgwot.streamed.checkpoint._SHARE", torch.inf)  # write every time
    arguments, options = problem(1, "indefinite"), {**OPTIONS, **asked}
    seen = []
    whole = fgw(*arguments, **options, plan=Lazy(seen.append))
    total = seen[-1].passes

    def interrupt(progress):
        if progress.passes >= total // 2:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        fgw(*arguments, **options, plan=Lazy(interrupt, checkpoint=path))
    if alter:
        alter(path)
    resumed = fgw(*arguments, **options, plan=Lazy(seen.append, checkpoint=path))
    assert seen[-1].passes <= total - total // 2 + more
    torch.testing.assert_close(resumed.value, whole.value, rtol=1e-8, atol=1e-10)
    for other in others:
        with pytest.raises(ValueError, match="is of another problem: remove it or name another file"):
            fgw(*arguments, **(options | other), plan=Lazy(checkpoint=path))


def check_time_limits(asked, residual, monkeypatch):
    """Wherever its time is over, a solve claims no less than `residual` finds for the same problem."""
    M, C1, C2, p, q = problem(2, "distances")
    ended = set()
    for limit in (1, 2, 3, 5, 8, 13, 21, 34, 10_000):
        by_passes(monkeypatch)
        solution = fgw(M, C1, C2, p, q, **OPTIONS, **asked, plan=Lazy(time_limit=limit))
        claimed = float(solution.residual + solution.marginal_error)
        found = residual((M, C1, C2), p, q, solution, OPTIONS["alpha"], OPTIONS["epsilon"], *asked.values())
        assert found <= 1.5 * claimed + 1e-9, limit
        ended.add(int(solution.status))
    assert ended == {Status.TIME_LIMIT, Status.CONVERGED}
