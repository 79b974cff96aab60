"""The card, and what is missing."""

import shutil
import subprocess
from importlib.util import find_spec

import torch

from benchmarks.gpu.section import Run

# import name: what goes without it
OPTIONAL = {
    "ot": "POT, ot.batch",
    "ott": "OTT-JAX",
    "jax": "OTT-JAX",
    "triton": "the kernels",
    "numba": "the CPU's compiled loops",
    "open_clip": "K-MaT's step",
    "transformers": "K-MaT's step",
    "matplotlib": "figures",
    "pytest": "tests",
    "hypothesis": "tests",
    "xdist": "tests in parallel",
}


def measure(run: Run) -> None:
    """Add one row."""
    card: dict[str, object] = {"card": None}
    if run.device == "cuda":
        properties = torch.cuda.get_device_properties(0)
        card = {
            "card": properties.name,
            "capability": properties.major * 10 + properties.minor,
            "multiprocessors": properties.multi_processor_count,
            "memory": properties.total_memory,
            "driver": _driver(),
        }
    missing = {name: what for name, what in OPTIONAL.items() if find_spec(name) is None}
    run.add(**card, cuda=torch.version.cuda, missing=missing)


def _driver() -> str | None:
    program = shutil.which("nvidia-smi")
    if program is None:
        return None
    asked = [program, "--query-gpu=driver_version", "--format=csv,noheader"]
    found = subprocess.run(asked, capture_output=True, text=True, check=False, timeout=10)  # noqa: S603
    return found.stdout.strip() or None
