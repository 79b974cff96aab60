"""Commands about a task's images."""

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, ClassVar

from rich.table import Table
from tyro.conf import OmitArgPrefixes, Positional, arg

from kmat.commands.base import Command
from kmat.console import note, out, plain_table, show_banner
from kmat.errors import UserError
from kmat.modalities import HIGH, LOW, MODALITIES
from kmat.runs.config import RunConfig
from kmat.tasks import BUILT_IN, TaskConfig
from kmat.tasks.base import SPLITS, Task
from kmat.tasks.check import Inspection, inspect, write_findings
from kmat.tasks.files import ignored, say_skipped
from kmat.tasks.manifest import write_manifest
from kmat.tasks.paper import PAPER_TASKS, read_table


@dataclass(frozen=True)
class Tasks(Command):
    """List the built-in tasks, and count the images of one task, built-in or your own."""

    example: ClassVar[str] = "kmat tasks --task mine.csv"

    data: OmitArgPrefixes[TaskConfig] = field(default_factory=TaskConfig)

    def __call__(self) -> None:
        """Run it."""
        out.print(f"built-in tasks: {', '.join(BUILT_IN)}")
        task = self.data.load()
        show_banner(task.banner)
        out.print(_count_table(task))
        if one_sided := task.one_sided():
            note(f"classes {one_sided}")
        say_skipped(task.skipped)
        if obstacles := "; ".join(Inspection(task, ()).obstacles()):
            raise UserError(f"{task.name} cannot be run: {obstacles}")


@dataclass(frozen=True)
class CheckData(TaskConfig, Command):
    """List what of a task is missing, unreadable, ambiguous or there twice, and tell if it can be run."""

    example: ClassVar[str] = "kmat check-data mine.csv --write readable.csv"

    task: Annotated[Positional[str], arg(metavar="TASK")] = field()
    """What the other commands take as --task."""
    shots: int = RunConfig.shots
    """Training images per class that a run will draw."""
    write: Path | None = None
    """CSV file for the readable images with their splits, which --task reads back."""
    findings: Path | None = None
    """CSV file for all that was found; the first ten of each kind are printed."""

    def __call__(self) -> None:
        """Run it."""
        found = inspect(self.load())
        task = found.task
        show_banner(task.banner)
        table = _count_table(task)
        table.add_row("all", *(str(len(task.select(modality, split))) for modality in MODALITIES for split in SPLITS))
        if self.task in PAPER_TASKS:
            parts = read_table(self.task).parts
            table.add_row("Table 1", *(str(n) for modality in MODALITIES for n in parts[modality].table1))
        out.print(table)
        for kind, count in Counter(finding.kind for finding in found.findings).items():
            out.print(f"{kind}: {count}{', the first ten:' * (count > 10)}", highlight=False)
            for _, ref, detail in [finding for finding in found.findings if finding.kind == kind][:10]:
                out.print(f"  {ref}: {detail}".removesuffix(": "), highlight=False)
        if strange := ignored(task.skipped):
            note(strange)
        if one_sided := task.one_sided():
            note(f"classes {one_sided}")
        for shortage in found.shortages(self.shots):
            note(shortage)
        if self.write:
            write_manifest(self.write, task, task.records)
        if self.findings:
            write_findings(self.findings, found.findings)
        if obstacles := "; ".join(found.obstacles()):
            raise UserError(f"{task.name} cannot be run: {obstacles}")


def _count_table(task: Task) -> Table:
    """Images per class, modality and split."""
    table = plain_table(f"{task.name}: images (high: {task.modality_names[HIGH]}, low: {task.modality_names[LOW]})")
    table.add_column("class", no_wrap=True)
    for modality in MODALITIES:
        for split in SPLITS:
            table.add_column(f"{modality} {split}", justify="right")
    counts = [task.count(modality, split) for modality in MODALITIES for split in SPLITS]
    for number, label in enumerate(task.labels):
        lacking = {modality for modality in MODALITIES if number not in task.present(modality)}
        columns = [modality for modality in MODALITIES for _ in SPLITS]
        cells = ("-" if m in lacking else str(row[number]) for m, row in zip(columns, counts, strict=True))
        table.add_row(label, *cells)
    return table
