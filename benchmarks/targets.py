"""The targets, each with what a run reached: computed, never typed."""

from collections.abc import Callable
from dataclasses import dataclass

from benchmarks.cases import CASES
from benchmarks.results import (
    COMPARED,
    IN_TORCH,
    LOOSE,
    ROUGH,
    TIGHT,
    Entry,
    against_peers,
    cases,
    geometric_mean,
    ratios,
    seconds,
)


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


_MODES = (("plain call", False), ("in torch", True))


def _never_slower(results: Entry) -> Reached:
    found = list(against_peers(results).values())
    if not found:
        return None
    slower = sum(r < 1 for r in found)
    return (
        f"slower in {slower} of {len(found)} cases in which a peer gets there, at worst {min(found):.2f}x",
        not slower,
    )


def _large_singles(results: Entry) -> Reached:
    entries = cases(results, "single", n=(64, 256, 1000), epsilon=(0.05, 0.01))
    found = ratios(entries)
    if not found:
        return None
    text = [f"{mode}: {_spread(ratios(entries, in_torch=in_torch))}" for mode, in_torch in _MODES]
    return f"{'; '.join(text)} ({_count(entries, found)})", geometric_mean(found) >= 3 and min(found) >= 1


def _spread(found: list[float]) -> str:
    return f"geometric mean {geometric_mean(found):.2f}x, slowest case {min(found):.2f}x"


def _small_singles(results: Entry) -> Reached:
    entries = cases(results, "single", n=(6, 16), epsilon=(0.05,))
    found = ratios(entries)
    if not found:
        return None
    text = [f"{mode}: {_spread(ratios(entries, in_torch=in_torch))}" for mode, in_torch in _MODES]
    slowest_in_torch = min(ratios(entries, in_torch=True))
    met = min(found) >= 1 and slowest_in_torch >= 1 / 1.5
    return f"{'; '.join(text)} ({_count(entries, found)})", met


def _hard_singles(results: Entry) -> Reached:
    entries = cases(results, "single", n=(6, 16, 64, 256), epsilon=(0.01, 0.003))
    if not entries:
        return None
    found = ratios(entries)
    lost = sum(seconds(entry, "fgwot") is None for entry in entries)
    mean = geometric_mean(found) if found else float("inf")
    text = "no peer got there"
    if found:
        in_torch = geometric_mean(ratios(entries, in_torch=True))
        text = f"plain call: geometric mean {mean:.1f}x; in torch: geometric mean {in_torch:.1f}x"
    return f"{text} ({_count(entries, found)}; fgwot not there in {lost})", mean >= 10 and not lost


def _batches(results: Entry) -> Reached:
    parts, met = [], True
    sides = (
        ("proximal", "fgwot proximal", "POT ot.batch, objective to 1e-2", ROUGH),
        ("proximal", "fgwot proximal", "POT ot.batch, objective to 1e-4", LOOSE),
        ("batches", "fgwot", "OTT vmap", TIGHT),
    )
    for group, ours, peer, bound in sides:
        entries = cases(results, group, batch=(1024, 256, 64))
        if not entries:
            return None
        found = ratios(entries, bound)
        lost = sum(seconds(entry, ours, bound) is None for entry in entries)
        worst = f"{min(found):.1f}x to {max(found):.1f}x" if found else "peer not there"
        parts.append(f"{peer}: {worst} ({_count(entries, found)}; fgwot not there in {lost})")
        met = met and not lost and all(r >= 10 for r in found)
    return "; ".join(parts), met


def _training(results: Entry) -> Reached:
    text, entries, slowest = [], cases(results, "training"), 0.0
    for mode, method in (("in torch", f"{IN_TORCH} warm"), ("plain call", "fgwot warm")):
        times = [seconds(entry, method) for entry in entries]
        if not times:
            return None
        if None in times:
            return f"{mode} failed", False
        slowest = max(t for t in times if t is not None)
        text.append(f"{mode}: at most {slowest * 1e3:.2f} ms per step")
    return "; ".join(text), slowest < 1e-3  # of the last, the plain call


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
    "the plain call: slower than a peer in no case": (COMPARED, _never_slower),
    "single problems n = 64, 256, 1000 at epsilon 0.05 and 0.01 against the best of POT and OTT jitted: "
    "at least 3x faster in geometric mean, no case slower": (("single",), _large_singles),
    "n = 6 and 16 at epsilon 0.05: faster than the jitted peer, and in torch no slower than 1.5x its time": (
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
