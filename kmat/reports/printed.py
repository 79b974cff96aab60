"""What the K-MaT paper (arXiv 2603.06340) prints in its Tables 2 and 3, to stand beside our numbers."""

import json
from functools import cache
from pathlib import Path
from typing import Any

from kmat.grids.results import AVERAGE, MEASURED, METRICS, Results

TASKS = {"skin1", "skin2", "chest", "breast"}

# Our rows that are the paper's. It says neither which text its BiomedCLIP classifies by, nor whether CoOp's context is
# shared: the template and the shared context are what the baselines' public code does.
ROWS = {
    "zero-shot template": "BiomedCLIP",
    "CoOp shared": "CoOp",
    "CoCoOp": "CoCoOp",
    "KgCoOp": "KgCoOp",
    "BiomedCoOp": "BiomedCoOp",
    "K-MaT": "K-MaT",
}


def beside(results: Results, task: str, method: str) -> dict[str, float]:
    """Return the paper's numbers, in percent by metric, for a row of a grid's table; none where it has none.

    Its H stands for both of our conventions: it does not say which is its own. ``relative_accuracy`` and
    ``relative_macro_f1`` are Table 3's improvements of H over its first row.
    """
    average = task == AVERAGE and set(results.tasks) == TASKS
    if results.kind == "ablate":
        numbers: list[float] = _tables()["table3"][method.split()[0]] if average else []
        return dict(zip((*MEASURED, "relative_accuracy", "relative_macro_f1"), numbers, strict=False))
    numbers = _tables()["table2"].get("average" if average else task, {}).get(ROWS.get(method, ""), [])
    return dict(zip(METRICS, [*numbers, *numbers[-2:]], strict=False))


@cache
def _tables() -> dict[str, Any]:
    text = Path(__file__).with_suffix(".json").read_text(encoding="utf-8")
    tables: dict[str, Any] = json.loads(text)
    return tables
