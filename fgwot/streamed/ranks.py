"""Several processes make the passes of one solve together, each over some of the rows.

All ranks are given the same call and do the same small things; of each pass a rank computes its rows, and one sum over
the ranks completes it. A rank that fails must not leave the others waiting, and one that rounds otherwise must not add
rows of another plan: before every sum the ranks vote, in one small collective, on whether all are well and about to do
the same thing with the same numbers.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from fgwot.streamed.lazy import Lazy
from fgwot.streamed.passes import Kernel, Pass, difference, one_pass

_LEAVING, _OBJECTS = -1, -2  # what a rank votes for that has come to its end, or exchanges no tensor
_T = TypeVar("_T")


class RankError(RuntimeError):
    """Another rank has failed, is gone, or does something else."""


@dataclass(frozen=True)
class Ranks:
    """The ranks of a group, of which this process is one."""

    group: Any

    @staticmethod
    def of(plan: object) -> "Ranks | None":
        """Who makes the passes of a call with this argument `plan`, if not this process alone."""
        return Ranks(plan.group) if isinstance(plan, Lazy) and plan.group is not None else None

    @property
    def device(self) -> torch.device:
        """Where their collectives are."""
        nccl = "nccl" in dist.get_backend(self.group)
        return torch.device("cuda", torch.cuda.current_device()) if nccl else torch.device("cpu")

    @property
    def rank(self) -> int:
        """Number of this process."""
        return dist.get_rank(self.group)

    @property
    def size(self) -> int:
        """Number of processes."""
        return dist.get_world_size(self.group)

    @contextmanager
    def together(self) -> Iterator[None]:
        """Do something that raises on all ranks if it raises on one."""
        try:
            yield
            self._vote(_LEAVING)
        except RankError:
            raise
        except BaseException as error:
            self._vote(_LEAVING, f"{type(error).__name__}: {error}")
            raise

    def one_pass(self, kernel: Kernel, Z: Tensor) -> Pass:
        """Make a pass, see `fgwot.streamed.passes`; all ranks have all of it."""
        n, m, k = len(kernel.s), len(kernel.b), Z.shape[1]
        found = kernel.b.new_zeros(m + n * (1 + k))
        columns, normaliser, products = found[:m], found[m : m + n], found[m + n :].view(n, k)
        own = self._own(n)
        if own.start < own.stop:
            part = one_pass(kernel.part(own), Z)
            columns[:], normaliser[own], products[own] = part.columns, part.normaliser, part.products
        self._sum(found, *_made_of(kernel), Z)
        return Pass(normaliser, columns, products)

    def difference(self, one: Kernel, other: Kernel) -> float:
        """L1 distance of two plans, see `fgwot.streamed.passes`."""
        own = self._own(len(one.s))
        part = difference(one.part(own), other.part(own)) if own.start < own.stop else 0.0
        return float(self._sum(one.b.new_tensor([part]), *_made_of(one), *_made_of(other)))

    def any(self, flag: bool) -> bool:
        """Whether it holds on any rank."""
        return bool(self._sum(torch.tensor([float(flag)], device=self.device)) > 0)

    def first(self, make: Callable[[], _T]) -> _T:
        """What rank 0 makes, for all."""
        made = [make() if self.rank == 0 else None]
        self._vote(_OBJECTS)
        dist.broadcast_object_list(made, group=self.group, group_src=0, device=self.device)
        found: _T = made[0]  # type: ignore[assignment]  # rank 0's
        return found

    def all(self, own: _T) -> list[_T]:
        """What each rank has, for all."""
        self._vote(_OBJECTS)
        return self._gather(own)

    def _own(self, n: int) -> slice:
        """Rows of this process; none, if there are fewer rows than ranks."""
        return slice(n * self.rank // self.size, n * (self.rank + 1) // self.size)

    def _sum(self, x: Tensor, *made_of: Tensor) -> Tensor:
        self._vote(x.numel() + sum(_digest(t) for t in made_of))
        with _telling():
            dist.all_reduce(x, group=self.group)
        return x

    def _gather(self, own: _T) -> list[_T]:
        found: list[Any] = [None] * self.size
        with _telling():
            dist.all_gather_object(found, own, group=self.group)
        return found

    def _vote(self, about: int, failure: str | None = None) -> None:
        """Go on if all ranks do, about the same thing, which a number stands for.

        Raises
        ------
        RankError
            If another rank has failed, with what it says, or if ranks have gone different ways.
        """
        votes = torch.tensor([failure is not None, about, -about], dtype=torch.int64, device=self.device)
        with _telling():
            dist.all_reduce(votes, dist.ReduceOp.MAX, group=self.group)
        failed, most, least = votes.tolist()
        if failed:
            said = self._gather(failure)
            if failure is None:
                raise RankError("; ".join(f"rank {rank} failed: {text}" for rank, text in enumerate(said) if text))
        elif most != -least:
            raise RankError("ranks have gone different ways: all must make the same call, on machines of one kind")


def together(plan: object) -> AbstractContextManager[None]:
    """Do something on all ranks that a call's argument `plan` names, if it does; see `Ranks.together`."""
    ranks = Ranks.of(plan)
    return ranks.together() if ranks else nullcontext()


@contextmanager
def _telling() -> Iterator[None]:
    """Say what it means if a collective fails."""
    try:
        yield
    except RuntimeError as error:
        raise RankError(f"a rank is gone, or the group's timeout is over: {error}") from error


def _made_of(kernel: Kernel) -> tuple[Tensor, ...]:
    return kernel.U, kernel.V, kernel.b, kernel.s, kernel.most


def _digest(x: Tensor) -> int:
    """Give a number that depends on all bits of a float64 tensor."""
    return int(x.contiguous().view(torch.int64).sum()) >> 8  # leaves room for sums
