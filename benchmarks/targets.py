"""The targets of issue 3, each with what a run reached: computed, never typed."""

from collections.abc import Callable
from dataclasses import dataclass

from benchmarks.cases import CASES
from benchmarks.results import COMPILED, LOOSE, ROUGH, TIGHT, Entry, cases, geometric_mean, ratios, seconds


@dataclass(frozen=True)
class Outcome:
    """A target, what was measured, and whether that meets it; None if the run lacks some of its cases."""

    target: str
    reached: str
    met: bool | None


def outcomes(results: Entry) -> list[Outcome]:
    """Compare a run with every target."""
    measured = {entry["name"] for entry in results["cases"]}
    found = []
    for target, (groups, check) in _TARGETS.items():
        text, met = check(results) or ("not measured", None)
        missing = [case for case in CASES if case.group in groups and case.name not in measured]
        if missing and met is not None:
            text, met = f"{text}; {len(missing)} cases not measured", None
        found.append(Outcome(target, text, met))
    return found


Reached = tuple[str, bool] | None


def _large_singles(results: Entry) -> Reached:
    entries = cases(results, "single", n=(64, 256, 1000), epsilon=(0.05, 0.01))
    text, met = [], False
    for mode in ("eager", "compiled"):
        found = ratios(entries, compiled=mode == "compiled")
        if not found:
            return None
        mean, worst = geometric_mean(found), min(found)
        text.append(f"{mode}: geometric mean {mean:.2f}x, slowest case {worst:.2f}x")
        met = mean >= 3 and worst >= 1  # of the last, compiled
    return f"{'; '.join(text)} ({_count(entries, found)})", met


def _small_singles(results: Entry) -> Reached:
    entries = cases(results, "single", n=(6, 16), epsilon=(0.05,))
    text, met = [], True
    for mode, limit in (("eager", 1.5), ("compiled", 1.0)):
        found = ratios(entries, compiled=mode == "compiled")
        if not found:
            return None
        slowest = 1 / min(found) if min(found) else float("inf")
        mean = 1 / max(geometric_mean(found), 1e-9)
        text.append(f"{mode}: at most {slowest:.2f}x the peer's time, geometric mean {mean:.2f}x")
        met = met and slowest <= limit
    return f"{'; '.join(text)} ({_count(entries, found)})", met


def _hard_singles(results: Entry) -> Reached:
    entries = cases(results, "single", n=(6, 16, 64, 256), epsilon=(0.01, 0.003))
    if not entries:
        return None
    found = ratios(entries)
    lost = sum(seconds(entry, "fgwot") is None for entry in entries)
    mean = geometric_mean(found) if found else float("inf")
    text = f"geometric mean {mean:.1f}x" if found else "no peer got there"
    if found and (compiled := ratios(entries, compiled=True)):
        text = f"eager: {text}; compiled: geometric mean {geometric_mean(compiled):.1f}x"
    return f"{text} ({_count(entries, found)}; fgwot not there in {lost})", mean >= 10 and not lost


def _batches(results: Entry) -> Reached:
    parts, met = [], True
    sides = (
        ("proximal", "fgwot proximal", "POT ot.batch, objective to 1e-2", ROUGH),
        ("proximal", "fgwot proximal", "POT ot.batch, objective to 1e-4", LOOSE),
        ("batches", COMPILED, "OTT vmap, compiled", TIGHT),
    )
    for group, ours, peer, bound in sides:
        entries = cases(results, group, batch=(1024, 256, 64))
        if not entries:
            return None
        found = ratios(entries, bound, compiled=True)
        lost = sum(seconds(entry, ours, bound) is None for entry in entries)
        worst = f"{min(found):.1f}x to {max(found):.1f}x" if found else "peer not there"
        parts.append(f"{peer}: {worst} ({_count(entries, found)}; fgwot not there in {lost})")
        met = met and not lost and all(r >= 10 for r in found)
    return "; ".join(parts), met


def _training(results: Entry) -> Reached:
    text, entries, slowest = [], cases(results, "training"), 0.0
    for mode, method in (("eager", "fgwot warm"), ("compiled", f"{COMPILED} warm")):
        times = [seconds(entry, method) for entry in entries]
        if not times:
            return None
        if None in times:
            return f"{mode} failed", False
        slowest = max(t for t in times if t is not None)
        text.append(f"{mode}: at most {slowest * 1e3:.2f} ms per step")
    return "; ".join(text), slowest < 1e-3


def _clouds(results: Entry) -> Reached:
    entries = cases(results, "clouds", n=(1000, 4000))
    if not entries:
        return None
    parts, met = [], True
    for entry in entries:
        own, peer = seconds(entry, "fgwot cloud"), seconds(entry, "OTT cloud")
        if own is None or peer is None:
            parts.append(f"n = {entry['n']}: {'fgwot' if own is None else 'OTT'} not there")
            met = met and own is not None
        else:
            parts.append(f"n = {entry['n']}: {peer / own:.2f}x")
            met = met and peer / own >= 3
    return "; ".join(parts), met


def _backward(results: Entry) -> Reached:
    factors = []
    for entry in cases(results, "gradients"):
        forward, both = seconds(entry, "fgwot"), seconds(entry, "fgwot backward")
        if forward is None or both is None:
            return f"fgwot not there at n = {entry['n']}", False
        factors.append(both / forward)
    if not factors:
        return None
    return f"at most {max(factors):.2f}x, geometric mean {geometric_mean(factors):.2f}x", max(factors) <= 1.3


def _memory(results: Entry) -> Reached:
    entries = cases(results, "memory", n=(2000,))
    if not entries:
        return None
    found = entries[0]["memory"]["fgwot"]
    if "matrices" not in found:
        return f"failed: {found['stopped']}", False
    return f"{found['matrices']:.1f} matrices", found["matrices"] <= 8


def _growth(results: Entry) -> Reached:
    entries = {entry["n"]: entry for entry in cases(results, "growth", n=(250, 2000))}
    if len(entries) < 2:
        return None
    factors = []
    for method in ("fgwot", "matrix product"):
        small, large = (seconds(entries[n], method) for n in (250, 2000))
        if small is None or large is None:
            return f"{method} not there", False
        factors.append(large / small)
    return f"time grows {factors[0]:.0f}x, the matrix product's {factors[1]:.0f}x", factors[0] <= factors[1]


def _count(entries: list[Entry], found: list[float]) -> str:
    return f"{len(found)} of {len(entries)} cases in which a peer gets there"


# Each target with the groups of cases it needs in full.
_TARGETS: dict[str, tuple[tuple[str, ...], Callable[[Entry], Reached]]] = {
    "single problems n = 64, 256, 1000 at epsilon 0.05 and 0.01 against the best of POT and OTT jitted: "
    "at least 3x faster in geometric mean, no case slower": (("single",), _large_singles),
    "n = 6 and 16 at epsilon 0.05: no slower than 1.5x the jitted peer in eager mode, faster when compiled": (
        ("single",),
        _small_singles,
    ),
    "n = 6 to 256 at epsilon 0.01 and 0.003: at least 10x faster in geometric mean, or the peer does not get there": (
        ("single",),
        _hard_singles,
    ),
    "batches (1024, 6), (1024, 16), (256, 32), (64, 64) against POT ot.batch and OTT vmap: at least 10x": (
        ("batches", "proximal"),
        _batches,
    ),
    "K-MaT's problem, warm-started, forward + backward: under 1 ms": (("training",), _training),
    "squared Euclidean clouds, n = 1000 and 4000, against OTT PointCloud: at least 3x": (("clouds",), _clouds),
    "forward + backward over forward: at most 1.3x": (("gradients",), _backward),
    "peak memory, n = m = 2000, dense: at most 8 matrices of that size": (("memory",), _memory),
    "growth of time from n = 250 to 2000: no steeper than the matrix product's": (("growth",), _growth),
}
