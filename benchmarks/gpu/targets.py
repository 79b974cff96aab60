"""The targets on a card, each with what a run reached: computed, never typed."""

from collections.abc import Callable, Iterable

from benchmarks.gpu.section import Row
from benchmarks.results import geometric_mean
from benchmarks.targets import Outcome

Start = tuple[str, int, float, int, str]  # solver, points, epsilon, problems, type
_OURS, _EPSILONS = "fgwot", (0.05, 0.01)
_BATCHES = ((4096, 4, 0.1), (1024, 6, 0.05), (1024, 16, 0.05), (256, 32, 0.05), (64, 64, 0.05))
_SMALL = 6  # points of the problems whose solve is to read once
# Arithmetic instructions of a term, as the kernels' descriptions count them.
_DIRECT = {"contraction, abs": 2, "contraction, huber": 5, "adjoint, abs": 4, "adjoint, huber": 4}
_POINTS, _SLOWER = 1000, 1.25


def outcomes(rows: list[Row]) -> list[Outcome]:
    """Compare a run with every target."""
    times = _times(rows)
    return [
        _beats_ott(times, (64, 256, 1000, 2000), 3),
        _beats_ott(times, (4000,), 2),
        _float32(times),
        *(_batch(times, small) for small in (True, False)),
        _beats_a_thread(times),
        _term(rows),
        _reads(rows, "reads, small problems: at most one a solve", lambda row: row["case"]["n"] <= _SMALL, lambda _: 1),
        _reads(
            rows,
            "reads, larger problems: at most one an outer step",
            lambda row: row["case"]["n"] > _SMALL,
            lambda row: row["steps"],
        ),
        _direct_sums(rows),
    ]


def _times(rows: Iterable[Row]) -> dict[Start, float | None]:
    """Seconds of those that got there, None of those that did not; without those that never started."""
    found: dict[Start, float | None] = {}
    for row in rows:
        if "solver" in row and ("seconds" in row or str(row["stopped"]).startswith("killed")):
            case = row["case"]
            start = (row["solver"], case["n"], case["epsilon"], case["batch"], case["dtype"])
            found[start] = row["seconds"] if row["reached"] else None
    return found


def _ratios(times: dict[Start, float | None], pairs: Iterable[tuple[Start, Start]]) -> tuple[list[float], int]:
    """The second one's time over the first one's, 0 where only the second got there; and how many never started."""
    found, missing = [], 0
    for own, other in pairs:
        if own not in times or other not in times:
            missing += 1
        elif (theirs := times[other]) is not None:
            ours = times[own]
            found.append(0.0 if ours is None else theirs / ours)
    return found, missing


def _outcome(target: str, text: str, met: bool, missing: int) -> Outcome:
    return Outcome(target, f"{text}; {missing} cases not measured", None) if missing else Outcome(target, text, met)


def _spread(found: list[float], missing: int, target: str, met: Callable[[list[float]], bool]) -> Outcome:
    if not found:
        return Outcome(target, "not measured", None)
    text = (
        f"geometric mean {geometric_mean(found):.2f}x, from {min(found):.2f}x to {max(found):.2f}x, {len(found)} cases"
    )
    return _outcome(target, text, met(found), missing)


def _beats_ott(times: dict[Start, float | None], sizes: tuple[int, ...], factor: float) -> Outcome:
    starts = [(n, e, 0, "float64") for n in sizes for e in _EPSILONS]
    found, missing = _ratios(times, [((_OURS, *start), ("OTT", *start)) for start in starts])
    target = f"OTT, n = {', '.join(map(str, sizes))}, float64: {factor:g}x in geometric mean, none slower"
    return _spread(found, missing, target, lambda r: geometric_mean(r) >= factor and min(r) >= 1)


def _float32(times: dict[Start, float | None]) -> Outcome:
    starts = [(n, e) for n in (64, 256, 1000, 2000, 4000) for e in _EPSILONS]
    pairs: list[tuple[Start, Start]] = [((_OURS, n, e, 0, "float32"), (_OURS, n, e, 0, "float64")) for n, e in starts]
    found, missing = _ratios(times, pairs)
    return _spread(found, missing, "float32 to 1e-4 never slower than float64 to 1e-6", lambda r: min(r) >= 1)


def _batch(times: dict[Start, float | None], small: bool) -> Outcome:
    limit = 1e-3 if small else 3e-3
    wanted: list[Start] = [(_OURS, n, e, b, "float32") for b, n, e in _BATCHES if (n <= 16) == small]
    found = [times[start] for start in wanted if start in times]
    target = f"batches of {'at most' if small else 'more than'} 16 points, float32: {limit * 1e3:g} ms"
    if not found:
        return Outcome(target, "not measured", None)
    text = ", ".join("not there" if time is None else f"{time * 1e3:.2f} ms" for time in found)
    met = all(time is not None and time <= limit for time in found)
    return _outcome(target, text, met, len(wanted) - len(found))


def _beats_a_thread(times: dict[Start, float | None]) -> Outcome:
    starts = [(n, e, b, "float32") for b, n, e in _BATCHES]
    found, missing = _ratios(times, [((_OURS, *start), ("fgwot on one CPU thread", *start)) for start in starts])
    return _spread(found, missing, "batches, float32: 20x one CPU thread", lambda r: min(r) >= 20)


def _term(rows: Iterable[Row]) -> Outcome:
    target = "K-MaT's term, forward and backward: 0.5 ms, 8 launches"
    for row in rows:
        if row.get("what") == "K-MaT's term" and "seconds" in row and row["device_seconds"]:
            launches = row["launches"] + row["graphs"]
            met = row["seconds"] <= 0.5e-3 and launches <= 8
            return Outcome(target, f"{row['seconds'] * 1e3:.2f} ms, {launches} launches", met)
    return Outcome(target, "not measured", None)


def _reads(rows: Iterable[Row], target: str, chosen: Callable[[Row], bool], limit: Callable[[Row], int]) -> Outcome:
    """Of forward solves on a card."""
    found = [row for row in rows if row.get("what") == "forward" and row.get("backend") == "auto"]
    found = [row for row in found if row.get("device_seconds") and chosen(row)]
    if not found:
        return Outcome(target, "not measured", None)
    text = ", ".join(f"{row['reads']} (allowed {limit(row)})" for row in found)
    return Outcome(target, text, all(row["reads"] <= limit(row) for row in found))


def _direct_sums(rows: Iterable[Row]) -> Outcome:
    """Beside their n^4 terms at the rate of cuBLAS, whose instructions are two operations each."""
    target = f"direct contraction and adjoint: {_SLOWER}x what their arithmetic takes at cuBLAS's rate in float32"
    rates, found = [], {}
    for row in rows:
        if row.get("what") == "product, n = 4096, float32":
            rates.append(row["value"] / 2)
        elif row.get("kernel") in _DIRECT and (row["n"], row["dtype"]) == (_POINTS, "float32") and "seconds" in row:
            found[row["kernel"]] = row["seconds"] / (_DIRECT[row["kernel"]] * _POINTS**4)
    if not rates or not found:
        return Outcome(target, "not measured", None)
    ratios = {name: seconds * rates[0] for name, seconds in found.items()}
    text = "; ".join(f"{name} {ratio:.2f}x" for name, ratio in ratios.items())
    return _outcome(target, text, max(ratios.values()) <= _SLOWER, len(_DIRECT) - len(ratios))
