"""The tables of a run, in Markdown."""

from collections.abc import Iterable
from math import inf

from benchmarks.methods import GROUPS
from benchmarks.results import (
    COMPARED,
    IN_TORCH,
    Entry,
    against_peers,
    bounds,
    cases,
    geometric_mean,
    ratio,
    ratios,
    seconds,
)
from benchmarks.targets import Outcome, outcomes

_TITLES = {
    "single": "Single problems",
    "structures": "Rectangular problems, graphs, asymmetric structure",
    "batches": "Batches",
    "proximal": "Batches, proximal point (unregularised objective)",
    "clouds": "Squared Euclidean point clouds",
    "gradients": "Forward, and forward + backward",
    "training": "K-MaT's problem: one warm-started training step, forward + backward",
    "growth": "Growth with n",
    "semi-relaxed": "Semi-relaxed: the second marginal is free",
    "semi-relaxed proximal": "Semi-relaxed, without entropy",
    "partial": "Partial: plans of mass 0.6",
    "partial proximal": "Partial, without entropy",
    "unbalanced": "Unbalanced: both marginals have a price of 0.5",
    "barycenters": "Barycenters",
    "pairs": "All pairs of a set of graphs",
    "templates": "Layers of templates",
}
# What the peers of a group do, and which of them solve another problem.
_REMARKS = {
    "semi-relaxed": "fugw prices product measures, which is the same problem where prices are infinite or zero. POT's "
    "mirror descent uses the entropy as a step: it is in the next table.",
    "semi-relaxed proximal": "POT's mirror descent, and its conditional gradients, which end at the same kind of plan "
    "without any entropy on the way.",
    "partial": "Linear problems (alpha 0) and Gromov-Wasserstein (1). Nobody else solves the fused ones (0.5): what "
    "POT calls so does not depend on M. OTT and fugw know no given mass.",
    "partial proximal": "POT's conditional gradients with a linear program in each step.",
    "unbalanced": "Linear problems (alpha 0). Nobody else solves the fused ones (0.5): POT, OTT and fugw price the "
    "product measures of marginals, whose plans are not stationary here, and OTT's iteration may diverge "
    "([ott#519](https://github.com/ott-jax/ott/issues/519)).",
    "barycenters": "Objectives at the structure and features that came out. POT's entropic barycenters never update "
    "features, and take no part where there are some (alpha 0.5). fugw's have other marginals.",
    "pairs": "The peers solve a sample of 40 pairs, and their times are extrapolated to all; OTT's are padded to one "
    "size, and compiled once. The bound is that of nine plans of ten.",
    "templates": "Time of an epoch (forward, backward, step) of a network that learns the number of communities; "
    "bounds are on the part of the training and of the test graphs that is classified wrongly. POT's layer has no "
    "entropy: it is another network for the same task, and needs torch_geometric.",
}

LEGEND = """\
Times are medians in milliseconds; the first call (imports, compilation, warm-up) is left out and listed at the end. A
solver's time is that of its cheapest setting whose plan has r_marg and r_fix of at most 1e-6, for every problem of a
batch; r_marg = |T1-p|_1 + |T'1-q|_1 and r_fix = |T - Sinkhorn(grad E(T))|_1 are measured in float64 by code of the
benchmark. "r 3e-05 in 12" is a solver that did not get there: the residual of its most accurate run, and that run's
time. "speed-up" is the fastest peer's time over fgwot's at the same bound: below 1, fgwot is slower. (b) marks a plan
in another basin, with a higher objective; on a batch, the share in the best basin is given.

Proximal-point solvers are compared at 1e-4 and 1e-2: by how much their objectives, of plans rounded to the exact
marginals, exceed the best known ones, relative and on average over the batch. The best known are those of an untimed
continuation of the best plans; where that did not settle, nobody is credited. OTT does not take part where structure is
asymmetric, because it linearises one side only; torchgw has no mapping to this objective (it rescales costs and
anneals epsilon) and is left out. "fgwot" is the plain call; "fgwot torch" is the same under `fgwot.backend("torch")`,
for sides of at most 200 points, which the plain call leaves to compiled loops. GPUs have a page of their own.

Where marginals need not be met, r_marg is what a plan misses of its constraints (the sums that are exact, or its mass
and sums of at most p and q) and r_fix has the same prices or mass. Problems without entropy, and barycenters, are
compared by objectives: of plans rounded to what is asked of them, relative to the best known of a batch or a
barycenter, and of a single problem relative to what the solver's own plan settles to: (b) says where that is not the
best."""


def markdown(results: Entry) -> str:
    """Everything a run measured.

    Returns
    -------
    str
        Machine, targets, one table per group, and the first calls.
    """
    parts = [*map(_machine, results["machines"]), "## Targets", verdicts(outcomes(results))]
    parts += ["## Measurements", LEGEND, _slower(results)]
    for group, title in _TITLES.items():
        entries = cases(results, group)
        if entries:
            parts += [f"### {title}", *([_REMARKS[group]] if group in _REMARKS else []), _group(group, entries)]
    entries = cases(results, "streamed")
    if entries:
        parts += ["### Plans that are never stored", _streamed(entries)]
    entries = cases(results, "memory")
    if entries:
        parts += ["### Peak memory of one solve", _memory(entries)]
    return "\n\n".join([*parts, "### First calls", _first_calls(results)]) + "\n"


def _machine(machine: Entry) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items() if version)
    return (
        f"Measured {machine['date']} at commit {machine['commit']} by `{machine['command']}`: {machine['processor']}, "
        f"{machine['cores']} cores, {machine['threads']} thread(s) per library, load {machine['load']:.1f} at the "
        f"start; Python {machine['python']}, {versions}."
    )


def verdicts(found: Iterable[Outcome]) -> str:
    """Table of targets, of what was measured, and of whether they are met."""
    words = {True: "reached", False: "**missed**", None: "not measured"}
    rows = [[outcome.target, outcome.reached, words[outcome.met]] for outcome in found]
    return table(["target", "measured", ""], rows)


def _slower(results: Entry) -> str:
    slower = {name: r for name, r in against_peers(results).items() if r < 1}
    if not slower:
        return "The plain call is slower than a peer in no row."
    rows = "\n".join(f"- `{name}`: {r:.2f}x" for name, r in slower.items())
    return f"The plain call is slower than a peer in {len(slower)} rows:\n\n{rows}"


def _group(group: str, entries: list[Entry]) -> str:
    methods = [name for name in GROUPS[group] if any(name in entry["methods"] for entry in entries)]
    compared = group in COMPARED
    header = ["problem", "size", "epsilon", "alpha", "seed", *methods]
    tight, loose = (f"{float(bound):.0e}".replace("e-0", "e-") for bound in bounds(group))
    header += [f"speed-up at {tight}", f"at {loose}"] if compared else []
    with_torch = compared and IN_TORCH in methods
    header += [f"in torch at {tight}"] if with_torch else []
    rows = []
    for entry in entries:
        row = [entry["structure"], _size(entry), f"{entry['epsilon']:g}", f"{entry['alpha']:g}", str(entry["seed"])]
        row += [_cell(entry, name) for name in methods]
        row += [_factor(ratio(entry, bound)) for bound in bounds(group)] if compared else []
        row += [_factor(ratio(entry, in_torch=True))] if with_torch else []
        rows.append(row)
    text = table(header, rows)
    return f"{text}\n\n{_absent(methods, entries)}{_summary(entries)}" if compared else text


def _absent(methods: list[str], entries: list[Entry]) -> str:
    """Who could not be asked, and why: libraries that are not installed."""
    reasons = {
        name: {entry["methods"][name]["stopped"] for entry in entries if name in entry["methods"]} for name in methods
    }
    missing = [
        f"{name}: {reason}." for name, why in reasons.items() for reason in why if "No module named" in str(reason)
    ]
    return " ".join(missing) + ("\n\n" if missing else "")


def _streamed(entries: list[Entry]) -> str:
    """Large clouds; the certificate is the solution's own."""
    rows = []
    for entry in entries:
        f = entry["figures"]
        times = f"{f['seconds']:.2f} s", f"{f['with gradient']:.2f} s", f"{f['megabytes']:.0f} MB"
        rows.append([_size(entry), f"{entry['epsilon']:g}", *times, f"{f['passes']:.0f}", f"{f['steps']:.0f}"])
    header = [
        "n = m, float32, tol 1e-4",
        "epsilon",
        "time",
        "with gradient",
        "memory above the inputs",
        "passes",
        "steps",
    ]
    return (
        "Squared distances as `LowRank`; no peer solves these without arrays of n x m entries, of which 20,000 points "
        "have 1.6 GB each. {doc}`clouds` has more, and `python -m benchmarks.clouds` threads and processes.\n\n"
        + table(header, rows)
    )


def _summary(entries: list[Entry]) -> str:
    if not ratios(entries):
        return f"No peer reaches the tight bound in any of the {len(entries)} cases."
    worst = min(entries, key=lambda entry: inf if (r := ratio(entry)) is None else r)
    sentences = []
    modes = [False, True] if any(IN_TORCH in entry["methods"] for entry in entries) else [False]
    for in_torch in modes:
        found = ratios(entries, in_torch=in_torch)
        sentences.append(
            f"{'In torch alone' if in_torch else 'Speed-up at the tight bound'}: geometric mean "
            f"{geometric_mean(found):.2f}x, from {min(found):.2f}x to {max(found):.1f}x; fgwot is slower in "
            f"{sum(r < 1 for r in found)} of the {len(found)} cases in which a peer gets there (of {len(entries)})."
        )
    return " ".join([*sentences, f"Worst: `{worst['name']}`."])


def _cell(entry: Entry, name: str) -> str:
    found = entry["methods"].get(name)
    if found is None:
        return "-"
    if not found["ladder"]:
        return "not installed" if "No module named" in found["stopped"] else found["stopped"] or "failed"
    basin = ""
    if found["same_basin"] is not None and found["same_basin"] < 1:
        basin = f" ({found['same_basin']:.0%} b)" if entry["batch"] else " (b)"
    time = seconds(entry, name)
    if time is not None:
        return _milliseconds(time) + basin
    best = found["ladder"][found["most_accurate"]]
    missed = "error" if entry["group"] == "templates" else "r"
    missed = f"gap {best['gap']:.0e}" if "gap" in best else f"{missed} {max(best['r_marg'], best['r_fix']):.0e}"
    return f"{missed} in {_milliseconds(best['time'])}{basin}"


def _memory(entries: list[Entry]) -> str:
    rows = []
    for entry in entries:
        for name, found in entry["memory"].items():
            text = f"{found['matrices']:.1f}" if "matrices" in found else found["stopped"]
            rows.append([_size(entry), name, text])
    return table(["size", "solver", "n x m float64 matrices above the inputs"], rows)


def _first_calls(results: Entry) -> str:
    longest: dict[str, list[float]] = {}
    for entry in results["cases"]:
        for name, found in entry.get("methods", {}).items():
            excess = [max(rung["first_call"] - rung["time"], 0) for rung in found["ladder"]]
            longest.setdefault(name, []).append(sum(excess))
    rows = [[name, f"{sum(times) / len(times):.2f}", f"{max(times):.2f}"] for name, times in longest.items() if times]
    return "Seconds that first calls took beyond later ones, summed over a solver's settings of one case.\n\n" + table(
        ["solver", "mean over cases", "largest"], rows
    )


def _size(entry: Entry) -> str:
    if entry["group"] == "barycenters":
        return f"{entry['n']} of {entry['batch']} x {entry['m']}"
    if entry["group"] in ("pairs", "templates"):
        return f"{entry['batch']} of {entry['n']} to {entry['m']}"
    size = str(entry["n"]) if entry["n"] == entry["m"] else f"{entry['n']} x {entry['m']}"
    return f"{entry['batch']} of {size}" if entry["batch"] else size


def _milliseconds(time: float) -> str:
    return f"{time * 1e3:.3g}" if time < 1 else f"{time * 1e3:.0f}"


def _factor(value: float | None) -> str:
    return "no peer there" if value is None else "fgwot not there" if value == 0 else f"{value:.2f}"


def table(header: list[str], rows: Iterable[list[str]]) -> str:
    """Markdown table.

    Examples
    --------
    >>> print(table(["a", "b"], [["1", "2"]]))
    | a | b |
    | --- | --- |
    | 1 | 2 |
    """
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
