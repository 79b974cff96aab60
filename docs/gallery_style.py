"""How the gallery's pictures look."""

from typing import Any

import matplotlib as mpl


def neutral(*_: Any) -> None:
    """Let pictures read on light and on dark pages; sphinx-gallery calls it before each script."""
    grey = "#7d858f"
    names = ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color", "axes.titlecolor")
    transparent = {"figure.facecolor": "none", "axes.facecolor": "none", "savefig.facecolor": "none"}
    mpl.rcParams.update(dict.fromkeys(names, grey) | transparent | {"font.size": 10, "axes.titlesize": 11})
