"""Reading results.json: times, ratios and means."""

import math
from collections.abc import Iterable
from typing import Any

from benchmarks.methods import GROUPS

Entry = dict[str, Any]  # of one case, or of one solver on it
IN_TORCH = "fgwot torch"
TIGHT, LOOSE, ROUGH = "1e-06", "1e-04", "1e-02"
OBJECTIVE = ("proximal", "semi-relaxed proximal", "partial proximal", "barycenters")  # compared by it
COMPARED = (
    *("single", "structures", "batches", "proximal", "clouds"),
    *("semi-relaxed", "semi-relaxed proximal", "partial", "partial proximal", "unbalanced"),
    *("barycenters", "pairs", "templates"),
)


def cases(results: Entry, group: str, **wanted: Iterable[object]) -> list[Entry]:
    """Entries of a group whose fields have one of the wanted values.

    Examples
    --------
    >>> table = {"cases": [{"group": "growth", "n": 250}, {"group": "growth", "n": 500}]}
    >>> cases(table, "growth", n=(500,))
    [{'group': 'growth', 'n': 500}]
    """
    entries = [entry for entry in results["cases"] if entry["group"] == group]
    return [entry for entry in entries if all(entry[field] in values for field, values in wanted.items())]


def bounds(group: str) -> tuple[str, str]:
    """The tight and the loose bound at which a group is compared: of residuals, of objectives, or of errors in a test.

    Examples
    --------
    >>> bounds("single"), bounds("proximal")
    (('1e-06', '1e-04'), ('1e-04', '1e-02'))
    """
    if group == "templates":
        return "5e-02", "1e-01"
    return (LOOSE, ROUGH) if group in OBJECTIVE else (TIGHT, LOOSE)


def seconds(entry: Entry, method: str, bound: str | None = None) -> float | None:
    """Time of a solver's cheapest setting that reaches the bound (by default the group's tight one).

    None if it did not get there, or did not take part.
    """
    found = entry["methods"].get(method)
    bound = bound or bounds(entry["group"])[0]
    if found is None or bound not in found["reached"]:
        return None
    return float(found["ladder"][found["reached"][bound]]["time"])


def ratio(entry: Entry, bound: str | None = None, *, in_torch: bool = False) -> float | None:
    """Time of the fastest peer over fgwot's; None if no peer reached the bound, 0 if only fgwot did not.

    fgwot is the plain call, or with `in_torch` the torch path, which the plain call takes on large problems anyway.
    """
    ours, *others = GROUPS[entry["group"]]
    peers = [peer for peer in others if not peer.startswith("fgwot")]
    if in_torch and IN_TORCH in entry["methods"]:
        ours = IN_TORCH
    theirs = [t for t in (seconds(entry, peer, bound) for peer in peers) if t is not None]
    if not theirs:
        return None
    own = seconds(entry, ours, bound)
    return 0.0 if own is None else min(theirs) / own


def ratios(entries: Iterable[Entry], bound: str | None = None, *, in_torch: bool = False) -> list[float]:
    """Ratios of the cases in which a peer reached the bound."""
    return [r for r in (ratio(entry, bound, in_torch=in_torch) for entry in entries) if r is not None]


def against_peers(results: Entry) -> dict[str, float]:
    """Ratios of all compared cases in which a peer reached the tight bound, by name; below 1, fgwot is slower."""
    found = ((entry["name"], ratio(entry)) for entry in results["cases"] if entry["group"] in COMPARED)
    return {name: r for name, r in found if r is not None}


def geometric_mean(values: Iterable[float]) -> float:
    """Geometric mean; zero if any value is zero.

    Examples
    --------
    >>> round(geometric_mean([1.0, 4.0]), 6)
    2.0
    """
    numbers = list(values)
    if min(numbers) <= 0:
        return 0.0
    return math.exp(sum(map(math.log, numbers)) / len(numbers))
