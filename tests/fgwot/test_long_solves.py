"""Progress, time limits and checkpoints of solves whose plan is never stored."""

import io
import itertools
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
from certificate import stationarity
from test_streamed import KINDS, problem

import fgwot
from fgwot import Lazy, Status
from fgwot.streamed import lazy as module
from fgwot.streamed import watch

fgw = fgwot.fused_gromov_wasserstein
OPTIONS = {"alpha": 0.4, "epsilon": 0.05, "tol": 1e-9}
ARGUMENTS = problem(1)


def after(passes):
    """A callback that interrupts a solve."""

    def interrupt(progress):
        if progress.passes >= passes and progress.status is None:
            raise InterruptedError

    return interrupt


def claimed(solution):
    return float(solution.residual + solution.marginal_error)


def found(arguments, solution):
    """Residual and marginal error, by code that no driver shares."""
    M, C1, C2, p, q = arguments
    arrays = (a.numpy() for a in (M.to_dense(), C1.to_dense(), C2.to_dense(), p, q))
    return stationarity(*arrays, solution.plan.to_dense().numpy(), 0.4, 0.05)


def test_progress_is_told_pass_by_pass():
    seen = []
    solution = fgw(*ARGUMENTS, **OPTIONS, plan=Lazy(progress=seen.append))
    for before, after in itertools.pairwise(seen[:-1]):
        assert 1 <= after.passes - before.passes <= 2
        assert after.seconds >= before.seconds
        assert 0 <= after.step - before.step <= 1
    last = seen[-1]
    assert (last.step, last.status, last.tol) == (solution.n_iter, Status.CONVERGED, 1e-9)
    assert last.residual == pytest.approx(claimed(solution))
    assert seen[0].residual == float("inf")
    assert all(progress.status is None for progress in seen[:-1])


def test_nothing_changes_for_being_watched(tmp_path):
    plain = fgw(*ARGUMENTS, **OPTIONS, plan="lazy")
    lazy = Lazy(progress=lambda _: None, time_limit=1e6, checkpoint=tmp_path / "state")
    watched = fgw(*ARGUMENTS, **OPTIONS, plan=lazy)
    assert watched.value == plain.value
    assert torch.equal(watched.potentials[0], plain.potentials[0])


@pytest.mark.parametrize("terminal", [True, False])
def test_the_line_of_progress(terminal, monkeypatch):
    stream = io.StringIO()
    stream.isatty = lambda: terminal
    monkeypatch.setattr(module.sys, "stderr", stream)
    show = fgwot.ProgressLine()
    for second in range(40):
        show(fgwot.Progress(second // 10, second, float(second), 0.5 / (1 + second), 1e-3))
    show(fgwot.Progress(4, 40, 40.0, 9e-4, 1e-3, Status.CONVERGED))
    text = stream.getvalue()
    assert text.count("\r") == (41 if terminal else 0)
    assert text.count("\n") == (1 if terminal else 3)
    assert "[####................] step 0, pass 0, residual 5.0e-01 to 1.0e-03, 0 s" in text
    assert (
        "[####################] step 4, pass 40, residual 9.0e-04 to 1.0e-03, 40 s, converged to the tolerance" in text
    )


def by_passes(monkeypatch):
    """Let the clock of solves advance by a second with each look at it, that is with each pass."""
    ticks = itertools.count()
    monkeypatch.setattr(watch, "perf_counter", lambda: float(next(ticks)))


@pytest.mark.filterwarnings("ignore::fgwot.ConvergenceWarning")
@pytest.mark.parametrize("kind", KINDS)
def test_a_solve_whose_time_is_over_says_how_far_it_came(kind, monkeypatch):
    arguments = problem(2, kind)
    ended = set()
    for limit in (1, 2, 3, 5, 8, 13, 21, 34, 55, 89, 10_000):
        by_passes(monkeypatch)
        seen = []
        solution = fgw(*arguments, **OPTIONS, plan=Lazy(seen.append, time_limit=limit))
        assert solution.converged or seen[-1].passes <= limit + 6
        assert found(arguments, solution) <= 1.2 * claimed(solution) + 1e-9, limit
        assert solution.converged == (claimed(solution) <= 1e-9)
        ended.add(int(solution.status))
    assert ended == {Status.TIME_LIMIT, Status.CONVERGED}


def test_time_limits_are_warned_of():
    with pytest.warns(fgwot.ConvergenceWarning, match="1 reached the time limit"):
        fgw(*ARGUMENTS, **OPTIONS, plan=Lazy(time_limit=1e-9))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(2))
def test_interrupted_solves_go_on_to_the_same_certificate(seed, kind, tmp_path, monkeypatch):
    monkeypatch.setattr("fgwot.streamed.checkpoint._SHARE", torch.inf)  # write every time
    arguments = problem(seed, kind)
    seen = []
    whole = fgw(*arguments, **OPTIONS, plan=Lazy(seen.append))
    total = seen[-1].passes
    for passes in (2, total // 2, total - 4):
        path = tmp_path / f"{passes}.pt"
        with pytest.raises(InterruptedError):
            fgw(*arguments, **OPTIONS, plan=Lazy(after(passes), checkpoint=path))
        resumed = fgw(*arguments, **OPTIONS, plan=Lazy(seen.append, checkpoint=path))
        assert resumed.converged
        assert found(arguments, resumed) <= 1.1e-9
        torch.testing.assert_close(resumed.value, whole.value, rtol=1e-8, atol=1e-10)
        assert seen[-1].passes <= total - passes + max(8, total // 3), (passes, total)


def test_interrupted_again_and_again(tmp_path, monkeypatch):
    """Even a solve that never makes more than nine passes comes to its end."""
    monkeypatch.setattr("fgwot.streamed.checkpoint._SHARE", torch.inf)
    for _ in range(100):
        try:
            solution = fgw(*ARGUMENTS, **OPTIONS, plan=Lazy(after(9), checkpoint=tmp_path / "state"))
            break
        except InterruptedError:
            pass
    assert found(ARGUMENTS, solution) <= 1.1e-9


def test_time_limits_and_checkpoints_together(tmp_path, monkeypatch):
    path = tmp_path / "state"
    by_passes(monkeypatch)
    with pytest.warns(fgwot.ConvergenceWarning, match="time limit"):
        first = fgw(*ARGUMENTS, **OPTIONS, plan=Lazy(time_limit=20, checkpoint=path))
    assert claimed(first) > 1e-9
    assert fgw(*ARGUMENTS, **OPTIONS, plan=Lazy(checkpoint=path)).converged
    again = fgw(*ARGUMENTS, **OPTIONS, plan=Lazy(checkpoint=path))  # of a solve that had ended well
    assert (again.n_iter, bool(again.converged)) == (1, True)


def test_killed_and_called_again(tmp_path):
    path = tmp_path / "state"
    code = f"""
        import os, signal, torch, fgwot
        fgwot.streamed.checkpoint._SHARE = torch.inf
        x = torch.linspace(0, 1, 60, dtype=torch.float64)[:, None] ** 2
        C = fgwot.LowRank.squared_distances(x), fgwot.LowRank.squared_distances(x**2)
        def kill(progress):
            if progress.passes == 20:
                os.kill(os.getpid(), signal.SIGKILL)
        fgwot.gromov_wasserstein(*C, epsilon=0.02, tol=1e-9, plan=fgwot.Lazy(kill, checkpoint={str(path)!r}))
    """
    here = os.environ | {"PYTHONPATH": str(Path(fgwot.__file__).parents[1])}
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], env=here, capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    x = torch.linspace(0, 1, 60, dtype=torch.float64)[:, None] ** 2
    C = fgwot.LowRank.squared_distances(x), fgwot.LowRank.squared_distances(x**2)
    options = {"epsilon": 0.02, "tol": 1e-9}
    seen, afresh = [], []
    resumed = fgwot.gromov_wasserstein(*C, **options, plan=Lazy(seen.append, checkpoint=path))
    whole = fgwot.gromov_wasserstein(*C, **options, plan=Lazy(afresh.append))
    assert resumed.converged
    torch.testing.assert_close(resumed.value, whole.value, rtol=1e-8, atol=0)
    assert seen[-1].passes < afresh[-1].passes


def test_a_checkpoint_is_small_and_goes_on_in_other_bases_and_another_dtype(tmp_path):
    path = tmp_path / "state"
    fgw(*ARGUMENTS, **OPTIONS, plan=Lazy(checkpoint=path))
    n, m = ARGUMENTS[1].shape[0], ARGUMENTS[2].shape[0]
    kept = torch.load(path, weights_only=True)
    assert sum(t.numel() for t in kept.values()) < 2 * m + 400
    assert n > 2
    shape = len(kept["rows"]), len(kept["columns"])
    for side in ("rows", "columns"):
        turn = torch.from_numpy(np.linalg.qr(np.random.default_rng(0).normal(size=[len(kept[side]) - 1] * 2))[0])
        turn = torch.block_diag(torch.ones(1, 1, dtype=torch.float64), turn)
        kept[side] = turn @ kept[side]
        for name in ("X", "next"):
            core = kept[name].view(shape)
            kept[name] = (turn @ core if side == "rows" else core @ turn.T).flatten()
    torch.save(kept, path)
    assert fgw(*ARGUMENTS, **OPTIONS, plan=Lazy(checkpoint=path)).n_iter == 1
    torch.save(kept | {"next": 0 * kept["next"], "guess": 0 * kept["guess"]}, path)
    misled = fgw(*ARGUMENTS, **OPTIONS, plan=Lazy(checkpoint=path))
    assert misled.converged
    assert found(ARGUMENTS, misled) <= 1.1e-9
    single = [a.map(torch.Tensor.float) if isinstance(a, fgwot.LowRank) else a.float() for a in ARGUMENTS]
    assert fgw(*single, alpha=0.4, epsilon=0.05, tol=1e-4, plan=Lazy(checkpoint=path)).n_iter == 1


def test_a_file_of_another_problem_is_refused(tmp_path):
    path = tmp_path / "state"
    fgw(*ARGUMENTS, **OPTIONS, plan=Lazy(checkpoint=path))
    M, C1, C2, p, q = ARGUMENTS
    flipped = M, C1.map(lambda t: t.flip(0)), C2, p, q
    for arguments, options in (
        (ARGUMENTS, {"epsilon": 0.051}),
        (ARGUMENTS, {"alpha": 0.41}),
        ((M, C1, C2, p.flip(0), q), {}),
        ((None, C1, C2, p, q), {"alpha": None}),
        (flipped, {}),
        (problem(3), {}),
    ):
        with pytest.raises(ValueError, match="is of another problem: remove it or name another file"):
            fgw(*arguments, **(OPTIONS | options), plan=Lazy(checkpoint=path))
    path.write_text("something else")
    with pytest.raises(ValueError, match="is no checkpoint of a lazy solve"):
        fgw(*ARGUMENTS, **OPTIONS, plan=Lazy(checkpoint=path))
    torch.save({"b": torch.ones(3)}, path)
    with pytest.raises(ValueError, match="is no checkpoint of a lazy solve"):
        fgw(*ARGUMENTS, **OPTIONS, plan=Lazy(checkpoint=path))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"progress": 3}, TypeError, "progress must be a function of a fgwot.Progress, got int"),
        ({"time_limit": 0}, ValueError, "time_limit must be positive, in seconds, got 0"),
        ({"time_limit": float("nan")}, ValueError, "time_limit must be positive"),
        ({"checkpoint": 3}, TypeError, "checkpoint must be a path, got int"),
    ],
)
def test_bad_wishes(options, error, message):
    with pytest.raises(error, match=message):
        Lazy(**options)


def test_a_lazy_plan_that_cannot_be_had():
    M, C1, C2, p, q = ARGUMENTS
    with pytest.raises(ValueError, match="a lazy plan is not for a dense M"):
        fgw(M.to_dense(), C1, C2, p, q, plan=Lazy())
