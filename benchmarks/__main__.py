"""Command line: measure everything, or write the documentation page from a run's results."""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.cases import CASES, QUICK, Case
from benchmarks.machine import describe
from benchmarks.pool import Pool
from benchmarks.report import markdown
from benchmarks.runner import run_case

if TYPE_CHECKING:
    from benchmarks.results import Entry

_PAGE = Path(__file__).parent.parent / "docs" / "benchmarks.md"
_NOTES = Path(__file__).with_name("notes.md")  # what no measurement says by itself
_SAME = ("processor", "threads", "versions", "commit")  # of the machine, for results that need not be measured again


def main(arguments: list[str] | None = None) -> None:
    """Parse the command line and obey it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="fgwot against its peers")
    parser.add_argument("--out", type=Path, default=Path("runs/bench"), help="folder for results (default %(default)s)")
    parser.add_argument("--quick", action="store_true", help="small cases only")
    parser.add_argument("--only", default="", metavar="TEXT", help="cases whose name contains TEXT")
    parser.add_argument("--threads", type=int, default=1, help="threads of every library (default %(default)s)")
    parser.add_argument(
        "--budget", type=float, default=6.0, help="seconds per case and library before its ladder ends (%(default)s)"
    )
    parser.add_argument(
        "--minutes", type=float, default=float("inf"), help="begin no case after that time; the same command goes on"
    )
    parser.add_argument("--docs", action="store_true", help="write docs/benchmarks.md from the results in --out")
    options = parser.parse_args(arguments)
    if options.docs:
        results = json.loads((options.out / "results.json").read_text())
        _PAGE.write_text(f"# Benchmarks\n\n{markdown(results)}\n{_NOTES.read_text()}")
        return
    chosen = [case for case in (QUICK if options.quick else CASES) if options.only in case.name]
    if not chosen:
        parser.error(f"no case's name contains {options.only!r}")
    measure_all(chosen, options.out, options.threads, options.budget, 60 * options.minutes)


def measure_all(chosen: list[Case], folder: Path, threads: int, budget: float, seconds: float = float("inf")) -> None:
    """Run the cases and write results.json after each, then table.md and the figures.

    Cases that the folder's results have from this commit and machine are left alone, those of others replaced.
    """
    from benchmarks.plots import draw

    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "results.json"
    results: Entry = json.loads(path.read_text()) if path.exists() else {"machines": [], "cases": []}
    machine = describe(threads)
    known = [i for i, other in enumerate(results["machines"]) if all(other[key] == machine[key] for key in _SAME)]
    number = known[-1] if known else len(results["machines"])
    if known:
        results["machines"][number]["load"] = max(results["machines"][number]["load"], machine["load"])
    else:
        results["machines"].append(machine)
    there = {entry["name"] for entry in results["cases"] if entry["machine"] in known}
    todo = [case for case in chosen if case.name not in there]
    if todo:  # a worker that is killed while it compiles leaves nothing for the next one
        subprocess.run([sys.executable, "-m", "fgwot.warmup"], check=False)
    begun = time.monotonic()
    pool = Pool(threads)
    try:
        for done, case in enumerate(todo):
            start = time.monotonic()
            if start - begun > seconds:
                print(f"{len(todo) - done} cases are left for the same command", flush=True)
                break
            entry = run_case(pool, case, budget) | {"machine": number}
            results["cases"] = [old for old in results["cases"] if old["name"] != case.name] + [entry]
            path.write_text(json.dumps(_tidied(results), indent=1))
            print(f"[{done + 1}/{len(todo)}] {case.name}: {time.monotonic() - start:.1f} s", flush=True)
    finally:
        pool.close()
    results = _tidied(results)
    text = markdown(results)
    (folder / "table.md").write_text(text)
    draw(results, folder)
    print(f"\n{text}\nwritten to {folder}")


def _tidied(results: "Entry") -> "Entry":
    """Cases in the order of the page, and machines that measured some of them."""
    order = {case.name: position for position, case in enumerate(CASES)}
    entries = sorted(results["cases"], key=lambda entry: order.get(entry["name"], len(order)))
    used = sorted({entry["machine"] for entry in entries})
    entries = [entry | {"machine": used.index(entry["machine"])} for entry in entries]
    return {"machines": [results["machines"][i] for i in used], "cases": entries}


if __name__ == "__main__":
    main()
