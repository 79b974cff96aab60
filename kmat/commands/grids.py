"""Commands that do many runs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar, Literal

from tyro.conf import OmitArgPrefixes, Positional

from kmat.commands.base import Command
from kmat.console import out, show_banner, tell
from kmat.errors import UserError
from kmat.grids.config import GridConfig, Resources
from kmat.grids.rows import ABLATION, BENCH, BEYOND
from kmat.methods import METHODS, CoOpConfig, KMaTConfig, MethodConfig, MethodName, ResidualConfig, ZeroShotConfig
from kmat.runs.schedule import Schedule
from kmat.storage.lock import Lock


@dataclass(frozen=True)
class Demo(Command):
    """Train and compare methods on the embedded synthetic benchmark; one to three minutes on two cores."""

    example: ClassVar[str] = "kmat demo"

    out: Path = Path("runs/demo")
    """Folder of results (Markdown, LaTeX, CSV, JSON, PNG) and runs."""
    backbones: tuple[str, ...] = ("phantom:seed0", "phantom:seed1", "phantom:seed2")
    """The ranking of methods depends on the backbone: one alone proves nothing."""
    seeds: tuple[int, ...] = GridConfig.seeds
    """One run each."""
    epochs: int = Schedule.epochs
    """Passes over the training images."""
    workers: int = Resources.workers
    """Processes, one thread each."""
    cache: Path | None = None
    """Folder of the feature cache; $XDG_CACHE_HOME/kmat or ~/.cache/kmat by default."""

    def __call__(self) -> None:
        """Run it."""
        quick = (ZeroShotConfig, CoOpConfig, KMaTConfig, ResidualConfig)
        rows = {name: method for name, method in BENCH.items() if isinstance(method, quick)}
        grid = GridConfig(("chest-phantom",), self.backbones, self.seeds, epochs=self.epochs)
        resources = Resources(self.workers, cache=self.cache, device="cpu")
        _run("bench", rows, grid, resources, self.out)


@dataclass(frozen=True)
class Bench(Command):
    """Train and compare all methods of the paper's Table 2, on every task, backbone and seed.

    Finished runs are skipped: an interrupted grid is started again by the same command. The weight of an anchor is
    chosen by high-end validation accuracy. Residual transport is ours, not the paper's.
    """

    example: ClassVar[str] = "kmat bench --task mine.csv --descriptions mine.json --backbone biomedclip"
    usual: ClassVar[str] = (
        "methods published out dry_run task backbone seeds shots epochs views root descriptions workers ray slurm"
    )

    grid: OmitArgPrefixes[GridConfig] = field(default_factory=GridConfig)
    methods: tuple[MethodName, ...] = tuple(METHODS)
    """Which to run."""
    published: bool = False
    """Epochs, batch size and learning rate of each baseline's own publication instead of the K-MaT paper's."""
    out: Path = Path("runs/bench")
    """Folder of results (Markdown, LaTeX, CSV, JSON, PNG) and runs."""
    dry_run: bool = False
    """Say how many runs that would be, and do none."""
    resources: OmitArgPrefixes[Resources] = field(default_factory=Resources)

    def __call__(self) -> None:
        """Run it."""
        if self.published and self.grid.epochs != Schedule.epochs:
            raise UserError("--published sets the baselines' schedules: leave out --epochs")
        _run(
            "bench",
            _rows(self.methods),
            self.grid,
            self.resources,
            self.out,
            published=self.published,
            dry_run=self.dry_run,
        )


@dataclass(frozen=True)
class Shots(Command):
    """Repeat a bench with fewer and more training images per class, and draw its scores against their number."""

    example: ClassVar[str] = "kmat shots --counts 1 2 4 8 16 --task chest-phantom --workers 4"
    usual: ClassVar[str] = (
        "counts methods out dry_run task backbone seeds epochs views root descriptions workers ray slurm"
    )

    grid: OmitArgPrefixes[GridConfig] = field(default_factory=GridConfig)
    counts: tuple[int, ...] = (1, 2, 4, 8, 16)
    """Training images per class, of each bench; in the place of --shots."""
    methods: tuple[MethodName, ...] = tuple(METHODS)
    """Which to run."""
    out: Path = Path("runs/shots")
    """Folder of shots.png and shots.csv, and of a bench for each number."""
    dry_run: bool = False
    """Say how many runs that would be, and do none."""
    resources: OmitArgPrefixes[Resources] = field(default_factory=Resources)

    def __call__(self) -> None:
        """Run it."""
        if self.grid.shots != GridConfig.shots:
            raise UserError("--shots is one number: kmat shots takes several, as --counts")
        if not self.counts or min(self.counts) < 1 or len(set(self.counts)) < len(self.counts):
            raise UserError(f"--counts {' '.join(map(str, self.counts))}: expected different numbers from 1 on")
        rows = _rows(self.methods)
        for count in self.counts:
            folder, grid = self.out / f"shots-{count}", replace(self.grid, shots=count)
            _run("bench", rows, grid, self.resources, folder, dry_run=self.dry_run)
        if not self.dry_run:
            from kmat.reports.report import write_shots

            files = write_shots({count: self.out / f"shots-{count}" for count in sorted(self.counts)}, self.out)
            out.print(f"written to {self.out}: {', '.join(file.name for file in files)}")


@dataclass(frozen=True)
class Ablate(Command):
    """Train K-MaT with parts switched off, as in the paper's Table 3, or with parts that the paper does not have."""

    example: ClassVar[str] = "kmat ablate --task chest-phantom --workers 4"
    usual: ClassVar[str] = "rows out dry_run task backbone seeds shots epochs views root descriptions workers ray slurm"

    grid: OmitArgPrefixes[GridConfig] = field(default_factory=GridConfig)
    rows: Literal["paper", "beyond"] = "paper"
    """The eight rows of Table 3; or K-MaT with other couplings, starts and weights, each minus K-MaT and minus K-MaT
    without FGW."""
    out: Path | None = None
    """Folder of results (Markdown, LaTeX, CSV, JSON, PNG) and runs; runs/ablate or runs/beyond by default."""
    dry_run: bool = False
    """Say how many runs that would be, and do none."""
    resources: OmitArgPrefixes[Resources] = field(default_factory=Resources)

    def __call__(self) -> None:
        """Run it."""
        table = {name: switches.method() for name, switches in ABLATION.items()}
        kind, rows = ("ablate", table) if self.rows == "paper" else ("beyond", BEYOND)
        folder = self.out or Path("runs", kind)
        _run(kind, rows, self.grid, self.resources, folder, dry_run=self.dry_run)


@dataclass(frozen=True)
class Report(Command):
    """Write one HTML page on finished grids and runs, which opens without network, and their tables beside it."""

    example: ClassVar[str] = "kmat report runs/bench runs/ablate"

    folders: Positional[tuple[Path, ...]]
    """Folders of `kmat bench`, `kmat ablate` or `kmat demo`, or that hold runs of `kmat train`."""
    out: Path = Path("runs/report")
    """Folder of report.html and the tables (Markdown, LaTeX, CSV)."""
    without_images: bool = False
    """Leave out the test images that methods are most wrong about: patients' images are not for everyone."""

    def __call__(self) -> None:
        """Write it."""
        from kmat.reports.report import write_report

        files = write_report(self.folders, self.out, images=not self.without_images)
        out.print(f"written to {self.out}: {', '.join(file.name for file in files)}")


def _rows(methods: Sequence[MethodName]) -> dict[str, MethodConfig]:
    """Rows of the bench that are of some methods."""
    if not methods:
        raise UserError("--methods: expected at least one")
    chosen = tuple(METHODS[name] for name in methods)
    return {name: method for name, method in BENCH.items() if isinstance(method, chosen)}


def _run(
    kind: str,
    rows: Mapping[str, MethodConfig],
    grid: GridConfig,
    resources: Resources,
    folder: Path,
    *,
    published: bool = False,
    dry_run: bool = False,
) -> None:
    from kmat.grids.grid import announce, run_grid
    from kmat.reports.report import write_results
    from kmat.reports.tables import backbone_tables, main_tables

    if dry_run:
        tell(announce(rows, grid))
        return
    with Lock(folder):
        tell(announce(rows, grid))
        results = run_grid(kind, rows, grid, resources, folder, published=published)
        files = write_results(results, folder)
    show_banner(results.banner)
    for table in [*main_tables(results), *backbone_tables(results)]:
        out.print(table.console())
    for line in results.notes:
        out.print(line, highlight=False)
    out.print(f"written to {folder}: {', '.join(file.name for file in files)}")
    if results.failed:
        raise UserError(f"runs failed, and the tables are without them: {'; '.join(results.failed)}")
