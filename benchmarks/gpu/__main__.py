"""Command line: measure everything on one card, or write the documentation page from what a run found."""

import argparse
import os
import sys
from importlib.util import find_spec
from pathlib import Path

from benchmarks.gpu.page import markdown, rows_of
from benchmarks.gpu.run import LOG, RESULTS, SECTIONS, run_sections
from benchmarks.gpu.section import append
from benchmarks.machine import describe

PAGE = Path(__file__).parents[2] / "docs" / "gpu.md"


def main(arguments: list[str] | None = None) -> None:
    """Parse the command line and obey it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description="fgwot on one CUDA card")
    parser.add_argument("--out", type=Path, default=Path("runs/gpu"), help="folder for results (default %(default)s)")
    names = [section.name for section in SECTIONS]
    parser.add_argument("--only", choices=names, nargs="+", default=names, metavar="SECTION", help=", ".join(names))
    parser.add_argument("--minutes", type=float, default=7.5, help="for all sections (default %(default)s)")
    parser.add_argument("--small", action="store_true", help="a rehearsal: every part, at sizes that need no card")
    parser.add_argument("--commit", help="what is measured, where git cannot say it")
    parser.add_argument("--docs", action="store_true", help="write docs/gpu.md from the results in --out, if any")
    options = parser.parse_args(arguments)
    if options.docs:
        PAGE.write_text(markdown(rows_of(options.out / RESULTS)))
        return
    if not options.small:
        import torch

        if not torch.cuda.is_available():
            parser.error("there is no CUDA card; --small rehearses without one")
    sections = [section for section in SECTIONS if section.name in options.only]
    folder: Path = options.out
    folder.mkdir(parents=True, exist_ok=True)
    for name in (RESULTS, LOG):
        (folder / name).write_text("")
    machine = describe(os.cpu_count() or 1, "python -m benchmarks.gpu")
    machine |= {"commit": options.commit} if options.commit else {}
    append(folder / RESULTS, {"section": "machine", "small": options.small, **machine})
    completed = run_sections(sections, folder, 60 * options.minutes, options.small)
    report(folder)
    sys.exit(not completed)


def report(folder: Path) -> None:
    """Write the tables and, with matplotlib, the figures of a run; print the tables."""
    rows = rows_of(folder / RESULTS)
    text = markdown(rows)
    (folder / "gpu.md").write_text(text)
    print(text)
    if find_spec("matplotlib") is None:
        print("no figures: matplotlib is not installed")
        return
    from benchmarks.gpu.figures import draw

    draw(rows, folder)


if __name__ == "__main__":
    main()
