"""The tables of a run, in Markdown."""

import json
from collections.abc import Callable, Iterable
from pathlib import Path

from benchmarks.gpu.section import Row
from benchmarks.gpu.targets import outcomes
from benchmarks.kernel_times import readable
from benchmarks.report import table, verdicts
from benchmarks.results import geometric_mean

INTRO = Path(__file__).with_name("intro.md")
_OURS = "fgwot"
_NOT_COMPARED = "ot.batch"  # another objective
_SAME_BASIN = 1e-6


def rows_of(path: Path) -> list[Row]:
    """Read results; none if there is no such file.

    Examples
    --------
    >>> rows_of(Path("no such file"))
    []
    """
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def markdown(rows: list[Row]) -> str:
    """Say what the command does, and what it found."""
    text = INTRO.read_text()
    if not rows:
        return f"{text}\n## Not run yet\n\nNo run of this command on a GPU has been recorded.\n"
    small = rows[0].get("small")
    title = "## A rehearsal: no measurement" if small else "## What was found"
    parts = [text.rstrip(), title, _machine(rows), verdicts(outcomes(rows)), _sections(rows)]
    for name, written in _WRITERS.items():
        found = [row for row in rows if row["section"] == name and "outcome" not in row]
        if found:
            parts += [f"### {name[0].upper()}{name[1:]}", written(found)]
    return "\n\n".join(parts) + "\n"


def _machine(rows: list[Row]) -> str:
    machine = rows[0]
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items() if version)
    host = (
        f"Measured {machine['date']} at commit {machine['commit']} by `{machine['command']}`; {machine['processor']}, "
        f"{machine['cores']} cores; Python {machine['python']}, {versions}."
    )
    cards = [row for row in rows if row["section"] == "environment" and "card" in row]
    if not cards:
        return host
    card = cards[0]
    name = f"{card['card']}, driver {card['driver']}, CUDA {card['cuda']}. " if card["card"] else "No card. "
    missing = ", ".join(f"{package} ({what})" for package, what in card["missing"].items())
    return f"{name}{host}" + (f" Not installed: {missing}." if missing else " All optional packages are installed.")


def _sections(rows: list[Row]) -> str:
    found = [[row["section"], row["outcome"], f"{row['seconds']:.0f}"] for row in rows if "outcome" in row]
    return table(["section", "outcome", "seconds"], found)


def _tests(rows: list[Row]) -> str:
    lines = []
    for row in rows:
        if "summary" in row:
            lines += [f"{row['ended']} tests ended: {row['summary']}."]
            lines += [f"- `{failure}`" for failure in row["failures"]]
    return "\n".join(lines)


def _ceilings(rows: list[Row]) -> str:
    found = [
        [row["what"], readable(row["value"]) if row["unit"] == "s" else f"{row['value'] / 1e12:.3g} T{row['unit']}"]
        for row in rows
    ]
    return table(["what", "value"], found)


def _kernels(rows: list[Row]) -> str:
    columns = ("by", "kernel", "n", "batch", "dtype")
    found = [[*(str(row[name]) for name in columns), _time(row)] for row in rows]
    return table(["", "call", "n = m", "problems", "type", "time"], found)


def _races(rows: list[Row]) -> str:
    """One row per case, one column per solver, then how the others compare."""
    solvers = list(dict.fromkeys(row["solver"] for row in rows if "solver" in row))
    by_case: dict[str, dict[str, Row]] = {}
    for row in rows:
        if "solver" in row:
            by_case.setdefault(row["case"]["name"], {})[row["solver"]] = row
    lines = []
    for entries in by_case.values():
        case = next(iter(entries.values()))["case"]
        line = [_size(case), case["dtype"], f"{case['epsilon']:g}"]
        elsewhere = _in_another_basin(entries)
        cells = [_finish(entries[name]) if name in entries else "-" for name in solvers]
        lines.append(line + [cell + " (b)" * (name in elsewhere) for name, cell in zip(solvers, cells, strict=True)])
    parts = [table(["size", "type", "epsilon", *solvers], lines)]
    parts += [_against(name, by_case.values()) for name in solvers if name not in (_OURS, _NOT_COMPARED)]
    parts += [_first_calls(rows), *(f"Failed: {row['error']}" for row in rows if "error" in row)]
    return "\n\n".join(parts)


def _finish(row: Row) -> str:
    if "seconds" not in row:
        return str(row["stopped"])
    time = readable(row["seconds"])
    if row["reached"]:
        return time
    stopped = f"; {row['stopped']}" if row["stopped"] else ""
    return f"r {max(row['r_marg'], row['r_fix']):.0e} in {time}{stopped}"


def _in_another_basin(entries: dict[str, Row]) -> set[str]:
    """Solvers whose plans have a higher objective, on average over the batch, than others' at the same bound."""
    there = {name: row for name, row in entries.items() if _there(row) and name != _NOT_COMPARED}
    best = min((row["objective"] for row in there.values()), default=0.0)
    # Costs are at most 1: marginals missed by r change the objective by about r.
    missed = {name: max(row["r_marg"], row["r_fix"]) for name, row in there.items()}
    return {name for name, row in there.items() if row["objective"] - best > _SAME_BASIN * abs(best) + missed[name]}


def _against(name: str, cases: Iterable[dict[str, Row]]) -> str:
    """How much longer another solver takes, where both get there."""
    pairs = [(entries[_OURS], entries[name]) for entries in cases if _OURS in entries and name in entries]
    both = [theirs["seconds"] / ours["seconds"] for ours, theirs in pairs if _there(ours) and _there(theirs)]
    only = [sum(_there(a) and not _there(b) for a, b in order) for order in (pairs, [pair[::-1] for pair in pairs])]
    if not both:
        return f"{name}: in none of {len(pairs)} cases do both get there."
    spread = f"{geometric_mean(both):.2f} times fgwot's time ({min(both):.2f} to {max(both):.2f}) in geometric mean"
    return (
        f"{name}: {spread} of the {len(both)} of {len(pairs)} cases in which both get there; "
        f"only fgwot does in {only[0]}, only {name} in {only[1]}."
    )


def _first_calls(rows: list[Row]) -> str:
    """What compiling, capturing and loading took at most."""
    longest: dict[str, float] = {}
    for row in rows:
        if row.get("first_call") is not None:
            longest[row["solver"]] = max(longest.get(row["solver"], 0.0), row["first_call"] - row["seconds"])
    excess = "; ".join(f"{name} {readable(time)}" for name, time in longest.items())
    return f"First calls took longer by up to: {excess or 'not measured'}."


def _there(row: Row) -> bool:
    return bool(row.get("reached"))


def _solves(rows: list[Row]) -> str:
    counts = ("launches", "graphs", "reads", "waits")
    found = []
    for row in rows:
        case = row["case"]
        line = [row["what"], row.get("backend", "auto"), _size(case), case["dtype"], f"{case['epsilon']:g}"]
        line += [str(row.get(name, "-")) for name in ("steps", "open")]
        line += [_time(row), readable(row["device_seconds"]) if row.get("device_seconds") else "-"]
        line += [str(row.get(name, "-")) for name in counts]
        found.append([*line, f"{row['peak_bytes'] / 1e6:.1f}" if "peak_bytes" in row else "-"])
    header = ["", "backend", "size", "type", "epsilon", "steps", "open", "wall", "kernels", *counts, "MB"]
    return table(header, found)


def _training(rows: list[Row]) -> str:
    columns = ("part", "model", "classes", "dtype", "device")
    found = [[*(str(row.get(name, "-")) for name in columns), _time(row)] for row in rows]
    return table([*columns, "time"], found)


def _time(row: Row) -> str:
    return readable(row["seconds"]) if "seconds" in row else row["error"]


def _size(case: Row) -> str:
    return f"{case['batch']} of {case['n']}" if case["batch"] else str(case["n"])


_WRITERS: dict[str, Callable[[list[Row]], str]] = {
    "tests": _tests,
    "ceilings": _ceilings,
    "kernels": _kernels,
    "single float64": _races,
    "single float32": _races,
    "batches": _races,
    "solves": _solves,
    "training": _training,
}
