"""Barycenters, all pairs of a set, and layers of templates, by fgwot and by POT."""

from collections.abc import Callable
from typing import Any

import numpy as np
import ot
import torch

import fgwot
from benchmarks import templates
from benchmarks.cases import Case
from benchmarks.methods import pot
from benchmarks.methods.base import Method, Setting
from benchmarks.problems import Array
from benchmarks.sets import Spaces, sampled

Barycenter = tuple[Array, Array, Array | None]


class OurBarycenter(Method):
    """`fgwot.barycenter`."""

    ladder = tuple({"tol": tol, "max_iter": 5000} for tol in (1e-2, 1e-3, 1e-4, 1e-5, 1e-6))

    def prepare(self, case: Case, problem: Spaces, setting: Setting) -> Callable[[], Any]:  # noqa: ARG002
        """Return one barycenter from the given start."""
        structures, features = (torch.tensor(np.stack(x)) for x in (problem.structures, problem.features))
        C, X = map(torch.tensor, problem.start)
        fused = problem.alpha < 1
        return lambda: fgwot.barycenter(
            structures,
            features if fused else None,
            n=problem.n,
            init_structure=C,
            init_features=X if fused else None,
            alpha=problem.alpha if fused else None,
            epsilon=problem.epsilon,
            **setting,
        )

    def plan(self, result: Any) -> Barycenter:
        """Structure, features and plans."""
        X = torch.zeros(len(result.structure), 2) if result.features is None else result.features
        return result.structure.numpy(), X.double().numpy(), result.plans.numpy()


class PotBarycenter(Method):
    """Peyre, Cuturi and Solomon's algorithm, each step from the plans of the one before."""

    ladder = tuple({"tol": tol, "max_iter": 5000} for tol in (1e-2, 1e-4, 1e-6, 1e-8))

    def accepts(self, case: Case) -> bool:
        """Without features: the entropic barycenters of POT 0.9.7 never update theirs."""
        return case.alpha == 1

    def prepare(self, case: Case, problem: Spaces, setting: Setting) -> Callable[[], Any]:  # noqa: ARG002
        """Return one barycenter from the given start."""
        C, _ = problem.start
        return lambda: ot.gromov.entropic_gromov_barycenters(
            problem.n,
            problem.structures,
            epsilon=problem.epsilon,
            init_C=C,
            warmstartT=True,
            log=True,
            **setting,
        )

    def plan(self, result: Any) -> Barycenter:
        """Structure and plans."""
        C, log = result
        return C, np.zeros((len(C), 2)), np.stack(log["T"])


class OurPairs(Method):
    """`fgwot.pairwise`, with plans of the sample that are solved one by one to the same tolerance."""

    ladder = ({"tol": 3e-5}, {"tol": 5e-7}, {"tol": 1e-7})

    def prepare(self, case: Case, problem: Spaces, setting: Setting) -> Callable[[], Any]:
        """Return the solution of all pairs."""
        tensors = [[torch.tensor(a) for a in arrays] for arrays in (problem.structures, problem.features)]
        options = {"alpha": case.alpha, "epsilon": case.epsilon, **setting}
        self.solved = lambda: [
            fgwot.fused_gromov_wasserstein(*map(torch.tensor, pair.first), **options).plan.numpy()
            for pair in problem.sample
        ]
        return lambda: fgwot.pairwise(*tensors, **options)

    def plan(self, result: Any) -> list[Array]:  # noqa: ARG002 - pairwise keeps no plans
        """Plans of the sample."""
        return self.solved()


class PotPairs(Method):
    """A loop over the sample."""

    ladder = pot.Entropic.ladder

    def part(self, case: Case) -> float:
        """How much of all pairs the sample is."""
        return sampled(case)

    def prepare(self, case: Case, problem: Spaces, setting: Setting) -> Callable[[], Any]:
        """Return the sample's solution."""
        options = {"symmetric": True, "alpha": case.alpha, "epsilon": case.epsilon, **setting}
        return lambda: [ot.gromov.entropic_fused_gromov_wasserstein(*pair.first, **options) for pair in problem.sample]

    def plan(self, result: Any) -> list[Array]:
        """Plans of the sample."""
        found: list[Array] = result
        return found


class OurLayer(Method):
    """The training of a network with `fgwot.nn.TemplateLayer`; its time is that of an epoch."""

    def prepare(self, case: Case, problem: templates.Split, setting: Setting) -> Callable[[], Any]:  # noqa: ARG002
        """Return one training, from the case's seed."""
        return lambda: problem.errors(templates.train(problem.training, templates.EPOCHS, case.seed, self.layer))

    def layer(self) -> torch.nn.Module:
        """Return a new layer."""
        return templates.ours()

    def part(self, case: Case) -> float:  # noqa: ARG002
        """Epochs of one run."""
        return float(templates.EPOCHS)

    def plan(self, result: Any) -> Array:
        """Parts of the graphs that are classified wrongly."""
        errors: Array = result
        return errors


class PotLayer(OurLayer):
    """The same with `ot.gnn.TFGWPooling`, whose problems have no entropy."""

    def layer(self) -> torch.nn.Module:
        """Return a new layer."""
        import torch_geometric  # noqa: F401 - POT would say something else if it is not there
        from ot.gnn import TFGWPooling

        pooling: torch.nn.Module = TFGWPooling(1, templates.TEMPLATES, templates.POINTS, alpha=templates.ALPHA)
        return pooling
