r"""Keeps the state of an iteration in a file, from which another process goes on.

A plan is its costs X and its column potentials b; the next one is about to be found for the costs X', from a guess of
its potentials. Bases may be turned elsewhere, by another LAPACK: the file has the coordinates P^T F and
Q^T F' of the factors F and F' in them, by which they are turned into the present ones.
"""

from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from time import perf_counter

import torch
from torch import Tensor

from fgwot.iteration.undamped import State
from fgwot.streamed.identity import same
from fgwot.streamed.ranks import Ranks
from fgwot.streamed.reduced import ReducedLinearisation
from fgwot.streamed.sweeps import StreamedPlan, Sweeps

_SHARE = 0.05  # of the time, at most, in which files are written


class Checkpoint:
    """A file for the state of an iteration; without a path it keeps nothing.

    Parameters
    ----------
    path : str or path, optional
    linearise : ReducedLinearisation
    problem : Tensor
        The identity of the problem.
    ranks : Ranks, optional
        Of which the first has the file.
    """

    def __init__(
        self,
        path: str | PathLike[str] | None,
        linearise: ReducedLinearisation,
        problem: Tensor,
        ranks: Ranks | None,
    ) -> None:
        self._path, self._linearise = None if path is None else Path(path), linearise
        self._ranks, self._writes = ranks, path is not None and (ranks is None or ranks.rank == 0)
        self._state: dict[str, Tensor] = {}
        self._ready = 0.0
        if self._path is not None:
            self._own = {
                "problem": problem,
                "rows": linearise.bases.P.T @ linearise.factors[0],
                "columns": linearise.bases.Q.T @ linearise.factors[1],
            }

    def step(self, now: State, theta: float) -> None:
        """Keep the state before a step, whose damping is theta."""
        plan = now.plan
        if not self._writes or not isinstance(plan, StreamedPlan) or plan.X is None:
            return
        flags = torch.stack([now.change, now.expected, now.plain.double(), now.slow.double()])[:, 0].tolist()
        numbers = now.G.new_tensor([*flags, theta])
        self._state = {"X": plan.X[0], "b": plan.g[0], "next": now.X[0, 0], "guess": now.warm[0], "numbers": numbers}
        self._write_if_cheap()

    def potentials(self, g: Tensor) -> None:
        """Keep better column potentials (1, m) for the next plan."""
        if self._state:
            self._state["guess"] = g[0]
            self._write_if_cheap()

    def load(self, sweeps: Sweeps) -> tuple[State, float] | None:
        """Return the state that was kept, and theta; None if there is no file.

        Raises
        ------
        ValueError
            If the file is of another problem, or no checkpoint.
        """
        if self._path is None:
            return None
        kept = self._ranks.first(self._read) if self._ranks else self._read()
        if kept is None:
            return None
        kept = {name: t.to(self._own["problem"].device) for name, t in kept.items()}
        X, following = (self._turned(kept[name], kept) for name in ("X", "next"))
        plan = sweeps.at(X, kept["b"])
        G = self._linearise(plan.T)
        change, expected, plain, slow, theta = kept["numbers"].split(1)
        state = State(
            plan=plan,
            change=change,
            expected=expected,
            drift=torch.zeros_like(change),
            G=G,
            X=G if plain > 0 else following[None],  # what certifies a plan is never taken from a file
            warm=kept["guess"][None],
            plain=plain > 0,
            slow=slow > 0,
            R=G - X[None],
            extrapolated=True,
        )
        return state, float(theta)

    def _turned(self, costs: Tensor, kept: Mapping[str, Tensor]) -> Tensor:
        """Return costs (1, k) in the present bases."""
        left, right = (self._own[side] @ torch.linalg.pinv(kept[side]) for side in ("rows", "columns"))
        shape = left.shape[1], right.shape[1]
        core, parts = costs[: shape[0] * shape[1]].view(shape), costs[shape[0] * shape[1] :]
        return torch.cat([(left @ core @ right.T).flatten(), parts])[None]

    def write(self) -> None:
        """Write what was kept last."""
        if self._path is None or not self._state:
            return
        began = perf_counter()
        new = self._path.with_name(self._path.name + ".new")
        torch.save({name: t.cpu().contiguous().clone() for name, t in (self._own | self._state).items()}, new)
        new.replace(self._path)  # whoever is killed leaves a whole file
        ended = perf_counter()
        self._ready = ended + (ended - began) / _SHARE

    def _write_if_cheap(self) -> None:
        if perf_counter() >= self._ready:
            self.write()

    def _read(self) -> Mapping[str, Tensor] | None:
        path = self._path
        if path is None or not path.exists():
            return None
        try:
            found = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # torch raises half a dozen types for files that are not its own
            raise ValueError(f"{path} is no checkpoint of a lazy solve: {str(error).splitlines()[0]}") from error
        names = {"problem", "rows", "columns", "X", "b", "next", "guess", "numbers"}
        if (
            not isinstance(found, dict)
            or found.keys() != names
            or not all(isinstance(t, Tensor) for t in found.values())
        ):
            raise ValueError(f"{path} is no checkpoint of a lazy solve")
        if not same(self._own["problem"].cpu(), found["problem"]):
            raise ValueError(
                f"the checkpoint {path} is of another problem: remove it or name another file (checked are the "
                "sizes, costs, marginals, alpha, epsilon, rho and mass)"
            )
        return found
