"""Ranges of options, which come from the command line or from a file."""

import math

from kmat.errors import UserError


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
