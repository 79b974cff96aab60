"""Solves that two processes share. This file is also what these processes run."""

import os
import signal
import subprocess
import sys
import time
import warnings
from datetime import timedelta
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from test_streamed import problem

import fgwot
from fgwot import Lazy, LowRank

ROOT = Path(__file__).parents[2]
fgw = fgwot.fused_gromov_wasserstein
SECONDS = 180  # after which a collective that waits is given up
DTYPES = [torch.float64, torch.float32]
# seed, kind, points from and below, epsilon, what is asked of marginals
CASES = [
    (1, "distances", (20, 60), 0.05, {}),
    (2, "asymmetric", (20, 60), 0.05, {}),
    (3, "indefinite", (20, 60), 0.02, {}),
    (1, "distances", (2, 20), 0.002, {}),  # Newton's method has its part
    (4, "distances", (2, 4), 0.1, {}),
    (5, "distances", (1, 2), 0.1, {}),  # one row: none for rank 0
    (6, "asymmetric", (20, 60), 0.1, {"rho": (0.3, 2.0)}),
    (7, "distances", (20, 60), 0.05, {"rho": (float("inf"), 0.5)}),
    (8, "distances", (20, 60), 0.05, {"mass": 0.6}),
]


def solved(case, dtype, group=None):
    """Everything that a solve finds, gradients too, as numbers."""
    seed, kind, points, epsilon, asked = CASES[case]
    M, C1, C2, p, q = problem(seed, kind, points)
    if len(p) > 5:
        p = torch.cat([p[:2] * 0, p[2:] / p[2:].sum()])  # rows without mass
    inputs = [t.to(dtype).requires_grad_() for t in (M.A, M.B, C1.A, C1.B, C2.A, C2.B, p, q)]
    ma, mb, a1, b1, a2, b2, p, q = inputs
    costs = LowRank(ma, mb), LowRank(a1, b1), LowRank(a2, b2)
    tol = 1e-11 if dtype == torch.float64 else 1e-5
    solution = fgw(*costs, p, q, alpha=0.4, epsilon=epsilon, **asked, tol=tol, plan=Lazy(group=group))
    gradients = torch.autograd.grad(solution.value, inputs)
    plan, (f, g) = solution.plan, solution.potentials
    numbers = [plan.to_dense(), plan.T @ torch.ones_like(p), f, g, solution.value, solution.cost, *gradients]
    return bool(solution.converged), int(solution.n_iter), [t.detach() for t in numbers]


def run(group, folder):
    """What each rank does; what it sees is yielded by name."""
    rank = dist.get_rank()
    for dtype in DTYPES:
        for case in range(len(CASES)):
            yield f"{case} {dtype}", solved(case, dtype, group)
    arguments = problem(1)
    options = {"epsilon": 0.05, "tol": 1e-9, "plan": Lazy(group=group)}

    def outcome(*arguments, **changed):
        began = time.monotonic()
        try:
            status = fgw(*arguments, **(options | changed)).status
        except Exception as error:
            return f"{type(error).__name__}: {error}", time.monotonic() - began
        return fgwot.Status(int(status)).name, time.monotonic() - began

    M, C1, C2, p, q = arguments
    bad = p * torch.nan if rank == 1 else p
    yield "bad input on rank 1", outcome(M, C1, C2, bad, q)
    yield "another plan on rank 0", outcome(*arguments, **({"loss": "kl"} if rank == 0 else {}))
    yield "other costs", outcome(M, C1.map(lambda t: t * (1 + rank)), C2, p, q)
    single = [t.map(torch.Tensor.float) if isinstance(t, LowRank) else t.float() for t in arguments]
    yield "another dtype", outcome(*(arguments if rank == 0 else single))
    yield "another size", outcome(*(arguments if rank == 0 else problem(3)))

    def fail(progress):
        if progress.passes == 7:
            raise OSError("no space left")

    yield "progress fails", outcome(*arguments, plan=Lazy(fail, group=group))
    yield "time limit", outcome(*arguments, plan=Lazy(time_limit=1e-9, group=group))
    file = folder / "state" if rank == 0 else folder / "nowhere"
    yield "kept", outcome(*arguments, plan=Lazy(fail, checkpoint=file, group=group))
    told = []
    yield "resumed", outcome(*arguments, plan=Lazy(told.append, checkpoint=file, group=group))
    yield "told", len(told)
    own, sums = dist.all_reduce, []

    def off(x, *arguments, **options):
        own(x, *arguments, **options)
        sums.append(x.is_floating_point())
        if rank == 1 and sums[-1] and sum(sums) == 5:
            x *= 1 + 1e-15

    dist.all_reduce = off
    yield "rounded otherwise", outcome(*arguments)
    dist.all_reduce = own
    yield "well at the end", outcome(*arguments)
    if rank == 1:
        make, passes = fgwot.streamed.ranks.one_pass, []

        def die(*arguments):
            passes.append(1)
            if len(passes) == 5:
                os.kill(os.getpid(), signal.SIGKILL)
            return make(*arguments)

        fgwot.streamed.ranks.one_pass = die
    yield "rank 1 is killed", outcome(*arguments)


def main(rank, folder):
    folder = Path(folder)
    warnings.simplefilter("ignore", fgwot.ConvergenceWarning)
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder / 'meeting'}",
        rank=int(rank),
        world_size=2,
        timeout=timedelta(seconds=SECONDS),
    )
    seen = {}
    for name, found in run(dist.group.WORLD, folder):
        seen[name] = found
        torch.save(seen, folder / f"rank{rank}.pt")


@pytest.fixture(scope="module")
def seen(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    environment = os.environ | {"PYTHONPATH": str(ROOT), "GLOO_SOCKET_IFNAME": "lo"}
    ranks = [
        subprocess.Popen([sys.executable, __file__, str(rank), str(folder)], env=environment, stderr=subprocess.PIPE)
        for rank in range(2)
    ]
    _, errors = zip(*(rank.communicate(timeout=550) for rank in ranks), strict=True)
    assert [rank.returncode for rank in ranks] == [0, -signal.SIGKILL], errors[0].decode()
    return [torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in range(2)]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", range(len(CASES)))
def test_two_processes_find_what_one_finds(seen, case, dtype):
    # Another order of sums can end Newton's method elsewhere: small epsilon magnifies what float32 leaves open.
    single = 1e-6 if CASES[case][3] >= 0.01 else 1e-3
    near = 1e-10 if dtype == torch.float64 else single
    converged, steps, numbers = solved(case, dtype)
    for rank in range(2):
        theirs, their_steps, found = seen[rank][f"{case} {dtype}"]
        assert (converged, theirs) == (True, True)
        assert abs(their_steps - steps) <= 1
        for ours, other, first in zip(numbers, found, seen[0][f"{case} {dtype}"][2], strict=True):
            torch.testing.assert_close(other, ours, rtol=0, atol=near)
            assert torch.equal(other, first)  # on both ranks to the bit


@pytest.mark.parametrize(
    ("name", "first", "second"),
    [
        ("bad input on rank 1", "RankError: rank 1 failed: ValueError: p", "ValueError: p has"),
        (
            "another plan on rank 0",
            "ValueError: a lazy plan is not for the kl",
            "RankError: rank 0 failed: ValueError: a",
        ),
        (
            "other costs",
            "ValueError: ranks 0 and 1 were given different calls: other costs",
            "ValueError: ranks 0 and 1",
        ),
        ("another dtype", "ValueError: ranks 0 and 1 were given different calls: ", "ValueError: ranks 0 and 1 were"),
        ("another size", "ValueError: ranks 0 and 1 were given different calls: ", "ValueError: ranks 0 and 1 were"),
        ("progress fails", "OSError: no space left", "RankError: rank 0 failed: OSError: no space left"),
        ("kept", "OSError: no space left", "RankError: rank 0 failed: OSError: no space left"),
        ("rounded otherwise", "RankError: ranks have gone different ways", "RankError: ranks have gone different ways"),
        ("time limit", "TIME_LIMIT", "TIME_LIMIT"),
        ("resumed", "CONVERGED", "CONVERGED"),
        ("well at the end", "CONVERGED", "CONVERGED"),
    ],
)
def test_what_one_rank_raises_ends_the_call_on_all(seen, name, first, second):
    for rank, start in enumerate((first, second)):
        text, seconds = seen[rank][name]
        assert text.startswith(start)
        assert seconds < SECONDS / 2  # nobody has waited for the timeout


def test_rank_0_is_told(seen):
    assert seen[0]["told"] > 0
    assert seen[1]["told"] == 0


def test_a_rank_that_is_killed_ends_the_others_in_bounded_time(seen):
    text, seconds = seen[0]["rank 1 is killed"]
    assert text.startswith("RankError: a rank is gone, or the group's timeout is over")
    assert seconds < SECONDS / 2
    assert "rank 1 is killed" not in seen[1]


@pytest.mark.slow
def test_the_example_under_torchrun():
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    example = [str(ROOT / "docs" / "examples" / "many_processes.py"), "--points", "300"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([*command, *example], env=environment, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    assert "2 processes, 300 points" in done.stdout
    assert "converged to the tolerance" in done.stderr


def test_a_group_that_is_none():
    with pytest.raises(TypeError, match="group must be a torch.distributed.ProcessGroup"):
        Lazy(group="world")


if __name__ == "__main__":
    main(*sys.argv[1:])
