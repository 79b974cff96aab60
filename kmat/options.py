"""Options that several commands have, and ranges of options, which come from the command line or from a file."""

import math
from dataclasses import dataclass
from pathlib import Path

from kmat.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Machine:
    """Where a backbone runs, and what it has computed is kept."""

    cache: Path | None = None
    """Folder of the feature cache, which all runs share; $XDG_CACHE_HOME/kmat or ~/.cache/kmat by default."""
    device: str = "auto"
    """Where the backbone runs: auto is CUDA if there is any."""


def check(least: float, most: float = math.inf, /, **options: float) -> None:
    """Refuse options that are not finite or out of their range, both ends of it included.

    Raises
    ------
    UserError
        That names the first such option.

    Examples
    --------
    >>> check(0, 1, momentum=0.9, alpha=0)
    """
    for name, value in options.items():
        if not least <= value <= most or value == math.inf:
            expected = f"at least {least}" if most == math.inf else f"{least} to {most}"
            raise UserError(f"--{name.replace('_', '-')} {value}: expected {expected}")
