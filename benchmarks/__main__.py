"""Command line: measure everything, or write the documentation page from a run's results."""

import argparse
import json
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


def main(arguments: list[str] | None = None) -> None:
    """Parse the command line and obey it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="fgwot against POT and OTT-JAX")
    parser.add_argument("--out", type=Path, default=Path("runs/bench"), help="folder for results (default %(default)s)")
    parser.add_argument("--quick", action="store_true", help="small cases only")
    parser.add_argument("--only", default="", metavar="TEXT", help="cases whose name contains TEXT")
    parser.add_argument("--threads", type=int, default=1, help="threads of every library (default %(default)s)")
    parser.add_argument(
        "--budget", type=float, default=6.0, help="seconds per case and library before its ladder ends (%(default)s)"
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
    measure_all(chosen, options.out, options.threads, options.budget)


def measure_all(chosen: list[Case], folder: Path, threads: int, budget: float) -> None:
    """Run the cases and write results.json after each, then table.md and the figures."""
    from benchmarks.plots import draw

    folder.mkdir(parents=True, exist_ok=True)
    results: Entry = {"machine": describe(threads), "cases": []}
    pool = Pool(threads)
    try:
        for number, case in enumerate(chosen, 1):
            start = time.monotonic()
            results["cases"].append(run_case(pool, case, budget))
            (folder / "results.json").write_text(json.dumps(results, indent=1))
            print(f"[{number}/{len(chosen)}] {case.name}: {time.monotonic() - start:.1f} s", flush=True)
    finally:
        pool.close()
    text = markdown(results)
    (folder / "table.md").write_text(text)
    draw(results, folder)
    print(f"\n{text}\nwritten to {folder}")


if __name__ == "__main__":
    main()
