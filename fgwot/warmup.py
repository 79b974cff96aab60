"""Compile the loops for small problems and lazy plans, so that no later call waits for it: `python -m fgwot.warmup`."""

import sys
import time

from fgwot.drivers import failure_of_loops
from fgwot.streamed import passes


def main() -> None:
    """Compile them, or find them compiled, and say where they are kept."""
    start = time.perf_counter()
    if (reason := failure_of_loops() or passes.failure_of_loops()) is not None:
        sys.exit(f"nothing to compile, all is left to torch: {reason}")
    from fgwot.whole import undamped
    from fgwot.whole.compiled import guarded_loops

    guarded_loops()
    folder = undamped.solve_batch.stats.cache_path  # type: ignore[attr-defined]
    print(f"ready after {time.perf_counter() - start:.1f} s; kept in {folder}")


if __name__ == "__main__":
    main()
