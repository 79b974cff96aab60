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
    "POT": "benchmarks.methods.pot:Entropic",
    "POT backward": "benchmarks.methods.pot:Backward",
    "POT batch": "benchmarks.methods.pot:Batch",
    "POT torch": "benchmarks.methods.pot:Torch",
    "OTT": "benchmarks.methods.ott:Dense",
    "OTT cloud": "benchmarks.methods.ott:Cloud",
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
}


def load(name: str, device: str = "cpu") -> Method:
    """Import a solver and its library, to work on "cpu" or "cuda"."""
    module, kind = MODULES[name].split(":")
    method: Method = getattr(importlib.import_module(module), kind)()
    method.device = device
    return method


__all__ = ["GROUPS", "MODULES", "Method", "Setting", "load"]
