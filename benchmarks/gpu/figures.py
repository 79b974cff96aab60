"""Figures of a run: time over n of the races on single problems."""

from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
from matplotlib import pyplot as plt

from benchmarks.gpu.section import Row


def draw(rows: list[Row], folder: Path) -> list[Path]:
    """Write a figure per precision, a panel per epsilon, with the solvers that got there; return the files."""
    return [path for dtype in ("float64", "float32") if (path := _single(rows, dtype, folder / f"{dtype}.png"))]


def _single(rows: list[Row], dtype: str, path: Path) -> Path | None:
    there = [row for row in rows if row["section"] == f"single {dtype}" and row.get("reached")]
    epsilons = sorted({row["case"]["epsilon"] for row in there}, reverse=True)
    if not epsilons:
        return None
    figure, axes = plt.subplots(1, len(epsilons), figsize=(5 * len(epsilons), 4), sharey=True, squeeze=False)
    for axis, epsilon in zip(axes[0], epsilons, strict=True):
        for solver in dict.fromkeys(row["solver"] for row in there):
            chosen = [row for row in there if row["solver"] == solver and row["case"]["epsilon"] == epsilon]
            axis.loglog([r["case"]["n"] for r in chosen], [r["seconds"] * 1e3 for r in chosen], "o-", label=solver)
        axis.set(title=f"{dtype}, epsilon {epsilon:g}", xlabel="n")
        axis.grid(alpha=0.3)
        axis.legend()
    axes[0][0].set_ylabel("ms to the bound")
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)
    return path
