"""Drives the undamped step where the host is slow: records it as a CUDA graph, and reads its flags one step late.

A step is one replay. It makes a fixed effort at the inner problem; where that was not enough the problem stays where it
is, with the better potentials, and the next replay goes on. Problems that end are masked: their state is kept.
"""

from collections import OrderedDict
from collections.abc import Callable, Hashable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from threading import Lock

import torch
from torch import Tensor

from fgwot.backend import forced
from fgwot.batch import Batch
from fgwot.constants import MAX_STEPS
from fgwot.gradient.linearisation import is_symmetric, linearisation
from fgwot.inner.fixed import Effort, Fixed
from fgwot.inner.plan import Marginals, Plan, row_potential
from fgwot.iteration.result import Result, Start
from fgwot.iteration.undamped import Limits, advance, begin, certified, describe, inner_tolerance, move, residual
from fgwot.problem import Problem

_EASY, _HARD = Effort(sweeps=4), Effort(sweeps=1, gradients=12)
_OPEN, _SOLVED, _GIVEN_UP = 0, 1, 2
_ARRAYS = 16  # of the plan's size that a program holds, its temporary ones included

_KINDS = 256  # that are remembered

Run = Callable[[], None]
Found = tuple[list[tuple[Tensor, Result]], list[tuple[Tensor, Plan]], int]


@dataclass
class _Flags:
    """What the host reads of a step: how the problems (B,) stand, and whether their inner problems need more effort."""

    ended: Tensor
    unmet: Tensor


class Program:
    """The iteration for problems of one kind and shape, in memory of its own.

    Parameters
    ----------
    problem : Problem
        One of these problems.
    symmetric : bool
        Whether all structures are symmetric.
    start : Start
        As all starts will be.
    tol : float, optional
        Bound on residual + marginal error of a solved problem.
    record : callable
        Runs a function, which reads and writes fixed memory, and returns one that runs it again.
    """

    def __init__(
        self, problem: Problem, symmetric: bool, start: Start, tol: float | None, record: Callable[[Run], Run]
    ) -> None:
        self.lock = Lock()
        self._record, self._symmetric, self._tol = record, symmetric, tol
        self._problem = problem.of(_empty_like(t) for t in problem.tensors)
        self._start = Start(
            _empty_like(start.X), _empty_like(start.g), _empty_like(start.warm), start.change, start.independent
        )
        self._begin: Run | None = None
        self._steps: dict[tuple[Effort, bool], Run] = {}
        self._cuda = problem.M.device if problem.M.is_cuda else None
        self._last: torch.cuda.Event | None = None

    @property
    def size(self) -> int:
        """Bytes that it holds, about."""
        plan = self._problem.M
        structures = sum(_base(t).nbytes for t in self._problem.tensors)
        return 2 * structures + _ARRAYS * plan.numel() * plan.element_size()

    def run(self, problem: Problem, start: Start, max_iter: int) -> Found:
        """Step until each problem is solved or given up, at most `max_iter` times.

        Returns
        -------
        solved, open : list of pairs
            Positions in the batch, and their results, or the plans that they are given up at.
        n_iter : int
            Steps that were made.
        """
        with torch.inference_mode(False), torch.no_grad(), self._device():
            if self._cuda and self._last:  # on another stream, perhaps
                torch.cuda.current_stream().wait_event(self._last)
            self._load(problem, start)
            found = self._iterate(max_iter)
            if self._cuda:
                self._last = torch.cuda.current_stream().record_event()
        return found

    def _device(self) -> AbstractContextManager[object]:
        return torch.cuda.device(self._cuda) if self._cuda else nullcontext()

    def _load(self, problem: Problem, start: Start) -> None:
        """Copy the inputs to where the steps read them."""
        pairs = [*zip(self._problem.tensors, problem.tensors, strict=True)]
        pairs += [(getattr(self._start, name), getattr(start, name)) for name in ("X", "g", "warm")]
        for own, given in pairs:
            _base(own).copy_(_base(given))

    def _iterate(self, max_iter: int) -> Found:
        if self._begin is None:
            self._begin = self._record(self._set_up)
        self._begin()
        looks = [_Look(self._flags) for _ in range(2)]
        effort, step = _EASY, 0
        for step in range(1, min(max_iter, MAX_STEPS) + 1):
            key = effort, step == 1
            if key in self._steps:
                self._steps[key]()
            else:
                self._steps[key] = self._record(partial(self._step, *key))
            looks[step % 2].take(self._flags)
            if step > 1:
                ended, unmet = looks[(step - 1) % 2].read()
                if all(ended):
                    break
                if any(unmet):
                    effort = _HARD
        return self._found(step)

    def _set_up(self) -> None:
        """Write the state before the first step."""
        problem, start = self._problem, self._start
        self._marginals = Marginals.of(problem.p, problem.q)
        self._fixed = Fixed(self._marginals)
        self._linearise = linearisation(problem, self._symmetric)
        state = begin(self._linearise, self._marginals, start, partial(self._fixed, effort=_HARD))
        # Extrapolated from a step that is not a number, the first one is plain.
        state = replace(state, R=torch.full_like(state.G, torch.nan), extrapolated=True)
        self._state = state.clone()
        self._limits = Limits.at(state.G, state.plan.T, self._tol).clone()
        ended = torch.zeros_like(state.change, dtype=torch.uint8)
        self._flags = _Flags(ended, ended.bool())
        self._n_iter, self._residual = ended.long(), torch.zeros_like(state.change)

    def _step(self, effort: Effort, first: bool) -> None:
        """Advance the state of all problems that are open."""
        now, limits, flags = self._state, self._limits, self._flags
        following = self._fixed(now.X, now.warm, effort)
        if first:  # p q' may have mass where costs forbid it, its successor has not
            every = flags.ended == _OPEN
            _write(every, limits, Limits.at(now.G, following.T, self._tol), limits)
        delta = following.T - now.plan.T
        change = torch.linalg.vector_norm(delta, 1, (-2, -1))
        moved = move(now, following, delta, change, self._linearise, limits)
        after = advance(now, following, moved, limits)
        open_ = flags.ended == _OPEN
        solved = open_ & certified(now, following, change, limits)
        # For booleans a > b is a and not b.
        unmet = torch.gt(open_, following.error <= inner_tolerance(now, limits), out=flags.unmet)
        staying = solved | unmet
        stepping, falls = open_ > staying, moved.falls(now.plan.T, limits)
        going, risen = stepping & falls, stepping > falls
        given_up, undone = risen & now.plain, risen > now.plain
        torch.where(solved, residual(now, following, change), self._residual, out=self._residual)
        warm = torch.where(undone[:, None], now.plan.g, now.warm)
        X = torch.where(undone[:, None, None], now.G, now.X)
        _write(going, now, after, replace(now, X=X, warm=warm, plain=now.plain | undone))
        torch.where(staying[:, None], following.g, now.warm, out=now.warm)
        self._n_iter.add_(stepping)
        flags.ended.add_(solved, alpha=_SOLVED).add_(given_up, alpha=_GIVEN_UP)

    def _found(self, steps: int) -> Found:
        ended = self._flags.ended.clone()
        state, marginals, linearise = self._state, self._marginals, self._linearise
        solved, left = (ended == _SOLVED).nonzero()[:, 0], (ended != _SOLVED).nonzero()[:, 0]
        results, plans = [], []
        if len(solved):
            some = state.select(solved)
            f = row_potential(some.X, marginals.select(solved), some.warm)
            following = replace(some.plan, g=some.warm)
            found = describe(
                some, following, f, some.change, linearise.select(solved), marginals.select(solved),
                self._limits.select(solved), steps,
            )  # fmt: skip
            found = replace(found, residual=self._residual[solved], n_iter=self._n_iter[solved] + 1)
            results.append((solved, found.clone()))
        if len(left):
            plans.append((left, state.plan.select(left).clone()))
        return results, plans, steps


class _Look:
    """A copy of the flags on the host, which is waited for only when it is read."""

    def __init__(self, flags: _Flags) -> None:
        cuda = flags.ended.is_cuda
        self._flags = torch.empty(2, len(flags.ended), dtype=torch.uint8, pin_memory=cuda)
        self._event = torch.cuda.Event() if cuda else None

    def take(self, flags: _Flags) -> None:
        self._flags.copy_(torch.stack((flags.ended, flags.unmet)), non_blocking=True)
        if self._event is not None:
            self._event.record()

    def read(self) -> tuple[list[int], list[int]]:
        if self._event is not None:
            self._event.synchronize()
        ended, unmet = self._flags.tolist()
        return ended, unmet


def graphs() -> Callable[[Run], Run]:
    """Return a recorder of CUDA graphs that share memory: they must run one after the other."""
    pool = torch.cuda.graph_pool_handle()

    def record(function: Run) -> Run:
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            function()  # lets libraries set themselves up
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        # Threads that allocate memory meanwhile do no harm.
        with torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):
            function()
        replay: Run = graph.replay
        return replay

    return record


class Programs:
    """Programs by kind and shape of their problems, as long as there is memory for them."""

    def __init__(self, recorder: Callable[[], Callable[[Run], Run]], room: Callable[[torch.device], float]) -> None:
        self._recorder, self._room = recorder, room
        self._lock = Lock()
        self._programs: OrderedDict[Hashable, Program | None] = OrderedDict()

    def run(self, problem: Problem, start: Start, tol: float | None, max_iter: int) -> Found | None:
        """Solve as :meth:`Program.run` does. None the first time that such a problem is seen, and if others wait."""
        symmetric = is_symmetric(problem)
        key = _kind(problem, symmetric, start, tol)
        with self._lock:
            if key not in self._programs:
                self._programs[key] = None
                if len(self._programs) > _KINDS:
                    self._programs.popitem(last=False)
                return None
            self._programs.move_to_end(key)
            program = self._programs[key]
            if program is None:
                program = Program(problem, symmetric, start, tol, self._recorder())
                self._programs[key] = program
                self._forget(self._room(problem.M.device))
        if not program.lock.acquire(blocking=False):
            return None
        try:
            return program.run(problem, start, max_iter)
        finally:
            program.lock.release()

    def _forget(self, room: float) -> None:
        """Drop the programs that were not used for longest, but for the last one."""
        programs = [(key, program) for key, program in self._programs.items() if program is not None]
        size = sum(program.size for _, program in programs)
        for key, program in programs[:-1]:
            if size <= room:
                return
            del self._programs[key]
            size -= program.size


def _kind(problem: Problem, symmetric: bool, start: Start, tol: float | None) -> Hashable:
    """All that a program does not read from the inputs."""
    tensors = (*problem.tensors, start.X)
    shapes = tuple((t.shape, t.stride(0) == 0) for t in tensors)
    return (
        shapes,
        problem.M.dtype,
        problem.M.device,
        problem.loss,
        symmetric,
        start.independent,
        start.change,
        tol,
        forced(),
    )


def _base(t: Tensor) -> Tensor:
    """The tensor, or what its batch shares."""
    return t[:1] if t.stride(0) == 0 else t


def _empty_like(t: Tensor) -> Tensor:
    base = _base(t)
    return torch.empty(base.shape, dtype=t.dtype, device=t.device).expand(t.shape)


def _write(chosen: Tensor, own: Batch, new: Batch, rest: Batch) -> None:
    """Write `new` of the chosen problems (B,) and `rest` of the others where `own` is, but for what does not change."""
    for target, *sources in zip(own.tensors, new.tensors, rest.tensors, strict=True):
        if any(source is not target for source in sources):
            torch.where(chosen.view(-1, *[1] * (target.ndim - 1)), *sources, out=target)
