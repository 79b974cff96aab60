"""Kill training runs and grids at random moments, go on with them, and compare what they leave with undisturbed ones.

``python -m benchmarks.kills`` writes the outcome as a table. A command is forked from this process, which has imported
kmat, and then goes through ``kmat.cli.main`` in a session of its own; a grid's workers are started as always.

SIGKILL and SIGTERM go to the command's process alone, SIGINT to its whole session, as a terminal sends it. The moment
is uniform between the first thing that the command writes to its folder and two thirds of the time that an
undisturbed one takes from there to its end: what is left after a kill is shorter. A kill
counts as a hit if the command had got on by an epoch or a run of its own and had not ended. Whatever the kill hit, the
command is started again on the same folder and cache, killed again, and so on until it ends by itself; then every file
of the folder and the cache has to be equal, byte for byte, to those of a command that nobody disturbed.
"""

import argparse
import os
import random
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import kmat.api  # this and the next for what commands import when they are done
import kmat.reports.report
from kmat.cli import main as kmat

_DATA = ("--task", "chest-phantom", "--backbone", "phantom:seed0", "--shots", "4")
_GRID = ("bench", *_DATA, "--methods", "zero-shot", "coop", "--seeds", "1", "2", "--epochs", "8")

#: Commands without --out and --cache.
CASES = {
    "train": ("train", "kmat", *_DATA, "--epochs", "15", "--resume"),
    "bench-1": (*_GRID, "--workers", "1"),
    "bench-2": (*_GRID, "--workers", "2"),
}
SIGNALS = (signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
LAST = ("result.json", "results.png")  # what a run and a grid write last
EXITS = {signal.SIGTERM: 143, signal.SIGINT: 130}
ORPHANS_END_WITHIN = 60.0  # seconds: a worker may have to get through its imports first


@dataclass
class Outcome:
    """What was done to one command, and what came of it."""

    hits: Counter[str] = field(default_factory=Counter)
    """By signal."""
    misses: int = 0
    """Kills before the command had got on, or after its end."""
    compared: int = 0
    """Finished folders."""
    wrong: list[str] = field(default_factory=list)
    """What was not as it should be."""


class Command:
    """A command of kmat at work in a folder."""

    def __init__(self, arguments: Sequence[str], folder: Path) -> None:
        self._out = folder / "out"
        self._log = folder / "log"
        self._before = _done(self._out)
        seen = _stamps(self._out)
        self._pid = os.fork()
        if not self._pid:
            _become((*arguments, "--out", str(self._out), "--cache", str(folder / "cache")), self._log)
        self._exit: int | None = None
        while not self.ended and _stamps(self._out) == seen:
            time.sleep(0.005)

    @property
    def ended(self) -> bool:
        """Whether its process is gone."""
        if self._exit is None:
            pid, status = os.waitpid(self._pid, os.WNOHANG)
            self._exit = os.waitstatus_to_exitcode(status) if pid else None
        return self._exit is not None

    def wait(self, seconds: float = float("inf")) -> None:
        """Wait for its end, but not for ever."""
        end = time.monotonic() + seconds
        while not self.ended and time.monotonic() < end:
            time.sleep(0.005)

    def kill(self, number: signal.Signals) -> bool:
        """Kill it and whatever it started; return whether that hit work."""
        got_on = _done(self._out) > self._before
        (os.killpg if number == signal.SIGINT else os.kill)(self._pid, number)
        self.wait()
        return got_on and not any((self._out / name).exists() for name in LAST)

    def complaints(self, number: signal.Signals | None) -> list[str]:
        """Say what is wrong with how it ended: by itself, or by a signal that hit it at work."""
        found = []
        said = self._log.read_text()
        expected = EXITS.get(number, -number) if number else 0
        if self._exit != expected:
            found.append(f"exit code {self._exit} instead of {expected}: {said[-2000:]}")
        if number in EXITS and not said.splitlines()[-1].startswith("interrupted; the same command"):
            found.append(f"no word of the interruption: {said[-2000:]}")
        end = time.monotonic() + ORPHANS_END_WITHIN
        while self._orphans() and time.monotonic() < end:
            time.sleep(0.02)
        if self._orphans():
            found.append("orphans")
        return found

    def _orphans(self) -> bool:
        try:
            os.killpg(self._pid, 0)
        except ProcessLookupError:
            return False
        return True


def torment(
    arguments: Sequence[str], kills: int, seed: int, folder: Path, say: Callable[[str], object] = print
) -> Outcome:
    """Kill a command until so many kills hit work, and compare whatever it leaves with what it leaves undisturbed."""
    undisturbed = Command(arguments, folder / "undisturbed")
    start = time.monotonic()
    undisturbed.wait()
    duration = time.monotonic() - start
    outcome = Outcome(wrong=undisturbed.complaints(None))
    rng = random.Random(seed)  # noqa: S311
    while outcome.hits.total() < kills and not outcome.wrong:
        trial = folder / f"trial{outcome.compared}"
        while True:
            command = Command(arguments, trial)
            if outcome.hits.total() < kills:
                command.wait(rng.uniform(0, duration * 2 / 3))
            else:
                command.wait()
            if command.ended:
                break
            number = rng.choice(SIGNALS)
            if command.kill(number):
                outcome.hits[number.name] += 1
                outcome.wrong += command.complaints(number)
            else:
                outcome.misses += 1
        outcome.wrong += command.complaints(None)
        outcome.wrong += _differences(folder / "undisturbed", trial)
        outcome.compared += 1
        say(f"{trial.name}: {dict(outcome.hits)}, missed {outcome.misses} {'; '.join(outcome.wrong)}")
    return outcome


def main() -> None:
    """Torment every case."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.kills", description="kill kmat's commands at work")
    parser.add_argument("--kills", type=int, default=20, help="hits of each command (default %(default)s)")
    parser.add_argument("--only", choices=CASES, nargs="+", default=list(CASES), help="commands to kill")
    parser.add_argument("--seed", type=int, default=0, help="of the moments and signals (default %(default)s)")
    options = parser.parse_args()
    rows = []
    for name in options.only:
        with tempfile.TemporaryDirectory() as folder:
            outcome = torment(CASES[name], options.kills, options.seed, Path(folder))
        cells = [name, *(str(outcome.hits[number.name]) for number in dict.fromkeys(SIGNALS))]
        cells += [str(outcome.misses), str(outcome.compared), "; ".join(outcome.wrong) or "all equal"]
        rows.append(f"| {' | '.join(cells)} |")
    print("| command | SIGKILL | SIGTERM | SIGINT | missed | finished and compared | outcome |")
    print("|---|---|---|---|---|---|---|", *rows, sep="\n")
    sys.exit(not all("all equal" in row for row in rows))


def _become(arguments: Sequence[str], log: Path) -> None:
    """Turn this process into one that runs a command."""
    code = 70
    try:
        os.setsid()
        signal.signal(signal.SIGINT, signal.default_int_handler)  # as on a terminal, even if we are in the background
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("w") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        code = kmat(arguments)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _stamps(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in _files(folder) if path.exists()}


def _files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.name.endswith((".json", ".jsonl"))]


def _done(folder: Path) -> int:
    """Count epochs and finished runs."""
    files = _files(folder)
    epochs = sum(path.read_bytes().count(b"\n") for path in files if path.name == "metrics.jsonl")
    return epochs + sum(path.name == "result.json" for path in files)


def _differences(undisturbed: Path, tormented: Path) -> list[str]:
    a, b = (
        {
            path.relative_to(folder).as_posix(): path.read_bytes()
            for part in ("out", "cache")
            for path in (folder / part).rglob("*")
            if path.is_file() and not (part == "cache" and path.suffix == ".partial")  # of no use, of no harm
        }
        for folder in (undisturbed, tormented)
    )
    return [f"{name} differs" for name in sorted(a.keys() | b.keys()) if a.get(name) != b.get(name)]


if __name__ == "__main__":
    main()
