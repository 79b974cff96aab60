"""Time this checkout's solver beside another's: ``python -m benchmarks.against ../other-checkout``.

Each has a process of its own, both take turns on one core, and the smaller of a checkout's times counts. For the check
that a change made nothing slower; `python -m benchmarks` compares with other libraries.
"""

import argparse
import json
import os
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

CASES = (
    *((None, n, epsilon) for n in (6, 16, 64, 150, 256, 1000) for epsilon in (0.05, 0.01)),
    *((batch, n, 0.05) for batch, n in ((1024, 6), (1024, 16), (256, 32), (64, 64))),
)
ROUNDS = 3


def main() -> None:
    """Print a table of both checkouts' times."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.against", description="time beside another checkout")
    parser.add_argument("other", type=Path, help="folder of the other checkout")
    other = parser.parse_args().other
    here = Path(__file__).parent.parent
    times: dict[Path, dict[str, float]] = {here: {}, other: {}}
    for _ in range(ROUNDS):
        for folder, best in times.items():
            for name, milliseconds in _run(folder).items():
                best[name] = min(milliseconds, best.get(name, milliseconds))
    print("| case | here, ms | other, ms | ratio |\n| --- | --- | --- | --- |")
    for name, milliseconds in times[here].items():
        print(f"| {name} | {milliseconds:.3g} | {times[other][name]:.3g} | {milliseconds / times[other][name]:.2f} |")


def _run(folder: Path) -> dict[str, float]:
    command = [sys.executable, "-P", str(Path(__file__).resolve()), "measure"]
    environment = os.environ | {"PYTHONPATH": str(folder.resolve()), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)  # noqa: S603
    found: dict[str, float] = json.loads(done.stdout)
    return found


def measure() -> None:
    """Print the times of the checkout that is imported, in milliseconds, as JSON."""
    import torch

    import fgwot

    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    generator = torch.Generator().manual_seed(0)
    found = {}
    for batch, n, epsilon in CASES:
        shape = (n, 2) if batch is None else (batch, n, 2)
        x, y = (torch.rand(shape, generator=generator, dtype=torch.float64) for _ in range(2))
        costs = torch.cdist(x, y).square(), torch.cdist(x, x), torch.cdist(y, y)
        for driver in ("auto", "torch") if n <= 200 else ("auto",):
            with fgwot.backend(driver):
                solve = lambda: fgwot.fused_gromov_wasserstein(*costs, epsilon=epsilon)  # noqa: B023, E731 - called now
                name = f"{driver}, {f'{batch} of ' if batch else ''}{n} points, epsilon {epsilon}"
                found[name] = _milliseconds(solve)
    print(json.dumps(found))


def _milliseconds(solve: Callable[[], object], budget: float = 0.5) -> float:
    """Lower quartile of at least three runs, the first one left out."""
    solve()
    times: list[float] = []
    end = time.perf_counter() + budget
    while time.perf_counter() < end or len(times) < 3:
        start = time.perf_counter()
        solve()
        times.append(time.perf_counter() - start)
    return 1e3 * sorted(times)[len(times) // 4]


if __name__ == "__main__":
    measure() if sys.argv[1:] == ["measure"] else main()
