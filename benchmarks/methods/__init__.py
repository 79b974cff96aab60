"""The timed solvers, each behind the same small interface and each imported only in its own process."""

import importlib

from benchmarks.methods.base import Method, Setting

MODULES = {
    "fgwot": "benchmarks.methods.ours:Entropic",
    "fgwot backward": "benchmarks.methods.ours:Backward",
    "fgwot cloud": "benchmarks.methods.ours:Cloud",
    "fgwot graphs": "benchmarks.methods.ours:Graphs",
    "fgwot proximal": "benchmarks.methods.ours:Proximal",
    "fgwot torch": "benchmarks.methods.ours:TorchEntropic",
    "fgwot torch backward": "benchmarks.methods.ours:TorchBackward",
    "fgwot torch warm": "benchmarks.methods.ours:TorchTraining",
    "fgwot warm": "benchmarks.methods.ours:Training",
    "fgwot barycenter": "benchmarks.methods.sets:OurBarycenter",
    "fgwot layer": "benchmarks.methods.sets:OurLayer",
    "fgwot pairwise": "benchmarks.methods.sets:OurPairs",
    "OTT barycenter": "benchmarks.methods.ott:Barycenter",
    "OTT loop": "benchmarks.methods.ott:Pairs",
    "POT barycenter": "benchmarks.methods.sets:PotBarycenter",
    "POT layer": "benchmarks.methods.sets:PotLayer",
    "POT loop": "benchmarks.methods.sets:PotPairs",
    "fugw": "benchmarks.methods.fugw:Dense",
    "POT": "benchmarks.methods.pot:Entropic",
    "POT backward": "benchmarks.methods.pot:Backward",
    "POT batch": "benchmarks.methods.pot:Batch",
    "POT torch": "benchmarks.methods.pot:Torch",
    "OTT": "benchmarks.methods.ott:Dense",
    "OTT cloud": "benchmarks.methods.ott:Cloud",
    "OTT unbalanced": "benchmarks.methods.ott:Unbalanced",
    "POT partial": "benchmarks.methods.relaxed:Partial",
    "POT partial, conditional gradients": "benchmarks.methods.relaxed:ExactPartial",
    "POT semi-relaxed": "benchmarks.methods.relaxed:SemiRelaxed",
    "POT semi-relaxed, conditional gradients": "benchmarks.methods.relaxed:ExactSemiRelaxed",
    "POT unbalanced": "benchmarks.methods.relaxed:Unbalanced",
    "matrix product": "benchmarks.methods.product:Product",
}

# The solvers of each group of cases.
GROUPS = {
    "single": ("fgwot", "fgwot torch", "POT", "OTT"),
    "structures": ("fgwot", "fgwot torch", "POT", "OTT"),
    "batches": ("fgwot", "fgwot torch", "OTT"),
    "proximal": ("fgwot proximal", "POT batch"),
    "clouds": ("fgwot cloud", "fgwot", "OTT", "OTT cloud"),
    "gradients": ("fgwot", "fgwot backward", "fgwot torch", "fgwot torch backward", "POT backward"),
    "training": ("fgwot warm", "fgwot torch warm"),
    "memory": ("fgwot", "POT", "OTT"),
    "growth": ("fgwot", "matrix product"),
    "semi-relaxed": ("fgwot", "fugw"),
    "semi-relaxed proximal": ("fgwot proximal", "POT semi-relaxed", "POT semi-relaxed, conditional gradients"),
    "partial": ("fgwot", "POT partial"),
    "partial proximal": ("fgwot proximal", "POT partial, conditional gradients"),
    "unbalanced": ("fgwot", "POT unbalanced", "OTT unbalanced"),
    "barycenters": ("fgwot barycenter", "POT barycenter", "OTT barycenter"),
    "pairs": ("fgwot pairwise", "POT loop", "OTT loop"),
    "templates": ("fgwot layer", "POT layer"),
}


def load(name: str, device: str = "cpu") -> Method:
    """Import a solver and its library, to work on "cpu" or "cuda"."""
    module, kind = MODULES[name].split(":")
    method: Method = getattr(importlib.import_module(module), kind)()
    method.device = device
    return method


__all__ = ["GROUPS", "MODULES", "Method", "Setting", "load"]
