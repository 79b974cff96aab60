"""Look into finished runs of residual transport: ``python -m kmat.reports.residuals FOLDER``, of a grid or of runs.

For each task and backbone, means over the runs found: the coupling as shares of each low-end class, how long residuals
are, how much of them is common to all classes, and how alike those of each pair of classes are.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch.nn import functional as F  # noqa: N812

from kmat.errors import UserError
from kmat.grids.rows import describe
from kmat.methods import ResidualConfig
from kmat.modalities import HIGH, MODALITIES
from kmat.runs.folder import RunDir
from kmat.tasks.base import present

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor


class Anatomy(NamedTuple):
    """What one run carries, and where to.

    Attributes
    ----------
    labels, low : tuple of str
        Classes of the high end and of the low one.
    shares : Tensor, shape (n, m)
        What each high-end class (row) contributes to each low-end one; columns sum to 1.
    length : float
        Root mean square length of the residuals.
    common : float
        The squared length of their mean, as a share of their mean squared length: what classification, which sees
        differences between classes, hardly feels.
    alike : Tensor, shape (n, n)
        Cosines of the residuals.
    spread : float
        Root mean square distance of the low end's descriptions from their mean, to compare residuals with.
    """

    labels: tuple[str, ...]
    low: tuple[str, ...]
    shares: Tensor
    length: float
    common: float
    alike: Tensor
    spread: float


def dissect(run: RunDir) -> Anatomy:
    """Take one finished run apart."""
    tensors, result = run.tensors(), run.result()
    if "described_high" not in tensors:
        raise UserError(f"{run.path} is of an earlier version, which kept other tensors: train it again")
    coupling = tensors["coupling"]
    high, low = (F.normalize(tensors[f"described_{modality}"], dim=-1) for modality in MODALITIES)
    residuals = tensors[f"text_features.{HIGH}"] - high
    squared = residuals.square().sum(-1).mean()
    labels, absent = result.labels, result.lacking()
    of_high, of_low = (tuple(labels[c] for c in present(len(labels), absent, m)) for m in MODALITIES)
    return Anatomy(
        of_high,
        of_low,
        coupling / coupling.sum(dim=0),
        float(squared.sqrt()),
        float(residuals.mean(dim=0).square().sum() / squared),
        F.normalize(residuals, dim=-1) @ F.normalize(residuals, dim=-1).T,
        float((low - low.mean(dim=0)).square().sum(-1).mean().sqrt()),
    )


def main() -> None:
    """Print what was found, as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folders", type=Path, nargs="+", help="searched for finished runs")
    parser.add_argument("--figure", type=Path, help="SVG of the text features of both ends, before and after")
    args = parser.parse_args()
    if args.figure:
        from kmat.reports import figures, finished  # here: matplotlib takes a second

        runs = [run for _, members in finished.load(args.folders).values() for run in members if run.described]
        args.figure.write_bytes(figures.svg(figures.residuals(runs)))
    groups: dict[str, list[Anatomy]] = defaultdict(list)
    for path in sorted(file.parent for folder in args.folders for file in folder.rglob("result.json")):
        run = RunDir(path)
        config = run.config()
        if isinstance(config.method, ResidualConfig):
            name = f"{config.data.task} on {config.backbone}: {describe(config.method)}"
            groups[name].append(dissect(run))
    for name, members in groups.items():
        print(f"{name}, {len(members)} runs\n{summary(members)}\n")


def summary(members: Sequence[Anatomy]) -> str:
    """Means over runs, as lines of Markdown: one row per class, then what is of all classes."""
    labels = members[0].labels
    shares = torch.stack([each.shares for each in members]).mean(dim=0)
    alike = torch.stack([each.alike for each in members]).mean(dim=0)
    to = "each low-end class" if members[0].low == labels else ", ".join(members[0].low)
    lines = [f"| class | its part in {to} | cosine of its residual with the others' |", "|---|---|---|"]
    for label, row, cosines in zip(labels, shares.tolist(), alike.tolist(), strict=True):
        lines.append(f"| {label} | {_numbers(row)} | {_numbers(cosines)} |")
    length, common, spread = (fmean(getattr(each, name) for each in members) for name in ("length", "common", "spread"))
    lines.append(
        f"\nResiduals have length {length:.2f}, {100 * common:.0f} % of their square in common; the low end's "
        f"descriptions are {spread:.2f} from their mean."
    )
    return "\n".join(lines)


def _numbers(values: Sequence[float]) -> str:
    return " ".join(f"{value:.2f}" for value in values)


if __name__ == "__main__":
    main()
