"""POT's names for its Gromov-Wasserstein solvers: ``from fgwot import pot as ot``.

`solve_gromov` is POT's present entry; ``ot.gromov`` has the eight functions that scripts called before it, which are
most of what is written. Everything else of POT, `dist` and `unif` among it, stays in POT.
"""

from typing import NoReturn

from fgwot.pot import gromov
from fgwot.pot.solve import GromovResult, solve_gromov

__all__ = ["GromovResult", "gromov", "solve_gromov"]


def __getattr__(name: str) -> NoReturn:
    raise AttributeError(
        f"fgwot.pot has no {name!r}: it has solve_gromov, and in gromov the balanced solvers by name; "
        "take the rest from POT itself (import ot)"
    )
