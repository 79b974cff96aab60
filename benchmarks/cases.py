"""What is measured: one table of cases."""

from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Case:
    """One measurement.

    Attributes
    ----------
    group : str
        Section of the report. "single", "structures", "batches" and "clouds" compare entropic solvers; "proximal" at
        the end means problems without entropy, and "semi-relaxed", "partial" and "unbalanced" marginals that need not
        be met; "barycenters", "pairs" and "templates" have many spaces (`benchmarks.sets`, `benchmarks.templates`); the
        others say what they measure.
    structure : str
        Kind of problem, see `benchmarks.problems`.
    n, m : int
        Points on each side; of a barycenter and its inputs; least and most of a set's spaces.
    epsilon, alpha : float
    batch : int
        Problems solved together, or spaces of a set; 0 is one problem without a batch dimension.
    seed : int
    dtype : str
        Precision of the solver's inputs and arithmetic; accuracy is always measured in float64.
    """

    group: str
    structure: str
    n: int
    m: int
    epsilon: float
    alpha: float = 0.5
    batch: int = 0
    seed: int = 0
    dtype: str = "float64"

    @property
    def name(self) -> str:
        """Identify the case in results and on the command line.

        Examples
        --------
        >>> Case("single", "points", 6, 6, 0.05).name
        'single/points/n6/eps0.05/alpha0.5/seed0'
        """
        size = f"n{self.n}" if self.n == self.m else f"n{self.n}x{self.m}"
        batch = f"batch{self.batch}/" if self.batch else ""
        dtype = "" if self.dtype == "float64" else f"/{self.dtype}"
        weights = f"eps{self.epsilon:g}/alpha{self.alpha:g}"
        return f"{self.group}/{self.structure}/{batch}{size}/{weights}/seed{self.seed}{dtype}"

    @property
    def proximal(self) -> bool:
        """Whether the problem has no entropy, and epsilon is a step."""
        return self.group.endswith("proximal")

    @property
    def by_objective(self) -> bool:
        """Whether solvers are compared by the objective they reach, not by residuals."""
        return self.proximal or self.group == "barycenters"

    @property
    def symmetric(self) -> bool:
        """Whether both structures are symmetric."""
        return self.structure != "asymmetric"

    def to_dict(self) -> dict[str, object]:
        """Fields and name, for results.json."""
        return {"name": self.name, **asdict(self)}


def _single() -> list[Case]:
    found = []
    for n in (6, 16, 64, 256, 1000):
        epsilons = (0.05, 0.01, 0.003) if n <= 256 else (0.05, 0.01)
        seeds = (0, 1) if n <= 64 else (0,)
        found += [
            Case("single", "points", n, n, e, alpha, seed=s) for e in epsilons for alpha in (0.5, 0.1) for s in seeds
        ]
    return found


def _structures() -> list[Case]:
    kinds = [("points", 64, 48), ("points", 256, 200)]
    kinds += [(kind, n, n) for kind in ("adjacency", "shortest path", "asymmetric") for n in (16, 64)]
    return [Case("structures", kind, n, m, e) for kind, n, m in kinds for e in (0.05, 0.01)]


def _relaxed() -> list[Case]:
    sizes = (20, 60, 200)
    found = [Case("semi-relaxed", "cloud", n, n, 0.05, alpha) for n in sizes for alpha in (0.5, 1.0)]
    for group in ("semi-relaxed proximal", "partial proximal"):
        found += [Case(group, "cloud", n, n, 0.05, alpha) for n in sizes for alpha in (0.5, 1.0)]
    for group, weights in (("partial", (0.0, 1.0, 0.5)), ("unbalanced", (0.0, 0.5))):
        found += [Case(group, "cloud", n, n, e, alpha) for n in sizes for alpha in weights for e in (0.05, 0.01)]
    return found


def _sets() -> list[Case]:
    found = [Case("barycenters", "ellipses", 15, m, 0.05, alpha, batch=6) for m in (20, 60) for alpha in (1.0, 0.5)]
    found.append(Case("barycenters", "ellipses", 15, 20, 0.01, 1.0, batch=6))
    found += [Case("pairs", "communities", 20, 40, e, batch=100) for e in (0.05, 0.01)]
    return found + [Case("templates", "communities", 15, 30, 0.1, batch=30, seed=seed) for seed in range(3)]


_BATCHES = ((1024, 6), (1024, 16), (256, 32), (64, 64))
CASES = (
    *_single(),
    *_structures(),
    *(Case("batches", "points", n, n, e, batch=b) for b, n in _BATCHES for e in (0.05, 0.01)),
    *(Case("proximal", "points", n, n, 0.05, batch=b) for b, n in _BATCHES),
    *(Case("clouds", "cloud", n, n, 0.05) for n in (1000, 4000)),
    *(Case("gradients", "points", n, n, 0.05) for n in (6, 16, 64, 256, 1000)),
    *(Case("training", "unit vectors", n, n, 0.1, 0.1) for n in (3, 4, 5, 6)),
    Case("memory", "points", 2000, 2000, 0.05),
    *(Case("growth", "points", n, n, 0.05) for n in (250, 500, 1000, 2000)),
    *_relaxed(),
    *_sets(),
    *(Case("streamed", "cloud", n, n, 0.05, dtype="float32") for n in (5_000, 10_000, 20_000)),
)
QUICK = (
    *(
        case
        for case in CASES
        if case.seed == 0
        and case.epsilon >= 0.01
        and (case.alpha == 0.5 or case.group == "training")
        and case.n * case.m * max(case.batch, 1) <= 256 * 256
    ),
    Case("pairs", "communities", 20, 40, 0.05, batch=10),
    Case("batches", "points", 6, 6, 0.05, batch=128),
    Case("proximal", "points", 6, 6, 0.05, batch=128),
    Case("clouds", "cloud", 250, 250, 0.05),
    Case("memory", "points", 500, 500, 0.05),
)
