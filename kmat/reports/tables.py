"""The tables of a grid, laid out like the paper's, and their forms: Markdown, LaTeX, terminal."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from rich.table import Table as RichTable

from kmat.console import plain_table
from kmat.grids.results import ALL, AVERAGE, FLOOR, MEASURED, METRICS, OF_MEANS, Results
from kmat.grids.rows import ABLATION, NO_FGW, OURS, TRANSPORT, WITHOUT_FGW, Switches
from kmat.reports.printed import beside

RELATIVE = ("H acc %", "H F1 %")
BLANK = "–"

PAIRED = {"low_accuracy": "Lo", "low_macro_f1": "Lo F1", "h_accuracy": "H"}
PAIRED_CAPTION = (
    "Points, paired by seed: mean ± standard error over seeds, of the mean over all backbones or on one. The error is "
    "about other seeds on these backbones, not about other backbones. What FGW adds: a row minus the same without FGW."
)

SPREAD = {
    True: "mean ± sample standard deviation between the backbones' means",
    False: "mean ± sample standard deviation over seeds",
}
CAPTION = (
    "Test scores in percent, {spread}; Hi and Lo are the high and the low end. H: harmonic mean of Hi and Lo of each "
    "run, then the mean over runs. H*: harmonic mean of the means over seeds."
)
WITH_PAPER = (
    " In brackets what the paper prints; it does not say by which convention, so its H stands beside both. Not all of "
    "its H follow from its Hi and Lo (kmat's documentation lists those)."
)


@dataclass(frozen=True)
class TableCell:
    """A number as text, the paper's beside it if there is one, and whether it is the best of its column."""

    text: str
    paper: str = ""
    best: bool = False


@dataclass(frozen=True)
class Table:
    """Rows of a name and cells."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, tuple[TableCell, ...]], ...]
    caption: str

    def without_blanks(self) -> "Table | None":
        """Leave out rows without a number; None if nothing but floors is left."""
        rows = tuple(row for row in self.rows if not all(cell.text in ("", "x", BLANK) for cell in row[1]))
        if all(name.startswith(FLOOR) for name, _ in rows):
            return None
        return replace(self, rows=rows)

    def markdown(self) -> str:
        """Heading, table and caption; the best of a column is bold."""

        def show(cell: TableCell) -> str:
            return (f"**{cell.text}**" if cell.best else cell.text) + (f" [{cell.paper}]" if cell.paper else "")

        lines = [
            _row(self.header),
            _row(["---", *["---:"] * (len(self.header) - 1)]),
            *(_row([name, *map(show, cells)]) for name, cells in self.rows),
        ]
        return f"## {self.title}\n\n" + "\n".join(lines) + f"\n\n{self.caption}\n"

    def latex(self) -> str:
        """Return a ``table`` environment for the booktabs package."""

        def show(cell: TableCell) -> str:
            text = rf"\textbf{{{_tex(cell.text)}}}" if cell.best else _tex(cell.text)
            return text + (f" [{_tex(cell.paper)}]" if cell.paper else "")

        lines = [
            r"\begin{table}",
            r"\centering",
            rf"\begin{{tabular}}{{l{'r' * (len(self.header) - 1)}}}",
            r"\toprule",
            " & ".join(map(_tex, self.header)) + r" \\",
            r"\midrule",
            *(" & ".join([_tex(name), *map(show, cells)]) + r" \\" for name, cells in self.rows),
            r"\bottomrule",
            r"\end{tabular}",
            rf"\caption{{{_tex(self.title)}. {_tex(self.caption)}}}",
            r"\end{table}",
        ]
        return "\n".join(lines) + "\n"

    def console(self) -> RichTable:
        """Return the same table for rich, without what does not fit 80 columns or is in the rows' names."""
        hidden = {*OF_MEANS.values(), *Switches._fields, RELATIVE[1]}
        shown = [index for index, name in enumerate(self.header) if name not in hidden]
        table = plain_table(self.title)
        for index in shown:
            table.add_column(self.header[index], justify="right" if index else "left", no_wrap=index > 0)
        for name, cells in self.rows:
            table.add_row(name, *(cells[index - 1].text for index in shown[1:]))
        return table


def main_tables(results: Results) -> list[Table]:
    """Return the average over tasks, then each task over all its backbones, with what is compared with other rows.

    Rows and tables without a number are left out: of the average, those that are not on every task.
    """
    layout = _LAYOUTS[results.kind]
    found: list[Table | None] = []
    for task in (AVERAGE, *results.tasks) if len(results.tasks) > 1 else results.tasks:
        found.append(layout(results, task, ALL if task == AVERAGE else results.scopes(task)[0]).without_blanks())
        if results.kind != "beyond":
            compared = (_comparison(results, task, ours) for ours in (OURS, TRANSPORT) if ours in results.methods)
            found += [table.without_blanks() for table in compared]
        found += [table.without_blanks() for table in _paired_tables(results, task)]
    return [table for table in found if table]


def backbone_tables(results: Results) -> list[Table]:
    """Return each task on each of its backbones, where it has several."""
    layout = _LAYOUTS[results.kind]
    found = (layout(results, task, scope) for task in results.tasks for scope in results.scopes(task)[1:])
    return [table for each in found if (table := each.without_blanks())]


def _scores(results: Results, task: str, scope: str) -> Table:
    """Return the layout of the paper's Table 2."""
    printed = {method: beside(results, task, method) for method in results.methods}
    columns = [_column(results, task, scope, metric, printed) for metric in METRICS]
    rows = tuple(zip(results.methods, zip(*columns, strict=True), strict=True))
    caption = CAPTION.format(spread=_spread(task, scope)) + (WITH_PAPER if any(printed.values()) else "")
    return Table(_title(results, task, scope), ("method", *METRICS.values()), rows, caption)


def _ablation(results: Results, task: str, scope: str) -> Table:
    """Return the layout of the paper's Table 3, whose numbers are averages over its four tasks."""
    printed = {method: beside(results, task, method) for method in results.methods}
    columns = [
        [TableCell("x" if ABLATION[method][switch] else "") for method in results.methods]
        for switch in range(len(Switches._fields))
    ]
    columns += [_column(results, task, scope, metric, printed) for metric in MEASURED]
    for name in ("accuracy", "macro_f1"):
        cells = {method: results.cell(task, method, scope, f"h_{name}") for method in results.methods}
        base = cells[next(iter(ABLATION))]
        columns.append(
            [
                TableCell(
                    f"{100 * (cell.mean / base.mean - 1):+.1f}" if cell and base and base.mean else BLANK,
                    _printed(printed[method], f"relative_{name}"),
                )
                for method, cell in cells.items()
            ]
        )
    header = ("row", *Switches._fields, *MEASURED.values(), *RELATIVE)
    rows = tuple(zip(results.methods, zip(*columns, strict=True), strict=True))
    caption = (
        CAPTION.format(spread=_spread(task, scope)).split(" H*:")[0]
        + " H acc % and H F1 %: relative to row 1. The check marks are inferred, the paper's source lost its own."
        + (WITH_PAPER if any(printed.values()) else "")
    )
    return Table(_title(results, task, scope), header, rows, caption)


_LAYOUTS = {"bench": _scores, "ablate": _ablation, "beyond": _scores, "runs": _scores}


def _comparison(results: Results, task: str, ours: str) -> Table:
    """Return one row minus every other, losses included."""
    backbones = () if task == AVERAGE else results.backbones(task)
    columns = [(ALL, f"{part}_accuracy") for part in ("high", "low", "h")] + [
        (each, "h_accuracy") for each in backbones
    ]
    rows = []
    for other in results.methods:
        found = [results.paired(task, ours, other, *column) for column in columns]
        texts = [
            BLANK if not each else str(each) if of == ALL else f"{each.mean:+.1f}"
            for (of, _), each in zip(columns, found, strict=True)
        ]
        rows.append((other, tuple(map(TableCell, texts))))
    return Table(
        f"{task}: {ours} minus the other rows",
        ("minus", "Hi", "Lo", "H", *(f"H {_short(each)}" for each in backbones)),
        tuple(row for row in rows if row[0] != ours),
        "Accuracy in points, paired by seed: mean over backbones ± its standard error over seeds, then H on each.",
    )


def pairings(results: Results) -> dict[str, tuple[tuple[str, str], ...]]:
    """Return which rows are compared with which, by the tables' titles; nothing if the grid is not for that."""
    if results.kind != "beyond":
        return {}
    pairs = {"what FGW adds": list(WITHOUT_FGW.items())}
    pairs |= {f"rows minus {base}": [(name, base) for name in results.methods] for base in (NO_FGW, OURS)}
    known = {
        title: tuple((name, base) for name, base in each if name != base and {name, base} <= {*results.methods})
        for title, each in pairs.items()
    }
    return {title: each for title, each in known.items() if each}


def _paired_tables(results: Results, task: str) -> list[Table]:
    backbones = () if task == AVERAGE else results.scopes(task)[1:]
    columns = {name: (ALL, metric) for metric, name in PAIRED.items()}
    columns |= {f"H {_short(backbone)}": (backbone, "h_accuracy") for backbone in backbones}
    found = []
    for title, pairs in pairings(results).items():
        rows = []
        for method, base in pairs:
            cells = [results.paired(task, method, base, *column) for column in columns.values()]
            rows.append((method, tuple(TableCell(str(cell) if cell else BLANK) for cell in cells)))
        found.append(Table(f"{task}: {title}", ("row", *columns), tuple(rows), PAIRED_CAPTION))
    return found


def _short(backbone: str) -> str:
    return backbone.split(":")[-1].split("/")[-1]


def _column(
    results: Results, task: str, scope: str, metric: str, printed: Mapping[str, Mapping[str, float]]
) -> list[TableCell]:
    cells = {method: results.cell(task, method, scope, metric) for method in results.methods}
    ranked = [round(cell.mean, 1) for method, cell in cells.items() if cell and not method.startswith(FLOOR)]
    return [
        TableCell(
            str(cell) if cell else BLANK,
            _printed(printed[method], metric),
            best=bool(cell and not method.startswith(FLOOR) and round(cell.mean, 1) == max(ranked)),
        )
        for method, cell in cells.items()
    ]


def _printed(numbers: Mapping[str, float], metric: str) -> str:
    return f"{numbers[metric]:.1f}" if metric in numbers else ""


def _title(results: Results, task: str, scope: str) -> str:
    if task == AVERAGE:
        return f"average over {len(results.tasks)} tasks"
    return f"{task}, {scope}"


def _spread(task: str, scope: str) -> str:
    return SPREAD[scope == ALL and task != AVERAGE]


_TEX = str.maketrans(
    {
        "\\": r"\textbackslash{}",
        "±": r"$\pm$",
        "–": "--",
        **{character: f"\\{character}" for character in "&%$#_{}"},
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
    }
)


def _tex(text: str) -> str:
    return text.translate(_TEX)


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
